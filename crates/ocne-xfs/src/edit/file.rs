//! Regular files and directories: making, replacing, removing.

use ocne_disk::BlockDevice;

use crate::attr::AttrNamespace;
use crate::bytes::u16_at;
use crate::edit::directory::OpenDir;
use crate::edit::fork::{data_owner, map_block_count, merge_extents};
use crate::edit::raw_inode::{self, Core, Label, NewInode, RawInode};
use crate::edit::{EditError, Editor};
use crate::error::XfsError;
use crate::inode::{Extent, FLAG_REALTIME, FileType, Fork, Inode, MODE};
use crate::read::DirEntry;
use crate::superblock::{FEATURES2_ATTR2, VERSION_ATTR};

/// `S_ISGID`.
const MODE_SETGID: u16 = 0o2000;
/// Inode flags that new files and directories take over: sync, noatime, nodump, nosymlinks, nodefrag, filestream.
const FLAGS_INHERITED: u16 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 13 | 1 << 14;
/// `XFS_DIFLAG_PROJINHERIT`: the project is taken over, and by directories the flag.
const FLAG_PROJINHERIT: u16 = 1 << 9;

impl<D: BlockDevice> Editor<'_, D> {
    /// Replaces the content of a regular file. Everything else of it stays but size and times.
    ///
    /// # Errors
    /// When it is not a regular file or is on the realtime device, when there is no room, or at damage.
    pub fn replace_file(&mut self, ino: u64, content: &[u8]) -> Result<(), EditError> {
        self.attempt(|e| {
            let mut raw = e.raw_inode(ino)?;
            let inode = raw.parse(&e.sb)?;
            if inode.file_type() != FileType::Regular {
                return Err(XfsError::WrongKind { ino, wanted: "a regular file" }.into());
            }
            refuse_realtime(&inode)?;
            let map = e.fork_map(&raw, Fork::Data)?;
            let attr_blocks = map_block_count(&e.fork_map(&raw, Fork::Attr)?);
            e.free_data_fork(ino, &map, true)?;
            e.write_content(&mut raw, content, attr_blocks)?;
            raw.touch_content(&e.options)?;
            e.stage_inode(raw)
        })
    }

    /// Makes a regular file; returns its inode number.
    ///
    /// # Errors
    /// When the name is taken or invalid, when the directory has a default ACL, when there is no room, or at damage.
    pub fn create_file(
        &mut self,
        dir_ino: u64,
        name: &[u8],
        content: &[u8],
        new: &NewInode,
    ) -> Result<u64, EditError> {
        self.attempt(|e| {
            let mut dir = e.open_dir_for(dir_ino, name)?;
            let mut raw = e.new_inode(&dir, new, FileType::Regular)?;
            let ino = raw.ino;
            e.write_content(&mut raw, content, 0)?;
            e.stage_inode(raw)?;
            dir.entries.push(DirEntry { name: name.to_vec(), ino, file_type: FileType::Regular });
            e.store_dir(dir)?;
            Ok(ino)
        })
    }

    /// Makes an empty directory; returns its inode number.
    ///
    /// # Errors
    /// As [`Editor::create_file`].
    pub fn create_dir(&mut self, dir_ino: u64, name: &[u8], new: &NewInode) -> Result<u64, EditError> {
        self.attempt(|e| {
            let mut dir = e.open_dir_for(dir_ino, name)?;
            let raw = e.new_inode(&dir, new, FileType::Directory)?;
            let ino = raw.ino;
            e.write_dir(OpenDir { raw, parent: dir_ino, entries: Vec::new() })?;
            dir.entries.push(DirEntry { name: name.to_vec(), ino, file_type: FileType::Directory });
            let nlink = dir
                .raw
                .nlink()
                .checked_add(1)
                .filter(|&n| n <= i32::MAX.cast_unsigned())
                .ok_or(EditError::TooLarge { what: "the number of links of the directory" })?;
            dir.raw.set_nlink(nlink);
            e.store_dir(dir)?;
            Ok(ino)
        })
    }

    /// Removes a name of a file that is not a directory, and the file itself with its last name.
    ///
    /// # Errors
    /// When there is no such name, when it is a directory's, or at damage.
    pub fn unlink(&mut self, dir_ino: u64, name: &[u8]) -> Result<(), EditError> {
        self.attempt(|e| {
            let mut dir = e.open_dir(dir_ino)?;
            let entry = dir.remove(name)?;
            let mut raw = e.raw_inode(entry.ino)?;
            let inode = raw.parse(&e.sb)?;
            if inode.file_type() == FileType::Directory {
                return Err(XfsError::WrongKind {
                    ino: entry.ino,
                    wanted: "something other than a directory",
                }
                .into());
            }
            refuse_realtime(&inode)?;
            e.store_dir(dir)?;
            if inode.nlink > 1 {
                raw.set_nlink(inode.nlink - 1);
                raw.touch_inode(&e.options)?;
                return e.stage_inode(raw);
            }
            let data = e.fork_map(&raw, Fork::Data)?;
            let attrs = e.fork_map(&raw, Fork::Attr)?;
            e.free_data_fork(raw.ino, &data, inode.file_type() == FileType::Regular)?;
            e.free_attr_fork(raw.ino, &attrs)?;
            e.free_inode(raw.ino)?;
            raw.make_free(&e.options)?;
            e.stage_inode(raw)
        })
    }

    /// Takes an inode for something new in a directory, without content.
    fn new_inode(
        &mut self,
        dir: &OpenDir,
        new: &NewInode,
        file_type: FileType,
    ) -> Result<RawInode, EditError> {
        let parent = dir.raw.parse(&self.sb)?;
        let xattrs = self.view()?.xattrs(parent.ino)?;
        if xattrs.iter().any(|x| x.namespace == AttrNamespace::Trusted && x.name == b"SGI_ACL_DEFAULT") {
            return Err(EditError::Unsupported {
                ino: parent.ino,
                what: "the directory has a default ACL, which new files would get",
            });
        }
        let label = match &new.label {
            Label::Exact(value) => Some(value.clone()),
            Label::Inherit => xattrs
                .into_iter()
                .find(|x| x.namespace == AttrNamespace::Security && x.name == b"selinux")
                .map(|x| x.value),
            Label::None => None,
        };
        // a file system that never had an attribute lacks the feature bits for them
        let can_have_label = self.sb.version & VERSION_ATTR != 0 && self.sb.features2 & FEATURES2_ATTR2 != 0;
        let is_dir = file_type == FileType::Directory;
        let setgid = u16_at(&dir.raw.bytes, MODE) & MODE_SETGID != 0;
        let type_bits = if is_dir { 0o040_000 } else { 0o100_000 };
        let inherits_project = parent.flags & FLAG_PROJINHERIT != 0;
        let flags = parent.flags & (FLAGS_INHERITED | if is_dir { FLAG_PROJINHERIT } else { 0 });
        let core = Core {
            mode: type_bits | (new.mode & 0o7777) | if setgid && is_dir { MODE_SETGID } else { 0 },
            uid: new.uid,
            gid: if setgid { parent.gid } else { new.gid },
            projid: if inherits_project { parent.projid } else { 0 },
            nlink: if is_dir { 2 } else { 1 },
            flags,
            generation: u32::try_from(self.random() >> 32).unwrap_or(0),
            label: label.filter(|_| can_have_label),
        };
        let ino = self.allocate_inode(self.home_group(parent.ino))?;
        let at = self.sb.ino_offset_bytes(ino).ok_or(XfsError::NoSuchInode { ino })?;
        let block_at = at - at % self.block_len();
        let inside = usize::try_from(at - block_at).unwrap_or(0);
        let block = self.block(block_at)?;
        let old = &block[inside..inside + self.sb.inode_size_bytes as usize];
        crate::inode::verify_identity(&self.sb, ino, old).map_err(|d| d.at(format_args!("inode {ino}")))?;
        raw_inode::fresh(&self.sb, ino, old, &core, &self.options)
    }

    /// Gives a file without blocks its content: new blocks, size and data fork.
    fn write_content(
        &mut self,
        raw: &mut RawInode,
        content: &[u8],
        attr_blocks: u64,
    ) -> Result<(), EditError> {
        let block_len = self.sb.block_size_bytes as usize;
        let blocks = content.len().div_ceil(block_len) as u64;
        let start = Extent { file_block: 0, fsblock: 0, count: 0, unwritten: false };
        let runs = match blocks {
            0 => Vec::new(),
            _ => self.allocate(self.home_group(raw.ino), blocks, data_owner(raw.ino, &start))?,
        };
        let mut extents = Vec::with_capacity(runs.len());
        let mut file_block = 0;
        let mut rest = content;
        for (fsblock, count) in runs {
            extents.push(Extent { file_block, fsblock, count, unwritten: false });
            file_block += count;
            let len = usize::try_from(count << self.sb.block_log).unwrap_or(usize::MAX);
            let (now, after) = rest.split_at(len.min(rest.len()));
            rest = after;
            let mut bytes = now.to_vec();
            bytes.resize(len, 0);
            let at = self.sb.fsblock_offset_bytes(fsblock).unwrap_or(u64::MAX);
            self.content.insert(at, bytes);
        }
        raw.set_size(content.len() as u64);
        self.write_data_extents(raw, &merge_extents(extents), attr_blocks)
    }
}

/// The blocks of a file on the realtime device are not in any group.
fn refuse_realtime(inode: &Inode) -> Result<(), EditError> {
    if inode.flags & FLAG_REALTIME != 0 && inode.file_type() == FileType::Regular {
        return Err(EditError::Unsupported { ino: inode.ino, what: "its content is on the realtime device" });
    }
    Ok(())
}
