//! What builds have left in a cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::api::patiently;
use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::manifest::{CREATED_BY, INSTANCE, SELECTOR};
use crate::pod::{remove_job, remove_pod};

/// A Job of ours with its pod, or a pod without a Job. It may belong to a build that still runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its namespace.
    pub namespace: String,
    /// The Job, unless only a pod is left.
    pub job: Option<String>,
    /// The pod, if there is one.
    pub pod: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// How long ago.
    pub age: Duration,
    /// Phase of the pod (`Running`, `Pending`, …), or nothing when there is none.
    pub phase: String,
}

impl Cluster {
    /// Lists Jobs and pods of builds, in one namespace or in all.
    pub async fn leftovers(&self, namespace: Option<&str>) -> Result<Vec<Leftover>, ClusterError> {
        let jobs: Vec<Job> = self.list_ours(namespace, "batch", "jobs").await?;
        let pods: Vec<Pod> = self.list_ours(namespace, "", "pods").await?;
        let now = Timestamp::now();
        let mut found = Vec::new();
        let mut with_job = BTreeSet::new();
        for job in &jobs {
            let pod = pods.iter().find(|pod| build_of(&pod.metadata) == build_of(&job.metadata));
            if let Some(pod) = pod {
                with_job.insert(pod.metadata.name.clone());
            }
            found.push(leftover(&job.metadata, job.metadata.name.clone(), pod, now));
        }
        for pod in pods.iter().filter(|pod| !with_job.contains(&pod.metadata.name)) {
            found.push(leftover(&pod.metadata, None, Some(pod), now));
        }
        Ok(found)
    }

    /// Removes one, and waits until it is gone.
    pub async fn remove(&self, leftover: &Leftover) -> Result<(), ClusterError> {
        let Leftover { namespace, job, pod, .. } = leftover;
        match (job, pod) {
            (Some(job), pod) => remove_job(&self.client, &self.server, namespace, job, pod.as_deref()).await,
            (None, Some(pod)) => remove_pod(&self.client, &self.server, namespace, pod).await,
            (None, None) => Ok(()),
        }
    }

    async fn list_ours<K>(
        &self,
        namespace: Option<&str>,
        group: &'static str,
        resource: &'static str,
    ) -> Result<Vec<K>, ClusterError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let parameters = ListParams::default().labels(SELECTOR);
        let action = || {
            let place =
                namespace.map_or_else(|| "all namespaces".to_owned(), |n| format!("the namespace `{n}`"));
            format!("list {resource} in {place}")
        };
        match patiently(|| api.list(&parameters)).await {
            Ok(list) => Ok(list.items),
            Err(failure) if failure.status() == Some(403) => Err(ClusterError::Access {
                verb: "list",
                resource,
                group,
                namespace: namespace.map(ToOwned::to_owned),
                reason: failure.reason(),
            }),
            Err(failure) => Err(failure.into_error(&self.server, &action())),
        }
    }
}

/// Namespace and build of an object of ours.
fn build_of(metadata: &ObjectMeta) -> (Option<&String>, Option<&String>) {
    (metadata.namespace.as_ref(), metadata.labels.as_ref().and_then(|labels| labels.get(INSTANCE)))
}

fn leftover(metadata: &ObjectMeta, job: Option<String>, pod: Option<&Pod>, now: Timestamp) -> Leftover {
    let annotations = metadata.annotations.as_ref();
    let created = metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let phase = pod.and_then(|pod| pod.status.as_ref()?.phase.clone()).unwrap_or_default();
    Leftover {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        job,
        pod: pod.and_then(|pod| pod.metadata.name.clone()),
        created_by: annotations.and_then(|all| all.get(CREATED_BY)).cloned().unwrap_or_default(),
        // Clocks differ: what was made in the future is new.
        age: Duration::try_from(now.duration_since(created)).unwrap_or_default(),
        phase,
    }
}
