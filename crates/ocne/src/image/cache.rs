//! `ocne image cache`.

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use ocne_build::{Cache, CacheEntry};
use serde_json::{Value, json};

use crate::cli::DataFormat;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::progress::size;
use crate::settings::home;
use crate::terminal::printable;
use crate::timestamp;

/// The verbs of `ocne image cache`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List the images that are kept
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Remove images that are kept
    Prune(PruneArguments),
}

/// Arguments of `ocne image cache list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne image cache list
  ocne image cache list -o json")]
pub struct ListArguments {
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: DataFormat,
}

/// Arguments of `ocne image cache prune`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne image cache prune
  ocne image cache prune --unused-for 30")]
pub struct PruneArguments {
    /// Keep what was used in the last days
    #[arg(long, value_name = "DAYS")]
    unused_for: Option<u32>,
}

/// Runs a verb.
pub fn run(command: &CacheCommand, printer: &Printer) -> Result<(), Failure> {
    let cache = Cache::new(home()?.join("images"));
    match command {
        CacheCommand::List(arguments) => list(arguments, &cache, printer),
        CacheCommand::Prune(arguments) => prune(arguments, &cache, printer),
    }
}

fn list(arguments: &ListArguments, cache: &Cache, printer: &Printer) -> Result<(), Failure> {
    let entries = cache.list().map_err(|e| Failure::new(&e))?;
    let record = || json!({ "schema": "ocne.image.cache/1", "images": entries.iter().map(record).collect::<Vec<_>>() });
    match arguments.output {
        DataFormat::Json => printer.json(&record()),
        DataFormat::Yaml => printer.yaml(&record()),
        DataFormat::Text => entries.iter().try_for_each(|entry| printer.line(&line(entry))),
    }
}

fn prune(arguments: &PruneArguments, cache: &Cache, printer: &Printer) -> Result<(), Failure> {
    let unused_for = arguments.unused_for.map(|days| Duration::from_secs(u64::from(days) * 86_400));
    let pruned = cache.prune(unused_for).map_err(|e| Failure::new(&e))?;
    for entry in &pruned.removed {
        printer.line(&line(entry))?;
    }
    tracing::info!("Removed {} images, {}", pruned.removed.len(), size(pruned.freed_bytes));
    Ok(())
}

fn used_seconds(entry: &CacheEntry) -> u64 {
    entry.last_used.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn record(entry: &CacheEntry) -> Value {
    json!({
        "path": entry.path,
        "reference": entry.record.reference,
        "disk_path": entry.record.disk_path,
        "disk_blake3": entry.record.disk_blake3,
        "size_bytes": entry.record.size_bytes,
        "manifest_digest": entry.record.manifest_digest.to_string(),
        "layer_digest": entry.record.layer_digest.to_string(),
        "fetched": timestamp::format(entry.record.fetched_seconds),
        "last_used": timestamp::format(used_seconds(entry)),
    })
}

fn line(entry: &CacheEntry) -> String {
    let used = timestamp::format(used_seconds(entry));
    printable(&format!("{:>10}  {used}  {}", size(entry.record.size_bytes), entry.record.reference))
}
