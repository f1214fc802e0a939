//! Looking at the directories of a file system without following links.

use ocne_disk::BlockDevice;
use ocne_xfs::{FileType, Inode, Volume, XfsError};

/// The inode of a name in a directory; `None` when there is no such name, or the directory is none.
pub fn child<D: BlockDevice>(
    volume: &Volume<D>,
    dir_ino: u64,
    name: &[u8],
) -> Result<Option<Inode>, XfsError> {
    match volume.read_dir(dir_ino) {
        Ok(entries) => entries.iter().find(|e| e.name == name).map(|e| volume.inode(e.ino)).transpose(),
        Err(XfsError::NotADirectory { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The inode of a path below a directory, without following links; `None` when it does not exist.
pub fn descendant<D: BlockDevice>(
    volume: &Volume<D>,
    dir_ino: u64,
    path: &str,
) -> Result<Option<Inode>, XfsError> {
    let mut at = volume.inode(dir_ino)?;
    for name in path.split('/').filter(|n| !n.is_empty()) {
        match child(volume, at.ino, name.as_bytes())? {
            Some(inode) => at = inode,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The directories in a directory, by name.
pub fn directories<D: BlockDevice>(volume: &Volume<D>, dir_ino: u64) -> Result<Vec<(String, u64)>, XfsError> {
    let mut found = Vec::new();
    for entry in volume.read_dir(dir_ino)? {
        if volume.inode(entry.ino)?.file_type() == FileType::Directory {
            found.push((String::from_utf8_lossy(&entry.name).into_owned(), entry.ino));
        }
    }
    found.sort();
    Ok(found)
}

/// The first bytes of a regular file, at most `max_bytes` and at most one block.
pub fn file_start<D: BlockDevice>(
    volume: &Volume<D>,
    inode: &Inode,
    max_bytes: u32,
) -> Result<Vec<u8>, XfsError> {
    let superblock = volume.superblock();
    let len = inode.size_bytes.min(max_bytes.min(superblock.block_size_bytes).into());
    let mut start = vec![0; usize::try_from(len).unwrap_or(0)];
    let first = volume.extents(inode.ino)?.into_iter().find(|e| e.file_block == 0 && !e.unwritten);
    if let Some(at) = first.and_then(|e| superblock.fsblock_offset_bytes(e.fsblock)) {
        volume.device().read_at(at, &mut start)?;
    }
    Ok(start)
}
