//! Why an image cannot be inspected or converted.

use ocne_disk::DeviceError;
use ocne_disk::gpt::GptError;
use ocne_xfs::{EditError, XfsError};

use crate::architecture::{Architecture, ArchitectureSign};
use crate::finding::{Finding, Severity};
use crate::kernel_args::KernelArgumentError;
use crate::uuid::Uuid;

/// Why an image cannot be inspected or converted. Nothing was written in any case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// There is no partition table.
    #[error("the image has no usable partition table")]
    PartitionTable(#[from] GptError),
    /// The disk could not be read.
    #[error("cannot read the disk in the image")]
    Device(#[from] DeviceError),
    /// No partition has the file system.
    #[error("no partition holds an XFS file system with the label `{label}`; found: {}", list(found))]
    MissingFilesystem {
        /// Label that was looked for.
        label: &'static str,
        /// What is in the partitions.
        found: Vec<String>,
    },
    /// Several partitions have the file system.
    #[error("more than one partition holds an XFS file system with the label `{label}`: {}", list(found))]
    AmbiguousFilesystem {
        /// Label that was looked for.
        label: &'static str,
        /// The partitions.
        found: Vec<String>,
    },
    /// A file system could not be read.
    #[error("cannot {action} in the `{filesystem}` file system")]
    Read {
        /// Label of the file system.
        filesystem: &'static str,
        /// What was tried.
        action: String,
        /// Why it failed.
        source: XfsError,
    },
    /// A file system could not be edited.
    #[error("cannot {action} in the `{filesystem}` file system")]
    Edit {
        /// Label of the file system.
        filesystem: &'static str,
        /// What was tried.
        action: String,
        /// Why it failed.
        source: EditError,
    },
    /// There are no loader entries, or none boots a deployment.
    #[error("`{path}` in the `boot` file system has no loader entry that boots an ostree deployment")]
    NoEntries {
        /// The directory.
        path: &'static str,
    },
    /// A loader entry names a deployment that does not exist.
    #[error("the loader entry `{entry}` boots `{path}`, which is no deployment in the `root` file system")]
    NoDeployment {
        /// The entry.
        entry: String,
        /// The value of `ostree=`.
        path: String,
    },
    /// A booted deployment has no fstab.
    #[error("`{path}` is missing in the `root` file system")]
    MissingFile {
        /// The file.
        path: String,
    },
    /// Something is not the kind of file that it has to be.
    #[error("`{path}` in the `{filesystem}` file system is not {wanted}")]
    WrongKind {
        /// Label of the file system.
        filesystem: &'static str,
        /// The path.
        path: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// A directory holds more than a boot image has.
    #[error("`{path}` in the `{filesystem}` file system has more than {limit} entries")]
    TooMany {
        /// Label of the file system.
        filesystem: &'static str,
        /// The directory.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// Text for the kernel command line cannot be in one.
    #[error(transparent)]
    KernelArgument(#[from] KernelArgumentError),
    /// The image is for another architecture than asked for.
    #[error("the image is for {found} ({seen}), not for {wanted}")]
    WrongArchitecture {
        /// What was asked for.
        wanted: Architecture,
        /// What the image is for.
        found: Architecture,
        /// What says so.
        seen: String,
    },
    /// Nothing in the image tells its architecture.
    #[error("neither the kernel nor the EFI programs of the image tell which architecture it is for")]
    UnknownArchitecture,
    /// The converted image would not boot.
    #[error("the converted image would not boot: {}", errors(findings))]
    NotBootable {
        /// What was found.
        findings: Vec<Finding>,
    },
    /// Somebody else's conversion changes what no conversion changes.
    #[error("the disk is changed at offset {offset_bytes}, outside the `boot` and `root` file systems")]
    ChangedElsewhere {
        /// Where.
        offset_bytes: u64,
    },
    /// Somebody else's conversion did not give a file system the UUID that it was to get.
    #[error("the converted `{filesystem}` file system has the UUID {found} instead of {wanted}")]
    NotConverted {
        /// Label of the file system.
        filesystem: &'static str,
        /// The UUID that it has.
        found: Uuid,
        /// The UUID that it was to get.
        wanted: Uuid,
    },
}

impl ConvertError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::PartitionTable(_) | Self::MissingFilesystem { .. } | Self::NoEntries { .. } => {
                Some("is it an OCK boot image?")
            }
            Self::Read { source, .. } => source.hint(),
            Self::Edit { source, .. } => source.hint(),
            Self::WrongArchitecture { .. } => {
                Some("give the image's architecture by `--arch`, or take another image")
            }
            Self::UnknownArchitecture => Some("give the architecture by `--arch`"),
            Self::NotBootable { findings } => findings
                .iter()
                .find_map(|f| f.hint.as_deref().filter(|_| f.severity == Severity::Error))
                .or(Some("`--no-preflight` converts it nevertheless")),
            _ => None,
        }
    }

    /// Turns the error of a read into one that says what was tried.
    pub(crate) fn read(filesystem: &'static str, action: impl Into<String>) -> impl FnOnce(XfsError) -> Self {
        let action = action.into();
        move |source| Self::Read { filesystem, action, source }
    }

    /// Turns the error of an edit into one that says what was tried.
    pub(crate) fn edit(
        filesystem: &'static str,
        action: impl Into<String>,
    ) -> impl FnOnce(EditError) -> Self {
        let action = action.into();
        move |source| Self::Edit { filesystem, action, source }
    }

    pub(crate) fn wrong_architecture(wanted: Architecture, sign: &ArchitectureSign) -> Self {
        Self::WrongArchitecture { wanted, found: sign.architecture, seen: sign.seen.clone() }
    }
}

fn list(found: &[String]) -> String {
    if found.is_empty() { "nothing".to_owned() } else { found.join(", ") }
}

fn errors(findings: &[Finding]) -> String {
    let errors: Vec<_> =
        findings.iter().filter(|f| f.severity == Severity::Error).map(|f| f.message.as_str()).collect();
    errors.join("; ")
}
