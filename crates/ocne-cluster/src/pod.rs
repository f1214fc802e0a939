//! A pod that runs, or did.

use std::fmt;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, DeleteParams, ListParams};
use kube::core::Request;
use kube::{Api, Client, Resource};

use crate::api::{Failure, optional, patiently};
use crate::error::ClusterError;
use crate::exec::{Exec, Program};
use crate::explain;
use crate::manifest::{CONTAINER, INSTANCE};

/// Opening an exec may take a node that is busy a while.
const EXEC_TIMEOUT: Duration = Duration::from_secs(30);
/// A program that ended is in the pod's status after that long at most.
const STATUS_DELAY: Duration = Duration::from_secs(5);
/// The Job controller deletes a pod first and says why afterwards. It says something of each pod that it loses.
const REASON_DELAY: Duration = Duration::from_secs(10);
/// A pod that has been deleted is gone after that.
const GONE_TIMEOUT: Duration = Duration::from_mins(1);
/// A controller has seen a deletion after that.
const SETTLING: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(200);

/// What is known of a pod's end.
enum End {
    /// It runs.
    None,
    /// It has been deleted, and the Job does not say why, yet.
    Unexplained(ClusterError),
    /// It has ended, for that reason.
    Explained(ClusterError),
}

/// A builder pod. Dropping it leaves it running; [`BuilderPod::remove`] ends it.
#[derive(Clone)]
pub struct BuilderPod {
    pub(crate) client: Client,
    pub(crate) server: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) node: String,
    pub(crate) job: String,
}

impl fmt::Debug for BuilderPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuilderPod")
            .field("name", &self.name)
            .field("namespace", &self.namespace)
            .field("node", &self.node)
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}

impl BuilderPod {
    /// Name of the pod.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The node it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The Job that it belongs to.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Starts a program in the pod.
    ///
    /// # Errors
    /// When the API server or the node does not start it. A program that does not exist is an error of
    /// [`Exec::done`](crate::Exec).
    pub async fn exec(&self, command: &[&str]) -> Result<Exec, ClusterError> {
        let program = Program { pod: self.name.clone(), command: command.join(" ") };
        let parameters = AttachParams::default().stdin(true).stdout(true).stderr(true).container(CONTAINER);
        let refused = |reason: String| ClusterError::Exec {
            pod: program.pod.clone(),
            command: program.command.clone(),
            reason,
        };
        let request = Request::new(Pod::url_path(&(), Some(&self.namespace)))
            .exec(&self.name, command.iter().copied(), &parameters)
            .map_err(|e| refused(e.to_string()))?;
        match tokio::time::timeout(EXEC_TIMEOUT, self.client.connect(request)).await {
            Ok(Ok(connection)) => {
                let can_close = connection.supports_stream_close();
                Ok(Exec::over(connection.into_stream(), can_close, program))
            }
            Ok(Err(error)) => Err(match Failure::Kube(error) {
                failure if failure.status() == Some(403) => ClusterError::Access {
                    verb: if failure.reason().contains(" cannot get ") { "get" } else { "create" },
                    resource: "pods/exec",
                    group: "",
                    namespace: Some(self.namespace.clone()),
                    reason: failure.reason(),
                },
                failure if failure.status().is_some_and(|code| code != 401) => {
                    refused(without_request(&failure.reason()))
                }
                failure => failure.into_error(&self.server, "run a program in the pod"),
            }),
            Err(_) => Err(ClusterError::ConnectionLost {
                pod: self.name.clone(),
                reason: format!("no answer within {} s", EXEC_TIMEOUT.as_secs()),
            }),
        }
    }

    /// After a connection was lost: why the pod ended, or none when it still runs. Takes up to 5 s to be sure of that,
    /// and up to 10 s to hear who deleted it.
    /// When the cluster cannot be asked, that is the explanation.
    pub async fn explain_end(&self) -> Option<ClusterError> {
        let start = Instant::now();
        loop {
            match self.look().await {
                Ok(End::None) if start.elapsed() < STATUS_DELAY => {}
                Ok(End::Unexplained(_)) if start.elapsed() < REASON_DELAY => {}
                Ok(End::None) => return None,
                Ok(End::Unexplained(error) | End::Explained(error)) | Err(error) => return Some(error),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn look(&self) -> Result<End, ClusterError> {
        let failed =
            |failure: Failure| failure.into_error(&self.server, &format!("look at the pod `{}`", self.name));
        let pods = self.pods();
        let pod = optional(patiently(|| pods.get(&self.name)).await).map_err(failed)?;
        let jobs = self.jobs();
        let job = optional(patiently(|| jobs.get(&self.job)).await).map_err(failed)?;
        let Some(job) = job.filter(|job| job.metadata.deletion_timestamp.is_none()) else {
            return Ok(End::Explained(self.deleted("its Job is gone too")));
        };
        let end = match pod {
            Some(pod) => explain::ended(&pod, Some(&job)),
            None => explain::job_ended(&job, &self.name).or_else(|| Some(self.deleted(""))),
        };
        Ok(match end {
            None => End::None,
            Some(error @ ClusterError::Deleted { .. }) if explain::job_failure(&job).is_none() => {
                End::Unexplained(error)
            }
            Some(error) => End::Explained(error),
        })
    }

    fn deleted(&self, message: &str) -> ClusterError {
        ClusterError::Deleted { pod: self.name.clone(), message: message.to_owned() }
    }

    /// Removes Job and pod, and waits until both are gone.
    ///
    /// # Errors
    /// When the cluster does not answer, does not allow it, or takes more than a minute.
    pub async fn remove(&self) -> Result<(), ClusterError> {
        remove_job(&self.client, &self.server, &self.namespace, &self.job, Some(&self.name)).await
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// Removes a Job and waits until it has no pod any more; the garbage collector takes those, so nobody needs the right
/// to. What is not there is gone already. A pod that is known to exist is the only one that the Job ever has.
pub(crate) async fn remove_job(
    client: &Client,
    server: &str,
    namespace: &str,
    job: &str,
    known: Option<&str>,
) -> Result<(), ClusterError> {
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let parameters = DeleteParams::background();
    let deleted = optional(patiently(|| jobs.delete(job, &parameters)).await);
    deleted.map_err(|failure| failure.into_error(server, &format!("remove the Job `{job}`")))?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let parameters = ListParams::default().labels(&format!("{INSTANCE}={job}"));
    let start = Instant::now();
    let mut seen = known.map(ToOwned::to_owned);
    loop {
        let found = patiently(|| pods.list_metadata(&parameters)).await;
        let found =
            found.map_err(|failure| failure.into_error(server, &format!("list the pods of `{job}`")))?;
        match found.items.into_iter().next() {
            Some(pod) => seen = pod.metadata.name,
            // A controller that has not seen the deletion yet may be about to make the first one.
            None if seen.is_some() || start.elapsed() > SETTLING => return Ok(()),
            None => {}
        }
        in_time(start, namespace, seen.as_deref().unwrap_or(job))?;
        tokio::time::sleep(POLL).await;
    }
}

/// Removes a pod that has no Job, and waits until it is gone.
pub(crate) async fn remove_pod(
    client: &Client,
    server: &str,
    namespace: &str,
    pod: &str,
) -> Result<(), ClusterError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let failed = |failure: Failure| failure.into_error(server, &format!("remove the pod `{pod}`"));
    let parameters = DeleteParams::background().grace_period(1);
    optional(patiently(|| pods.delete(pod, &parameters)).await).map_err(failed)?;
    let start = Instant::now();
    while optional(patiently(|| pods.get_metadata(pod)).await).map_err(failed)?.is_some() {
        in_time(start, namespace, pod)?;
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// What the API server says of a node that it cannot talk to, without the whole request: `… Post "URL": dial tcp …`.
fn without_request(reason: &str) -> String {
    match reason.split_once("error sending request: Post \"").and_then(|(_, rest)| rest.split_once("\": ")) {
        Some((_, why)) => format!("the API server cannot talk to the pod's node: {why}"),
        None => reason.to_owned(),
    }
}

fn in_time(start: Instant, namespace: &str, pod: &str) -> Result<(), ClusterError> {
    let seconds = GONE_TIMEOUT.as_secs();
    if start.elapsed() > GONE_TIMEOUT {
        return Err(ClusterError::StillThere {
            pod: pod.to_owned(),
            namespace: namespace.to_owned(),
            seconds,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::without_request;

    #[test]
    fn a_node_out_of_reach_is_said_in_one_line() {
        let reason = "Internal error occurred: error sending request: Post \"https://10.0.0.1:10250/exec/n/p/c?command=sh\": dial tcp 10.0.0.1:10250: connect: connection refused";
        let said = "the API server cannot talk to the pod's node: dial tcp 10.0.0.1:10250: connect: connection refused";
        assert_eq!(without_request(reason), said);
        assert_eq!(without_request("pods \"p\" not found"), "pods \"p\" not found");
    }
}
