//! `ocne image export`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ocne_upload::{Events, ExportFormat, ExportRequest};
use tracing::info;

use super::cloud::image_id;
use super::result::ResultArguments;
use super::upload::time;
use crate::cli::GlobalArguments;
use crate::failure::Failure;
use crate::interrupt::cancel_on_signals;
use crate::oracle::OracleArguments;
use crate::printer::{OutputStyle, Printer};
use crate::settings::Settings;

/// Arguments of `ocne image export`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne image export ocid1.image.oc1.iad.aaaaaaaab7e3 --file boot.oci
  ocne image export ocid1.image.oc1.iad.aaaaaaaab7e3 --file boot.qcow2 --format qcow2

The image is exported into an object of the bucket, which is fetched and removed. After an
interruption of any kind the same command goes on where the last one stopped.")]
pub struct ExportArguments {
    /// OCID of the image
    #[arg(value_name = "OCID", value_parser = image_id)]
    id: String,
    /// The file that is made
    #[arg(short, long, value_name = "PATH")]
    file: PathBuf,
    /// What is in it
    #[arg(long, value_name = "FORMAT", default_value = "oci")]
    format: FormatChoice,
    /// Bucket in between [default: providers.oci.imageBucket of the settings, ocne-images]
    #[arg(short, long, value_name = "NAME")]
    bucket: Option<String>,
    /// Replace the file
    #[arg(long)]
    overwrite: bool,
    /// Leave the object in the bucket
    #[arg(long)]
    keep_object: bool,
    /// The longest that the export is waited for, such as 90s, 45m or 2h [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = time)]
    timeout: Option<Duration>,
    /// Configuration file, laid over the defaults file
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    oracle: OracleArguments,
    #[command(flatten)]
    result: ResultArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatChoice {
    /// The archive of image and metadata, as an upload takes it
    Oci,
    /// The bare disk
    Qcow2,
    /// The disk for VMware
    Vmdk,
}

impl ExportArguments {
    /// How the verb wants to be heard.
    pub fn output_style(&self) -> OutputStyle {
        self.result.style()
    }
}

/// Exports the image.
pub fn run(arguments: &ExportArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let settings = Settings::load(global, arguments.config.as_deref())?;
    let request = ExportRequest {
        image_id: arguments.id.clone(),
        output: std::path::absolute(&arguments.file).map_err(|e| Failure::new(&e))?,
        format: match arguments.format {
            FormatChoice::Oci => ExportFormat::Oci,
            FormatChoice::Qcow2 => ExportFormat::Qcow2,
            FormatChoice::Vmdk => ExportFormat::Vmdk,
        },
        bucket: arguments.bucket.clone().unwrap_or_else(|| settings.image_bucket()),
        overwrite: arguments.overwrite,
        keep_object: arguments.keep_object,
        timeout: arguments.timeout,
    };
    let client = arguments.oracle.client(&settings)?;
    let cancel = cancel_on_signals()?;
    let progress = printer.progress();
    let events: Events = Arc::new(move |event| progress.handle_upload(&event));
    let done = ocne_upload::export(&request, &client, &events, &cancel)?;
    info!("Saved image to {}", done.path);
    arguments.result.print(printer, &done, &done.path)
}
