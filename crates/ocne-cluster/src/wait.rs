//! What a pod that does not run yet waits for. Pure: a pod and its events in, words and patience out.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};

use crate::error::ClusterError;
use crate::explain::{condition, ended, runtime_words, state};
use crate::refusal::{Rule, words};

/// How far the pod is.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Its container runs on that node.
    Running {
        /// The node.
        node: String,
    },
    /// It waits.
    Waiting {
        /// For what.
        reason: String,
        /// How long that may take.
        patience: Patience,
        /// What it is called when it takes longer.
        error: ClusterError,
    },
    /// It will not run.
    Failed(ClusterError),
}

/// How long something may take before it is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As the caller says: things that others bring about, such as a free node.
    AsLongAsAsked,
    /// Things that a retry may mend, such as a registry out of reach.
    Retries,
    /// Things that only look as if they could change.
    Brief,
}

impl Patience {
    /// The time, where the caller allows that much.
    pub(crate) fn limit(self, asked: Duration) -> Duration {
        match self {
            Self::AsLongAsAsked => asked,
            Self::Retries => asked.min(Duration::from_mins(1)),
            Self::Brief => asked.min(Duration::from_secs(10)),
        }
    }
}

/// How far a pod is, as its status and events say.
pub(crate) fn standing(pod: &Pod, events: &[Event]) -> Standing {
    if let Some(error) = ended(pod, None) {
        return Standing::Failed(error);
    }
    let name = pod.metadata.name.clone().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let state = state(pod);
    if state.is_some_and(|state| state.running.is_some()) {
        return Standing::Running { node: node.unwrap_or_default() };
    }
    let Some(node) = node else { return unscheduled(pod, name) };
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or("ContainerCreating");
    let message = waiting.and_then(|waiting| waiting.message.clone()).unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => {
            image(pod, name, &pull_failure(events).unwrap_or(message))
        }
        "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" | "SignatureValidationFailed" => {
            let reason = if message.is_empty() { reason.to_owned() } else { runtime_words(&message) };
            Standing::Failed(ClusterError::Image { pod: name, image: image_of(pod), reason })
        }
        "ContainerCreating" | "PodInitializing" => creating(name, &node, events),
        // `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`, …
        _ => {
            let reason = format!("{reason}: {}", runtime_words(&message));
            waits(ClusterError::Container { pod: name, reason }, Patience::Brief)
        }
    }
}

/// What the controller says when it cannot make the Job's pod at all.
pub(crate) fn without_pod(job: &str, namespace: &str, events: &[Event]) -> Standing {
    let failed = latest(events, |reason, _| reason == "FailedCreate");
    let Some(message) = failed else {
        let reason = "no pod has been made for the Job yet".to_owned();
        let error = ClusterError::NotRunning { pod: job.to_owned(), seconds: 0, reason: reason.clone() };
        return Standing::Waiting { reason, patience: Patience::Retries, error };
    };
    let message = words(&message).to_owned();
    let rule = Rule::of(&message);
    // A quota that others use has room again when they are done.
    let shared = matches!(rule, Rule::Quota { .. }) && is_used(&message);
    let patience = if shared { Patience::AsLongAsAsked } else { Patience::Brief };
    let object = format!("the pod of the Job `{job}` in the namespace `{namespace}`");
    waits(ClusterError::Refused { rule, object, namespace: namespace.to_owned(), message }, patience)
}

/// It waits, and what it waits for is what it would fail with.
pub(crate) fn waits(error: ClusterError, patience: Patience) -> Standing {
    Standing::Waiting { reason: error.to_string(), patience, error }
}

fn unscheduled(pod: &Pod, name: String) -> Standing {
    match condition(pod, "PodScheduled") {
        Some(condition) if condition.status == "False" => {
            let reason = condition.message.clone().or_else(|| condition.reason.clone()).unwrap_or_default();
            waits(
                ClusterError::Unschedulable { pod: name, reason: runtime_words(of_the_nodes(&reason)) },
                Patience::AsLongAsAsked,
            )
        }
        _ => {
            let reason = "the scheduler has not looked at the pod yet".to_owned();
            let error = ClusterError::Unschedulable { pod: name, reason: reason.clone() };
            Standing::Waiting { reason, patience: Patience::Retries, error }
        }
    }
}

/// What the scheduler says of the nodes, without what it tried besides.
fn of_the_nodes(message: &str) -> &str {
    let besides = [" no new claims to deallocate", " preemption: "];
    let end = besides.iter().filter_map(|words| message.find(words)).min();
    end.map_or(message, |end| message[..end].trim_end_matches(','))
}

/// An image that could not be pulled, so far.
fn image(pod: &Pod, name: String, message: &str) -> Standing {
    let reason = runtime_words(message);
    let lower = reason.to_lowercase();
    let final_words =
        ["not found", "unauthorized", "authorization failed", "denied", "no match for platform"];
    let is_final = final_words.iter().any(|words| lower.contains(words));
    let patience = if is_final { Patience::Brief } else { Patience::Retries };
    waits(ClusterError::Image { pod: name, image: image_of(pod), reason }, patience)
}

fn image_of(pod: &Pod) -> String {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    container.and_then(|container| container.image.clone()).unwrap_or_default()
}

/// What the registry said last: the container's own status turns into "back-off" soon.
fn pull_failure(events: &[Event]) -> Option<String> {
    let message =
        latest(events, |reason, message| reason == "Failed" && message.starts_with("Failed to pull image"))?;
    // Failed to pull image "NAME": WORDS
    Some(message.split_once("\": ").map_or(message.clone(), |(_, words)| words.to_owned()))
}

/// A container on its way: its volumes, its network, its image.
fn creating(name: String, node: &str, events: &[Event]) -> Standing {
    let trouble = latest(events, |reason, _| {
        matches!(reason, "FailedMount" | "FailedAttachVolume" | "FailedCreatePodSandBox" | "FailedMapVolume")
    });
    if let Some(message) = trouble {
        let error = ClusterError::Container { pod: name, reason: runtime_words(&message) };
        return waits(error, Patience::Retries);
    }
    let reason = match latest(events, |reason, _| reason == "Pulling") {
        Some(_) => format!("the node `{node}` pulls the image"),
        None => format!("the node `{node}` makes the container"),
    };
    let error = ClusterError::NotRunning { pod: name, seconds: 0, reason: reason.clone() };
    Standing::Waiting { reason, patience: Patience::AsLongAsAsked, error }
}

/// Message of the latest event of some kind. Reason and message are what the choice is made by.
fn latest(events: &[Event], wanted: impl Fn(&str, &str) -> bool) -> Option<String> {
    let reason = |event: &Event| event.reason.clone().unwrap_or_default();
    let message = |event: &Event| event.message.clone().unwrap_or_default();
    let time = |event: &Event| {
        let micro = event.event_time.as_ref().map(|time| time.0);
        event.last_timestamp.as_ref().map(|time| time.0).or(micro)
    };
    let found = events.iter().filter(|event| wanted(&reason(event), &message(event)));
    found.max_by_key(|event| time(event)).map(message)
}

/// Whether a quota's refusal says that something of it is used: `…, used: a=0,b=1Gi, limited: …`.
fn is_used(message: &str) -> bool {
    let used = message.split_once("used: ").map_or("", |(_, rest)| rest);
    let used = used.split_once(", limited: ").map_or(used, |(used, _)| used);
    used.split(',').filter_map(|part| part.split_once('=')).any(|(_, amount)| amount.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a pod that waits reads for a user.
    fn waiting(pod: &str, events: &[(&str, &str)]) -> String {
        let pod: Pod = serde_json::from_str(pod).unwrap();
        read(standing(&pod, &made(events)))
    }

    fn made(events: &[(&str, &str)]) -> Vec<Event> {
        let event = |(reason, message): &(&str, &str)| Event {
            reason: Some((*reason).to_owned()),
            message: Some((*message).to_owned()),
            ..Event::default()
        };
        events.iter().map(event).collect()
    }

    fn read(standing: Standing) -> String {
        let hint = |error: &ClusterError| error.hint().map(|h| format!("\n  hint: {h}")).unwrap_or_default();
        match standing {
            Standing::Running { node } => format!("runs on {node}"),
            Standing::Failed(error) => format!("final: {error}{}", hint(&error)),
            Standing::Waiting { reason, patience, error } => {
                format!("{patience:?}: {reason}{}", hint(&error))
            }
        }
    }

    fn pod(state: &str) -> String {
        format!(
            r#"{{"metadata": {{"name": "pod-1"}}, "spec": {{"nodeName": "node-1", "containers": [{{"name": "builder", "image": "registry.example.com/builder:1"}}]}},
            "status": {{"phase": "Pending", "containerStatuses": [{{"name": "builder", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {state}}}]}}}}"#
        )
    }

    fn unscheduled_pod(message: &str) -> String {
        format!(
            r#"{{"metadata": {{"name": "pod-1"}}, "spec": {{"containers": []}}, "status": {{"phase": "Pending", "conditions": [
            {{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "{message}"}}]}}}}"#
        )
    }

    #[test]
    fn a_pod_without_a_node() {
        let messages = [
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
            "0/3 nodes are available: 1 Insufficient memory, 2 Insufficient cpu.",
            "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: images}.",
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
            "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ];
        insta::assert_snapshot!(messages.map(|message| waiting(&unscheduled_pod(message), &[])).join("\n"));
    }

    #[test]
    fn a_pod_without_its_image() {
        let state = |reason: &str| {
            pod(&format!(r#"{{"waiting": {{"reason": "{reason}", "message": "Back-off pulling image"}}}}"#))
        };
        let failures = [
            r#"Failed to pull image "registry.example.com/builder:1": rpc error: code = NotFound desc = failed to pull and unpack image: registry.example.com/builder:1: not found"#,
            r#"Failed to pull image "registry.example.com/builder:1": rpc error: code = Unknown desc = failed to authorize: 401 Unauthorized"#,
            r#"Failed to pull image "registry.example.com/builder:1": rpc error: code = Unknown desc = dial tcp: lookup registry.example.com: no such host"#,
            r#"Failed to pull image "registry.example.com/builder:1": no match for platform in manifest"#,
        ];
        let mut lines =
            failures.map(|failure| waiting(&state("ImagePullBackOff"), &[("Failed", failure)])).to_vec();
        lines.push(waiting(&state("ErrImagePull"), &[]));
        lines.push(waiting(&state("InvalidImageName"), &[]));
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_container_on_its_way() {
        let creating = pod(r#"{"waiting": {"reason": "ContainerCreating"}}"#);
        let lines = [
            waiting(&creating, &[]),
            waiting(&creating, &[("Pulling", "Pulling image")]),
            waiting(&creating, &[("FailedMount", "MountVolume.SetUp failed for volume")]),
            waiting(
                &pod(
                    r#"{"waiting": {"reason": "CreateContainerConfigError", "message": "container has runAsNonRoot and image will run as root"}}"#,
                ),
                &[],
            ),
            waiting(&pod(r#"{"running": {}}"#), &[]),
        ];
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_job_without_a_pod() {
        let messages = [
            r#"Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": seccompProfile (pod or container "builder" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
            r#"Error creating: pods "x" is forbidden: exceeded quota: tight, requested: limits.memory=256Mi, used: limits.memory=0, limited: limits.memory=64Mi"#,
            r#"Error creating: pods "x" is forbidden: exceeded quota: shared, requested: pods=1, used: pods=4, limited: pods=4"#,
            r#"Error creating: pods "x" is forbidden: maximum memory usage per Container is 64Mi, but limit is 256Mi"#,
            r#"Error creating: admission webhook "policy.example.com" denied the request: image is not signed"#,
            r#"Error creating: pods "x" is forbidden: error looking up service account ns/nobody: serviceaccount "nobody" not found"#,
        ];
        let mut lines =
            messages.map(|m| read(without_pod("job-1", "ns", &made(&[("FailedCreate", m)])))).to_vec();
        lines.push(read(without_pod("job-1", "ns", &[])));
        insta::assert_snapshot!(lines.join("\n"));
    }
}
