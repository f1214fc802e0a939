//! What can go wrong.

use ocne_disk::DeviceError;

/// Why a file system, or something in it, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum XfsError {
    /// The device could not be read.
    #[error("cannot read the file system: {0}")]
    Device(#[from] DeviceError),
    /// There is no XFS superblock.
    #[error("not an XFS file system: {reason}")]
    NotXfs {
        /// What is there instead.
        reason: String,
    },
    /// A kind of XFS that this crate does not work on.
    #[error("this XFS file system cannot be worked on: {what}")]
    Unsupported {
        /// The feature, by name or by bit.
        what: String,
    },
    /// A structure is damaged.
    #[error("the file system is damaged: {place}: {reason}")]
    Damaged {
        /// Which structure, where.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A path does not exist.
    #[error("`{}` does not exist in the file system", String::from_utf8_lossy(path))]
    NotFound {
        /// The path, or the part of it that is missing.
        path: Vec<u8>,
    },
    /// An inode number does not name an inode in use.
    #[error("inode {ino} is not in use")]
    NoSuchInode {
        /// The number.
        ino: u64,
    },
    /// A component of a path, or an inode given as one, is not a directory.
    #[error("{what} is not a directory")]
    NotADirectory {
        /// Path or inode.
        what: String,
    },
    /// The operation does not fit the kind of file.
    #[error("inode {ino} is not {wanted}")]
    WrongKind {
        /// The inode.
        ino: u64,
        /// What the operation works on.
        wanted: &'static str,
    },
    /// Too many symbolic links in a path.
    #[error("more than {limit} symbolic links in `{}`", String::from_utf8_lossy(path))]
    TooManyLinks {
        /// The path.
        path: Vec<u8>,
        /// The limit.
        limit: u32,
    },
    /// Content is longer than the caller takes.
    #[error("inode {ino} has {size_bytes} bytes, more than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// The inode.
        ino: u64,
        /// Its size.
        size_bytes: u64,
        /// The caller's limit.
        limit_bytes: u64,
    },
}

impl XfsError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Damaged { .. } => Some("run `xfs_repair` on a copy of the file system"),
            Self::Unsupported { .. } => Some("make the image with the features of the OCK boot image"),
            _ => None,
        }
    }
}

/// What is wrong with one structure, said without its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage(pub String);

impl Damage {
    /// The same damage with its place, as an error.
    pub(crate) fn at(self, place: impl std::fmt::Display) -> XfsError {
        XfsError::Damaged { place: place.to_string(), reason: self.0 }
    }
}

/// Shorthand for `Err(Damage(format!(…)))`.
macro_rules! damage {
    ($($arg:tt)*) => { Err($crate::error::Damage(format!($($arg)*))) };
}
pub(crate) use damage;
