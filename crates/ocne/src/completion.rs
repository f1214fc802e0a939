//! `ocne completion`: scripts for shells, generated from the flag definitions.

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::aot::{Bash, Fish, Zsh, generate};

use crate::cli::Cli;
use crate::failure::Failure;
use crate::printer::Printer;

/// Arguments of `ocne completion`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne completion bash > ~/.local/share/bash-completion/completions/ocne
  ocne completion fish > ~/.config/fish/completions/ocne.fish")]
pub struct CompletionArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// The shells that are known.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// Prints the script.
pub fn run(arguments: &CompletionArguments, printer: &Printer) -> Result<(), Failure> {
    let mut command = Cli::command();
    let mut script = Vec::new();
    match arguments.shell {
        Shell::Bash => generate(Bash, &mut command, "ocne", &mut script),
        Shell::Zsh => generate(Zsh, &mut command, "ocne", &mut script),
        Shell::Fish => generate(Fish, &mut command, "ocne", &mut script),
    }
    printer.data(&script)
}
