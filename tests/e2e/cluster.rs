//! Builds in pods of a real one-node Kubernetes: the same results as in one process, the right words when something is
//! wrong, and nothing left in the cluster.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use ocne_test_cluster::{TestCluster, shared, why_not};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Bench, Case, Random, must, text};

/// How soon nothing is left after a build ended, however it ended.
const GONE_WITHIN: Duration = Duration::from_secs(30);
const SIGNALS: u64 = 20;
/// How soon a pod ends that nobody is heard in: its shell waits a minute for an agent.
const ENDED_WITHIN: Duration = Duration::from_secs(100);
/// Clients that are killed, so many at once.
const KILLS: u64 = 20;
const KILLS_AT_ONCE: u64 = 4;
const AT_ONCE: usize = 8;

pub type Test = fn(&Site) -> Result<(), Failed>;

pub fn trials(bench: &Bench) -> Vec<Trial> {
    let tests: [(&'static str, Test); 8] = [
        ("cluster::a_pod_converts_as_this_process_does", a_pod_converts_as_this_process_does),
        (
            "cluster::a_refused_image_is_refused_in_the_same_words",
            a_refused_image_is_refused_in_the_same_words,
        ),
        ("cluster::auto_builds_here_without_a_cluster", auto_builds_here_without_a_cluster),
        ("cluster::a_refusal_of_the_cluster_is_exit_status_3", a_refusal_of_the_cluster_is_exit_status_3),
        ("cluster::signals_leave_nothing", signals_leave_nothing),
        ("cluster::a_killed_client_s_pod_is_collected", a_killed_client_s_pod_is_collected),
        ("cluster::eight_at_once", eight_at_once),
        ("cluster::a_claimed_volume", a_claimed_volume),
    ];
    on_the_cluster(bench, &tests)
}

/// Tests that need the cluster; where there can be none, they are ignored, and say why.
pub fn on_the_cluster(bench: &Bench, tests: &[(&'static str, Test)]) -> Vec<Trial> {
    let why_not = why_not();
    tests
        .iter()
        .map(|&(name, test)| {
            if let Some(reason) = &why_not {
                let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason} (ignored)");
            }
            let trial = bench.trial(name, &[], move |bench| test(&Site::new(bench, name)?));
            if why_not.is_some() { trial.with_ignored_flag(true) } else { trial }
        })
        .collect()
}

/// What all tests here share: the agent's program, static, an image with a shell, and the image that
/// `make builder-image` makes, but for the agent's profile.
pub struct Means {
    pub agents: PathBuf,
    pub shell_image: String,
    pub agent_image: String,
}

static MEANS: OnceLock<Result<Means, String>> = OnceLock::new();

/// The folder of build products.
fn target() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_ocne"));
    program.ancestors().nth(2).unwrap_or(Path::new("target")).to_owned()
}

/// Where the repository's scripts are.
fn scripts() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts"))
}

/// Builds the agents' programs beside tests that do not need them.
pub fn build_agents_ahead() -> Option<Child> {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]).arg(scripts().join("agent.sh"));
    nice.env("AGENT_PROFILE", "dev").env("CARGO_TARGET_DIR", target());
    nice.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

fn means(bench: &Bench, cluster: &TestCluster) -> Result<Means, Failed> {
    let target = target();
    let mut agent_sh = Command::new(scripts().join("agent.sh"));
    must(agent_sh.env("AGENT_PROFILE", "dev").env("CARGO_TARGET_DIR", &target), "agent.sh")?;
    let agents = bench.folder().join("agents");
    fs_err::create_dir(&agents)?;
    let archive = agents.join("ocne-builder.oci-archive");
    let mut assemble = Command::new(scripts().join("builder-image.py"));
    assemble.arg(&archive);
    for arch in ["amd64", "arm64"] {
        let (name, agent) = (format!("ocne-agent-{arch}"), agents.join(format!("ocne-agent-{arch}")));
        let built = target.join("debug").join(name);
        // The cluster's node is amd64; for arm64 there may be no compiler here.
        if arch == "amd64" || built.exists() {
            fs_err::copy(built, &agent)?;
            fs_err::set_permissions(&agent, PermissionsExt::from_mode(0o755))?;
            assemble.arg(format!("{arch}={}", agent.display()));
        }
    }
    must(&mut assemble, "builder-image.py")?;
    let failed = |e: Box<dyn std::error::Error>| Failed::from(e.to_string());
    let shell_image = cluster.push_image("shell", &["sh", "cat", "chmod"], &[]).map_err(failed)?;
    let agent_image = cluster.push_archive(&archive, "ocne-agent").map_err(failed)?;
    Ok(Means { agents, shell_image, agent_image })
}

/// One test's place: its folder, its namespace.
pub struct Site {
    pub cluster: &'static TestCluster,
    pub means: &'static Means,
    pub case: Case,
    pub kubeconfig: PathBuf,
    pub namespace: String,
}

impl Site {
    fn new(bench: &Bench, name: &str) -> Result<Self, Failed> {
        let cluster = shared()?;
        let words = |e: Failed| e.message().unwrap_or("failed").to_owned();
        let means =
            MEANS.get_or_init(|| means(bench, cluster).map_err(words)).as_ref().map_err(Clone::clone)?;
        let short = name.rsplit("::").next().unwrap_or(name).replace('_', "-");
        let mut case = bench.case(&short)?;
        case.make("--small --payload-mib 0")?;
        let kubeconfig = case.home.join("kubeconfig");
        let site = Self { cluster, means, kubeconfig, namespace: format!("e2e-{short}"), case };
        // Whole, because the ordinary user may not read the files that it names.
        site.write_kubeconfig(&site.kubectl(&["config", "view", "--raw", "--flatten"])?)?;
        Ok(site)
    }

    /// A place of its own in the same namespace.
    pub fn another(&self, name: &str) -> Result<Self, Failed> {
        let case = self.case.another(name)?;
        let (kubeconfig, namespace) = (case.home.join("kubeconfig"), self.namespace.clone());
        let site = Self { cluster: self.cluster, means: self.means, case, kubeconfig, namespace };
        site.write_kubeconfig(&site.kubectl(&["config", "view", "--raw", "--flatten"])?)?;
        Ok(site)
    }

    pub fn write_kubeconfig(&self, content: &str) -> Result<(), Failed> {
        fs_err::write(&self.kubeconfig, content)?;
        Ok(chown(&self.kubeconfig, Some(65534), Some(65534))?)
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, Failed> {
        self.cluster.kubectl(arguments).map_err(|e| e.to_string().into())
    }

    /// A build in the test's namespace, ready to start.
    pub fn create(&self, builder: &str, extra: &[&str]) -> Command {
        let mut c = self.case.create_by(builder, &self.case.boot, extra);
        self.in_cluster(&mut c, &self.means.shell_image);
        c
    }

    /// Has a command use the cluster, with this image for pods.
    pub fn in_cluster(&self, c: &mut Command, image: &str) {
        c.args(["--builder-image", image, "--namespace", &self.namespace]);
        c.arg("--kubeconfig").arg(&self.kubeconfig).env("OCNE_AGENT_DIR", &self.means.agents);
    }

    /// What is left of builds in the namespace.
    pub fn left(&self) -> Result<String, Failed> {
        self.kubectl(&["get", "jobs,pods", "-n", &self.namespace, "-o", "name"])
    }

    /// Nothing is left, soon.
    pub fn assert_nothing_left(&self) -> Result<(), Failed> {
        let start = Instant::now();
        loop {
            let left = self.left()?;
            if left.is_empty() {
                return Ok(());
            }
            if start.elapsed() > GONE_WITHIN {
                return Err(format!("left in the cluster: {left}").into());
            }
            sleep(Duration::from_millis(200));
        }
    }

    pub fn report(&self) -> Result<Value, Failed> {
        Ok(serde_json::from_slice(&fs_err::read(self.case.report())?)?)
    }
}

fn a_pod_converts_as_this_process_does(site: &Site) -> Result<(), Failed> {
    for image in [&site.means.shell_image, &site.means.agent_image] {
        site.case.fresh()?;
        site.write_kubeconfig(&site.kubectl(&["config", "view", "--raw", "--flatten"])?)?;
        let mut c = site.case.create_by("cluster", &site.case.boot, &["--kernel-args", "a.b=1"]);
        site.in_cluster(&mut c, image);
        let said = text(&must(&mut c, "the build in a pod")?.stderr);
        site.case.check("a.b=1")?;
        let report = site.report()?;
        let cluster = &report["cluster"];
        if report["builder"] != "cluster" || cluster["namespace"] != site.namespace.as_str() {
            return Err(format!("the report says {report:#}").into());
        }
        if cluster["rounds"].as_u64().is_none_or(|rounds| rounds > 40) {
            return Err(format!("too many rounds: {cluster}").into());
        }
        let pod = format!("{}/{}", site.namespace, cluster["pod"].as_str().unwrap_or_default());
        for line in ["Preparing pod used to create image", &format!("Waiting for pod {pod} to be ready: ok")]
        {
            if !said.contains(line) {
                return Err(format!("`{line}` is not said: {said}").into());
            }
        }
        // Removed when the program ends, not some time later.
        let left = site.left()?;
        if !left.is_empty() || !site.case.left_over()?.is_empty() {
            return Err(format!("left over: {left}").into());
        }
    }
    Ok(())
}

/// A scratch volume that a storage class gives.
fn a_claimed_volume(site: &Site) -> Result<(), Failed> {
    let folder = site.case.dir.join("volume");
    fs_err::create_dir(&folder)?;
    // Nobody changes the owner of such a volume for the pod.
    fs_err::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let volume = serde_json::json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": site.namespace},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "by-hand", "hostPath": {"path": folder, "type": "Directory"},
        },
    });
    let file = site.case.dir.join("volume.json");
    fs_err::write(&file, volume.to_string())?;
    site.kubectl(&["apply", "-f", &file.display().to_string()])?;
    let built = must(
        &mut site.create("cluster", &["--scratch", "pvc:by-hand", "--transfer", "full"]),
        "a build with a volume that is claimed",
    );
    let claims = site.kubectl(&["get", "persistentvolumeclaims", "-n", &site.namespace, "-o", "name"]);
    site.kubectl(&["delete", "persistentvolume", &site.namespace, "--wait=false"])?;
    built?;
    site.case.check("")?;
    let said = claims?;
    if !said.is_empty() && !site.kubectl(&["get", "pods", "-n", &site.namespace, "-o", "name"])?.is_empty() {
        return Err(format!("left in the cluster: {said}").into());
    }
    site.assert_nothing_left()
}

fn a_refused_image_is_refused_in_the_same_words(site: &Site) -> Result<(), Failed> {
    let run = |mut c: Command| -> Result<Output, Failed> {
        Ok(c.args(["--arch", "arm64"]).stdin(Stdio::null()).output()?)
    };
    let without_arch = |builder: &str| {
        let mut c = site.case.ocne(&["image", "create", "--builder", builder, "--file"]);
        c.arg(&site.case.boot).arg("--output").arg(site.case.result());
        site.in_cluster(&mut c, &site.means.shell_image);
        c
    };
    let (here, there) = (run(without_arch("local"))?, run(without_arch("cluster"))?);
    let reason = "arm64";
    for out in [&here, &there] {
        let said = text(&out.stderr);
        if out.status.code() != Some(1) || !said.contains(reason) || !said.contains("hint: ") {
            return Err(format!("{}: {said}", out.status).into());
        }
    }
    site.assert_nothing_left()
}

fn auto_builds_here_without_a_cluster(site: &Site) -> Result<(), Failed> {
    let config = site.kubectl(&["config", "view", "--raw", "--flatten"])?;
    let dead: Vec<String> = config
        .lines()
        .map(|line| match line.trim_start().strip_prefix("server:") {
            Some(_) => "    server: https://127.0.0.1:9".to_owned(),
            None => line.to_owned(),
        })
        .collect();
    site.write_kubeconfig(&dead.join("\n"))?;
    let said = text(&must(&mut site.create("auto", &[]), "the build by itself")?.stderr);
    if !said.contains("Building in this process: the cluster at `https://127.0.0.1:9` does not answer") {
        return Err(format!("it is not said why: {said}").into());
    }
    if site.report()?["builder"] != "local" {
        return Err("the report does not say `local`".into());
    }
    site.case.check("")?;
    let out = site.create("cluster", &[]).stdin(Stdio::null()).output()?;
    if out.status.code() != Some(1) || !text(&out.stderr).contains("hint: ") {
        return Err(format!("{}: {}", out.status, text(&out.stderr)).into());
    }
    Ok(())
}

fn a_refusal_of_the_cluster_is_exit_status_3(site: &Site) -> Result<(), Failed> {
    site.kubectl(&["create", "namespace", &site.namespace])?;
    site.kubectl(&["create", "quota", "tight", "--hard=limits.memory=1Mi", "-n", &site.namespace])?;
    let out = site.create("cluster", &[]).stdin(Stdio::null()).output()?;
    let said = text(&out.stderr);
    if out.status.code() != Some(3) || !said.contains("tight") || !said.contains("hint: ") {
        return Err(format!("{}: {said}", out.status).into());
    }
    if site.case.result().exists() || !site.case.left_over()?.is_empty() {
        return Err("something was written".into());
    }
    site.assert_nothing_left()
}

fn signals_leave_nothing(site: &Site) -> Result<(), Failed> {
    let start = Instant::now();
    must(&mut site.create("cluster", &[]), "the first run")?;
    let whole = start.elapsed();
    let mut random = Random::new(4);
    for round in 0..SIGNALS {
        let signal = if round % 2 == 0 { Signal::INT } else { Signal::TERM };
        let wait = Duration::from_micros(random.below(u64::try_from(whole.as_micros())?));
        let child = site.create("cluster", &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        sleep(wait); // the moment is what is being tested
        let pid = Pid::from_raw(i32::try_from(child.id())?).ok_or("no process")?;
        let _ = kill_process(pid, signal); // it may be done already
        let out = child.wait_with_output()?;
        let early = std::os::unix::process::ExitStatusExt::signal(&out.status).is_some();
        if !early && !matches!(out.status.code(), Some(0 | 130)) {
            return Err(format!("{signal:?} after {wait:?}: {}: {}", out.status, text(&out.stderr)).into());
        }
        site.assert_nothing_left()
            .map_err(|e| format!("{signal:?} after {wait:?}: {}", e.message().unwrap_or_default()))?;
    }
    Ok(())
}

fn a_killed_client_s_pod_is_collected(site: &Site) -> Result<(), Failed> {
    let start = Instant::now();
    must(&mut site.create("cluster", &[]), "the first run")?;
    let whole = u64::try_from(start.elapsed().as_micros())?;
    let mut random = Random::new(9);
    let gc = |extra: &[&str]| -> Result<String, Failed> {
        let mut c = site.case.ocne(&["gc", "--namespace", &site.namespace]);
        c.arg("--kubeconfig").arg(&site.kubeconfig).args(extra);
        Ok(text(&must(&mut c, "ocne gc")?.stdout))
    };
    for round in 1..=KILLS / KILLS_AT_ONCE {
        let mut moments: Vec<_> = (0..KILLS_AT_ONCE).map(|_| random.below(whole)).collect();
        moments.sort_unstable();
        let start = Instant::now();
        let mut children = Vec::new();
        for n in 0..KILLS_AT_ONCE {
            let mut c = site.case.ocne(&["image", "create", "--builder", "cluster", "--file"]);
            c.arg(&site.case.boot).arg("--output").arg(site.case.out.join(format!("{n}.oci")));
            site.in_cluster(&mut c, &site.means.shell_image);
            c.args(["--idle-timeout", "3"]).stdout(Stdio::null()).stderr(Stdio::null());
            children.push(c.spawn()?);
        }
        for (child, at) in children.iter_mut().zip(moments) {
            sleep(Duration::from_micros(at).saturating_sub(start.elapsed())); // the moment is what is being tested
            child.kill()?;
            child.wait()?;
        }
        // The node has room for a few; those of the last round are left to end by themselves.
        if round < KILLS / KILLS_AT_ONCE {
            gc(&["--yes", "--running"])?;
        }
    }
    // Nobody is heard any more: every pod ends by itself.
    let running = ["get", "pods", "-n", &site.namespace, "-o", "name", "--field-selector"];
    let start = Instant::now();
    loop {
        let left =
            site.kubectl(&[&running[..], &["status.phase!=Succeeded,status.phase!=Failed"]].concat())?;
        if left.is_empty() {
            break;
        }
        if start.elapsed() > ENDED_WITHIN {
            return Err(format!("these pods still run: {left}").into());
        }
        sleep(Duration::from_millis(200));
    }
    let listed = gc(&[])?;
    if !listed.contains(&format!("{}/ocne-image-builder-", site.namespace)) {
        return Err(format!("not listed: {listed}").into());
    }
    let removed = gc(&["--yes"])?;
    if !removed.starts_with("removed") {
        return Err(format!("not removed: {removed}").into());
    }
    site.assert_nothing_left()
}

fn eight_at_once(site: &Site) -> Result<(), Failed> {
    let children: Vec<_> = (0..AT_ONCE)
        .map(|n| {
            let mut c = site.case.ocne(&["image", "create", "--builder", "cluster", "--file"]);
            c.arg(&site.case.boot).arg("--output").arg(site.case.out.join(format!("{n}.oci")));
            site.in_cluster(&mut c, &site.means.shell_image);
            c.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
        })
        .collect();
    for child in children {
        let out = child?.wait_with_output()?;
        if !out.status.success() {
            return Err(format!("{}: {}", out.status, text(&out.stderr)).into());
        }
    }
    for n in 0..AT_ONCE {
        fs_err::rename(site.case.out.join(format!("{n}.oci")), site.case.result())?;
        must(Command::new("qemu-img").args(["check", "-q"]).arg(site.case.result()), "qemu-img check")?;
    }
    site.assert_nothing_left()
}
