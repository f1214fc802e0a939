//! `ocne man`: one man page for each verb, generated from the flag definitions.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};

use crate::cli::{Cli, ENVIRONMENT, EXIT_STATUS};
use crate::failure::Failure;

/// Arguments of `ocne man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Folder that the pages are written into
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Writes the pages.
pub fn run(arguments: &ManArguments) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    fs_err::create_dir_all(&arguments.dir).map_err(|e| Failure::new(&e))?;
    write_pages(&command, "ocne", &arguments.dir)
}

fn write_pages(command: &clap::Command, name: &str, dir: &Path) -> Result<(), Failure> {
    let page = page(command, name).map_err(|e| Failure::new(&e))?;
    fs_err::write(dir.join(format!("{name}.1")), page).map_err(|e| Failure::new(&e))?;
    for child in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        write_pages(child, &format!("{name}-{}", child.get_name()), dir)?;
    }
    Ok(())
}

fn page(command: &clap::Command, name: &str) -> std::io::Result<Vec<u8>> {
    let named = command.clone().name(name.to_owned()).bin_name(name.replace('-', " "));
    let man = clap_mangen::Man::new(named).title(name.to_uppercase()).manual("ocne manual");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    // What stands after the options of a help text begins with its own heading.
    if let Some(examples) = command.get_after_help() {
        page.extend(section("EXAMPLES", &examples.to_string()).bytes());
    }
    page.extend(section("EXIT STATUS", EXIT_STATUS).bytes());
    page.extend(section("ENVIRONMENT", ENVIRONMENT).bytes());
    Ok(page)
}

/// A section of preformatted text; the first line of `text` is its heading in help texts and left out.
fn section(title: &str, text: &str) -> String {
    let body: Vec<String> =
        text.lines().skip(1).map(|l| l.replace('\\', "\\\\").replace('-', "\\-")).collect();
    format!(".SH \"{title}\"\n.nf\n{}\n.fi\n", body.join("\n"))
}
