//! `ocne version`.

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::failure::Failure;
use crate::printer::Printer;

/// Arguments of `ocne version`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne version
  ocne version -o json")]
pub struct VersionArguments {
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: VersionFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum VersionFormat {
    /// One line
    Text,
    /// A JSON object
    Json,
}

/// Prints the version.
pub fn run(arguments: &VersionArguments, printer: &Printer) -> Result<(), Failure> {
    match arguments.output {
        VersionFormat::Text => printer.line(concat!("ocne ", env!("CARGO_PKG_VERSION"))),
        VersionFormat::Json => printer.json(&json!({
            "schema": "ocne.version/1",
            "version": env!("CARGO_PKG_VERSION"),
            "target_os": std::env::consts::OS,
            "target_architecture": std::env::consts::ARCH,
            "newest_kubernetes_version": ocne_build::NEWEST_KUBERNETES_VERSION,
        })),
    }
}
