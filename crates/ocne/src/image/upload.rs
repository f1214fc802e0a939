//! `ocne image upload`.

use std::collections::BTreeMap;
use std::env;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ocne_build::ImageReference;
use ocne_upload::{Architecture, Events, Format, UploadRecord, UploadRequest};
use tracing::info;

use super::copy::{Copying, credentials};
use super::create::Arch;
use super::result::{ResultArguments, ResultFormat};
use super::source::{self, FetchArguments};
use crate::cli::{DataFormat, GlobalArguments};
use crate::failure::Failure;
use crate::interrupt::cancel_on_signals;
use crate::oracle::OracleArguments;
use crate::printer::{OutputStyle, Printer};
use crate::settings::{Settings, home, kubernetes_version};

/// Arguments of `ocne image upload`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:
  ocne image upload --compartment sandbox/images --file boot.oci
  ocne image upload -c sandbox/images -f boot.oci --arch arm64 --image-name ock-1.33 -o json
  ocne image upload -c sandbox/images -f boot.oci --abort     drop what was sent
  ocne image upload --wait ocid1.coreservicesworkrequest...   go on waiting for an import
  ocne image upload -t ostree -f ock-ostree.tar -d docker://registry.example/ock-ostree:1.33",
    after_long_help = format!("Examples:
  ocne image upload --compartment sandbox/images --file boot.oci
  ocne image upload -c sandbox/images -f boot.oci --arch arm64 --image-name ock-1.33 -o json
  ocne image upload -c sandbox/images -f boot.oci --no-wait -q
  ocne image upload -c sandbox/images -f boot.oci --max-bandwidth 2M --parallel 2
  ocne image upload -c sandbox/images -f boot.oci --abort
  ocne image upload --wait ocid1.coreservicesworkrequest...
  ocne image upload --type ostree --file ock-ostree.tar --destination docker://registry.example/ock-ostree:1.33

After an interruption of any kind the same command goes on where the last one stopped. The object is
removed from the bucket when the import has succeeded, unless --keep-object says otherwise.

{}", crate::cli::EXIT_STATUS)
)]
pub struct UploadArguments {
    /// What the image is for: oci, or ostree for a container image that serves ostree content
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "oci", value_parser = kind)]
    kind: Kind,
    /// Boot image, as `ocne image create` makes it, or an exported image
    #[arg(short, long, value_name = "PATH", required_unless_present = "wait")]
    file: Option<PathBuf>,
    /// Architecture of the image [default: what the image says]
    #[arg(short, long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Compartment: an OCID, or names from the root of the tenancy with slashes between them
    /// [default: providers.oci.compartment of the settings]
    #[arg(short, long, value_name = "OCID|PATH")]
    compartment: Option<String>,
    /// Bucket of Object Storage, made when it is missing [default: providers.oci.imageBucket of the
    /// settings, ocne-images]
    #[arg(short, long, value_name = "NAME")]
    bucket: Option<String>,
    /// Name of the compute image
    #[arg(short, long, value_name = "NAME", default_value = "ock")]
    image_name: String,
    /// Kubernetes version, for the image's tag [default: that of the report, kubernetesVersion of
    /// the settings, 1.33]
    #[arg(short, long, value_name = "VERSION", value_parser = kubernetes_version)]
    version: Option<String>,
    /// Configuration file, laid over the defaults file
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Report that `ocne image create --report` wrote of the image: architecture, Kubernetes version,
    /// and the digest that the image has to have [default: FILE.report.json, if it is there]
    #[arg(long, value_name = "PATH", requires = "file")]
    report: Option<PathBuf>,
    /// Tag of the compute image; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    tag: Vec<(String, String)>,
    /// Tag with a namespace; may be given several times
    #[arg(long, value_name = "NAMESPACE.KEY=VALUE", value_parser = defined_tag)]
    defined_tag: Vec<(String, String, String)>,
    /// Import although an image of the same file and name is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    copying: CopyingArguments,
    #[command(flatten)]
    sending: SendingArguments,
    #[command(flatten)]
    waiting: WaitingArguments,
    #[command(flatten)]
    oracle: OracleArguments,
    #[command(flatten)]
    result: ResultArguments,
}

/// Where an image of type ostree goes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Type ostree")]
struct CopyingArguments {
    /// Where the image goes: docker:// or a registry reference, oci:, oci-archive:, docker-archive:,
    /// dir:, or containers-storage:
    #[arg(short, long, value_name = "REF", required_if_eq("kind", "ostree"))]
    destination: Option<String>,
    /// Credentials for registries, as podman and docker write them
    #[arg(long, value_name = "PATH", env = "REGISTRY_AUTH_FILE", hide_env = true)]
    authfile: Option<PathBuf>,
    /// Name and password for the registry; the password is asked for when it is not given
    #[arg(long, value_name = "NAME[:PASSWORD]", requires = "destination")]
    creds: Option<String>,
    /// Registry that may be spoken to without TLS; may be given several times
    #[arg(long, value_name = "HOST[:PORT]", requires = "destination")]
    insecure_registry: Vec<String>,
    /// Write the digest of the manifest into a file
    #[arg(long, value_name = "FILE", requires = "destination")]
    digestfile: Option<PathBuf>,
}

/// How the object is sent.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sending")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct SendingArguments {
    /// What is sent: an archive with the image's metadata, or the bare image
    #[arg(long, value_name = "FORMAT", default_value = "oci")]
    format: FormatChoice,
    /// Name of the object in the bucket [default: ocne_ and the name of the file]
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    object: Option<String>,
    /// Replace an object of that name, whatever it is
    #[arg(long)]
    overwrite: bool,
    /// Leave the object in the bucket
    #[arg(long)]
    keep_object: bool,
    /// Have the object imported by a URL that is valid until then; happens by itself when the service
    /// does not let this identity name the object
    #[arg(long)]
    from_url: bool,
    /// Size of the parts [default: 16M, more for very large images]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    part_size: Option<NonZeroU64>,
    /// Parts in flight [default: 4, and more while that is faster]
    #[arg(long, value_name = "COUNT", value_parser = parallel)]
    parallel: Option<NonZeroU32>,
    /// The most that is sent in a second, such as 500K or 2M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_bandwidth: Option<NonZeroU64>,
    /// Begin anew, whatever was sent before
    #[arg(long)]
    no_resume: bool,
    /// Drop what was sent of the file, and end
    #[arg(long, conflicts_with_all = ["wait", "no_wait", "no_resume"])]
    abort: bool,
}

/// How the import is waited for.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Waiting")]
struct WaitingArguments {
    /// End when the import has begun; with --quiet print its work request
    #[arg(long)]
    no_wait: bool,
    /// Upload nothing; wait for the import of a work request
    #[arg(long, value_name = "OCID", conflicts_with_all = ["file", "no_wait"], value_parser = work_request)]
    wait: Option<String>,
    /// The longest that the import is waited for, such as 90s, 45m or 2h [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = time)]
    timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Oci,
    Ostree,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatChoice {
    /// A gzip archive of image and metadata, made while it is sent
    Oci,
    /// The image as it is; its properties are set after the import
    Qcow2,
}

fn kind(text: &str) -> Result<Kind, String> {
    match text {
        "oci" => Ok(Kind::Oci),
        "ostree" => Ok(Kind::Ostree),
        "olvm" => Err(format!("images of the type `{text}` cannot be uploaded")),
        _ => Err("possible values: oci, ostree".to_owned()),
    }
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a tag is KEY=VALUE")?;
    let is_key = !key.is_empty() && key.len() <= 100 && !key.contains([' ', '.']);
    if !is_key || value.len() > 256 {
        return Err("keys have 1 to 100 characters without spaces and periods, values at most 256".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn defined_tag(text: &str) -> Result<(String, String, String), String> {
    let parts = text.split_once('=').and_then(|(name, value)| Some((name.split_once('.')?, value)));
    match parts {
        Some(((namespace, key), value)) if !namespace.is_empty() && !key.is_empty() => {
            Ok((namespace.to_owned(), key.to_owned(), value.to_owned()))
        }
        _ => Err("such a tag is NAMESPACE.KEY=VALUE".to_owned()),
    }
}

/// The service takes 1 to 1024 bytes; `.` and `..` do not survive in a path.
fn object_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 1024 || matches!(text, "." | "..") || text.contains(['\0', '\n', '\r'])
    {
        return Err("an object's name has 1 to 1024 bytes on one line".to_owned());
    }
    Ok(text.to_owned())
}

/// A number with an optional unit of 1024: `500K`, `16M`, `1GiB`.
fn size(text: &str) -> Result<NonZeroU64, String> {
    let wrong = || "a size is a number with K, M or G behind it, such as 16M".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].trim_end_matches("iB").trim_end_matches('B') {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).and_then(NonZeroU64::new).ok_or_else(wrong)
}

fn parallel(text: &str) -> Result<NonZeroU32, String> {
    let count = text.parse::<NonZeroU32>().ok().filter(|count| count.get() <= 64);
    count.ok_or_else(|| "possible values: 1 to 64".to_owned())
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a number with s, m or h behind it, such as 45m".to_owned();
    let (number, unit) = text.split_at(text.len() - usize::from(text.ends_with(['s', 'm', 'h'])));
    let seconds: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "h" => 3600,
        "m" => 60,
        _ => 1,
    };
    seconds.checked_mul(factor).filter(|s| *s > 0).map(Duration::from_secs).ok_or_else(wrong)
}

fn work_request(text: &str) -> Result<String, String> {
    if text.starts_with("ocid1.") && !text.contains(char::is_whitespace) {
        return Ok(text.to_owned());
    }
    Err("a work request is named by its OCID, such as ocid1.coreservicesworkrequest...".to_owned())
}

/// `$XDG_STATE_HOME/ocne`, or `~/.local/state/ocne` (XDG Base Directory Specification).
fn state_dir() -> Result<PathBuf, Failure> {
    let named = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = named {
        return Ok(folder.join("ocne"));
    }
    match env::home_dir().filter(|path| path.is_absolute()) {
        Some(home) => Ok(home.join(".local/state/ocne")),
        None => home(), // says what is wrong with HOME
    }
}

impl UploadArguments {
    /// How the verb wants to be heard.
    pub fn output_style(&self) -> OutputStyle {
        self.result.style()
    }

    /// Decides everything that was left open.
    fn request(&self, settings: &Settings) -> Result<UploadRequest, Failure> {
        let compartment = settings.compartment(self.compartment.as_deref())?;
        let bucket = self.bucket.clone().unwrap_or_else(|| settings.image_bucket());
        let mut defined_tags: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (namespace, key, value) in &self.defined_tag {
            defined_tags.entry(namespace.clone()).or_default().insert(key.clone(), value.clone());
        }
        let sending = &self.sending;
        Ok(UploadRequest {
            file: self.file.clone().unwrap_or_default(),
            format: match sending.format {
                FormatChoice::Oci => Format::Archive,
                FormatChoice::Qcow2 => Format::Qcow2,
            },
            architecture: self.arch.map(Architecture::from),
            compartment,
            bucket,
            object: sending.object.clone(),
            image_name: self.image_name.clone(),
            kubernetes_version: self.version.clone(),
            usual_kubernetes_version: settings.kubernetes_version(None)?,
            report: self.report.clone(),
            freeform_tags: self.tag.iter().cloned().collect(),
            defined_tags,
            part_size_bytes: sending.part_size,
            parallel: sending.parallel,
            max_bytes_per_second: sending.max_bandwidth,
            no_resume: sending.no_resume,
            overwrite: sending.overwrite,
            force: self.force,
            keep_object: sending.keep_object,
            from_url: sending.from_url,
            no_wait: self.waiting.no_wait,
            import_timeout: self.waiting.timeout,
            state_dir: state_dir()?,
        })
    }
}

/// Uploads the image, waits for an import, or drops what was sent.
pub fn run(arguments: &UploadArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let settings = Settings::load(global, arguments.config.as_deref())?;
    if arguments.kind == Kind::Ostree {
        return copy(arguments, &settings, printer);
    }
    if arguments.copying.destination.is_some() {
        return Err(Failure::usage("only an image of type ostree has a destination").with_hint(
            "ocne image upload --type ostree --file FILE --destination docker://REGISTRY/NAME:TAG",
        ));
    }
    let cancel = cancel_on_signals()?;
    let progress = printer.progress();
    let events: Events = Arc::new(move |event| progress.handle_upload(&event));
    if let Some(id) = &arguments.waiting.wait {
        let client = arguments.oracle.client(&settings)?;
        let done = ocne_upload::wait(id, arguments.waiting.timeout, &client, &events, &cancel)?;
        return report(&done, arguments, printer);
    }
    let request = arguments.request(&settings)?;
    let client = arguments.oracle.client(&settings)?;
    if arguments.sending.abort {
        match ocne_upload::abort(&request, &client, &cancel)? {
            0 => info!("Nothing was sent of it, or all of it has become an object"),
            count => info!("Dropped what was sent: {count} upload{}", if count == 1 { "" } else { "s" }),
        }
        return Ok(());
    }
    let done = ocne_upload::upload(&request, &client, &events, &cancel)?;
    report(&done, arguments, printer)
}

/// Copies an image of type ostree to where it shall be.
fn copy(arguments: &UploadArguments, settings: &Settings, printer: &Printer) -> Result<(), Failure> {
    let Some(path) = arguments.file.clone() else {
        return Err(Failure::usage("an image of type ostree is a file, and nothing is waited for"));
    };
    let to = &arguments.copying;
    let fetch = FetchArguments {
        offline: false,
        authfile: to.authfile.clone(),
        ca_file: arguments.oracle.ca_file().map(PathBuf::from),
        insecure_registry: to.insecure_registry.clone(),
    };
    let copying = Copying {
        source: ImageReference::OciArchive { path, image: None },
        destination: source::parse(to.destination.as_deref().unwrap_or_default())?,
        architecture: arguments.arch.map(Into::into),
        all: false,
        credentials: to.creds.as_deref().map(credentials).transpose()?,
        fetch: fetch.options(settings)?,
        digestfile: to.digestfile.as_deref(),
        output: match arguments.result.output {
            ResultFormat::Json => DataFormat::Json,
            ResultFormat::Text => DataFormat::Text,
        },
    };
    copying.run(printer)
}

fn report(done: &UploadRecord, arguments: &UploadArguments, printer: &Printer) -> Result<(), Failure> {
    let work_request = done.work_request_id.as_deref().unwrap_or_default();
    let id = done.image.as_ref().map(|image| image.id.as_str());
    let goes_on = arguments.waiting.no_wait && !done.already_there;
    if goes_on {
        info!("The import goes on in the cloud; `ocne image upload --wait {work_request}` waits for it");
    }
    if let Some(id) = id {
        info!("Image OCID is {id}");
    }
    let name = if goes_on { work_request } else { id.unwrap_or_default() };
    arguments.result.print(printer, done, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let read = |text| size(text).map(NonZeroU64::get);
        assert_eq!(read("1"), Ok(1));
        assert_eq!(read("500K"), Ok(500 << 10));
        assert_eq!(read("16MiB"), Ok(16 << 20));
        assert_eq!(read("1GB"), Ok(1 << 30));
        for wrong in ["", "0", "M", "1T", "-1", "1.5M", "99999999999G", "1M1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("45m"), Ok(Duration::from_mins(45)));
        assert_eq!(time("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(time("7"), Ok(Duration::from_secs(7)));
        for wrong in ["", "0s", "h", "1d", "ä"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tags() {
        assert_eq!(tag("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(tag("a").is_err() && tag("a.b=c").is_err() && tag("=c").is_err());
        assert_eq!(defined_tag("n.k=v"), Ok(("n".to_owned(), "k".to_owned(), "v".to_owned())));
        assert!(defined_tag("k=v").is_err() && defined_tag(".k=v").is_err());
    }
}
