//! Why a pod ended, read from its status. Pure: a pod and a Job in, the error out.

use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, Pod, PodCondition};

use crate::error::ClusterError;

/// Why the pod is at its end, or no more than a name in the API. None while it runs or may still do.
pub(crate) fn ended(pod: &Pod, job: Option<&Job>) -> Option<ClusterError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    if let Some(job) = job
        && let Some(error) = job_ended(job, &name)
    {
        return Some(error);
    }
    let status = pod.status.as_ref()?;
    let message = runtime_words(status.message.as_deref().unwrap_or_default());
    match status.reason.as_deref() {
        Some("Evicted") => return Some(ClusterError::Evicted { pod: name, message }),
        Some("DeadlineExceeded") => return Some(ClusterError::Deadline { pod: name, message }),
        Some("NodeLost") => return Some(node_lost(pod, message)),
        // The node refused what the scheduler sent, or is being shut down.
        Some(reason) if status.phase.as_deref() == Some("Failed") => {
            let message = if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") };
            return Some(ClusterError::Evicted { pod: name, message });
        }
        _ => {}
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(deleted(pod));
    }
    if let Some(terminated) = state(pod).and_then(|state| state.terminated.as_ref()) {
        return Some(terminated_error(pod, terminated));
    }
    if state(pod).is_some_and(|state| state.running.is_some())
        && let Some(ready) = condition(pod, "Ready")
        && ready.status == "False"
    {
        // We have no readiness probe: a running container is not ready only when its node is not.
        return Some(node_lost(pod, ready.message.clone().unwrap_or_default()));
    }
    None
}

/// What the Job says of its failure, once it has seen it.
pub(crate) fn job_failure(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_deref().unwrap_or_default();
    conditions.iter().find(|condition| {
        matches!(condition.type_.as_str(), "Failed" | "FailureTarget") && condition.status == "True"
    })
}

/// Why the Job ended its pods.
pub(crate) fn job_ended(job: &Job, pod: &str) -> Option<ClusterError> {
    let failed = job_failure(job)?;
    let message = failed.message.clone().unwrap_or_default();
    // The others (`BackoffLimitExceeded`) follow from what the pod itself says better.
    (failed.reason.as_deref() == Some("DeadlineExceeded"))
        .then(|| ClusterError::Deadline { pod: pod.to_owned(), message })
}

/// What the pod's deletion says about itself.
fn deleted(pod: &Pod) -> ClusterError {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let disruption = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True");
    let Some(disruption) = disruption else {
        return ClusterError::Deleted { pod: name, message: String::new() };
    };
    let message = disruption.message.clone().unwrap_or_default();
    match disruption.reason.as_deref() {
        Some("DeletionByTaintManager" | "DeletionByPodGC") => node_lost(pod, message),
        Some("TerminationByKubelet") => ClusterError::Evicted { pod: name, message },
        _ => ClusterError::Deleted { pod: name, message },
    }
}

fn node_lost(pod: &Pod, message: String) -> ClusterError {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    ClusterError::NodeLost { pod: pod.metadata.name.clone().unwrap_or_default(), node, message }
}

fn terminated_error(pod: &Pod, terminated: &ContainerStateTerminated) -> ClusterError {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let message = terminated.message.clone().unwrap_or_default();
    match terminated.reason.as_deref() {
        Some("OOMKilled") => ClusterError::OutOfMemory { pod: name, limit: memory_limit(pod) },
        Some("StartError" | "ContainerCannotRun") => {
            ClusterError::Container { pod: name, reason: runtime_words(&message) }
        }
        Some("ContainerStatusUnknown") => node_lost(pod, message),
        _ => ClusterError::Ended { pod: name, exit_code: terminated.exit_code, message },
    }
}

fn memory_limit(pod: &Pod) -> String {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut limits =
        containers.filter_map(|container| container.resources.as_ref()?.limits.as_ref()?.get("memory"));
    limits.next().map_or_else(|| "the node's".to_owned(), |limit| limit.0.clone())
}

/// State of the only container.
pub(crate) fn state(pod: &Pod) -> Option<&ContainerState> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()
}

/// A condition of the pod.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// What a container runtime or a controller says, without how it said it.
pub(crate) fn runtime_words(message: &str) -> String {
    let words = match message.strip_prefix("rpc error: code = ") {
        Some(rest) => rest.split_once(" desc = ").map_or(rest, |(_, words)| words),
        None => message,
    };
    words.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod with this status, as it reads for a user.
    fn explained(status: &str) -> String {
        explained_with(status, "{}", None)
    }

    fn explained_with(status: &str, metadata: &str, job: Option<&str>) -> String {
        let pod = format!(
            r#"{{"metadata": {metadata}, "status": {status}, "spec": {{"nodeName": "node-1", "containers": [
                {{"name": "builder", "image": "i", "resources": {{"limits": {{"memory": "256Mi"}}}}}}]}}}}"#
        );
        let mut pod: Pod = serde_json::from_str(&pod).unwrap();
        pod.metadata.name = Some("pod-1".to_owned());
        let job: Option<Job> = job.map(|job| serde_json::from_str(job).unwrap());
        match ended(&pod, job.as_ref()) {
            Some(error) => format!("{error}\n  hint: {}", error.hint().unwrap_or_default()),
            None => "it runs".to_owned(),
        }
    }

    fn container(state: &str) -> String {
        format!(
            r#"{{"phase": "Failed", "containerStatuses": [{{"name": "builder", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {state}}}]}}"#
        )
    }

    #[test]
    fn what_ended_a_container() {
        let states = [
            r#"{"running": {}}"#,
            r#"{"waiting": {"reason": "ContainerCreating"}}"#,
            r#"{"terminated": {"exitCode": 137, "reason": "OOMKilled"}}"#,
            r#"{"terminated": {"exitCode": 3, "reason": "Error", "message": "no such option\n"}}"#,
            r#"{"terminated": {"exitCode": 0, "reason": "Completed"}}"#,
            r#"{"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: \"/ocne-agent\": no such file"}}"#,
            r#"{"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "not found when the pod was terminated"}}"#,
        ];
        insta::assert_snapshot!(states.map(|state| explained(&container(state))).join("\n"));
    }

    #[test]
    fn what_ended_a_pod() {
        let statuses = [
            r#"{"phase": "Failed", "reason": "Evicted", "message": "Usage of EmptyDir volume \"scratch\" exceeds the limit \"16Mi\"."}"#,
            r#"{"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}"#,
            r#"{"phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline"}"#,
            r#"{"phase": "Running", "reason": "NodeLost", "message": "Node node-1 which was running pod pod-1 is unresponsive"}"#,
            r#"{"phase": "Failed", "reason": "OutOfmemory", "message": "Pod was rejected: Node didn't have enough resource: memory"}"#,
        ];
        insta::assert_snapshot!(statuses.map(explained).join("\n"));
    }

    #[test]
    fn who_removed_a_pod() {
        let deleted = r#"{"deletionTimestamp": "2026-01-01T00:00:00Z"}"#;
        let disrupted = |reason: &str| {
            format!(
                r#"{{"phase": "Running", "conditions": [{{"type": "DisruptionTarget", "status": "True", "reason": "{reason}", "message": "words of the cluster"}}]}}"#
            )
        };
        let late = r#"{"status": {"conditions": [{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded", "message": "Job was active longer than specified deadline"}]}}"#;
        let plain = r#"{"phase": "Running"}"#;
        let lines = [
            explained_with(plain, deleted, None),
            explained_with(&disrupted("PreemptionByScheduler"), deleted, None),
            explained_with(&disrupted("DeletionByTaintManager"), deleted, None),
            explained_with(&disrupted("TerminationByKubelet"), deleted, None),
            explained_with(plain, deleted, Some(late)),
        ];
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_node_that_is_not_ready_is_lost() {
        let status = r#"{"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [
            {"name": "builder", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]}"#;
        insta::assert_snapshot!(explained(status));
    }
}
