//! The one-node Kubernetes of the tests, with a registry: started once for a test program, and gone with it, however it
//! ends. The scripts beside this crate do the work.

mod proxy;

use std::error::Error;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

pub use proxy::Proxy;

/// What goes wrong in tests.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A cluster that runs.
#[derive(Debug)]
pub struct TestCluster {
    /// Everything of it: `kubectl`, `pki`, `logs`, `pids`.
    pub folder: PathBuf,
    /// A kubeconfig that may do everything.
    pub kubeconfig: PathBuf,
    /// Its registry, as `HOST:PORT`.
    pub registry: String,
}

static SHARED: OnceLock<std::result::Result<TestCluster, String>> = OnceLock::new();
/// Stops the cluster when its standard input ends, which it does even if this program is killed.
static GUARD: Mutex<Option<Child>> = Mutex::new(None);

fn scripts() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Why there can be no cluster on this machine, with what to do about it.
pub fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("a cluster needs root".to_owned());
    }
    let check = r#"
        . ./lib.sh
        for tool in containerd runc skopeo docker-registry busybox python3 openssl iptables ss ip flock unshare nsenter; do
            command -v $tool >/dev/null || { echo "no $tool"; exit; }
        done
        [[ -x $kube_all ]] || echo "no $kube_all"
    "#;
    let found = match Command::new("bash").args(["-c", check]).current_dir(scripts()).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    (!found.is_empty()).then(|| format!("{found}; hint: tests/cluster/setup.sh"))
}

/// The cluster of this test program, started by the first who asks.
///
/// # Errors
/// When it does not start.
pub fn shared() -> std::result::Result<&'static TestCluster, String> {
    let start = || TestCluster::start().map_err(|error| format!("no cluster: {error}"));
    SHARED.get_or_init(start).as_ref().map_err(Clone::clone)
}

/// Stops it, if it was started.
pub fn stop() {
    let guard = GUARD.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(mut guard) = guard {
        drop(guard.stdin.take());
        let _ = guard.wait(); // what it leaves is seen by whoever looks for it
    }
}

impl TestCluster {
    fn start() -> Result<Self> {
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
        *GUARD.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
        let dir = folder.to_str().ok_or("a path that is not UTF-8")?;
        let kubeconfig = PathBuf::from(value(&script("up.sh", &["--dir", dir])?, "KUBECONFIG")?);
        let registry = value(&script("registry.sh", &["up", dir])?, "REGISTRY")?;
        Ok(Self { folder, kubeconfig, registry })
    }

    /// Puts an image with BusyBox as these programs, and more files (path inside, content, executable), into the registry as `NAME:1`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn push_image(&self, name: &str, applets: &[&str], files: &[(&str, &[u8])]) -> Result<String> {
        use std::os::unix::fs::PermissionsExt as _;
        let image = PathBuf::from(format!("{}.image", self.folder.display())).join(name);
        fs_err::create_dir_all(image.join("bin"))?;
        fs_err::copy("/bin/busybox", image.join("bin/busybox"))?;
        for applet in applets {
            std::os::unix::fs::symlink("busybox", image.join("bin").join(applet))?;
        }
        for (path, content) in files {
            let path = image.join(path);
            fs_err::create_dir_all(path.parent().ok_or("a file without a folder")?)?;
            fs_err::write(&path, content)?;
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        let archive = self.folder.join(format!("{name}.tar"));
        run(Command::new(scripts().join("mkimage.py"))
            .arg(&archive)
            .arg(format!("{name}:1"))
            .arg(&image)
            .arg("/bin/sh"))?;
        self.push_archive(&archive, name)
    }

    /// Puts an OCI archive, with all its architectures, into the registry as `NAME:1`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn push_archive(&self, archive: &Path, name: &str) -> Result<String> {
        let reference = format!("{}/{name}:1", self.registry);
        let (source, target) =
            (format!("oci-archive:{}", archive.display()), format!("docker://{reference}"));
        let copy = ["copy", "-q", "--all", "--dest-tls-verify=false", &source, &target];
        run(Command::new("skopeo").args(copy))?;
        Ok(reference)
    }

    /// Kills a component, such as `kubelet`, and starts it again some seconds later.
    ///
    /// # Errors
    /// When it does not run.
    pub fn restart(&self, component: &str, after_seconds: u32) -> Result<()> {
        let folder = self.folder.to_str().ok_or("a path that is not UTF-8")?;
        script("restart.sh", &[folder, component, &after_seconds.to_string()]).map(drop)
    }

    /// Runs kubectl as somebody who may do everything; what it says.
    ///
    /// # Errors
    /// When it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(self.folder.join("kubectl"))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.folder.join("kubectl-cache"))
            .args(arguments))
    }
}

fn script(name: &str, arguments: &[&str]) -> Result<String> {
    run(Command::new(scripts().join(name)).args(arguments))
}

/// Runs a command that has to succeed; what it prints.
///
/// # Errors
/// What it says when it does not.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn value(line: &str, name: &str) -> Result<String> {
    let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
    Ok(value.ok_or_else(|| format!("not {name}: {line}"))?.to_owned())
}
