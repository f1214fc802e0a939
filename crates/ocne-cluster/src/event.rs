//! What the caller is told while a pod starts.

/// Something happened in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterEvent {
    /// The namespace was missing and has been made.
    NamespaceCreated(String),
    /// The Job exists.
    JobCreated {
        /// Its namespace.
        namespace: String,
        /// Its name.
        job: String,
    },
    /// What the pod waits for; once whenever it changes.
    Waiting {
        /// In words, with the names of the objects concerned.
        reason: String,
    },
    /// The API server does not answer for a moment; it is asked again.
    Retrying {
        /// What it said, or how the connection failed.
        reason: String,
    },
    /// The container runs.
    PodRunning {
        /// Name of the pod.
        pod: String,
        /// The node it is on.
        node: String,
    },
}
