//! The cluster, its registry, and images in it.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use ocne_cluster::{BuilderPod, Cluster, ClusterError, ClusterEvent, ConnectOptions, PodSpec};

/// What an image's `/ocne-agent` does instead of being one.
const AGENTS: [(&str, &str); 3] = [
    ("idle", "trap exit TERM; sleep 1000 & wait"),
    ("crash", "echo 'the sky is falling'; exit 3"),
    ("hungry", "exec tail /dev/zero"),
];

pub struct Environment {
    pub folder: PathBuf,
    pub kubeconfig: PathBuf,
    pub registry: String,
    pub runtime: tokio::runtime::Runtime,
    pub cluster: Cluster,
}

static SHARED: OnceLock<Result<Environment, String>> = OnceLock::new();
/// Stops the cluster when its standard input ends, which it does even if this program is killed.
static GUARD: Mutex<Option<Child>> = Mutex::new(None);
static COUNT: AtomicU32 = AtomicU32::new(0);

pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cluster")
}

/// Why there can be no cluster on this machine.
pub fn why_not() -> Option<String> {
    if fs_err::metadata("/proc/self").ok()?.uid() != 0 {
        return Some("a cluster needs root".to_owned());
    }
    let check = r#"
        . ./lib.sh
        for tool in containerd runc skopeo docker-registry busybox python3 openssl iptables ss ip flock unshare nsenter; do
            command -v $tool >/dev/null || { echo "no $tool"; exit; }
        done
        [[ -x $kube_all ]] || echo "no $kube_all"
    "#;
    let output = Command::new("bash").args(["-c", check]).current_dir(scripts()).output();
    let found = match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    (!found.is_empty()).then(|| format!("{found}; hint: tests/cluster/setup.sh"))
}

/// The cluster, started once.
pub fn shared() -> Result<&'static Environment, String> {
    SHARED
        .get_or_init(|| start().map_err(|error| format!("no cluster: {error}")))
        .as_ref()
        .map_err(Clone::clone)
}

/// Stops it, if it was started.
pub fn stop() {
    let guard = GUARD.lock().unwrap().take();
    if let Some(mut guard) = guard {
        drop(guard.stdin.take());
        guard.wait().unwrap();
    }
}

fn start() -> Result<Environment, Box<dyn std::error::Error>> {
    let folder = tempfile::Builder::new().prefix("ocne-cluster.").tempdir()?.keep();
    let clean_up = format!(
        "read -r; [[ ! -e '{0}/kube-all-cluster' ]] || ./down.sh '{0}'; rm -rf '{0}' '{0}.image'",
        folder.display()
    );
    let guard = Command::new("bash")
        .args(["-c", &clean_up])
        .current_dir(scripts())
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()?;
    *GUARD.lock().unwrap() = Some(guard);
    let dir = folder.to_str().ok_or("a path that is not UTF-8")?;
    let kubeconfig = PathBuf::from(value(&script("up.sh", &["--dir", dir])?, "KUBECONFIG")?);
    let registry = value(&script("registry.sh", &["up", dir])?, "REGISTRY")?;
    push_images(&folder, &registry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let options = ConnectOptions { kubeconfig: Some(kubeconfig.clone()), context: None };
    let cluster = runtime.block_on(Cluster::connect(&options))?;
    Ok(Environment { folder, kubeconfig, registry, runtime, cluster })
}

fn script(name: &str, arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    run(Command::new(scripts().join(name)).args(arguments))
}

pub fn run(command: &mut Command) -> Result<String, Box<dyn std::error::Error>> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn value(line: &str, name: &str) -> Result<String, Box<dyn std::error::Error>> {
    let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
    Ok(value.ok_or_else(|| format!("not {name}: {line}"))?.to_owned())
}

fn push_images(folder: &Path, registry: &str) -> Result<(), Box<dyn std::error::Error>> {
    let image = PathBuf::from(format!("{}.image", folder.display()));
    fs_err::create_dir_all(image.join("bin"))?;
    fs_err::copy("/bin/busybox", image.join("bin/busybox"))?;
    for applet in ["sh", "cat", "chmod", "dd", "sha256sum", "sleep", "tail", "head", "rm", "true"] {
        std::os::unix::fs::symlink("busybox", image.join("bin").join(applet))?;
    }
    for (name, agent) in AGENTS {
        let program = image.join("ocne-agent");
        fs_err::write(&program, format!("#!/bin/sh\n{agent}\n"))?;
        fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        let archive = folder.join(format!("{name}.tar"));
        let source = format!("oci-archive:{}", archive.display());
        let target = format!("docker://{registry}/{name}:1");
        run(Command::new(scripts().join("mkimage.py"))
            .arg(&archive)
            .arg(format!("{name}:1"))
            .arg(&image)
            .arg("/bin/sh"))?;
        run(Command::new("skopeo").args(["copy", "-q", "--dest-tls-verify=false", &source, &target]))?;
    }
    Ok(())
}

impl Environment {
    /// A pod in a namespace of its own.
    pub fn spec(&self, agent: &str) -> PodSpec {
        let mut spec = PodSpec::new(format!("{}/{agent}:1", self.registry), "amd64");
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

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
        run(Command::new(self.folder.join("kubectl"))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.folder.join("kubectl-cache"))
            .args(arguments))
    }

    /// Makes objects in a namespace.
    pub fn apply(&self, namespace: &str, manifest: &str) -> Result<(), Box<dyn std::error::Error>> {
        let file = self.folder.join(format!("{namespace}.yaml"));
        fs_err::write(&file, manifest)?;
        self.kubectl(&["apply", "-n", namespace, "-f", file.to_str().ok_or("not UTF-8")?])?;
        Ok(())
    }

    /// Jobs and pods in a namespace, a line each.
    pub fn left_in(&self, namespace: &str) -> Result<String, Box<dyn std::error::Error>> {
        self.kubectl(&["get", "jobs,pods,pvc", "-n", namespace, "-o", "name"])
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
        let token = self.kubectl(&["create", "token", "limited", "-n", namespace])?;
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
            self.folder.display(),
        );
        let file = self.folder.join(format!("{namespace}.kubeconfig"));
        fs_err::write(&file, config)?;
        let options = ConnectOptions { kubeconfig: Some(file), context: None };
        Ok(self.runtime.block_on(Cluster::connect(&options))?)
    }

    /// Requests of a service account in the audit log: verb and resource, sorted, each once.
    pub fn requests_of(&self, namespace: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let user = format!("system:serviceaccount:{namespace}:limited");
        let mut found = BTreeSet::new();
        for line in fs_err::read_to_string(self.folder.join("logs/audit.log"))?.lines() {
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
