//! `ocne`: makes boot images of container hosts for clouds, and shows what is in them.
//!
//! This crate parses arguments, merges settings, calls one function for each verb, and is the only one that
//! prints. What a verb does lives in `ocne-build` and the crates below it.

mod cli;
mod completion;
mod config;
mod failure;
mod gc;
mod image;
mod interrupt;
mod man;
mod oci;
mod oracle;
mod printer;
mod progress;
mod registry;
mod registry_oci;
mod settings;
mod terminal;
mod timestamp;
mod version;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::printer::Printer;

fn main() -> ExitCode {
    // More than one provider of cryptography may be linked; TLS asks for the choice to be made.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let printer = Printer::new(cli.global.log_level, cli.command.output_style());
    match run(&cli, &printer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: &Cli, printer: &Printer) -> Result<(), Failure> {
    match &cli.command {
        Command::Image(command) => image::run(command, &cli.global, printer),
        Command::Oci(command) => oci::run(command, &cli.global, printer),
        Command::Gc(arguments) => gc::run(arguments, &cli.global, printer),
        Command::Config(command) => config::run(command, &cli.global, printer),
        Command::Registry(command) => registry::run(command, &cli.global, printer),
        Command::Completion(arguments) => completion::run(arguments, printer),
        Command::Man(arguments) => man::run(arguments),
        Command::Version(arguments) => version::run(arguments, printer),
    }
}
