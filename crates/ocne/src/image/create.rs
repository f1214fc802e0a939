//! `ocne image create`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ocne_build::{
    Architecture, Builder, CompressOptions, Compression, CreateRequest, Destination, ImageKind, OstreeBase,
    OstreeRequest, Source,
};
use tracing::{info, warn};

use super::cluster::ClusterArguments;
use super::plan;
use super::source::{self, FetchArguments};
use crate::cli::{ConfigFileArgument, GlobalArguments};
use crate::failure::Failure;
use crate::interrupt::cancel_on_signals;
use crate::printer::{OutputStyle, Printer};
use crate::progress::ProgressStyle;
use crate::settings::{Settings, home, kubernetes_version};

/// Arguments of `ocne image create`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:
  ocne image create                                   the newest image, for this architecture
  ocne image create --arch arm64 --version 1.32
  ocne image create --file boot.qcow2 --output converted.oci
  ocne image create --image oci-archive:ock.tar --kernel-args 'console=tty0 quiet'
  ocne image create --type ostree --base none         a server of ostree content
  ocne image create --plan                            what would be done",
    after_long_help = format!("Examples:
  ocne image create
  ocne image create --arch arm64 --version 1.32
  ocne image create --file boot.qcow2 --output converted.oci
  ocne image create --image oci-archive:ock.tar --kernel-args 'console=tty0 quiet'
  ocne image create --image docker://registry.example/ock:1.33 --report report.json
  ocne image create --type ostree --arch arm64
  ocne image create --type ostree --image oci-archive:ock-ostree.tar --base none
  ocne image create --plan

{}", crate::cli::EXIT_STATUS)
)]
pub struct CreateArguments {
    /// What the image is for
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "oci")]
    kind: Kind,
    /// Architecture of the image [default: that of this system, or of the file]
    #[arg(short, long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Kubernetes version of the image [default: kubernetesVersion of the settings, 1.33]
    #[arg(short, long, value_name = "VERSION", value_parser = kubernetes_version)]
    version: Option<String>,
    /// Value of ignition.platform.id [default: oci for type oci, openstack for olvm]; nothing for type ostree
    #[arg(short, long, value_name = "NAME", value_parser = ignition_provider)]
    ignition_provider: Option<String>,
    /// Text added to the end of the kernel command line; nothing for type ostree
    #[arg(short = 'K', long, value_name = "TEXT", value_parser = kernel_arguments, allow_hyphen_values = true)]
    kernel_args: Option<String>,
    #[command(flatten)]
    config: ConfigFileArgument,
    /// Container image that holds the boot image, or for type ostree the commit: docker://, oci:,
    /// oci-archive:, docker-archive:, dir:, or a registry reference; for type ostree also in ostree's
    /// own forms, such as ostree-unverified-registry: [default: bootVolumeContainerImage of the
    /// settings; osRegistry and osTag for type ostree]
    #[arg(long, value_name = "REF", conflicts_with = "file")]
    image: Option<String>,
    /// Boot image as a qcow2 file
    #[arg(short, long, value_name = "QCOW2")]
    file: Option<PathBuf>,
    /// Container image with nginx that an image of type ostree is based on, or none to have our own
    /// small server in it instead [default: olcne/nginx of the settings' registry]
    #[arg(long, value_name = "REF|none")]
    base: Option<String>,
    /// File with the GPG keys, as `gpg --export` writes it, one of which has to have signed the commit
    /// of an image of type ostree [default: no signature is verified]
    #[arg(long, value_name = "FILE")]
    gpg_key: Option<PathBuf>,
    /// Level of compression of the files in an image of type ostree, 1 to 9 [default: 6]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u32).range(1..=9))]
    compression: Option<u32>,
    /// Output file or folder [default: ~/.ocne/images/boot.qcow2-VERSION-ARCH.TYPE, or
    /// ~/.ocne/images/ock-VERSION-ARCH-ostree.tar]
    #[arg(short, long, value_name = "PATH", value_parser = output_path)]
    output: Option<PathBuf>,
    /// Where the image is converted: auto, local or cluster
    #[arg(long, value_name = "BUILDER", default_value = "auto", value_parser = builder)]
    builder: BuilderChoice,
    /// Write all clusters of the image compressed anew: zlib or zstd, with an optional level
    #[arg(long, value_name = "FORMAT[:LEVEL]", value_parser = recompress)]
    recompress: Option<CompressOptions>,
    /// Do not look whether the converted image can boot
    #[arg(long)]
    no_preflight: bool,
    /// Text that the new UUIDs are derived from, to build the same bytes again; for all of them set
    /// SOURCE_DATE_EPOCH too. Take another text for every image, such as its version and architecture
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    seed: Option<String>,
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(flatten)]
    fetch: FetchArguments,
    /// Print what would be done, and read nothing big
    #[arg(long, help_heading = "Output")]
    plan: bool,
    /// Write what was changed into a JSON file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    report: Option<PathBuf>,
    /// Form of progress on standard error
    #[arg(long, value_name = "FORM", default_value = "auto", help_heading = "Output")]
    progress: ProgressStyle,
    /// Print nothing but the path of the image
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Oracle Cloud Infrastructure
    Oci,
    /// A container image that serves ostree content over HTTP
    Ostree,
    /// Oracle Linux Virtualization Manager
    Olvm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// x86-64
    #[value(alias = "x86_64")]
    Amd64,
    /// AArch64
    #[value(alias = "aarch64")]
    Arm64,
}

/// Where an image is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BuilderChoice {
    Auto,
    Local,
    Cluster,
}

impl From<Arch> for Architecture {
    fn from(arch: Arch) -> Self {
        match arch {
            Arch::Amd64 => Self::Amd64,
            Arch::Arm64 => Self::Arm64,
        }
    }
}

fn ignition_provider(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a provider is one word, such as oci, qemu or openstack".to_owned());
    }
    Ok(text.to_owned())
}

fn kernel_arguments(text: &str) -> Result<String, String> {
    if text.chars().any(|c| matches!(c, '\n' | '\r' | '\0' | '\u{85}' | '\u{2028}' | '\u{2029}')) {
        return Err("a kernel command line is one line, without NUL".to_owned());
    }
    Ok(text.to_owned())
}

fn output_path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("it needs a name".to_owned()),
        "-" => {
            Err("an image is read back after it was written, so it cannot go to standard output".to_owned())
        }
        path => Ok(PathBuf::from(path)),
    }
}

fn builder(text: &str) -> Result<BuilderChoice, String> {
    match text {
        "auto" => Ok(BuilderChoice::Auto),
        "local" => Ok(BuilderChoice::Local),
        "cluster" => Ok(BuilderChoice::Cluster),
        "libvirt" => Err(
            "the builder `libvirt` comes with a later release; `local` makes the same image in this process"
                .to_owned(),
        ),
        _ => Err("possible values: auto, local, cluster".to_owned()),
    }
}

fn recompress(text: &str) -> Result<CompressOptions, String> {
    let (name, level) = match text.split_once(':') {
        Some((name, level)) => (name, Some(level)),
        None => (text, None),
    };
    let (compression, levels) = match name {
        "zlib" => (Compression::Zlib, 1..=12),
        "zstd" => (Compression::Zstd, 1..=19),
        _ => return Err("possible values: zlib, zstd, each with an optional level such as zstd:9".to_owned()),
    };
    let level = match level.map(str::parse::<u32>) {
        None => None,
        Some(Ok(level)) if levels.contains(&level) => Some(level),
        Some(_) => return Err(format!("levels of {name} are {} to {}", levels.start(), levels.end())),
    };
    Ok(CompressOptions { compression, level, ..CompressOptions::default() })
}

impl CreateArguments {
    /// How the verb wants to be heard.
    pub fn output_style(&self) -> OutputStyle {
        OutputStyle { quiet: self.quiet, progress: self.progress }
    }

    /// Decides everything that was left open.
    fn request(&self, settings: &Settings, global: &GlobalArguments) -> Result<CreateRequest, Failure> {
        let kind = match self.kind {
            Kind::Oci => ImageKind::Oci,
            Kind::Olvm => ImageKind::Olvm,
            Kind::Ostree => return Err(Failure::usage("an image of type `ostree` is no boot image")),
        };
        for (name, given) in [
            ("--base", self.base.is_some()),
            ("--compression", self.compression.is_some()),
            ("--gpg-key", self.gpg_key.is_some()),
        ] {
            if given {
                return Err(Failure::usage(format!("`{name}` is for images of type `ostree`")));
            }
        }
        let kubernetes_version = settings.kubernetes_version(self.version.as_deref())?;
        let provider = match kind {
            ImageKind::Oci => "oci",
            ImageKind::Olvm => "openstack",
        };
        let architecture = self.arch.map(Architecture::from);
        let source = match &self.file {
            Some(path) => Source::File { path: path.clone(), architecture },
            None => source::image(
                self.image.as_deref(),
                architecture,
                &kubernetes_version,
                &self.fetch,
                settings,
            )?,
        };
        let destination = self.destination()?;
        Ok(CreateRequest {
            kind,
            kubernetes_version,
            ignition_provider: self.ignition_provider.clone().unwrap_or_else(|| provider.to_owned()),
            kernel_args: self.kernel_args.clone().filter(|text| !text.trim().is_empty()),
            source,
            destination,
            builder: self.builder(settings, global)?,
            recompress: self.recompress,
            preflight: !self.no_preflight,
            seed: self.seed.clone(),
            timestamp_seconds: source_date_epoch()?,
            report: self.report.clone(),
        })
    }

    fn destination(&self) -> Result<Destination, Failure> {
        Ok(match &self.output {
            None => Destination::Folder(home()?.join("images")),
            Some(path) if is_folder(path) => Destination::Folder(path.clone()),
            Some(path) => Destination::File(path.clone()),
        })
    }

    /// The same for an image that serves ostree content.
    fn ostree_request(
        &self,
        settings: &Settings,
        global: &GlobalArguments,
    ) -> Result<OstreeRequest, Failure> {
        for (name, given) in [
            ("--file", self.file.is_some()),
            ("--recompress", self.recompress.is_some()),
            ("--no-preflight", self.no_preflight),
            ("--seed", self.seed.is_some()),
        ] {
            if given {
                return Err(Failure::usage(format!(
                    "`{name}` is for boot images, not for the type `ostree`"
                )));
            }
        }
        let kubernetes_version = settings.kubernetes_version(self.version.as_deref())?;
        let source = self.image.clone().unwrap_or_else(|| settings.ostree_image(&kubernetes_version));
        Ok(OstreeRequest {
            architecture: match self.arch {
                Some(arch) => arch.into(),
                None => source::system_architecture()?,
            },
            source: source::parse_ostree(&source)?,
            base: match self.base.as_deref() {
                Some("none") => OstreeBase::Server,
                Some(reference) => OstreeBase::Image(source::parse(reference)?),
                None => OstreeBase::Image(source::parse(&settings.base_image())?),
            },
            fetch: Box::new(self.fetch.options(settings)?),
            gpg_keys: self.gpg_key.clone(),
            destination: self.destination()?,
            builder: self.builder(settings, global)?,
            level: self.compression.unwrap_or(6),
            report: self.report.clone(),
            kubernetes_version,
        })
    }

    /// Where the image is converted: in a cluster only if one is named, or it is asked for.
    fn builder(&self, settings: &Settings, global: &GlobalArguments) -> Result<Builder, Failure> {
        let cluster = || Box::new(self.cluster.settings(settings, global));
        let builder = match self.builder {
            BuilderChoice::Cluster => Builder::Cluster(cluster()),
            BuilderChoice::Auto if settings.values.kubeconfig.is_some() => Builder::Auto(cluster()),
            BuilderChoice::Auto | BuilderChoice::Local => Builder::Local,
        };
        if self.cluster.pulls() && matches!(builder, Builder::Local) {
            return Err(Failure::usage("`--pull pod` needs a cluster")
                .with_hint("name one with `--kubeconfig`, or leave `--pull` out"));
        }
        Ok(builder)
    }
}

/// `SOURCE_DATE_EPOCH`: <https://reproducible-builds.org/specs/source-date-epoch/>.
fn source_date_epoch() -> Result<Option<u64>, Failure> {
    let Some(value) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    match value.to_str().map(str::parse::<u32>) {
        Some(Ok(seconds)) => Ok(Some(seconds.into())),
        _ => Err(Failure::usage(format!("SOURCE_DATE_EPOCH is `{}`", value.display()))
            .with_hint("it is a number of seconds since 1970, such as 1700000000")),
    }
}

/// Whether a path means a folder: one that is there, or a name that ends in a slash.
fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// Makes the image.
pub fn run(arguments: &CreateArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let settings = Settings::load(global, arguments.config.config.as_deref())?;
    if arguments.kind == Kind::Ostree {
        return run_ostree(arguments, &settings, global, printer);
    }
    let request = arguments.request(&settings, global)?;
    if arguments.plan {
        return printer.data(plan::text(&ocne_build::plan(&request)?).as_bytes());
    }
    let cancel = cancel_on_signals()?;
    info!("Creating Image");
    if arguments.builder == BuilderChoice::Auto && matches!(request.builder, Builder::Local) {
        info!("Building in this process: no cluster is configured");
    }
    let progress = printer.progress();
    let created = ocne_build::create(&request, &|event| progress.handle(&event), &cancel)?;
    info!("New boot image was created successfully at {}", created.path.display());
    if printer.quiet() {
        printer.line(&created.path.display().to_string())?;
    }
    Ok(())
}

/// Makes an image that serves ostree content.
fn run_ostree(
    arguments: &CreateArguments,
    settings: &Settings,
    global: &GlobalArguments,
    printer: &Printer,
) -> Result<(), Failure> {
    let request = arguments.ostree_request(settings, global)?;
    if arguments.plan {
        return printer.data(plan::text(&ocne_build::plan_ostree(&request)?).as_bytes());
    }
    let cancel = cancel_on_signals()?;
    // Scripts that give these for every type go on working; nobody shall wait for an effect.
    for (name, given) in [
        ("--ignition-provider", arguments.ignition_provider.is_some()),
        ("--kernel-args", arguments.kernel_args.is_some()),
    ] {
        if given {
            warn!("`{name}` changes nothing in an image of type `ostree`");
        }
    }
    let progress = printer.progress();
    let created = ocne_build::create_ostree(&request, &|event| progress.handle(&event), &cancel)?;
    info!("Saved image to {}", created.path.display());
    if printer.quiet() {
        printer.line(&created.path.display().to_string())?;
    }
    Ok(())
}
