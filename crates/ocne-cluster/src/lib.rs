//! Builder pods on any Kubernetes cluster: what the cluster will say is asked before, what a pod waits for is
//! explained while it waits, programs in it are run over connections that never take silence for success, and what
//! was made is removed.
//!
//! [`Cluster::connect`] → [`Cluster::preflight`] → [`Cluster::start`] → [`BuilderPod::exec`] → [`BuilderPod::remove`].

mod access;
mod api;
mod blocking;
mod cluster;
mod error;
mod event;
mod exec;
mod exec_status;
mod explain;
mod kubeconfig;
mod leftover;
mod manifest;
mod pod;
mod preflight;
mod refusal;
mod scratch;
mod spec;
mod start;
mod toleration;
mod wait;

pub use access::AccessCheck;
pub use blocking::{BlockingEnds, ExecReader, ExecWriter};
pub use cluster::Cluster;
pub use error::ClusterError;
pub use event::ClusterEvent;
pub use exec::Exec;
pub use exec_status::ExecStatus;
pub use kubeconfig::ConnectOptions;
pub use leftover::Leftover;
pub use pod::BuilderPod;
pub use preflight::{NamespaceState, NodeCount, Preflight, QuotaRoom};
pub use refusal::Rule;
pub use scratch::{Scratch, ScratchError};
pub use spec::{PodEntry, PodSpec};
pub use start::unless_cancelled;
pub use toleration::{TolerationError, TolerationSpec};
