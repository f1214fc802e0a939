//! From a description to a pod that runs.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ListParams, PostParams};

use crate::api::{Failure, PATIENCE, once, optional, patiently};
use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::event::ClusterEvent;
use crate::explain::{job_ended, job_failure};
use crate::manifest::{self, CREATED_BY};
use crate::pod::{BuilderPod, remove_job};
use crate::spec::{PodEntry, PodSpec};
use crate::wait::{Patience, Standing, standing, waits, without_pod};

/// Most pods run within a second or two, and a build waits for them.
const FIRST_POLLS: Duration = Duration::from_millis(100);
const FIRST: Duration = Duration::from_secs(5);
/// The status of a pod says so late that its container runs.
const STATUS_DELAY: Duration = Duration::from_secs(3);
/// A container that runs answers within that; one that does not is refused at once.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const LATER_POLLS: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(50);

type Events<'a> = &'a (dyn Fn(ClusterEvent) + Sync);

impl Cluster {
    /// Makes the namespace if it is missing, and the Job; waits until its pod runs, telling what it waits for.
    ///
    /// When it fails or is cancelled, the Job is removed. When the future is dropped, it stays until the program in
    /// the pod has heard nobody for its idle time-out, or until its deadline.
    ///
    /// # Errors
    /// [`ClusterError::Interrupted`] when cancelled, and whatever keeps the pod from running.
    pub async fn start(
        &self,
        spec: &PodSpec,
        events: Events<'_>,
        cancel: &AtomicBool,
    ) -> Result<BuilderPod, ClusterError> {
        let id = manifest::new_id()?;
        let job = manifest::job(spec, &id, Timestamp::now())?;
        let name = job.metadata.name.clone().unwrap_or_default();
        let started = async {
            self.make_job(spec, &job, events, cancel).await?;
            events(ClusterEvent::JobCreated { namespace: spec.namespace.clone(), job: name.clone() });
            unless_cancelled(cancel, Box::pin(self.until_it_runs(spec, &name, events))).await
        };
        match Box::pin(started).await {
            Ok(pod) => {
                events(ClusterEvent::PodRunning { pod: pod.name.clone(), node: pod.node.clone() });
                Ok(pod)
            }
            Err(error) => {
                // The first error is the one to tell.
                if let Err(second) =
                    remove_job(&self.client, &self.server, &spec.namespace, &name, None).await
                {
                    tracing::warn!(job = name, error = %second, "the Job could not be removed");
                }
                Err(error)
            }
        }
    }

    /// The pod of an earlier build, if it still runs. If it does not, what is left of the build is removed.
    ///
    /// # Errors
    /// When the cluster does not answer, or does not allow it.
    pub async fn resume(&self, namespace: &str, job: &str) -> Result<Option<BuilderPod>, ClusterError> {
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let found = optional(patiently(|| jobs.get(job)).await)
            .map_err(|failure| failure.into_error(&self.server, &format!("look at the Job `{job}`")))?;
        let is_ours = |job: &Job| job.metadata.annotations.iter().flatten().any(|(key, _)| key == CREATED_BY);
        let Some(_) = found.filter(|job| job.metadata.deletion_timestamp.is_none() && is_ours(job)) else {
            return Ok(None);
        };
        let start = Instant::now();
        loop {
            match self.look_at_start(namespace, job).await? {
                (Some(pod), Standing::Running { node }) => {
                    return Ok(Some(self.builder_pod(namespace, job, &pod, node)));
                }
                (_, Standing::Waiting { .. }) if start.elapsed() < STATUS_DELAY => {}
                _ => break,
            }
            tokio::time::sleep(FIRST_POLLS).await;
        }
        remove_job(&self.client, &self.server, namespace, job, None).await?;
        Ok(None)
    }

    async fn make_namespace(&self, name: &str, events: Events<'_>) -> Result<(), ClusterError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = manifest::namespace(name)?;
        let parameters = PostParams::default();
        match patiently(|| api.create(&parameters, &namespace)).await {
            Ok(_) => events(ClusterEvent::NamespaceCreated(name.to_owned())),
            // Somebody else was quicker.
            Err(failure) if failure.status() == Some(409) => {}
            Err(failure) => {
                return Err(failure.into_refusal(&self.server, &format!("the namespace `{name}`"), name));
            }
        }
        Ok(())
    }

    /// A request on its way is never given up, so that it is known whether there is a Job to remove.
    async fn make_job(
        &self,
        spec: &PodSpec,
        job: &Job,
        events: Events<'_>,
        cancel: &AtomicBool,
    ) -> Result<(), ClusterError> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), &spec.namespace);
        let parameters = PostParams::default();
        let start = Instant::now();
        let mut has_namespace = false;
        let mut told = None;
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(ClusterError::Interrupted);
            }
            match once(api.create(&parameters, job)).await {
                Ok(_) => return Ok(()),
                // Nobody else has its name: an earlier request got through.
                Err(failure) if failure.status() == Some(409) && is_there_already(&failure) => return Ok(()),
                // Asking whether it exists would need one right more.
                Err(failure) if failure.status() == Some(404) && !has_namespace => {
                    self.make_namespace(&spec.namespace, events).await?;
                    has_namespace = true;
                }
                Err(failure) if failure.is_transient() && start.elapsed() < PATIENCE => {
                    let reason = failure.reason();
                    if told.as_ref() != Some(&reason) {
                        events(ClusterEvent::Retrying { reason: reason.clone() });
                        told = Some(reason);
                    }
                    tokio::time::sleep(LATER_POLLS).await;
                }
                Err(failure) => {
                    let object = format!("a Job in the namespace `{}`", spec.namespace);
                    return Err(failure.into_refusal(&self.server, &object, &spec.namespace));
                }
            }
        }
    }

    async fn until_it_runs(
        &self,
        spec: &PodSpec,
        job: &str,
        events: Events<'_>,
    ) -> Result<BuilderPod, ClusterError> {
        let start = Instant::now();
        let mut told = String::new();
        let mut since: Option<(Patience, Instant)> = None;
        loop {
            let (pod, now) = self.look_at_start(&spec.namespace, job).await?;
            match now {
                Standing::Running { node } => {
                    let pod = pod.unwrap_or_default();
                    return Ok(self.builder_pod(&spec.namespace, job, &pod, node));
                }
                Standing::Failed(error) => return Err(error),
                Standing::Waiting { reason, patience, error } => {
                    let on_node =
                        pod.as_ref().and_then(|pod| Some((pod, pod.spec.as_ref()?.node_name.clone()?)));
                    // A pod that is on its way out may answer still.
                    let on_node = on_node.filter(|(pod, _)| pod.metadata.deletion_timestamp.is_none());
                    if let Some((pod, node)) = on_node.filter(|_| start.elapsed() < FIRST) {
                        let pod = self.builder_pod(&spec.namespace, job, pod, node);
                        if answers(&pod, spec.entry).await {
                            return Ok(pod);
                        }
                    }
                    if reason != told {
                        events(ClusterEvent::Waiting { reason: reason.clone() });
                        told = reason;
                    }
                    let began = match since {
                        Some((same, began)) if same == patience => began,
                        _ => Instant::now(),
                    };
                    since = Some((patience, began));
                    if began.elapsed() >= patience.limit(spec.pod_wait) || start.elapsed() >= spec.pod_wait {
                        return Err(with_time(error, start.elapsed()));
                    }
                }
            }
            tokio::time::sleep(if start.elapsed() < FIRST { FIRST_POLLS } else { LATER_POLLS }).await;
        }
    }

    fn builder_pod(&self, namespace: &str, job: &str, pod: &Pod, node: String) -> BuilderPod {
        BuilderPod {
            client: self.client.clone(),
            server: self.server.clone(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            namespace: namespace.to_owned(),
            node,
            job: job.to_owned(),
        }
    }

    /// The Job's pod, if there is one, and how far it is.
    async fn look_at_start(
        &self,
        namespace: &str,
        job: &str,
    ) -> Result<(Option<Pod>, Standing), ClusterError> {
        let failed = |failure: Failure| failure.into_error(&self.server, &format!("look at the Job `{job}`"));
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let parameters = ListParams::default().labels(&format!("{}={job}", manifest::INSTANCE));
        let pod = patiently(|| pods.list(&parameters)).await.map_err(failed)?.items.into_iter().next();
        let Some(pod) = pod else {
            return Ok((None, Box::pin(self.without_its_pod(namespace, job, None)).await?));
        };
        let name = pod.metadata.name.clone().unwrap_or_default();
        let now = match standing(&pod, &[]) {
            Standing::Waiting { .. } => standing(&pod, &self.events_of(namespace, &name).await),
            Standing::Failed(error @ ClusterError::Deleted { .. }) => {
                Box::pin(self.without_its_pod(namespace, job, Some(error))).await?
            }
            now => now,
        };
        Ok((Some(pod), now))
    }

    /// How far a Job is that has no pod, or one that has been deleted: why, the Job knows.
    async fn without_its_pod(
        &self,
        namespace: &str,
        job: &str,
        deleted: Option<ClusterError>,
    ) -> Result<Standing, ClusterError> {
        let failed = |failure: Failure| failure.into_error(&self.server, &format!("look at the Job `{job}`"));
        let gone = |message: &str| ClusterError::Deleted { pod: job.to_owned(), message: message.to_owned() };
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let Some(found) = optional(patiently(|| jobs.get(job)).await).map_err(failed)? else {
            return Ok(Standing::Failed(gone("its Job is gone")));
        };
        Ok(match (job_ended(&found, job), job_failure(&found), deleted) {
            (Some(error), _, _) => Standing::Failed(error),
            (None, Some(_), deleted) => Standing::Failed(deleted.unwrap_or_else(|| gone(""))),
            (None, None, Some(error)) => waits(error, Patience::Brief),
            (None, None, None) => without_pod(job, namespace, &self.events_of(namespace, job).await),
        })
    }

    /// What happened to an object. Without the right to know, nothing.
    async fn events_of(&self, namespace: &str, name: &str) -> Vec<Event> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let parameters = ListParams::default().fields(&format!("involvedObject.name={name}"));
        once(api.list(&parameters)).await.map(|list| list.items).unwrap_or_default()
    }
}

fn is_there_already(failure: &Failure) -> bool {
    matches!(failure, Failure::Kube(kube::Error::Api(status)) if status.reason == "AlreadyExists")
}

/// Says how long it took, where that belongs to the message.
fn with_time(error: ClusterError, elapsed: Duration) -> ClusterError {
    match error {
        ClusterError::NotRunning { pod, reason, .. } => {
            ClusterError::NotRunning { pod, seconds: elapsed.as_secs(), reason }
        }
        error => error,
    }
}

/// Whether a program can be run in the pod. Its status says so up to a second later: the kubelet looks at containers that
/// often only.
async fn answers(pod: &BuilderPod, entry: PodEntry) -> bool {
    let command: &[&str] = match entry {
        PodEntry::Agent => &["/ocne-agent", "version"],
        PodEntry::Shell => &["sh", "-c", ":"],
    };
    let probe = async { pod.exec(command).await.ok()?.done.await.ok()?.ok() };
    let status = tokio::time::timeout(PROBE_TIMEOUT, probe).await;
    matches!(status, Ok(Some(status)) if status.exit_code == 0)
}

/// Waits for a future, but not longer than until somebody wants it to end.
///
/// # Errors
/// [`ClusterError::Interrupted`] then, and those of the future.
pub async fn unless_cancelled<T>(
    cancel: &AtomicBool,
    future: impl Future<Output = Result<T, ClusterError>>,
) -> Result<T, ClusterError> {
    let mut future = pin!(future);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(ClusterError::Interrupted);
        }
        if let Ok(result) = tokio::time::timeout(TICK, &mut future).await {
            return result;
        }
    }
}
