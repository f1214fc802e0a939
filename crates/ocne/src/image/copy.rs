//! `ocne image copy`.

use std::path::PathBuf;

use clap::Args;
use ocne_build::ImageReference;
use tracing::info;

use super::create::Arch;
use super::source::{self, FetchArguments};
use crate::cli::{ConfigFileArgument, GlobalArguments};
use crate::failure::Failure;
use crate::interrupt::cancel_on_signals;
use crate::printer::{OutputStyle, Printer};
use crate::progress::ProgressStyle;
use crate::settings::Settings;

/// Arguments of `ocne image copy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne image copy oci-archive:ock-1.33-amd64-ostree.tar docker://registry.example/ock-ostree:1.33
  ocne image copy oci:layout:name registry.example/name --arch arm64 --digestfile digest")]
pub struct CopyArguments {
    /// Image on this machine: oci-archive:, oci: or dir:
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where it goes: docker:// or a registry reference
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// Architecture of the image, of a source with several
    #[arg(short, long, value_name = "ARCH")]
    arch: Option<Arch>,
    #[command(flatten)]
    config: ConfigFileArgument,
    #[command(flatten)]
    fetch: FetchArguments,
    /// Write the digest of the manifest into a file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    digestfile: Option<PathBuf>,
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
    let source = source::parse(&arguments.source)?;
    let ImageReference::Registry(destination) = source::parse(&arguments.destination)? else {
        return Err(Failure::usage(format!("`{}` is no registry", arguments.destination))
            .with_hint("such as docker://registry.example/name:tag; `skopeo copy` writes other transports"));
    };
    let fetch = arguments.fetch.options(&settings)?;
    if fetch.offline {
        return Err(Failure::usage("an image cannot be copied to a registry without a network"));
    }
    let cancel = cancel_on_signals()?;
    let progress = printer.progress();
    let architecture = arguments.arch.map(Into::into);
    let told = |event| progress.handle(&event);
    let pushed = ocne_build::push_image(&source, architecture, &destination, &fetch, &told, &cancel)?;
    info!("Copied image to {}, digest {}", pushed.reference, pushed.digest);
    if let Some(path) = &arguments.digestfile {
        fs_err::write(path, pushed.digest.to_string()).map_err(|e| Failure::new(&e))?;
    }
    if printer.quiet() {
        printer.line(&pushed.digest.to_string())?;
    }
    Ok(())
}
