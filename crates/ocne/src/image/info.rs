//! `ocne image info`.

use std::path::PathBuf;

use clap::Args;

use super::create::Arch;
use super::source::FetchArguments;
use crate::cli::{ConfigFileArgument, DataFormat, GlobalArguments};
use crate::failure::Failure;
use crate::printer::{OutputStyle, Printer};
use crate::progress::ProgressStyle;

/// Arguments of `ocne image info`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne image info --file boot.oci --check
  ocne image info --file boot.qcow2 -o json
  ocne image info --file boot.qcow2 --label boot --path /loader/entries
  ocne image info --file boot.qcow2 --label root --path /ostree --recursive
  ocne image info --image oci-archive:ock.tar --arch arm64")]
pub struct InfoArguments {
    /// Container image that holds the boot image [default: bootVolumeContainerImage of the settings]
    #[arg(short, long, value_name = "REF", conflicts_with = "file")]
    image: Option<String>,
    /// Boot image: a qcow2 file, or an archive that holds one
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Architecture of the image [default: that of this system]
    #[arg(short, long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Kubernetes version of the image
    #[arg(short, long, value_name = "VERSION", value_parser = super::create::kubernetes_version)]
    version: Option<String>,
    /// Partition, by its label
    #[arg(short = 'L', long, value_name = "LABEL")]
    label: Option<String>,
    /// File to print, or folder to list
    #[arg(short, long, value_name = "PATH")]
    path: Option<String>,
    /// List folders below the folder too
    #[arg(short, long, requires = "path")]
    recursive: bool,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: DataFormat,
    /// Verify the qcow2 layer and the file systems
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    config: ConfigFileArgument,
    #[command(flatten)]
    fetch: FetchArguments,
}

impl InfoArguments {
    /// How the verb wants to be heard.
    pub fn output_style(&self) -> OutputStyle {
        OutputStyle { quiet: false, progress: ProgressStyle::Auto }
    }
}

/// Prints what is asked for.
pub fn run(arguments: &InfoArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let _ = (arguments, global, printer);
    Ok(())
}
