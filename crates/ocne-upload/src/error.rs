//! Why an upload did not succeed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ocne_bootimage::Architecture;
use ocne_disk::Qcow2Error;
use ocne_oracle::OracleError;

/// How a failed upload ends, for the exit status of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Refused, or failed.
    Failed,
    /// What was asked for cannot be asked for.
    Usage,
    /// The other side refused: authentication, quota, permission.
    RemoteRefused,
    /// The next run goes on where this one stopped.
    Resumable,
    /// The caller asked for it to end.
    Interrupted,
}

/// An upload that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The caller asked for it to end; what was sent stays.
    #[error("interrupted")]
    Interrupted,
    /// The caller asked for it to end, and the import goes on without it.
    #[error("interrupted; the import goes on in the cloud")]
    InterruptedImport {
        /// The work request.
        work_request_id: String,
    },
    /// The operating system refused something on a path that its error names.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is neither an image nor an archive of one.
    #[error("`{}` is neither a qcow2 image nor an exported image (a gzip archive)", path.display())]
    NotAnImage {
        /// The file.
        path: PathBuf,
    },
    /// The image's qcow2 layer was refused; the import would refuse it too.
    #[error("cannot upload `{}` as a boot image", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why.
        source: Qcow2Error,
    },
    /// An archive cannot be sent as a bare image.
    #[error("`{}` is an archive already; it can be sent as it is only", path.display())]
    ArchiveAsQcow2 {
        /// The file.
        path: PathBuf,
    },
    /// The image says another architecture than was asked for.
    #[error("`{}` is for {found}, not for {asked_for}", path.display())]
    Architecture {
        /// The image.
        path: PathBuf,
        /// What it says.
        found: Architecture,
        /// What was asked for.
        asked_for: Architecture,
    },
    /// An export was left; the next run goes on with it.
    #[error("interrupted; what was fetched stays")]
    InterruptedExport,
    /// The service could not export the image.
    #[error("the export failed: {}", problems.join("; "))]
    ExportFailed {
        /// What it says.
        problems: Vec<String>,
    },
    /// The file is there already.
    #[error("`{}` is there already", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// What was fetched is not what the service has.
    #[error("`{}` is not what the service has: {reason}", path.display())]
    NotAsFetched {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The report of the build is of no use for this image.
    #[error("cannot use the report `{}`: {reason}", path.display())]
    Report {
        /// The report.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Nothing says what the image is for.
    #[error("cannot tell the architecture of `{}`: {reason}", path.display())]
    NoArchitecture {
        /// The image.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The file changed while it was sent.
    #[error("`{}` was changed by somebody else while it was sent", path.display())]
    FileChanged {
        /// The file.
        path: PathBuf,
    },
    /// The parts would be too many.
    #[error(
        "parts of {part_bytes} bytes are too small for {total_bytes} bytes: the service takes at most 10000 of them"
    )]
    PartSize {
        /// What was asked for.
        part_bytes: u64,
        /// The length of the object.
        total_bytes: u64,
    },
    /// Another object has the name.
    #[error("the bucket `{bucket}` has another object `{object}`")]
    ObjectExists {
        /// The bucket.
        bucket: String,
        /// The object.
        object: String,
    },
    /// What arrived is not what was sent.
    #[error("the object `{object}` is not what was sent: {reason}")]
    NotAsSent {
        /// The object.
        object: String,
        /// What differs.
        reason: String,
    },
    /// The upload was ended by somebody else, again and again.
    #[error("the upload of `{object}` was ended by somebody else, {times} times")]
    Ended {
        /// The object.
        object: String,
        /// How often.
        times: u32,
    },
    /// The import failed.
    #[error("the import failed: {}", problems.join("; "))]
    ImportFailed {
        /// What the service says.
        problems: Vec<String>,
        /// The work request.
        work_request_id: String,
    },
    /// Somebody cancelled the import.
    #[error("the import was cancelled by somebody else")]
    ImportCancelled {
        /// The work request.
        work_request_id: String,
    },
    /// The import is done, and the image is not what it should be.
    #[error("the import is done, but the image {id} is {state}")]
    NotAvailable {
        /// The image.
        id: String,
        /// Its state.
        state: String,
    },
    /// Somebody else's image is not removed.
    #[error(
        "the image `{name}` ({id}) has no tag that begins with `ocne/`, so it was made by something else"
    )]
    NotOurs {
        /// The image.
        id: String,
        /// Its name.
        name: String,
    },
    /// The import takes too long.
    #[error("the import is not done after {} s; it goes on in the cloud", waited.as_secs())]
    ImportTimeout {
        /// How long it was waited for.
        waited: Duration,
        /// The work request.
        work_request_id: String,
    },
    /// The connection was lost while the import was waited for.
    #[error("the import goes on in the cloud, but cannot be watched")]
    ImportUnwatched {
        /// Why not.
        source: OracleError,
        /// The work request.
        work_request_id: String,
    },
    /// Oracle Cloud refused, or could not be reached.
    #[error(transparent)]
    Oracle(#[from] OracleError),
}

impl UploadError {
    /// The HTTP status of the refusal, if it is one.
    pub(crate) fn oracle_status(&self) -> Option<u16> {
        match self {
            Self::Oracle(error) => error.status(),
            _ => None,
        }
    }

    /// How the upload ends.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Interrupted => FailureKind::Interrupted,
            Self::InterruptedImport { .. } | Self::ImportTimeout { .. } | Self::ImportUnwatched { .. } => {
                FailureKind::Resumable
            }
            Self::Ended { .. } | Self::InterruptedExport => FailureKind::Resumable,
            Self::NoArchitecture { .. } | Self::PartSize { .. } | Self::ArchiveAsQcow2 { .. } => {
                FailureKind::Usage
            }
            Self::Oracle(error) if error.is_passing() => FailureKind::Resumable,
            Self::Oracle(error) if error.is_refusal() => FailureKind::RemoteRefused,
            _ => FailureKind::Failed,
        }
    }

    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let text = |t: &str| Some(t.to_owned());
        match self {
            Self::Interrupted | Self::Ended { .. } => {
                text("the same command goes on where this one stopped; with `--abort` it drops what was sent")
            }
            Self::InterruptedImport { work_request_id }
            | Self::ImportTimeout { work_request_id, .. }
            | Self::ImportUnwatched { work_request_id, .. } => Some(format!(
                "`ocne image upload --wait {work_request_id}` waits for it, as the same command does"
            )),
            Self::NotAnImage { .. } => text("`ocne image create --type oci` makes one"),
            Self::Io { action, source }
                if action.ends_with("the image") && source.kind() == std::io::ErrorKind::NotFound =>
            {
                text("`ocne image create --type oci` makes an image, and its last line says where")
            }
            Self::Image { source, .. } => source.hint().map(str::to_owned),
            Self::ArchiveAsQcow2 { .. } => text("leave out `--format`"),
            Self::Architecture { .. } => text("leave out `--arch`, or name another file"),
            Self::NoArchitecture { .. } => text("give it by `--arch amd64` or `--arch arm64`"),
            Self::InterruptedExport => text("the same command goes on where this one stopped"),
            Self::FileExists { .. } => text("`--overwrite` replaces it"),
            Self::NotAsFetched { .. } => text("run it again; it is fetched anew"),
            Self::Report { .. } => text("make the image and its report anew, or leave the report out"),
            Self::FileChanged { .. } => text("run it again when nobody writes to the file"),
            Self::PartSize { total_bytes, .. } => Some(format!(
                "leave out `--part-size`, or give at least {}",
                crate::parts::Parts::smallest(*total_bytes)
            )),
            Self::ObjectExists { .. } => {
                text("`--overwrite` replaces it; `--object NAME` takes another name")
            }
            Self::ImportFailed { .. } => text("the object stays in the bucket; `--overwrite` sends it anew"),
            Self::ImportCancelled { .. } => {
                text("the same command begins another import, and sends nothing again")
            }
            Self::Oracle(error) => error.hint(),
            _ => None,
        }
    }
}
