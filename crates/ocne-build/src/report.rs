//! The record of a build, for programs: `docs/schemas/create-report.schema.json`.

use std::time::Duration;

use ocne_bootimage::{Architecture, EntryChange, FileChange, FilesystemChange, Finding, ImageKind};
use serde::Serialize;

/// The version of the record.
pub const REPORT_SCHEMA: &str = "ocne.image.create/1";

/// What was made of what.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`REPORT_SCHEMA`].
    pub schema: &'static str,
    /// What the image was made from.
    pub source: SourceRecord,
    /// The image.
    pub output: OutputRecord,
    /// What it is for.
    #[serde(rename = "type")]
    pub kind: ImageKind,
    /// `amd64` or `arm64`.
    pub architecture: Architecture,
    /// As asked for.
    pub kubernetes_version: String,
    /// `local` or `cluster`.
    pub builder: &'static str,
    /// The pod that converted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterRecord>,
    /// File systems that got a new UUID.
    pub filesystems: Vec<FilesystemChange>,
    /// Loader entries.
    pub entries: Vec<EntryChange>,
    /// Files that were added, changed or removed.
    pub files: Vec<FileChange>,
    /// What the look at the result found.
    pub findings: Vec<Finding>,
    /// How long each stage took, and `total`.
    pub timings_ms: Timings,
}

/// The pod that converted an image.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterRecord {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// The node it ran on.
    pub node: String,
    /// Name and version of the agent.
    pub agent: String,
    /// Questions that the agent asked.
    pub rounds: u64,
    /// Bytes that went to the pod.
    pub sent_bytes: u64,
    /// Bytes that came from it.
    pub received_bytes: u64,
}

/// What the image was made from.
#[derive(Debug, Clone, Serialize)]
pub struct SourceRecord {
    /// The container image or file, as asked for.
    pub reference: String,
    /// Digest of the image's manifest, or of the file.
    pub digest: String,
    /// SHA-256 of the boot image in it.
    pub disk_sha256: String,
}

/// The image.
#[derive(Debug, Clone, Serialize)]
pub struct OutputRecord {
    /// Absolute path.
    pub path: String,
    /// Hexadecimal SHA-256 of the file.
    pub sha256: String,
    /// Size of the file.
    pub size_bytes: u64,
}

/// Milliseconds of each stage. Some of them overlap, so they need not add up to the total.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Timings {
    /// Starting the pod, beside getting the boot image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<u64>,
    /// Getting the boot image.
    pub fetch: u64,
    /// Converting it in memory.
    pub convert: u64,
    /// Writing and reading back.
    pub write: u64,
    /// Comparing and opening the result.
    pub verify: u64,
    /// From the start to the rename.
    pub total: u64,
}

/// Whole milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
