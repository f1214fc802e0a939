//! Flags that say who speaks to Oracle Cloud, and the client made of them.

use std::env;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ocne_build::NetworkOptions;
use ocne_oracle::{AuthKind, Client, ClientOptions, Secret, SettingsError, SettingsRequest};
use tracing::{debug, warn};

use crate::cli::DataFormat;
use crate::failure::{EXIT_REMOTE_REFUSED, EXIT_USAGE, Failure};
use crate::settings::Settings;
use crate::terminal;

/// A service that takes an upload in is tried for longer than a registry: about five minutes.
const ATTEMPTS: u32 = 10;
/// Services answer within this, and parts get on within this.
const STALL: std::time::Duration = std::time::Duration::from_mins(1);

/// How Oracle Cloud is spoken to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Oracle Cloud")]
pub struct OracleArguments {
    /// Profile in ~/.oci/config [default: providers.oci.profile of the settings, DEFAULT]
    #[arg(short, long, value_name = "NAME")]
    profile: Option<String>,
    /// Configuration file of Oracle Cloud's tools [default: ~/.oci/config]
    #[arg(long, value_name = "PATH")]
    oci_config: Option<PathBuf>,
    /// Region, by name or key, such as us-ashburn-1 or iad [default: that of the profile]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// How to authenticate [default: by the profile's session token, else its API key; without a
    /// configuration file as the resource, pod or instance that this runs on]
    #[arg(long, value_name = "KIND")]
    auth: Option<Auth>,
    /// URL in the place of all services
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Certificates to trust besides the system's, as PEM
    #[arg(long, value_name = "PATH")]
    ca_file: Option<PathBuf>,
}

/// Arguments of all commands that show something of Oracle Cloud.
#[derive(Debug, Args)]
pub struct ShowingArguments {
    /// Configuration file, laid over the defaults file
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: DataFormat,
    #[command(flatten)]
    pub oracle: OracleArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Auth {
    /// What the profile has
    Auto,
    /// API key of a user
    #[value(name = "api_key", alias = "api-key")]
    ApiKey,
    /// Token of `oci session authenticate`
    #[value(name = "security_token", alias = "security-token")]
    SecurityToken,
    /// As the function or other resource that this is
    #[value(name = "resource_principal", alias = "resource-principal")]
    ResourcePrincipal,
    /// As the instance of Oracle Cloud that this runs on
    #[value(name = "instance_principal", alias = "instance-principal")]
    InstancePrincipal,
    /// As that instance, in the name of a user whose token it has, as in the Cloud Shell
    #[value(name = "instance_obo_user", alias = "instance-obo-user")]
    InstanceForUser,
    /// As the pod of Oracle's Kubernetes that this runs in
    #[value(name = "oke_workload_identity", alias = "oke-workload-identity")]
    WorkloadIdentity,
}

impl From<Auth> for AuthKind {
    fn from(auth: Auth) -> Self {
        match auth {
            Auth::Auto => Self::Auto,
            Auth::ApiKey => Self::ApiKey,
            Auth::SecurityToken => Self::SessionToken,
            Auth::ResourcePrincipal => Self::ResourcePrincipal,
            Auth::InstancePrincipal => Self::InstancePrincipal,
            Auth::InstanceForUser => Self::InstanceForUser,
            Auth::WorkloadIdentity => Self::WorkloadIdentity,
        }
    }
}

impl OracleArguments {
    /// For verbs that have flags of their own for these.
    pub fn of_profile(
        profile: Option<String>,
        oci_config: Option<PathBuf>,
        region: Option<String>,
        endpoint: Option<String>,
        ca_file: Option<PathBuf>,
    ) -> Self {
        Self { profile, oci_config, region, auth: None, endpoint, ca_file }
    }

    /// Certificates to trust besides the system's.
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// Makes the client. Nothing is sent yet.
    pub fn client(&self, settings: &Settings) -> Result<Client, Failure> {
        let oci = settings.values.providers.as_ref().and_then(|p| p.oci.as_ref());
        let proxy = settings.values.proxy.clone().unwrap_or_default();
        let network = NetworkOptions {
            stall_timeout: STALL,
            attempts: ATTEMPTS,
            http_proxy: proxy.http_proxy,
            https_proxy: proxy.https_proxy,
            no_proxy: proxy.no_proxy,
            ..NetworkOptions::default()
        };
        let request = SettingsRequest {
            network: network.clone(),
            config_file: self.oci_config.clone(),
            profile: self.profile.clone(),
            usual_profile: oci.and_then(|oci| oci.profile.clone()),
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            auth: self.auth.map(AuthKind::from),
            ca_file: self.ca_file.clone(),
        };
        let env = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let found = ocne_oracle::Settings::load(&request, &env, &ask).map_err(|error| {
            let code = match error {
                SettingsError::SessionExpired { .. } | SettingsError::NoToken { .. } => EXIT_REMOTE_REFUSED,
                _ => EXIT_USAGE,
            };
            let failure = Failure::new(&error).with_exit_code(code);
            match error.hint() {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            }
        })?;
        for warning in &found.warnings {
            warn!("{warning}");
        }
        debug!("profile {}, region {}", found.profile, found.region.name);
        let on_retry = Box::new(|retry: ocne_oracle::Retry| {
            let seconds = retry.wait.as_secs_f64();
            warn!("Cannot {}: {}; attempt {} in {seconds:.1} s", retry.action, retry.reason, retry.attempt);
        });
        Client::new(ClientOptions { settings: found, network, on_retry })
            .map_err(|error| Failure::new(&error).with_exit_code(EXIT_USAGE))
    }
}

fn ask(key: &Path) -> Option<Secret> {
    terminal::ask_secretly(&format!("Pass phrase of the key `{}`: ", key.display())).map(Secret::new)
}
