//! Which kubeconfig is used: as kubectl does it.

use std::net::IpAddr;
use std::path::PathBuf;

use hyper_util::client::proxy::matcher::Matcher;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

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
        let own = own_proxy(&merged, options.context.as_deref());
        let mut config = kube::Config::from_custom_kubeconfig(merged, &options).await.map_err(failed)?;
        // kube compares NO_PROXY with the address of the proxy.
        let proxy = own.or_else(|| environment_proxy(&config, |name| std::env::var(name).ok()));
        let parsed = proxy.map(|proxy| proxy.parse()).transpose();
        config.proxy_url = parsed.map_err(|e| failed(KubeconfigError::ParseProxyUrl(e)))?;
        Ok(config)
    }
}

/// The proxy that the kubeconfig has for the cluster.
fn own_proxy(config: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let name = context.or(config.current_context.as_deref())?;
    let context = config.contexts.iter().find(|context| context.name == name)?.context.as_ref()?;
    let cluster = config.clusters.iter().find(|cluster| cluster.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.clone().filter(|proxy| !proxy.is_empty())
}

/// The proxy that the environment has for the cluster, as for kubectl (`golang.org/x/net/http/httpproxy`): none for this
/// machine itself, nor for what `NO_PROXY` lists.
fn environment_proxy(config: &kube::Config, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let read = |name: &str| {
        let value = variable(name).or_else(|| variable(&name.to_lowercase()));
        value.filter(|value| !value.is_empty())
    };
    let server = &config.cluster_url;
    let host = server.host()?.trim_matches(['[', ']']);
    if host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback()) {
        return None;
    }
    let is_plain = server.scheme_str() == Some("http");
    let mut proxy = read(if is_plain { "HTTP_PROXY" } else { "HTTPS_PROXY" })?;
    if !proxy.contains("://") {
        proxy.insert_str(0, "http://");
    }
    let matcher = Matcher::builder().all(proxy.as_str()).no(read("NO_PROXY").unwrap_or_default()).build();
    matcher.intercept(server).is_some().then_some(proxy)
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
    #[test]
    fn a_proxy_of_the_environment_is_chosen() {
        let proxy = |server: &str, variables: &[(&str, &str)]| {
            let config = kube::Config::new(server.parse().unwrap());
            let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            environment_proxy(&config, value)
        };
        let named = ("HTTPS_PROXY", "http://user:word@proxy.example.com:3128");
        let one = "https://one.example.com:6443";
        assert_eq!(proxy(one, &[]), None);
        assert_eq!(proxy(one, &[("HTTPS_PROXY", "")]), None);
        assert_eq!(proxy(one, &[named]).as_deref(), Some(named.1));
        assert_eq!(proxy(one, &[("https_proxy", "proxy:3128")]).as_deref(), Some("http://proxy:3128"));
        assert_eq!(proxy("http://one.example.com", &[named]), None);
        for listed in ["one.example.com", "example.org, .example.com", "*"] {
            assert_eq!(proxy(one, &[named, ("NO_PROXY", listed)]), None, "{listed}");
        }
        let elsewhere = [named, ("no_proxy", "two.example.com,proxy.example.com")];
        assert_eq!(proxy(one, &elsewhere).as_deref(), Some(named.1));
        assert_eq!(proxy("https://10.1.2.3:6443", &[named, ("NO_PROXY", "10.0.0.0/8")]), None);
        for here in ["https://localhost:6443", "https://127.0.0.1:6443", "https://[::1]:6443"] {
            assert_eq!(proxy(here, &[named]), None, "{here}");
        }
    }
}
