//! `ocne image info`.

use std::path::PathBuf;

use clap::Args;
use ocne_build::{Architecture, Entry, Examination, ExamineError, FileKind, Found, file_kind};
use serde_json::json;

use super::create::Arch;
use super::source::{self, FetchArguments};
use super::text;
use crate::cli::{ConfigFileArgument, DataFormat, GlobalArguments};
use crate::failure::Failure;
use crate::interrupt::cancel_on_signals;
use crate::printer::{OutputStyle, Printer};
use crate::progress::ProgressStyle;
use crate::settings::Settings;

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
    #[arg(short, long, value_name = "VERSION", value_parser = crate::settings::kubernetes_version)]
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
    /// Say nothing of what is fetched
    #[arg(short, long)]
    quiet: bool,
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
        OutputStyle { quiet: self.quiet, progress: ProgressStyle::Auto }
    }
}

impl InfoArguments {
    /// The name of the image for people, and the local file that holds it.
    fn locate(&self, global: &GlobalArguments, printer: &Printer) -> Result<(String, PathBuf), Failure> {
        let archive = match &self.file {
            None => None,
            Some(path) => {
                let name = path.display().to_string();
                match file_kind(path).map_err(|e| Failure::new(&e))? {
                    // What is none of them is refused with the reasons of the format that was most likely meant.
                    FileKind::Qcow2 | FileKind::Unknown => return Ok((name, path.clone())),
                    // An archive is a container image like any other.
                    FileKind::OciArchive => Some(format!("oci-archive:{name}")),
                    FileKind::DockerArchive => Some(format!("docker-archive:{name}")),
                }
            }
        };
        let settings = Settings::load(global, self.config.config.as_deref())?;
        let version = settings.kubernetes_version(self.version.as_deref())?;
        let reference = archive.as_deref().or(self.image.as_deref());
        let architecture = self.arch.map(Architecture::from);
        let image = source::image(reference, architecture, &version, &self.fetch, &settings)?;
        let cancel = cancel_on_signals()?;
        let progress = printer.progress();
        let fetched = ocne_build::fetch(&image, &|event| progress.handle(&event), &cancel)?;
        Ok((fetched.reference, fetched.path))
    }
}

/// Prints what is asked for.
pub fn run(arguments: &InfoArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let (name, path) = arguments.locate(global, printer)?;
    let image = Examination::open(&path).map_err(|e| failure(&name, &e))?;
    let label = arguments.label.as_deref();
    if let Some(path) = &arguments.path {
        let (partition, found) =
            image.find(label, path, arguments.recursive).map_err(|e| failure(&name, &e))?;
        return match found {
            Found::File(content) => printer.data(&content),
            Found::Folder(entries) => listing(arguments.output, &partition, path, &entries, printer),
        };
    }
    let record = image.record(&name, label, arguments.check).map_err(|e| failure(&name, &e))?;
    match arguments.output {
        DataFormat::Json => printer.json(&record)?,
        DataFormat::Yaml => printer.yaml(&record)?,
        DataFormat::Text => printer.line(&text::image(&record))?,
    }
    let problems: usize = record.check.iter().flatten().map(|part| part.problems.len()).sum();
    if problems > 0 {
        return Err(Failure::refused(format!("`{name}` has {problems} problems")));
    }
    Ok(())
}

fn failure(name: &str, error: &ExamineError) -> Failure {
    let hint = error.hint();
    let failure = Failure::message(format!("cannot read `{name}`"), error);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

fn listing(
    format: DataFormat,
    partition: &str,
    path: &str,
    entries: &[Entry],
    printer: &Printer,
) -> Result<(), Failure> {
    let record =
        json!({ "schema": "ocne.image.files/1", "partition": partition, "path": path, "entries": entries });
    match format {
        DataFormat::Json => printer.json(&record),
        DataFormat::Yaml => printer.yaml(&record),
        DataFormat::Text => printer.data(text::listing(entries).as_bytes()),
    }
}
