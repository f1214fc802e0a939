//! What a verb that works for minutes prints, while it works and at its end.

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::failure::Failure;
use crate::printer::{OutputStyle, Printer};
use crate::progress::ProgressStyle;

/// How such a verb wants to be heard.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct ResultArguments {
    /// Form of the result on standard output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: ResultFormat,
    /// Form of progress on standard error
    #[arg(long, value_name = "FORM", default_value = "auto")]
    progress: ProgressStyle,
    /// Print nothing but what was made: the OCID of the image, or the path of the file
    #[arg(short, long)]
    quiet: bool,
}

/// Forms of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ResultFormat {
    /// Log lines only
    Text,
    /// A JSON object; docs/schemas has its schema
    Json,
}

impl ResultArguments {
    /// The same for a printer.
    pub fn style(&self) -> OutputStyle {
        OutputStyle { quiet: self.quiet, progress: self.progress }
    }

    /// Prints a result, or only its name if nothing else is wanted.
    pub fn print(&self, printer: &Printer, done: &impl Serialize, name: &str) -> Result<(), Failure> {
        match self.output {
            ResultFormat::Json => printer.json(done),
            ResultFormat::Text if printer.quiet() => printer.line(name),
            ResultFormat::Text => Ok(()),
        }
    }
}
