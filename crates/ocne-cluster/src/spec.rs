//! What the builder pod has to be.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::scratch::Scratch;
use crate::toleration::TolerationSpec;

const MIB: u64 = 1 << 20;

/// How the container starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodEntry {
    /// The image is the builder image: `/ocne-agent wait --idle-timeout SECONDS`.
    Agent,
    /// Any image with `sh`. The shell waits for a line on its standard input, then becomes `/scratch/ocne-agent`,
    /// which has been brought there by then; who brought it writes the line to `/proc/1/fd/0`.
    Shell,
}

/// What the pod has to be.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Where it runs; made if it is missing.
    pub namespace: String,
    /// The container's image.
    pub image: String,
    /// Architecture of the agent's program, as `kubernetes.io/arch` has it: `amd64`, `arm64`.
    pub node_architecture: String,
    /// Further labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pod puts up with.
    pub tolerations: Vec<TolerationSpec>,
    /// Its priority class.
    pub priority_class: Option<String>,
    /// Secrets in the namespace with credentials for the image's registry.
    pub image_pull_secrets: Vec<String>,
    /// Its service account; its token is not mounted.
    pub service_account: Option<String>,
    /// The volume at `/scratch`.
    pub scratch: Scratch,
    /// Size of that volume.
    pub scratch_bytes: u64,
    /// Memory that the program may use. What is in a scratch volume in memory is added to it.
    pub memory_bytes: u64,
    /// CPU that is reserved, in thousandths of a core. More is used where it is free.
    pub cpu_milli: u32,
    /// After that the cluster ends the Job, whatever it does.
    pub deadline: Duration,
    /// After that the agent ends by itself when no client has been heard.
    pub idle_timeout: Duration,
    /// After that the cluster removes the ended Job, when the client could not.
    pub ttl_after_finished: Duration,
    /// How long the pod may wait for a node, its image, its volume.
    pub pod_wait: Duration,
    /// Version of the program that asks.
    pub client_version: String,
    /// Who asks, for an annotation.
    pub user: String,
    /// How the container starts.
    pub entry: PodEntry,
}

impl PodSpec {
    /// A pod of an image on nodes of an architecture; the rest are defaults for a caller to change.
    pub fn new(image: impl Into<String>, node_architecture: impl Into<String>) -> Self {
        Self {
            namespace: "ocne-system".to_owned(),
            image: image.into(),
            node_architecture: node_architecture.into(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            priority_class: None,
            image_pull_secrets: Vec::new(),
            service_account: None,
            scratch: Scratch::default(),
            scratch_bytes: 256 * MIB,
            memory_bytes: 128 * MIB,
            cpu_milli: 500,
            deadline: Duration::from_hours(1),
            idle_timeout: Duration::from_mins(5),
            ttl_after_finished: Duration::from_mins(5),
            pod_wait: Duration::from_mins(5),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            user: String::new(),
            entry: PodEntry::Agent,
        }
    }

    /// The limit on memory: the program's, and what a scratch volume in memory holds.
    pub fn memory_limit_bytes(&self) -> u64 {
        match self.scratch {
            Scratch::Memory => self.memory_bytes.saturating_add(self.scratch_bytes),
            _ => self.memory_bytes,
        }
    }

    /// The limit on the node's disk: logs, and what a scratch volume on that disk holds.
    pub fn ephemeral_storage_limit_bytes(&self) -> u64 {
        let logs = 64 * MIB;
        match self.scratch {
            Scratch::EmptyDir => self.scratch_bytes.saturating_add(logs),
            _ => logs,
        }
    }
}
