//! A cluster that answers.

use std::fmt;
use std::time::Duration;

use kube::Client;

use crate::api::Failure;
use crate::error::ClusterError;
use crate::kubeconfig::ConnectOptions;

/// A cluster that is there says so within that.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster that has answered.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: Client,
    pub(crate) server: String,
    version: String,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("server", &self.server)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reads the kubeconfig and asks the API server for its version.
    ///
    /// # Errors
    /// [`ClusterError::NoCluster`] when nothing is configured, [`ClusterError::Unreachable`] when nobody answers
    /// within 5 s, and what else keeps the two from talking.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ClusterError> {
        let config = options.load().await?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let failed = |failure: Failure| failure.into_error(&server, "ask the cluster for its version");
        // An exec plugin is run here, and kube waits for it on the thread.
        let client = match tokio::task::spawn_blocking(move || Client::try_from(config)).await {
            Ok(client) => client.map_err(|e| failed(Failure::Kube(e)))?,
            Err(_) => return Err(ClusterError::Interrupted),
        };
        let version = match tokio::time::timeout(HELLO_TIMEOUT, client.apiserver_version()).await {
            Ok(answer) => answer.map_err(|e| failed(Failure::Kube(e)))?,
            Err(_) => return Err(failed(Failure::TimedOut)),
        };
        Ok(Self { client, server, version: version.git_version })
    }

    /// Address of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Version of Kubernetes, as `v1.34.2`.
    pub fn version(&self) -> &str {
        &self.version
    }
}
