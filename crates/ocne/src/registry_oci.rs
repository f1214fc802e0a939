//! What is Oracle's own about its registry: names, auth tokens, repositories.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use ocne_oracle::{Client, ContainerRepository, OracleError};
use tracing::info;

use crate::cli::{DataFormat, GlobalArguments};
use crate::failure::Failure;
use crate::interrupt::cancel_on_signals;
use crate::oracle::ShowingArguments;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::terminal::printable;

/// The verbs of `ocne registry repo`.
#[derive(Debug, Subcommand)]
pub enum RepoCommand {
    /// Make a repository
    Create(CreateArguments),
    /// List the repositories of a compartment
    List(ListArguments),
    /// Remove a repository, with all images in it
    Delete(DeleteArguments),
}

/// Arguments of `ocne registry repo create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne registry repo create ock-ostree --compartment sandbox/images
  ocne registry repo create ock-ostree --public -o json")]
pub struct CreateArguments {
    /// Name of the repository, below the tenancy's namespace
    #[arg(value_name = "NAME")]
    name: String,
    /// Let everybody pull from it
    #[arg(long)]
    public: bool,
    /// Let no tag be moved
    #[arg(long)]
    immutable: bool,
    #[command(flatten)]
    common: CommonArguments,
}

/// Arguments of `ocne registry repo list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne registry repo list --compartment sandbox/images")]
pub struct ListArguments {
    #[command(flatten)]
    common: CommonArguments,
}

/// Arguments of `ocne registry repo delete`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne registry repo delete ock-ostree --compartment sandbox/images
  ocne registry repo delete ocid1.containerrepo.oc1..aaaa --yes")]
pub struct DeleteArguments {
    /// Name or OCID of the repository
    #[arg(value_name = "NAME|OCID")]
    name: String,
    /// Remove it even if there are images in it
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Debug, Args)]
struct CommonArguments {
    /// Compartment of the repository: an OCID, or names from the root of the tenancy [default:
    /// providers.oci.compartment of the settings]
    #[arg(short, long, value_name = "OCID|PATH")]
    compartment: Option<String>,
    #[command(flatten)]
    showing: ShowingArguments,
}

impl CommonArguments {
    /// Whom to ask, and about which compartment.
    fn open(&self, global: &GlobalArguments) -> Result<(Client, String), Failure> {
        let settings = Settings::load(global, self.showing.config.as_deref())?;
        let client = self.showing.oracle.client(&settings)?;
        let path = settings.compartment(self.compartment.as_deref())?;
        let compartment = ask(client.find_compartment(&path))?;
        Ok((client, compartment))
    }
}

/// Asks the service, until a signal comes.
pub fn ask<T>(work: impl Future<Output = Result<T, OracleError>>) -> Result<T, Failure> {
    Ok(ocne_upload::ask(work, &*cancel_on_signals()?)?)
}

/// A token for one request that may be sent several times.
pub fn retry_token(about: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("ocne-{}-{now}-{}", std::process::id(), about.len())
}

/// Runs a verb.
pub fn run(command: &RepoCommand, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    match command {
        RepoCommand::Create(arguments) => create(arguments, global, printer),
        RepoCommand::List(arguments) => list(arguments, global, printer),
        RepoCommand::Delete(arguments) => delete(arguments, global),
    }
}

fn create(arguments: &CreateArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let CreateArguments { name, public, immutable, common } = arguments;
    let (client, compartment) = common.open(global)?;
    let token = retry_token(name);
    let made = ask(client.create_container_repository(&compartment, name, *public, *immutable, &token))?;
    let host = client.settings().region.registry_host();
    info!("Created the repository {}; images in it are {}", made.display_name, place(&host, &made));
    print(&[made], common.showing.output, &host, printer)
}

fn list(arguments: &ListArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let (client, compartment) = arguments.common.open(global)?;
    let found = ask(client.container_repositories(&compartment, None, false))?;
    print(&found, arguments.common.showing.output, &client.settings().region.registry_host(), printer)
}

fn delete(arguments: &DeleteArguments, global: &GlobalArguments) -> Result<(), Failure> {
    let DeleteArguments { name, yes, common } = arguments;
    let (client, found) = if name.starts_with("ocid1.") {
        let settings = Settings::load(global, common.showing.config.as_deref())?;
        let client = common.showing.oracle.client(&settings)?;
        let found = ask(client.container_repository(name))?;
        (client, found)
    } else {
        let (client, compartment) = common.open(global)?;
        let found = ask(client.container_repositories(&compartment, Some(name), false))?;
        let found = found.into_iter().find(|r| r.display_name == *name).ok_or_else(|| {
            Failure::refused(format!("there is no repository `{name}` in the compartment {compartment}"))
                .with_hint("`ocne registry repo list` shows what is there")
        })?;
        (client, found)
    };
    if found.image_count > 0 && !yes {
        let images = found.image_count;
        return Err(Failure::usage(format!("the repository `{}` has {images} images", found.display_name))
            .with_hint("`--yes` removes them too"));
    }
    ask(client.delete_container_repository(&found.id))?;
    info!("Removed the repository {}", found.display_name);
    Ok(())
}

/// The name of images in a repository, but for their tag.
fn place(host: &str, repository: &ContainerRepository) -> String {
    format!("{host}/{}/{}", repository.namespace, repository.display_name)
}

fn print(
    found: &[ContainerRepository],
    format: DataFormat,
    host: &str,
    printer: &Printer,
) -> Result<(), Failure> {
    match format {
        DataFormat::Json => printer.json(&found),
        DataFormat::Yaml => printer.yaml(&found),
        DataFormat::Text => found.iter().try_for_each(|repository| {
            let who = if repository.is_public { "public" } else { "private" };
            let ContainerRepository { id, image_count, layers_size_in_bytes, .. } = repository;
            let line = format!(
                "{}  {who}  {image_count} images  {layers_size_in_bytes} bytes  {id}",
                place(host, repository)
            );
            printer.line(&printable(&line))
        }),
    }
}

/// Who somebody is at Oracle's registry: the registry, and the name.
pub fn identity(client: &Client) -> Result<(String, String), Failure> {
    let settings = client.settings();
    let user = user(client)?;
    let namespace = ask(client.namespace())?;
    let name = ask(client.user_name(&user))?;
    Ok((settings.region.registry_host(), format!("{namespace}/{name}")))
}

/// OCID of the user.
pub fn user(client: &Client) -> Result<String, Failure> {
    client.settings().user.clone().ok_or_else(|| {
        Failure::usage(format!("the profile `{}` is of no user", client.settings().profile))
            .with_hint("only users have auth tokens; choose a profile of one by `--profile`")
    })
}
