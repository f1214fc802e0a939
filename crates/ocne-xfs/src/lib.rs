//! Read, verify and edit XFS v5 file systems offline, without mounting them.
#![expect(clippy::similar_names, reason = "`agno`, `agbno` and `agino` are the names of the format")]

mod ag;
mod attr;
mod bmap;
mod btree;
mod bytes;
mod cache;
mod check;
mod crc;
mod dir;
mod edit;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod inode;
mod log;
mod log_state;
mod read;
mod superblock;
mod volume;

pub use attr::{AttrNamespace, Xattr};
pub use check::{CheckReport, Problem};
pub use edit::{EditError, EditOptions, Editor, Label, NewInode};
pub use error::XfsError;
pub use inode::{Extent, FileType, Fork, ForkFormat, Inode, Timestamp};
pub use read::DirEntry;
pub use superblock::Superblock;
pub use volume::Volume;
