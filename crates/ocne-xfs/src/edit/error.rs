//! Why an edit was refused or failed.

use crate::check::CheckReport;
use crate::error::XfsError;

/// Problems that a message shows; the report has the others.
const SHOWN_PROBLEMS: usize = 3;

/// Why an edit was refused or failed. Nothing was written to the device in any case.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// Something could not be read.
    #[error(transparent)]
    Xfs(#[from] XfsError),
    /// The file system is not clean.
    #[error("the file system is not clean, so it is not edited: {}", summary(report))]
    NotClean {
        /// What the check found.
        report: CheckReport,
    },
    /// The file system would not be clean after the edit.
    #[error("this is a bug: the file system would not be clean after the edit: {}", summary(report))]
    NotCleanAfter {
        /// What the check found.
        report: CheckReport,
    },
    /// Structures that passed the check contradict each other.
    #[error("this is a bug: structures of the file system contradict each other: {what}")]
    Inconsistent {
        /// Which, and how.
        what: String,
    },
    /// An edit failed before, so that the ones after it are refused.
    #[error("an edit before this one failed")]
    FailedBefore,
    /// There is no room.
    #[error("the file system is full: {wanted_blocks} more blocks are needed")]
    NoSpace {
        /// How many blocks could not be had.
        wanted_blocks: u64,
    },
    /// There is no room for an inode.
    #[error("the file system has no free inode and no room for new ones")]
    NoInodes,
    /// A name is taken.
    #[error("`{}` exists in directory {dir_ino} already", String::from_utf8_lossy(name))]
    Exists {
        /// The directory.
        dir_ino: u64,
        /// The name.
        name: Vec<u8>,
    },
    /// A name cannot be in a directory.
    #[error("`{}` is not a name that a file can have", String::from_utf8_lossy(name))]
    InvalidName {
        /// The name.
        name: Vec<u8>,
    },
    /// The file or its directory has something that this editor does not follow.
    #[error("inode {ino} cannot be edited: {what}")]
    Unsupported {
        /// The inode.
        ino: u64,
        /// What it has.
        what: &'static str,
    },
    /// A time cannot be stored.
    #[error("{seconds} seconds since 1970 cannot be stored as a time in inode {ino}")]
    Time {
        /// The inode.
        ino: u64,
        /// The time.
        seconds: i64,
    },
    /// A value is too long or too large.
    #[error("{what} is too large")]
    TooLarge {
        /// Which.
        what: &'static str,
    },
}

impl EditError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Xfs(e) => e.hint(),
            Self::NotClean { .. } => {
                Some("mount and unmount a copy of the file system, or run `xfs_repair` on it")
            }
            Self::NoSpace { .. } | Self::NoInodes => {
                Some("make the file system larger, or remove files from it")
            }
            Self::NotCleanAfter { .. } | Self::Inconsistent { .. } => Some("nothing was changed; report it"),
            _ => None,
        }
    }
}

fn summary(report: &CheckReport) -> String {
    let shown: Vec<String> = report.problems.iter().take(SHOWN_PROBLEMS).map(ToString::to_string).collect();
    let more = report.problems.len().saturating_sub(SHOWN_PROBLEMS) as u64 + report.more_problems;
    match more {
        0 => shown.join("; "),
        n => format!("{}; and {n} more", shown.join("; ")),
    }
}
