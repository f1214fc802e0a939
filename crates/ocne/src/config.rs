//! `ocne config`: the settings in effect.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::{ConfigFileArgument, DataFormat, GlobalArguments};
use crate::failure::Failure;
use crate::printer::Printer;
use crate::settings::{Origin, Settings};

/// The verbs of `ocne config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the merged settings, and where each comes from
    Show(ShowArguments),
}

/// Arguments of `ocne config show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne config show
  ocne config show --config mycluster.yaml -o json

Later ones win: built-in values, ~/.ocne/defaults.yaml (or the file that OCNE_DEFAULTS names),
--config, the environment, flags.")]
pub struct ShowArguments {
    #[command(flatten)]
    config: ConfigFileArgument,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: DataFormat,
}

/// Runs a verb.
pub fn run(command: &ConfigCommand, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let ConfigCommand::Show(arguments) = command;
    let settings = Settings::load(global, arguments.config.config.as_deref())?;
    let entries = settings.entries();
    let record = || {
        let all: Vec<Value> = entries
            .iter()
            .map(|(key, value, origin)| {
                let (kind, name) = origin_parts(origin);
                json!({ "key": key, "value": value, "origin": kind, "origin_name": name })
            })
            .collect();
        json!({ "schema": "ocne.config/1", "settings": all })
    };
    match arguments.output {
        DataFormat::Json => printer.json(&record()),
        DataFormat::Yaml => printer.yaml(&record()),
        DataFormat::Text => {
            let width = entries.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
            let shown: Vec<(String, &Origin)> = entries
                .iter()
                .map(|(key, value, origin)| {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    (format!("{key:width$}  {value}"), *origin)
                })
                .collect();
            let width = shown.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0);
            for (text, origin) in shown {
                let (kind, name) = origin_parts(origin);
                let name = name.map(|n| format!(" {n}")).unwrap_or_default();
                printer.line(&format!("{text:width$}  # {kind}{name}"))?;
            }
            Ok(())
        }
    }
}

fn origin_parts(origin: &Origin) -> (&'static str, Option<String>) {
    match origin {
        Origin::Default => ("default", None),
        Origin::File(path) => ("file", Some(path.display().to_string())),
        Origin::Environment(name) => ("environment", Some((*name).to_owned())),
        Origin::Flag(name) => ("flag", Some((*name).to_owned())),
    }
}
