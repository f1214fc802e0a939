//! `ocne image list`, `show` and `delete`: compute images in Oracle Cloud.

use std::path::PathBuf;

use clap::Args;
use ocne_upload::{Architecture, ImageRecord};
use serde_json::json;
use tracing::info;

use super::create::Arch;
use crate::cli::{DataFormat, GlobalArguments};
use crate::failure::Failure;
use crate::interrupt::cancel_on_signals;
use crate::oracle::{OracleArguments, ShowingArguments};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::terminal::printable;

/// Arguments of `ocne image list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne image list --compartment sandbox/images
  ocne image list -c sandbox/images --arch arm64 -o json

Images are ours when they have a tag that begins with `ocne/`.")]
pub struct ListArguments {
    /// Compartment: an OCID, or names from the root of the tenancy with slashes between them
    /// [default: providers.oci.compartment of the settings]
    #[arg(short, long, value_name = "OCID|PATH")]
    compartment: Option<String>,
    /// Only images of an architecture
    #[arg(short, long, value_name = "ARCH")]
    arch: Option<Arch>,
    #[command(flatten)]
    common: ShowingArguments,
}

/// Arguments of `ocne image show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne image show ocid1.image.oc1.iad.aaaaaaaab7e3
  ocne image show ocid1.image.oc1.iad.aaaaaaaab7e3 -o yaml")]
pub struct ShowArguments {
    /// OCID of the image
    #[arg(value_name = "OCID", value_parser = image_id)]
    id: String,
    #[command(flatten)]
    common: ShowingArguments,
}

/// Arguments of `ocne image delete`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne image delete ocid1.image.oc1.iad.aaaaaaaab7e3

Only images with a tag that begins with `ocne/` are removed.")]
pub struct DeleteArguments {
    /// OCIDs of the images
    #[arg(value_name = "OCID", required = true, value_parser = image_id)]
    ids: Vec<String>,
    /// Configuration file, laid over the defaults file
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    oracle: OracleArguments,
}

pub(super) fn image_id(text: &str) -> Result<String, String> {
    if text.starts_with("ocid1.image.") && !text.contains(char::is_whitespace) {
        return Ok(text.to_owned());
    }
    Err("an image is named by its OCID, such as ocid1.image.oc1.iad.aaaaaaaab7e3".to_owned())
}

/// Lists images.
pub fn list(arguments: &ListArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let common = &arguments.common;
    let settings = Settings::load(global, common.config.as_deref())?;
    let compartment = settings.compartment(arguments.compartment.as_deref())?;
    let client = common.oracle.client(&settings)?;
    let architecture = arguments.arch.map(Architecture::from);
    let images = ocne_upload::images(&client, &compartment, architecture, &*cancel_on_signals()?)?;
    let record = || json!({ "schema": "ocne.image.list/1", "images": images });
    match common.output {
        DataFormat::Json => printer.json(&record()),
        DataFormat::Yaml => printer.yaml(&record()),
        DataFormat::Text => {
            if images.is_empty() {
                info!("There is no image of ours in the compartment");
            }
            for image in &images {
                printer.line(&printable(&line(image)))?;
            }
            Ok(())
        }
    }
}

fn line(image: &ImageRecord) -> String {
    let tag = |name: &str| image.freeform_tags.get(name).map_or("-", String::as_str);
    format!(
        "{:9} {:5} {:7} {}  {}  {}",
        image.state,
        tag("ocne/architecture"),
        tag("ocne/kubernetes"),
        image.time_created.as_deref().and_then(|time| time.get(..19)).unwrap_or("-"),
        image.display_name,
        image.id
    )
}

/// Shows an image.
pub fn show(arguments: &ShowArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let common = &arguments.common;
    let settings = Settings::load(global, common.config.as_deref())?;
    let client = common.oracle.client(&settings)?;
    let image = ocne_upload::image(&client, &arguments.id, &*cancel_on_signals()?)?;
    let record = || json!({ "schema": "ocne.image.show/1", "image": image });
    match common.output {
        DataFormat::Json => printer.json(&record()),
        DataFormat::Yaml => printer.yaml(&record()),
        DataFormat::Text => {
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
            let mut rows = vec![
                ("Image", image.id.clone()),
                ("Name", image.display_name.clone()),
                ("State", image.state.clone()),
                ("Compartment", text(&image.compartment_id)),
                ("Created", text(&image.time_created)),
                ("Firmware", text(&image.firmware)),
                ("Launch mode", text(&image.launch_mode)),
                (
                    "System",
                    format!("{} {}", text(&image.operating_system), text(&image.operating_system_version)),
                ),
            ];
            rows.extend(image.freeform_tags.iter().map(|(key, value)| ("Tag", format!("{key}={value}"))));
            rows.extend(image.shapes.iter().map(|shape| ("Shape", shape.clone())));
            for (name, value) in rows {
                printer.line(&printable(&format!("{name:<12} {value}")))?;
            }
            Ok(())
        }
    }
}

/// Removes images.
pub fn delete(
    arguments: &DeleteArguments,
    global: &GlobalArguments,
    printer: &Printer,
) -> Result<(), Failure> {
    let settings = Settings::load(global, arguments.config.as_deref())?;
    let client = arguments.oracle.client(&settings)?;
    let cancel = cancel_on_signals()?;
    for id in &arguments.ids {
        let image = ocne_upload::delete_image(&client, id, &cancel)?;
        printer.line(&printable(&format!("removed  {}  {id}", image.display_name)))?;
    }
    Ok(())
}
