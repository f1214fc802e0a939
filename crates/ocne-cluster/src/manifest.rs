//! The objects of a build: what `manifests/` has, with the parts that vary.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EphemeralVolumeSource, LocalObjectReference, Namespace,
    PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate, Pod, PodSpec as KubePodSpec, PodTemplateSpec,
    ResourceRequirements, Toleration, Volume, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::error::ClusterError;
use crate::scratch::Scratch;
use crate::spec::{PodEntry, PodSpec};
use crate::toleration::TolerationSpec;

const JOB: &str = include_str!("../../../manifests/builder-job.yaml");
const NAMESPACE: &str = include_str!("../../../manifests/namespace.yaml");

/// What all Jobs and pods of ours are found by.
pub(crate) const SELECTOR: &str =
    "app.kubernetes.io/name=ocne-image-builder,app.kubernetes.io/managed-by=ocne";
/// The label that tells one build from another.
pub(crate) const INSTANCE: &str = "app.kubernetes.io/instance";
/// Name of the container.
pub(crate) const CONTAINER: &str = "builder";
/// Annotation: who asked.
pub(crate) const CREATED_BY: &str = "ocne.oracle.com/created-by";
/// Annotation: when, in UTC.
const CREATED_AT: &str = "ocne.oracle.com/created-at";
/// Annotation: which version of the program.
const CLIENT_VERSION: &str = "ocne.oracle.com/client-version";

/// A client that brings the agent cannot be heard before the agent is there, so it gets at least as long as one attempt
/// of that may take.
const BRING_SECONDS_MIN: i32 = 60;

/// A name that no other build has.
pub(crate) fn new_id() -> Result<String, ClusterError> {
    let mut bytes = [0; 8];
    // 40 bits: enough for all builds of a namespace at a time, short enough to type.
    let random = fs_err::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes[3..]));
    random.map_err(|source| ClusterError::Random { source })?;
    Ok(format!("{:010x}", u64::from_be_bytes(bytes)))
}

/// The namespace, as it is made when it is missing.
pub(crate) fn namespace(name: &str) -> Result<Namespace, ClusterError> {
    let mut namespace: Namespace = parse("Namespace", NAMESPACE)?;
    namespace.metadata.name = Some(name.to_owned());
    Ok(namespace)
}

/// The Job of a build.
pub(crate) fn job(spec: &PodSpec, id: &str, now: Timestamp) -> Result<Job, ClusterError> {
    let mut job: Job = parse("Job", JOB)?;
    describe(&mut job.metadata, spec, id, now);
    job.metadata.name = Some(format!("ocne-image-builder-{id}"));
    job.metadata.namespace = Some(spec.namespace.clone());
    let job_spec = job.spec.get_or_insert_default();
    job_spec.active_deadline_seconds = Some(seconds(spec.deadline).into());
    job_spec.ttl_seconds_after_finished = Some(seconds(spec.ttl_after_finished));
    fill(&mut job_spec.template, spec, id, now);
    Ok(job)
}

/// The pod that the Job controller will make of the Job, to ask what the cluster thinks of it.
pub(crate) fn pod(job: &Job) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.generate_name = job.metadata.name.as_ref().map(|name| format!("{name}-"));
    metadata.namespace.clone_from(&job.metadata.namespace);
    Pod { metadata, spec: template.spec, status: None }
}

fn parse<T: DeserializeOwned>(object: &'static str, text: &str) -> Result<T, ClusterError> {
    serde_saphyr::from_str(text).map_err(|source| ClusterError::Manifest { object, source: Box::new(source) })
}

/// Whole seconds, at least one; what Kubernetes counts in.
fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).max(1)
}

fn describe(metadata: &mut ObjectMeta, spec: &PodSpec, id: &str, now: Timestamp) {
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(INSTANCE.to_owned(), format!("ocne-image-builder-{id}"));
    labels.insert("app.kubernetes.io/version".to_owned(), label_value(&spec.client_version));
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(CREATED_BY.to_owned(), spec.user.clone());
    annotations.insert(CREATED_AT.to_owned(), format!("{now:.0}"));
    annotations.insert(CLIENT_VERSION.to_owned(), spec.client_version.clone());
}

/// What a label's value may hold: 63 letters, digits, `-`, `_`, `.`, with a letter or a digit at either end.
fn label_value(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let text: String = text.chars().map(allowed).take(63).collect();
    text.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

fn fill(template: &mut PodTemplateSpec, spec: &PodSpec, id: &str, now: Timestamp) {
    describe(template.metadata.get_or_insert_default(), spec, id, now);
    let pod = template.spec.get_or_insert_default();
    choose_node(pod, spec);
    pod.service_account_name.clone_from(&spec.service_account);
    let secrets = spec.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    pod.image_pull_secrets = Some(secrets.collect()).filter(|list: &Vec<_>| !list.is_empty());
    for volume in pod.volumes.iter_mut().flatten() {
        *volume = scratch_volume(&volume.name, spec);
    }
    for container in &mut pod.containers {
        container.image = Some(spec.image.clone());
        container.resources = Some(resources(spec));
        start(container, spec);
    }
}

fn choose_node(pod: &mut KubePodSpec, spec: &PodSpec) {
    let selector = pod.node_selector.get_or_insert_default();
    selector.insert("kubernetes.io/arch".to_owned(), spec.node_architecture.clone());
    selector.extend(spec.node_selector.clone());
    pod.priority_class_name.clone_from(&spec.priority_class);
    let tolerations = spec.tolerations.iter().map(toleration);
    pod.tolerations = Some(tolerations.collect()).filter(|list: &Vec<_>| !list.is_empty());
}

fn toleration(spec: &TolerationSpec) -> Toleration {
    Toleration {
        key: Some(spec.key.clone()),
        operator: Some(if spec.value.is_some() { "Equal" } else { "Exists" }.to_owned()),
        value: spec.value.clone(),
        effect: spec.effect.clone(),
        ..Toleration::default()
    }
}

fn start(container: &mut Container, spec: &PodSpec) {
    let idle_seconds = seconds(spec.idle_timeout);
    match spec.entry {
        PodEntry::Agent => {
            let command = ["/ocne-agent", "wait", "--idle-timeout", &idle_seconds.to_string()];
            container.command = Some(command.map(ToOwned::to_owned).to_vec());
        }
        PodEntry::Shell => {
            let script = shell_script(idle_seconds.max(BRING_SECONDS_MIN), idle_seconds);
            container.command = Some(vec!["sh".to_owned(), "-c".to_owned(), script]);
            container.stdin = Some(true);
        }
    }
}

/// What a pod with a shell only does first: it waits for a line, which says that the agent's program is there, and
/// becomes it. When the line does not come in time, it ends.
///
/// No POSIX shell has to know `read -t`. One that does not, such as dash, answers with 2 and waits without limit, until
/// the Job's deadline; after a time-out bash answers with 128 and more, BusyBox with 1.
fn shell_script(bring_seconds: i32, idle_seconds: i32) -> String {
    [
        &format!("read -t {bring_seconds} line 2>/dev/null"),
        "case $? in 0) ;; 2) read line ;; *) false ;; esac &&",
        &format!("exec /scratch/ocne-agent wait --idle-timeout {idle_seconds}"),
        "echo 'no client brought the agent; this pod ends' >&2",
        "exit 1",
    ]
    .join("\n")
}

fn resources(spec: &PodSpec) -> ResourceRequirements {
    let limits = BTreeMap::from([
        ("memory".to_owned(), bytes(spec.memory_limit_bytes())),
        ("ephemeral-storage".to_owned(), bytes(spec.ephemeral_storage_limit_bytes())),
    ]);
    let mut requests = limits.clone();
    // No limit on CPU: it would slow a build down on a node that has nothing else to do.
    requests.insert("cpu".to_owned(), Quantity(format!("{}m", spec.cpu_milli)));
    ResourceRequirements { limits: Some(limits), requests: Some(requests), claims: None }
}

/// Whole MiB, at least as much as asked for: messages of the cluster repeat them, and people read those.
fn bytes(count: u64) -> Quantity {
    Quantity(format!("{}Mi", count.div_ceil(1 << 20)))
}

fn scratch_volume(name: &str, spec: &PodSpec) -> Volume {
    let size = bytes(spec.scratch_bytes);
    let mut volume = Volume { name: name.to_owned(), ..Volume::default() };
    match &spec.scratch {
        Scratch::EmptyDir | Scratch::Memory => {
            let medium = (spec.scratch == Scratch::Memory).then(|| "Memory".to_owned());
            volume.empty_dir = Some(EmptyDirVolumeSource { medium, size_limit: Some(size) });
        }
        Scratch::Pvc { class } => {
            let resources = VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                limits: None,
            };
            let claim = PersistentVolumeClaimSpec {
                access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
                storage_class_name: class.clone(),
                resources: Some(resources),
                ..PersistentVolumeClaimSpec::default()
            };
            let template = PersistentVolumeClaimTemplate { metadata: None, spec: claim };
            volume.ephemeral = Some(EphemeralVolumeSource { volume_claim_template: Some(template) });
        }
    }
    volume
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn the_job_has_what_varies() {
        let mut spec = PodSpec::new("registry.example.com/builder:1", "arm64");
        spec.user = "someone@somewhere".to_owned();
        spec.tolerations = vec!["dedicated=images:NoSchedule".parse().unwrap()];
        spec.image_pull_secrets = vec!["registry".to_owned()];
        spec.client_version = "1.2.3+local".to_owned();
        let job = job(&spec, "0123456789", Timestamp::UNIX_EPOCH).unwrap();
        insta::assert_snapshot!(serde_saphyr::to_string(&job).unwrap());
    }

    #[test]
    fn the_scratch_volume_is_what_was_asked_for() {
        let shape = |scratch: &str| {
            let mut spec = PodSpec::new("builder", "amd64");
            spec.scratch = scratch.parse().unwrap();
            spec.entry = PodEntry::Shell;
            let pod = pod(&job(&spec, "id", Timestamp::UNIX_EPOCH).unwrap()).spec.unwrap();
            let resources = pod.containers[0].resources.clone().unwrap();
            let volumes = serde_json::to_string(&pod.volumes).unwrap();
            let limits = serde_json::to_string(&resources.limits).unwrap();
            format!("{volumes} {limits} {}", pod.containers[0].command.clone().unwrap().join(" "))
        };
        insta::assert_snapshot!(["emptydir", "memory", "pvc", "pvc:fast"].map(shape).join("\n"));
    }

    /// The script in a shell, with the folder in place of `/scratch`, and `echo` as the agent there.
    fn in_shell(shell: &[&str], folder: &Path) -> Option<Child> {
        std::os::unix::fs::symlink("/bin/echo", folder.join("ocne-agent")).unwrap();
        let script = shell_script(1, 7).replace("/scratch", folder.to_str().unwrap());
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Past the capture of tests that pass.
                let words = format!("SKIPPED manifest::shell_script in {}: not installed\n", shell[0]);
                let _ = std::io::stderr().write_all(words.as_bytes());
                None
            }
            Err(error) => panic!("{shell:?}: {error}"),
        }
    }

    const SHELLS: [(&[&str], bool); 4] =
        [(&["bash"], true), (&["bash", "--posix"], true), (&["busybox", "sh"], true), (&["dash"], false)];

    #[test]
    fn any_shell_becomes_the_agent_when_a_line_comes() {
        for (shell, _) in SHELLS {
            let folder = tempfile::tempdir().unwrap();
            let Some(mut child) = in_shell(shell, folder.path()) else { continue };
            child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
            let output = child.wait_with_output().unwrap();
            let said = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
            assert_eq!(said, ("wait --idle-timeout 7\n".to_owned(), String::new()), "{shell:?}");
            assert!(output.status.success(), "{shell:?}");
        }
    }

    #[test]
    fn a_shell_ends_when_no_line_comes_in_time_if_it_can() {
        for (shell, has_time_out) in SHELLS {
            let folder = tempfile::tempdir().unwrap();
            let Some(mut child) = in_shell(shell, folder.path()) else { continue };
            let mut stdin = child.stdin.take().unwrap();
            if !has_time_out {
                // The line comes after the others' time-out.
                std::thread::sleep(Duration::from_millis(1500));
                stdin.write_all(b"\n").unwrap();
            }
            let output = child.wait_with_output().unwrap();
            drop(stdin);
            assert_eq!(output.status.success(), !has_time_out, "{shell:?}");
            assert_eq!(output.stdout.is_empty(), has_time_out, "{shell:?}");
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(said.contains("no client brought the agent"), has_time_out, "{shell:?}: {said}");
        }
    }

    #[test]
    fn a_shell_ends_when_its_input_does() {
        for (shell, _) in SHELLS {
            let folder = tempfile::tempdir().unwrap();
            let Some(child) = in_shell(shell, folder.path()) else { continue };
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{shell:?}");
            assert!(output.stdout.is_empty(), "{shell:?}");
        }
    }

    #[test]
    fn names_differ() {
        assert_ne!(new_id().unwrap(), new_id().unwrap());
    }

    #[test]
    fn a_label_holds_any_version() {
        assert_eq!(label_value("1.2.3+local"), "1.2.3-local");
        assert_eq!(label_value("-"), "");
        assert_eq!(label_value(&"x".repeat(100)).len(), 63);
    }
}
