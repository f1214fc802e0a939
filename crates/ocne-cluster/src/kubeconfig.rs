//! Which kubeconfig is used: as kubectl does it.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::error::ClusterError;

/// Which cluster, and as whom.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    /// The kubeconfig. None: the files of `KUBECONFIG`, merged, or `~/.kube/config`, or what a pod has.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it, if not its current one.
    pub context: Option<String>,
}

impl ConnectOptions {
    /// Whether there is a kubeconfig, or this is a pod. Nobody is asked.
    pub fn is_configured(&self) -> bool {
        !self.files().is_empty() || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
    }

    /// The files that make up the kubeconfig. Of `KUBECONFIG`, those that are missing do not count, as for kubectl.
    fn files(&self) -> Vec<PathBuf> {
        if let Some(path) = &self.kubeconfig {
            return vec![path.clone()];
        }
        if let Some(value) = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
            return std::env::split_paths(&value).filter(|path| path.is_file()).collect();
        }
        let home = std::env::home_dir().map(|home| home.join(".kube/config"));
        home.into_iter().filter(|path| path.is_file()).collect()
    }

    /// Reads it.
    pub(crate) async fn load(&self) -> Result<kube::Config, ClusterError> {
        let files = self.files();
        if files.is_empty() {
            return kube::Config::incluster().map_err(|_| ClusterError::NoCluster);
        }
        let failed = |source| ClusterError::Kubeconfig { files: files.clone(), source: Box::new(source) };
        let merged = files
            .iter()
            .try_fold(Kubeconfig::default(), |merged, file| merged.merge(Kubeconfig::read_from(file)?))
            .map_err(failed)?;
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        kube::Config::from_custom_kubeconfig(merged, &options).await.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(options: &ConnectOptions) -> Result<kube::Config, ClusterError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(options.load())
    }

    #[test]
    fn a_context_is_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let text = r"
apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: a, cluster: {server: 'https://one.example.com:6443'}}
- {name: b, cluster: {server: 'https://two.example.com:6443', tls-server-name: two, proxy-url: 'http://proxy.example.com:3128'}}
users: [{name: u, user: {token: t}}]
contexts:
- {name: one, context: {cluster: a, user: u}}
- {name: two, context: {cluster: b, user: u, namespace: n}}
";
        fs_err::write(&file, text).unwrap();
        let mut options = ConnectOptions { kubeconfig: Some(file.clone()), context: None };
        assert_eq!(load(&options).unwrap().cluster_url.host(), Some("one.example.com"));
        options.context = Some("two".to_owned());
        let config = load(&options).unwrap();
        assert_eq!(config.cluster_url.host(), Some("two.example.com"));
        assert_eq!(config.tls_server_name.as_deref(), Some("two"));
        assert!(config.proxy_url.is_some() && !config.accept_invalid_certs);
        options.context = Some("three".to_owned());
        let error = load(&options).unwrap_err();
        assert!(error.hint().unwrap().contains("get-contexts"), "{error}");
        options.kubeconfig = Some(folder.path().join("missing"));
        let error = load(&options).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
