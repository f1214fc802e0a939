//! Reading files and folders out of the file systems of a boot image.

use std::collections::BTreeSet;

use ocne_disk::fat::{Fat, FatError};
use ocne_disk::gpt::Partition;
use ocne_disk::{BlockDevice, Slice};
use ocne_xfs::{FileType, Volume, XfsError};
use serde::Serialize;

use crate::examine::ExamineError;

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// The most that a listing holds; a damaged image can pretend to have any number.
const MAX_ENTRIES: usize = 2_000_000;

/// A file system in a partition.
pub enum FileSystem<'a> {
    /// XFS.
    Xfs(Box<Volume<Slice<&'a dyn BlockDevice>>>),
    /// FAT.
    Fat(Box<Fat<Slice<&'a dyn BlockDevice>>>),
}

impl std::fmt::Debug for FileSystem<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The content of a file.
    File(Vec<u8>),
    /// The entries of a folder, sorted by path.
    Folder(Vec<Entry>),
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Path from the folder that was asked for.
    pub path: String,
    /// `file`, `folder`, `link`, `character device`, `block device`, `pipe`, `socket` or `unknown`.
    pub kind: &'static str,
    /// Size of a file.
    pub size_bytes: u64,
    /// Permissions in octal, such as `0755`; FAT has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Owner; FAT has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group; FAT has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Last change of the content, in seconds since 1970; FAT's is in no time zone, and left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified_seconds: Option<i64>,
    /// Where a link points to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl<'a> FileSystem<'a> {
    /// Opens the file system of a partition, or `None` when it holds none that is known.
    ///
    /// # Errors
    /// When there is one, but it cannot be read.
    pub fn open(device: &'a dyn BlockDevice, partition: &Partition) -> Result<Option<Self>, ExamineError> {
        let slice = |what: &Partition| Slice::new(device, what.start_bytes, what.size_bytes);
        match Volume::open(slice(partition)?) {
            Ok(volume) => return Ok(Some(Self::Xfs(Box::new(volume)))),
            Err(XfsError::NotXfs { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        match Fat::open(slice(partition)?) {
            Ok(fat) => Ok(Some(Self::Fat(Box::new(fat)))),
            Err(FatError::NotFat(_)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The name of the format.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Xfs(_) => "xfs",
            Self::Fat(_) => "vfat",
        }
    }

    /// Reads what a path names; links are followed inside this file system.
    ///
    /// # Errors
    /// When there is no such path, or it cannot be read.
    pub fn find(&self, path: &str, recursive: bool) -> Result<Found, ExamineError> {
        match self {
            Self::Xfs(volume) => find_xfs(volume, path, recursive),
            Self::Fat(fat) => find_fat(fat, path, recursive),
        }
    }
}

fn find_xfs<D: BlockDevice>(volume: &Volume<D>, path: &str, recursive: bool) -> Result<Found, ExamineError> {
    let start = volume.resolve(path.as_bytes())?;
    match volume.inode(start)?.file_type() {
        FileType::Directory => {}
        FileType::Regular => return Ok(Found::File(volume.read_file(start, MAX_FILE_BYTES)?)),
        _ => return Err(ExamineError::NotReadable { path: path.to_owned() }),
    }
    let mut entries = Vec::new();
    let mut todo = vec![(start, String::new())];
    let mut seen = BTreeSet::from([start]);
    while let Some((folder, prefix)) = todo.pop() {
        for child in volume.read_dir(folder)? {
            if matches!(child.name.as_slice(), b"." | b"..") {
                continue;
            }
            let inode = volume.inode(child.ino)?;
            let path = format!("{prefix}{}", String::from_utf8_lossy(&child.name));
            let kind = inode.file_type();
            let target = match kind {
                FileType::Symlink => {
                    Some(String::from_utf8_lossy(&volume.read_link(child.ino)?).into_owned())
                }
                _ => None,
            };
            // A folder has one name; one that comes again is a circle, which only damage can make.
            if recursive && kind == FileType::Directory && seen.insert(child.ino) {
                todo.push((child.ino, format!("{path}/")));
            }
            entries.push(Entry {
                path,
                kind: kind_name(kind),
                size_bytes: inode.size_bytes,
                mode: Some(format!("{:04o}", inode.mode & 0o7777)),
                uid: Some(inode.uid),
                gid: Some(inode.gid),
                modified_seconds: Some(inode.mtime.seconds),
                target,
            });
            if entries.len() > MAX_ENTRIES {
                return Err(ExamineError::TooMany { path: prefix, limit: MAX_ENTRIES });
            }
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Found::Folder(entries))
}

fn find_fat<D: BlockDevice>(fat: &Fat<D>, path: &str, recursive: bool) -> Result<Found, ExamineError> {
    let path = path.trim_matches('/');
    match fat.list(path) {
        Ok(_) => {}
        Err(FatError::WrongType { .. }) => return Ok(Found::File(fat.read(path, MAX_FILE_BYTES)?)),
        Err(FatError::NotFound { .. }) => return Err(ExamineError::NotFound { path: path.to_owned() }),
        Err(e) => return Err(e.into()),
    }
    let mut entries = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(prefix) = todo.pop() {
        for child in fat.list(&format!("{path}/{prefix}"))? {
            if matches!(child.name.as_str(), "." | "..") {
                continue;
            }
            let inside = format!("{prefix}{}", child.name);
            // The longest path that the format allows; a circle is longer.
            if inside.len() > 4096 || entries.len() > MAX_ENTRIES {
                return Err(ExamineError::TooMany { path: prefix, limit: MAX_ENTRIES });
            }
            if recursive && child.is_dir {
                todo.push(format!("{inside}/"));
            }
            entries.push(Entry {
                path: inside,
                kind: if child.is_dir { "folder" } else { "file" },
                size_bytes: child.size_bytes,
                mode: None,
                uid: None,
                gid: None,
                modified_seconds: None,
                target: None,
            });
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Found::Folder(entries))
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "file",
        FileType::Directory => "folder",
        FileType::Symlink => "link",
        FileType::CharDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::Unknown => "unknown",
    }
}
