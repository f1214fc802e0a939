//! `ocne image cache`.

use clap::{Args, Subcommand};

use crate::cli::DataFormat;
use crate::failure::Failure;
use crate::printer::Printer;

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
  ocne image cache prune --dry-run")]
pub struct PruneArguments {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs a verb.
pub fn run(command: &CacheCommand, printer: &Printer) -> Result<(), Failure> {
    let _ = (command, printer);
    Ok(())
}
