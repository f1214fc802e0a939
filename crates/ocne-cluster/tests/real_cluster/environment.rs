//! The cluster, its registry, and images in it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use ocne_cluster::{BuilderPod, Cluster, ClusterError, ClusterEvent, ConnectOptions, PodSpec};
use ocne_test_cluster::TestCluster;

/// What an image's `/ocne-agent` does instead of being one.
const AGENTS: [(&str, &str); 3] = [
    ("idle", "trap exit TERM; sleep 1000 & wait"),
    ("crash", "echo 'the sky is falling'; exit 3"),
    ("hungry", "exec tail /dev/zero"),
];

pub struct Environment {
    pub test: &'static TestCluster,
    pub runtime: tokio::runtime::Runtime,
    pub cluster: Cluster,
}

static SHARED: OnceLock<Result<Environment, String>> = OnceLock::new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The cluster with a client, started once.
pub fn shared() -> Result<&'static Environment, String> {
    SHARED.get_or_init(|| start().map_err(|error| error.to_string())).as_ref().map_err(Clone::clone)
}

fn start() -> Result<Environment, Box<dyn std::error::Error>> {
    let test = ocne_test_cluster::shared()?;
    for (name, agent) in AGENTS {
        let applets = ["sh", "cat", "chmod", "dd", "sha256sum", "sleep", "tail", "head", "rm", "true"];
        test.push_image(name, &applets, &[("ocne-agent", format!("#!/bin/sh\n{agent}\n").as_bytes())])?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let options = ConnectOptions { kubeconfig: Some(test.kubeconfig.clone()), context: None };
    let cluster = runtime.block_on(Cluster::connect(&options))?;
    Ok(Environment { test, runtime, cluster })
}

impl Environment {
    /// A pod in a namespace of its own.
    pub fn spec(&self, agent: &str) -> PodSpec {
        let mut spec = PodSpec::new(format!("{}/{agent}:1", self.test.registry), "amd64");
        spec.namespace = format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        spec.scratch_bytes = 64 << 20;
        spec.memory_bytes = 64 << 20;
        spec.cpu_milli = 10;
        spec.pod_wait = Duration::from_mins(1);
        "tests".clone_into(&mut spec.user);
        spec
    }

    /// Starts a pod; gives also what was said.
    pub fn start(&self, spec: &PodSpec) -> (Result<BuilderPod, ClusterError>, Vec<ClusterEvent>) {
        let said = Mutex::new(Vec::new());
        let events = |event| said.lock().unwrap().push(event);
        let cancel = AtomicBool::new(false);
        let pod = self.runtime.block_on(self.cluster.start(spec, &events, &cancel));
        (pod, said.into_inner().unwrap())
    }

    /// Makes objects in a namespace.
    pub fn apply(&self, namespace: &str, manifest: &str) -> Result<(), Box<dyn std::error::Error>> {
        let file = self.test.folder.join(format!("{namespace}.yaml"));
        fs_err::write(&file, manifest)?;
        self.test.kubectl(&["apply", "-n", namespace, "-f", file.to_str().ok_or("not UTF-8")?])?;
        Ok(())
    }

    /// Jobs and pods in a namespace, a line each.
    pub fn left_in(&self, namespace: &str) -> Result<String, Box<dyn std::error::Error>> {
        self.test.kubectl(&["get", "jobs,pods,pvc", "-n", namespace, "-o", "name"])
    }

    /// A client that is a service account of a namespace, bound to a Role with these rules.
    pub fn limited(&self, namespace: &str, rules: &str) -> Result<Cluster, Box<dyn std::error::Error>> {
        let manifest = format!(
            r"
apiVersion: v1
kind: List
items:
- {{apiVersion: v1, kind: ServiceAccount, metadata: {{name: limited}}}}
- apiVersion: rbac.authorization.k8s.io/v1
  kind: Role
  metadata: {{name: limited}}
  rules:
{rules}
- apiVersion: rbac.authorization.k8s.io/v1
  kind: RoleBinding
  metadata: {{name: limited}}
  roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: limited}}
  subjects: [{{kind: ServiceAccount, name: limited}}]
"
        );
        self.apply(namespace, &manifest)?;
        let token = self.test.kubectl(&["create", "token", "limited", "-n", namespace])?;
        let config = format!(
            r"
apiVersion: v1
kind: Config
current-context: limited
clusters: [{{name: c, cluster: {{server: {}, certificate-authority: {}/pki/ca.crt}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
contexts: [{{name: limited, context: {{cluster: c, user: u}}}}]
",
            self.cluster.server(),
            self.test.folder.display(),
        );
        let file = self.test.folder.join(format!("{namespace}.kubeconfig"));
        fs_err::write(&file, config)?;
        let options = ConnectOptions { kubeconfig: Some(file), context: None };
        Ok(self.runtime.block_on(Cluster::connect(&options))?)
    }

    /// Requests of a service account in the audit log: verb and resource, sorted, each once.
    pub fn requests_of(&self, namespace: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let user = format!("system:serviceaccount:{namespace}:limited");
        let mut found = BTreeSet::new();
        for line in fs_err::read_to_string(self.test.folder.join("logs/audit.log"))?.lines() {
            let event: serde_json::Value = serde_json::from_str(line)?;
            let object = &event["objectRef"];
            if event["user"]["username"] == *user && object["resource"].is_string() {
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                let subresource = object["subresource"].as_str().map(|s| format!("/{s}")).unwrap_or_default();
                found.insert(format!("{} {}{subresource}", text(&event["verb"]), text(&object["resource"])));
            }
        }
        Ok(found.into_iter().collect())
    }
}
