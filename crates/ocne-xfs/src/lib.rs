//! Read, verify and edit XFS v5 file systems offline, without mounting them.

mod ag;
mod attr;
mod btree;
mod bytes;
mod crc;
mod dir;
mod error;
mod inode;
mod log;
mod superblock;

pub use attr::{AttrNamespace, Xattr};
pub use error::XfsError;
pub use inode::{Extent, FileType, Fork, ForkFormat, Inode, Timestamp};
pub use superblock::Superblock;
