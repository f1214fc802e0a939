//! Flags that say how a container image is fetched.

use std::path::PathBuf;

use clap::Args;

/// How registries are spoken to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Fetching")]
pub struct FetchArguments {
    /// Use what was fetched before, and no network
    #[arg(long)]
    pub offline: bool,
    /// Credentials for registries, as podman and docker write them
    #[arg(long, value_name = "PATH", env = "REGISTRY_AUTH_FILE", hide_env = true)]
    pub authfile: Option<PathBuf>,
    /// Certificates to trust besides the system's, as PEM
    #[arg(long, value_name = "PATH")]
    pub ca_file: Option<PathBuf>,
    /// Registry that may be spoken to without TLS; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
}
