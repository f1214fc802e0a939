//! What a conversion changed, for records.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::uuid::Uuid;

/// A file system that got a new UUID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemChange {
    /// Its label.
    pub label: Cow<'static, str>,
    /// The UUID that it had.
    pub uuid_before: Uuid,
    /// The UUID that it has.
    pub uuid_after: Uuid,
}

/// A loader entry that was converted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryChange {
    /// Absolute path in the boot file system.
    pub path: String,
    /// Kernel command line that it had.
    pub options_before: String,
    /// Kernel command line that it has.
    pub options_after: String,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It has other content.
    Modified,
    /// It is gone.
    Removed,
}

impl ChangeKind {
    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Removed => "removed",
        }
    }
}

/// A file that was added, modified or removed. Directories are not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Label of the file system.
    pub filesystem: Cow<'static, str>,
    /// Absolute path in it.
    pub path: String,
    /// What happened.
    pub change: ChangeKind,
    /// Permissions in octal, such as `0755`.
    pub mode: String,
}

impl FileChange {
    pub(crate) fn new(filesystem: &'static str, path: String, change: ChangeKind, mode: u16) -> Self {
        Self { filesystem: filesystem.into(), path, change, mode: format!("{:04o}", mode & 0o7777) }
    }
}
