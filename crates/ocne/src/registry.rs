//! `ocne registry`: who we are for a registry of container images.

use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use ocne_build::{Credentials, FetchError, FetchOptions, ImageReference, Logins, Secret};
use tracing::info;

use crate::cli::{ConfigFileArgument, GlobalArguments};
use crate::failure::Failure;
use crate::image::FetchArguments;
use crate::interrupt::cancel_on_signals;
use crate::oracle::OracleArguments;
use crate::printer::Printer;
use crate::registry_oci::{self, RepoCommand};
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
    /// Repositories in Oracle's registry
    #[command(subcommand, arg_required_else_help = true)]
    Repo(RepoCommand),
}

/// Arguments of `ocne registry login`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne registry login registry.example
  ocne registry login registry.example --username me --password-stdin < token
  ocne registry login --oci

The file is the one of podman: --authfile, REGISTRY_AUTH_FILE, or
${XDG_RUNTIME_DIR}/containers/auth.json; a credential helper that it names for the registry is given
the password instead.

With --oci the registry is Oracle's of the profile's region, and the name NAMESPACE/USER, as
~/.oci/config says who that is. The password is an auth token, not the one of the console:
`ocne oci auth-token create` makes one.")]
pub struct LoginArguments {
    /// Registry, with its port if it has one
    #[arg(value_name = "REGISTRY", value_parser = registry_name, required_unless_present = "oci")]
    registry: Option<String>,
    /// Name of the account [default: it is asked for]
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password, or a token in its place, from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Log in to Oracle's registry, with the name of the user of a profile in ~/.oci/config
    #[arg(long, help_heading = "Oracle Cloud")]
    oci: bool,
    /// Profile in ~/.oci/config [default: providers.oci.profile of the settings, DEFAULT]
    #[arg(long, value_name = "NAME", requires = "oci", help_heading = "Oracle Cloud")]
    profile: Option<String>,
    /// Configuration file of Oracle Cloud's tools [default: ~/.oci/config]
    #[arg(long, value_name = "PATH", requires = "oci", help_heading = "Oracle Cloud")]
    oci_config: Option<PathBuf>,
    /// Region, by name or key, such as us-ashburn-1 or iad [default: that of the profile]
    #[arg(long, value_name = "REGION", requires = "oci", help_heading = "Oracle Cloud")]
    region: Option<String>,
    /// URL in the place of all services
    #[arg(long, value_name = "URL", requires = "oci", help_heading = "Oracle Cloud")]
    endpoint: Option<String>,
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
        RegistryCommand::Repo(command) => registry_oci::run(command, global, printer),
    }
}

fn login(arguments: &LoginArguments, global: &GlobalArguments) -> Result<(), Failure> {
    let options = arguments.common.options(global)?;
    let (registry, user) = if arguments.oci { at_oracle(arguments, global)? } else { named(arguments)? };
    let registry = &registry;
    let credentials = if arguments.password_stdin {
        let mut password = String::new();
        std::io::stdin()
            .take(PASSWORD_MAX_BYTES)
            .read_to_string(&mut password)
            .map_err(|e| Failure::new(&e))?;
        let password = Secret::new(password.trim_end_matches(['\n', '\r']));
        let user = user.clone().ok_or_else(|| Failure::usage("`--password-stdin` needs `--username`"))?;
        Some(Credentials::Password { user, password })
    } else {
        prompt_for(registry, user.as_deref())
    };
    let credentials = credentials.ok_or_else(|| {
        Failure::usage("there is no terminal to ask for a name and a password on").with_hint(
            if arguments.oci {
                "ocne registry login --oci --password-stdin < FILE".to_owned()
            } else {
                format!("ocne registry login {registry} --username NAME --password-stdin < FILE")
            },
        )
    })?;
    let cancel = cancel_on_signals()?;
    let logins = Logins::new(&options);
    block_on(logins.verify(registry, &credentials, &cancel))?;
    let place = block_on(logins.store(registry, &credentials))?;
    info!("Logged in to {registry}; name and password are kept in {place}");
    Ok(())
}

/// The registry and the name that were given.
fn named(arguments: &LoginArguments) -> Result<(String, Option<String>), Failure> {
    let registry = arguments.registry.clone().ok_or_else(|| Failure::usage("the registry is not known"))?;
    Ok((registry, arguments.username.clone()))
}

/// Oracle's registry, and the user's name there, as far as they were not given.
fn at_oracle(
    arguments: &LoginArguments,
    global: &GlobalArguments,
) -> Result<(String, Option<String>), Failure> {
    let settings = Settings::load(global, arguments.common.config.config.as_deref())?;
    let LoginArguments { profile, oci_config, region, endpoint, .. } = arguments;
    let oracle = OracleArguments::of_profile(
        profile.clone(),
        oci_config.clone(),
        region.clone(),
        endpoint.clone(),
        arguments.common.fetch.ca_file.clone(),
    );
    let (registry, user) = registry_oci::identity(&oracle.client(&settings)?)?;
    let user = arguments.username.clone().unwrap_or(user);
    info!(
        "The name is {user}; the password is an auth token of that user, not the one of the console: `ocne oci auth-token create` makes one"
    );
    Ok((arguments.registry.clone().unwrap_or(registry), Some(user)))
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
