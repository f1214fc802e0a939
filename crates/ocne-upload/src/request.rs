//! What is to be uploaded, and where to.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use ocne_bootimage::Architecture;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// An archive of the image and its metadata: firmware, launch mode and shapes need no further calls.
    #[default]
    Archive,
    /// The bare qcow2; firmware, launch mode and shapes are set afterwards.
    Qcow2,
}

impl Format {
    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Archive => "oci",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// An upload and an import.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub struct UploadRequest {
    /// The image.
    pub file: PathBuf,
    /// What is sent.
    pub format: Format,
    /// The architecture, if it was given; otherwise it is found in the image.
    pub architecture: Option<Architecture>,
    /// The compartment: an OCID, or names with slashes between them.
    pub compartment: String,
    /// The bucket.
    pub bucket: String,
    /// The object, if not `ocne_` and the name of the file.
    pub object: Option<String>,
    /// Name of the compute image.
    pub image_name: String,
    /// Value of the tag `ocne/kubernetes`, if it was given.
    pub kubernetes_version: Option<String>,
    /// The same when neither it was given nor a report says it.
    pub usual_kubernetes_version: String,
    /// Report of the build; otherwise the one beside the image is read, if there is one.
    pub report: Option<PathBuf>,
    /// Further tags without a namespace.
    pub freeform_tags: BTreeMap<String, String>,
    /// Tags by namespace.
    pub defined_tags: BTreeMap<String, BTreeMap<String, String>>,
    /// Size of a part, if the rule is not to choose it.
    pub part_size_bytes: Option<NonZeroU64>,
    /// Parts in flight, if the line is not to decide.
    pub parallel: Option<NonZeroU32>,
    /// The most bytes that are sent in a second.
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// Begin anew, whatever was sent before.
    pub no_resume: bool,
    /// Replace another object of the name.
    pub overwrite: bool,
    /// Import although the same image is there already.
    pub force: bool,
    /// Leave the object in the bucket.
    pub keep_object: bool,
    /// Have the object imported by a URL of its own.
    pub from_url: bool,
    /// Return when the import has begun.
    pub no_wait: bool,
    /// The longest that an import is waited for.
    pub import_timeout: Option<Duration>,
    /// Where journals are kept.
    pub state_dir: PathBuf,
}
