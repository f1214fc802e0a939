//! `ocne image copy`, and what `ocne image upload` shares with it.

use std::path::{Path, PathBuf};

use clap::Args;
use ocne_build::{
    Architecture, BuildError, CopyOptions, Credentials, FetchError, FetchOptions, ImageReference, Platform,
    Secret,
};
use serde::Serialize;
use tracing::{info, warn};

use super::create::Arch;
use super::source::{self, FetchArguments};
use crate::cli::{ConfigFileArgument, DataFormat, GlobalArguments};
use crate::failure::Failure;
use crate::interrupt::cancel_on_signals;
use crate::printer::{OutputStyle, Printer};
use crate::progress::ProgressStyle;
use crate::registry::{offer_to_store, prompt_for};
use crate::settings::Settings;
use crate::terminal;

/// Arguments of `ocne image copy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne image copy oci-archive:ock-1.33-amd64-ostree.tar docker://registry.example/ock-ostree:1.33
  ocne image copy --all docker://registry.example/a:1 docker://mirror.example/a:1
  ocne image copy oci:layout:name registry.example/name --arch arm64 --digestfile digest

Images are docker:// or a registry reference, oci:, oci-archive:, docker-archive:, dir:, and with
skopeo or podman installed containers-storage:.")]
pub struct CopyArguments {
    /// Image that is copied
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where it goes
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// Architecture of the image; the one that is taken of a source with several
    #[arg(short, long, value_name = "ARCH", conflicts_with = "all")]
    arch: Option<Arch>,
    /// An index with all images that it names
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    config: ConfigFileArgument,
    #[command(flatten)]
    fetch: FetchArguments,
    /// Name and password for the source's registry; the password is asked for when it is not given
    #[arg(long, value_name = "NAME[:PASSWORD]", help_heading = "Fetching")]
    src_creds: Option<String>,
    /// Name and password for the destination's registry
    #[arg(long, value_name = "NAME[:PASSWORD]", help_heading = "Fetching", visible_alias = "creds")]
    dest_creds: Option<String>,
    /// Write the digest of the manifest into a file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    digestfile: Option<PathBuf>,
    /// Form of the record of the copy; its schema is docs/schemas/copy-record.schema.json
    #[arg(short, long, value_name = "FORMAT", default_value = "text", help_heading = "Output")]
    output: DataFormat,
    /// Form of progress on standard error
    #[arg(long, value_name = "FORM", default_value = "auto", help_heading = "Output")]
    progress: ProgressStyle,
    /// Print nothing but the digest of the manifest
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,
}

impl CopyArguments {
    /// How the verb wants to be heard.
    pub fn output_style(&self) -> OutputStyle {
        OutputStyle { quiet: self.quiet, progress: self.progress }
    }
}

/// Copies the image.
pub fn run(arguments: &CopyArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let settings = Settings::load(global, arguments.config.config.as_deref())?;
    let mut fetch = arguments.fetch.options(&settings)?;
    fetch.credentials = arguments.src_creds.as_deref().map(credentials).transpose()?;
    let copying = Copying {
        source: source::parse(&arguments.source)?,
        destination: source::parse(&arguments.destination)?,
        architecture: arguments.arch.map(Into::into),
        all: arguments.all,
        credentials: arguments.dest_creds.as_deref().map(credentials).transpose()?,
        fetch,
        digestfile: arguments.digestfile.as_deref(),
        output: arguments.output,
    };
    copying.run(printer)
}

/// One image to copy.
pub struct Copying<'a> {
    pub source: ImageReference,
    pub destination: ImageReference,
    pub architecture: Option<Architecture>,
    pub all: bool,
    /// For the destination.
    pub credentials: Option<Credentials>,
    pub fetch: FetchOptions,
    pub digestfile: Option<&'a Path>,
    /// Form of the record.
    pub output: DataFormat,
}

/// The record of a copy, for programs: `docs/schemas/copy-record.schema.json`.
#[derive(Debug, Serialize)]
struct Record {
    schema: &'static str,
    source: String,
    destination: String,
    digest: String,
    sent_bytes: u64,
    spared_bytes: u64,
    changed: Option<&'static str>,
}

impl Copying<'_> {
    /// Copies it. A registry that wants to know who asks is answered by whoever sits at the terminal.
    pub fn run(self, printer: &Printer) -> Result<(), Failure> {
        let Self { source, destination, fetch, .. } = &self;
        let touches = |reference: &ImageReference| matches!(reference, ImageReference::Registry(_));
        if fetch.offline && (touches(source) || touches(destination)) {
            return Err(Failure::usage("images are not copied from or to a registry without a network"));
        }
        let cancel = cancel_on_signals()?;
        let mut options = CopyOptions {
            platform: self.architecture.map(|a| Platform::linux(a.name())),
            all: self.all,
            destination_credentials: self.credentials.clone(),
        };
        let copy = |options: &CopyOptions| {
            let progress = printer.progress();
            let told = |event| progress.handle(&event);
            ocne_build::copy_image(source, destination, options, fetch, &told, &cancel)
        };
        let mut asked = None;
        let copied = match copy(&options) {
            Err(BuildError::Fetch(FetchError::Status { status: 401, registry, .. }))
                if options.destination_credentials.is_none()
                    && matches!(destination, ImageReference::Registry(to) if to.registry == registry)
                    && let Some(said) = prompt_for(&registry, None) =>
            {
                options.destination_credentials = Some(said.clone());
                asked = Some((registry, said));
                copy(&options)?
            }
            result => result?,
        };
        if let Some((registry, said)) = asked {
            offer_to_store(&registry, &said, fetch)?;
        }
        if let Some(reason) = copied.changed {
            warn!("The manifest is not the same as before: {reason}");
        }
        info!("Copied image to {}, digest {}", copied.reference, copied.digest);
        if let Some(path) = self.digestfile {
            fs_err::write(path, copied.digest.to_string()).map_err(|e| Failure::new(&e))?;
        }
        let record = Record {
            schema: "ocne.image.copy/1",
            source: source.to_string(),
            destination: copied.reference,
            digest: copied.digest.to_string(),
            sent_bytes: copied.sent_bytes,
            spared_bytes: copied.spared_bytes,
            changed: copied.changed,
        };
        match self.output {
            DataFormat::Json => printer.json(&record),
            DataFormat::Yaml => printer.yaml(&record),
            DataFormat::Text if printer.quiet() => printer.line(&record.digest),
            DataFormat::Text => Ok(()),
        }
    }
}

/// Reads `NAME[:PASSWORD]`, and asks for a password that is not there.
pub fn credentials(text: &str) -> Result<Credentials, Failure> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password.to_owned())),
        None => (text, terminal::ask_secretly(&format!("Password of {text}: "))),
    };
    let Some(password) = password.filter(|_| !user.is_empty()) else {
        return Err(Failure::usage("name and password are given as NAME:PASSWORD")
            .with_hint("log in with `ocne registry login`, and give neither"));
    };
    Ok(Credentials::Password { user: user.to_owned(), password: Secret::new(password) })
}
