//! `ocne registry`: who we are for a registry of container images.

use std::io::Read as _;

use clap::{Args, Subcommand};
use ocne_build::{Credentials, FetchError, FetchOptions, ImageReference, Logins, Secret};
use tracing::info;

use crate::cli::{ConfigFileArgument, GlobalArguments};
use crate::failure::Failure;
use crate::image::FetchArguments;
use crate::interrupt::cancel_on_signals;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::terminal;

/// Nobody has a longer password.
const PASSWORD_MAX_BYTES: u64 = 64 << 10;

/// The verbs of `ocne registry`.
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// Log in to a registry, and keep name and password where podman and docker find them
    Login(LoginArguments),
    /// Forget name and password for a registry
    Logout(LogoutArguments),
    /// Print the name that is used at a registry
    Whoami(WhoamiArguments),
}

/// Arguments of `ocne registry login`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne registry login registry.example
  ocne registry login registry.example --username me --password-stdin < token

The file is the one of podman: --authfile, REGISTRY_AUTH_FILE, or
${XDG_RUNTIME_DIR}/containers/auth.json; a credential helper that it names for the registry is given
the password instead.")]
pub struct LoginArguments {
    /// Registry, with its port if it has one
    #[arg(value_name = "REGISTRY", value_parser = registry_name)]
    registry: String,
    /// Name of the account [default: it is asked for]
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password, or a token in its place, from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    common: CommonArguments,
}

/// Arguments of `ocne registry logout`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne registry logout registry.example")]
pub struct LogoutArguments {
    /// Registry, with its port if it has one
    #[arg(value_name = "REGISTRY", value_parser = registry_name)]
    registry: String,
    #[command(flatten)]
    common: CommonArguments,
}

/// Arguments of `ocne registry whoami`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne registry whoami registry.example:5000")]
pub struct WhoamiArguments {
    /// Registry, with its port if it has one
    #[arg(value_name = "REGISTRY", value_parser = registry_name)]
    registry: String,
    #[command(flatten)]
    common: CommonArguments,
}

/// How the registry is spoken to.
#[derive(Debug, Args)]
struct CommonArguments {
    #[command(flatten)]
    config: ConfigFileArgument,
    #[command(flatten)]
    fetch: FetchArguments,
}

impl CommonArguments {
    fn options(&self, global: &GlobalArguments) -> Result<FetchOptions, Failure> {
        let settings = Settings::load(global, self.config.config.as_deref())?;
        self.fetch.options(&settings)
    }
}

/// The registry in `HOST[:PORT]`, with what people put around it.
fn registry_name(text: &str) -> Result<String, String> {
    let host = ["https://", "http://", "docker://"].iter().find_map(|prefix| text.strip_prefix(prefix));
    let host = host.unwrap_or(text).trim_end_matches('/');
    match ImageReference::parse(&format!("docker://{host}/x")) {
        // A word alone would be the first part of a name.
        Ok(ImageReference::Registry(r))
            if r.repository == "x" || r.registry == "docker.io" && host == "docker.io" =>
        {
            Ok(r.registry)
        }
        _ => {
            Err("a registry is a host name, with a port if need be, such as registry.example:5000".to_owned())
        }
    }
}

/// Runs a verb.
pub fn run(command: &RegistryCommand, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    match command {
        RegistryCommand::Login(arguments) => login(arguments, global),
        RegistryCommand::Logout(arguments) => logout(arguments, global),
        RegistryCommand::Whoami(arguments) => whoami(arguments, global, printer),
    }
}

fn login(arguments: &LoginArguments, global: &GlobalArguments) -> Result<(), Failure> {
    let options = arguments.common.options(global)?;
    let registry = &arguments.registry;
    let credentials = if arguments.password_stdin {
        let mut password = String::new();
        std::io::stdin()
            .take(PASSWORD_MAX_BYTES)
            .read_to_string(&mut password)
            .map_err(|e| Failure::new(&e))?;
        let password = Secret::new(password.trim_end_matches(['\n', '\r']));
        let user = arguments.username.clone().unwrap_or_default();
        Some(Credentials::Password { user, password })
    } else {
        prompt_for(registry, arguments.username.as_deref())
    };
    let credentials = credentials.ok_or_else(|| {
        Failure::usage("there is no terminal to ask for a name and a password on")
            .with_hint(format!("ocne registry login {registry} --username NAME --password-stdin < FILE"))
    })?;
    let cancel = cancel_on_signals()?;
    let logins = Logins::new(&options);
    block_on(logins.verify(registry, &credentials, &cancel))?;
    let place = block_on(logins.store(registry, &credentials))?;
    info!("Logged in to {registry}; name and password are kept in {place}");
    Ok(())
}

fn logout(arguments: &LogoutArguments, global: &GlobalArguments) -> Result<(), Failure> {
    let options = arguments.common.options(global)?;
    let registry = &arguments.registry;
    let places = block_on(Logins::new(&options).erase(registry))?;
    if places.is_empty() {
        return Err(Failure::refused(format!("nobody is logged in to {registry}")));
    }
    info!("Logged out of {registry}: removed from {}", places.join(", "));
    Ok(())
}

fn whoami(arguments: &WhoamiArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let options = arguments.common.options(global)?;
    let registry = &arguments.registry;
    match block_on(Logins::new(&options).find(registry))? {
        Some(Credentials::Password { user, .. }) => printer.line(&terminal::printable(&user)),
        Some(Credentials::IdentityToken(_)) => printer.line("<token>"),
        None => Err(Failure::refused(format!("nobody is logged in to {registry}"))
            .with_hint(format!("ocne registry login {registry}"))),
    }
}

fn block_on<T>(future: impl Future<Output = Result<T, FetchError>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|e| Failure::new(&e))?.block_on(future);
    done.map_err(|e| ocne_build::BuildError::from(e).into())
}

/// Asks for name and password; none when there is no terminal, or nothing is said.
pub fn prompt_for(registry: &str, user: Option<&str>) -> Option<Credentials> {
    let user = match user {
        Some(user) => user.to_owned(),
        None => terminal::ask(&format!("Name at {registry}: "))?,
    };
    let password = terminal::ask_secretly(&format!("Password of {user} at {registry}: "))?;
    Some(Credentials::Password { user, password: Secret::new(password) })
}

/// Keeps name and password if whoever gave them wants that.
pub fn offer_to_store(
    registry: &str,
    credentials: &Credentials,
    options: &FetchOptions,
) -> Result<(), Failure> {
    let answer =
        terminal::ask(&format!("Keep name and password for {registry}, as `podman login` does? [y/N] "));
    if answer.is_some_and(|answer| matches!(answer.trim(), "y" | "Y" | "yes")) {
        let place = block_on(Logins::new(options).store(registry, credentials))?;
        info!("Name and password are kept in {place}");
    }
    Ok(())
}
