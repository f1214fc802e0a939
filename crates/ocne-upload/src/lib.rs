//! Uploads a boot image to Oracle Cloud and imports it, surviving interruptions.
//!
//! The image is sent in parts, each with its MD5, which the service compares; what it has already is asked for and
//! compared with the file, and not sent again. A journal of a few hundred bytes remembers what no service can tell.
//! The archive that the service imports (metadata and a qcow2 in a gzip tar) is never written to a disk: every byte of it
//! can be computed from the file, so that any part can be sent at any time.

mod archive;
mod content;
mod digesting;
mod error;
mod event;
mod export;
mod import;
mod journal;
mod lanes;
mod manage;
mod metadata;
mod parallel;
mod parts;
mod record;
mod report;
mod request;
mod send;
mod source;
mod throttle;
mod upload;

pub use error::{FailureKind, UploadError};
pub use event::{Event, Events, Stage};
pub use export::{ExportFormat, ExportRecord, ExportRequest, export};
pub use manage::{ask, delete_image, drop_upload, image, images, stale_uploads, whoami};
pub use ocne_bootimage::Architecture;
pub use ocne_oracle::MultipartUpload;
pub use record::{ImageRecord, ObjectRecord, Timings, UPLOAD_SCHEMA, UploadRecord};
pub use request::{Format, UploadRequest};
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    //! Ways in for `fuzz/`, to what reads bytes from outside.

    /// Reads a journal.
    pub fn journal(bytes: &[u8]) {
        let _ = crate::journal::parse(bytes);
    }
}

pub use upload::{abort, upload, wait};
