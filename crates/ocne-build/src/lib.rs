//! Plan and run the build of a boot image: source, conversion, output.
//!
//! The source is only read. What changes exists in memory until both file systems were checked with it; then
//! the output is written once, as a copy of the source with the changes on top, under a temporary name, synced,
//! read back, compared, opened, and renamed.

mod agent_log;
mod cluster;
mod copy;
mod copy_image;
mod create;
mod error;
mod event;
mod examine;
mod file_kind;
mod files;
mod identifiers;
mod ostree;
mod output;
mod plan;
mod pod_note;
mod program;
mod remote;
mod report;
mod request;
mod signature;
mod source;
mod verify;

pub use cluster::{ClusterSettings, SHELL_IMAGE, Transfer, leftovers, remove_leftover};
pub use copy_image::copy_image;
pub use create::{Created, create};
pub use error::{BuildError, FailureKind};
pub use event::{Event, Events, Stage};
pub use examine::{CheckRecord, Examination, ExamineError, FilesystemInfo, ImageRecord, PartitionRecord};
pub use file_kind::{FileKind, file_kind};
pub use files::{Entry, FileSystem, Found};
pub use ocne_bootimage::{Architecture, BootImage, ImageKind};
pub use ocne_cluster::{Cluster, ClusterError, ConnectOptions, Leftover, PodSpec, Scratch, TolerationSpec};
pub use ocne_container::{
    Cache, CacheEntry, Copied, CopyOptions, Credentials, ErrorKind, FetchError, FetchOptions, Fetcher,
    ImageReference, Logins, NetworkOptions, OstreeReference, Platform, ReferenceError, RegistryReference,
    Secret,
};
pub use ocne_disk::{CompressOptions, Compression};
pub use ostree::{OstreeBase, OstreeRequest, create_ostree, plan_ostree};
pub use plan::{Origin, Plan, plan};
pub use remote::{RemoteError, RemoteWork, Way, convert_remotely};
pub use request::{Builder, CreateRequest, Destination, Source};
pub use signature::SignatureError;
pub use source::{Fetched, fetch};

/// The newest Kubernetes version that there is a boot image of.
pub const NEWEST_KUBERNETES_VERSION: &str = "1.33";
