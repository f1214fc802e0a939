//! `ocne image`: boot images.

mod cache;
mod cloud;
mod cluster;
mod copy;
mod create;
mod export;
mod info;
mod plan;
mod result;
mod source;
mod text;
mod upload;

pub use cluster::connect as cluster_of;
pub use source::FetchArguments;

use clap::Subcommand;

use self::cache::CacheCommand;
use self::cloud::{DeleteArguments, ListArguments, ShowArguments};
use self::copy::CopyArguments;
use self::create::CreateArguments;
use self::export::ExportArguments;
use self::info::InfoArguments;
use self::upload::UploadArguments;
use crate::cli::GlobalArguments;
use crate::failure::Failure;
use crate::printer::{OutputStyle, Printer};

/// The verbs of `ocne image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make a boot image for a cloud
    Create(Box<CreateArguments>),
    /// Copy a container image from one place to another
    Copy(Box<CopyArguments>),
    /// Show what is in a boot image
    Info(Box<InfoArguments>),
    /// Upload a boot image to Oracle Cloud and import it, or an ostree image to a registry
    Upload(Box<UploadArguments>),
    /// Fetch a compute image from Oracle Cloud into a file
    Export(Box<ExportArguments>),
    /// List the compute images in Oracle Cloud that were uploaded before
    #[command(visible_alias = "ls")]
    List(Box<ListArguments>),
    /// Show a compute image in Oracle Cloud, and the shapes that it runs on
    Show(Box<ShowArguments>),
    /// Remove compute images from Oracle Cloud that were uploaded before
    #[command(visible_alias = "rm")]
    Delete(Box<DeleteArguments>),
    /// Look after the images that were fetched before
    #[command(subcommand, arg_required_else_help = true)]
    Cache(CacheCommand),
}

impl ImageCommand {
    /// How the verb wants to be heard.
    pub fn output_style(&self) -> OutputStyle {
        match self {
            Self::Create(arguments) => arguments.output_style(),
            Self::Copy(arguments) => arguments.output_style(),
            Self::Info(arguments) => arguments.output_style(),
            Self::Upload(arguments) => arguments.output_style(),
            Self::Export(arguments) => arguments.output_style(),
            Self::List(_) | Self::Show(_) | Self::Delete(_) | Self::Cache(_) => OutputStyle::default(),
        }
    }
}

/// Runs a verb.
pub fn run(command: &ImageCommand, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    match command {
        ImageCommand::Create(arguments) => create::run(arguments, global, printer),
        ImageCommand::Copy(arguments) => copy::run(arguments, global, printer),
        ImageCommand::Info(arguments) => info::run(arguments, global, printer),
        ImageCommand::Upload(arguments) => upload::run(arguments, global, printer),
        ImageCommand::Export(arguments) => export::run(arguments, global, printer),
        ImageCommand::List(arguments) => cloud::list(arguments, global, printer),
        ImageCommand::Show(arguments) => cloud::show(arguments, global, printer),
        ImageCommand::Delete(arguments) => cloud::delete(arguments, global, printer),
        ImageCommand::Cache(command) => cache::run(command, printer),
    }
}
