//! The record of an upload, for programs: `docs/schemas/upload-record.schema.json`.

use std::collections::BTreeMap;

use ocne_bootimage::Architecture;
use serde::Serialize;

/// The version of the record.
pub const UPLOAD_SCHEMA: &str = "ocne.image.upload/1";

/// What became of an upload.
#[derive(Debug, Clone, Serialize)]
pub struct UploadRecord {
    /// [`UPLOAD_SCHEMA`].
    pub schema: &'static str,
    /// The compute image; none while it is not known.
    pub image: Option<ImageRecord>,
    /// Whether it was there before, made of the same file.
    pub already_there: bool,
    /// The work request that imports it; none when nothing had to be imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_request_id: Option<String>,
    /// The object that it was made of; none when nothing had to be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRecord>,
    /// Hexadecimal SHA-256 of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Bytes of the object that this run sent, with what was sent twice.
    pub sent_bytes: u64,
    /// Bytes of the object that were there from an earlier run.
    pub resumed_bytes: u64,
    /// How long each stage took, and `total`.
    pub timings_ms: Timings,
}

/// A compute image.
#[derive(Debug, Clone, Serialize)]
pub struct ImageRecord {
    /// Its OCID.
    pub id: String,
    /// Its name for people.
    pub display_name: String,
    /// `AVAILABLE`, or `IMPORTING` with `--no-wait`.
    pub state: String,
    /// OCID of its compartment.
    pub compartment_id: Option<String>,
    /// What it runs on; none when that was neither given nor found.
    pub architecture: Option<Architecture>,
    /// `UEFI_64` or `BIOS`.
    pub firmware: Option<String>,
    /// Such as `PARAVIRTUALIZED`.
    pub launch_mode: Option<String>,
    /// Name of the operating system.
    pub operating_system: Option<String>,
    /// Its version.
    pub operating_system_version: Option<String>,
    /// Its tags without a namespace.
    pub freeform_tags: BTreeMap<String, String>,
    /// The shapes that it runs on; empty while it is not available, and in lists.
    pub shapes: Vec<String>,
    /// When it was made, as RFC 3339.
    pub time_created: Option<String>,
}

/// The object that an image was made of.
#[derive(Debug, Clone, Serialize)]
pub struct ObjectRecord {
    /// Its namespace.
    pub namespace: String,
    /// Its bucket.
    pub bucket: String,
    /// Its name.
    pub name: String,
    /// `oci` or `qcow2`.
    pub format: &'static str,
    /// Its length.
    pub size_bytes: u64,
    /// Base64 of the MD5 of its parts' MD5s, `-`, and their number; compared with what the service says.
    pub multipart_md5: String,
    /// How many parts it came in.
    pub parts: u32,
    /// Length of all of them but the last.
    pub part_size_bytes: u64,
    /// Whether it is still there.
    pub kept: bool,
}

/// Milliseconds of each stage.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Timings {
    /// Reading the file for its digest.
    pub digest: u64,
    /// Sending it.
    pub upload: u64,
    /// Having it imported.
    pub import: u64,
    /// From the start to the end.
    pub total: u64,
}
