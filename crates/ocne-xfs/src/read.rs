//! Reading files, directories, links, attributes and paths.

use ocne_disk::BlockDevice;

use crate::attr::{self, AttrLeaf, AttrValue, RemoteKind, Xattr};
use crate::bmap::{ForkContent, fork_content};
use crate::bytes::u16_at;
use crate::cache::{ByteRange, Bytes, ROUND_BYTES};
use crate::dir::{self, DataItem, ShortDir, da, data};
use crate::error::{Damage, XfsError, damage};
use crate::inode::{Extent, FileType, Fork, Inode};
use crate::volume::Volume;

/// Symbolic links that a path may lead through, as in the kernel.
const MAX_LINKS: u32 = 40;
/// The longest target of a symbolic link.
pub(crate) const MAX_SYMLINK_BYTES: u64 = 1024;
/// The longest value of an attribute.
pub(crate) const MAX_XATTR_BYTES: u32 = 65536;

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: any bytes but NUL and `/`.
    pub name: Vec<u8>,
    /// The inode.
    pub ino: u64,
    /// What the entry says that the inode is.
    pub file_type: FileType,
}

/// A directory block (or a block of any fork): its number in the fork, where it is, what is in it.
#[derive(Debug, Clone)]
pub(crate) struct ForkBlock {
    /// First file block, in blocks of the file system.
    pub file_block: u64,
    /// The file system block number of each of its blocks.
    pub fsblocks: Vec<u64>,
    pub bytes: Bytes,
}

/// Cuts extents into pieces of `blocks` blocks that start at multiples of it: the first file block and the file
/// system block of each. A piece that is mapped only in part is damage.
pub(crate) struct Pieces<'a> {
    extents: std::slice::Iter<'a, Extent>,
    /// What is left of the current extent.
    current: Option<Extent>,
    blocks: u64,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(extents: &'a [Extent], blocks: u32) -> Self {
        Self { extents: extents.iter(), current: None, blocks: u64::from(blocks) }
    }

    /// The next block: in the file, in the file system.
    fn next_block(&mut self) -> Option<(u64, u64)> {
        let mut e = match self.current.filter(|e| e.count > 0) {
            Some(e) => e,
            None => *self.extents.next()?,
        };
        let at = (e.file_block, e.fsblock);
        e.file_block += 1;
        e.fsblock += 1;
        e.count = e.count.checked_sub(1)?;
        self.current = Some(e);
        Some(at)
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<(u64, Vec<u64>), Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        let (start, fsblock) = self.next_block()?;
        let mut fsblocks = vec![fsblock];
        if start % self.blocks != 0 {
            return Some(damage!("file block {start} is mapped without the start of its directory block"));
        }
        for file_block in start + 1..start + self.blocks {
            match self.next_block() {
                Some((found, fsblock)) if found == file_block => fsblocks.push(fsblock),
                _ => {
                    return Some(damage!(
                        "the directory block at file block {start} is not mapped completely"
                    ));
                }
            }
        }
        Some(Ok((start, fsblocks)))
    }
}

impl<D: BlockDevice> Volume<D> {
    /// The bytes of an inode. Its whole block is read, for the inodes next to it.
    pub(crate) fn inode_bytes(&self, ino: u64) -> Result<Bytes, XfsError> {
        let sb = self.superblock();
        let offset_bytes = sb.ino_offset_bytes(ino).ok_or(XfsError::NoSuchInode { ino })?;
        let in_block = offset_bytes % u64::from(sb.block_size_bytes);
        let block = ByteRange { offset_bytes: offset_bytes - in_block, len: sb.block_size_bytes as usize };
        let bytes = self.read(&[block])?.swap_remove(0);
        Ok(bytes.part(usize::try_from(in_block).unwrap_or(0), sb.inode_size_bytes as usize))
    }

    /// The inode `ino`, verified.
    ///
    /// # Errors
    /// When the number is outside the file system, the inode is damaged or is not in use.
    pub fn inode(&self, ino: u64) -> Result<Inode, XfsError> {
        self.inode_and_bytes(ino).map(|(inode, _)| inode)
    }

    pub(crate) fn inode_and_bytes(&self, ino: u64) -> Result<(Inode, Bytes), XfsError> {
        let raw = self.inode_bytes(ino)?;
        let inode =
            Inode::parse(self.superblock(), ino, &raw).map_err(|d| d.at(format_args!("inode {ino}")))?;
        if inode.mode == 0 {
            return Err(XfsError::NoSuchInode { ino });
        }
        Ok((inode, raw))
    }

    /// The extents of a fork; none when its content is in the inode.
    ///
    /// # Errors
    /// When the inode or its block map is damaged.
    pub fn fork_extents(&self, ino: u64, fork: Fork) -> Result<Vec<Extent>, XfsError> {
        let (inode, raw) = self.inode_and_bytes(ino)?;
        self.extents_of(&inode, &raw, fork)
    }

    /// The extents of the data fork of `ino`.
    ///
    /// # Errors
    /// As [`Volume::fork_extents`].
    pub fn extents(&self, ino: u64) -> Result<Vec<Extent>, XfsError> {
        self.fork_extents(ino, Fork::Data)
    }

    pub(crate) fn extents_of(&self, inode: &Inode, raw: &[u8], fork: Fork) -> Result<Vec<Extent>, XfsError> {
        let place = format!("inode {}", inode.ino);
        match fork_content(self.superblock(), inode, fork, raw).map_err(|d| d.at(&place))? {
            ForkContent::Empty | ForkContent::Local(_) => Ok(Vec::new()),
            ForkContent::Extents(e) => Ok(e),
            ForkContent::Tree(tree) => {
                let map = self.read_block_maps(&[tree])?.swap_remove(0);
                Ok(map.map_err(|d| d.at(&place))?.extents)
            }
        }
    }

    /// Reads pieces of a fork with one batch.
    pub(crate) fn read_pieces(&self, pieces: Vec<(u64, Vec<u64>)>) -> Result<Vec<ForkBlock>, XfsError> {
        let mut ranges: Vec<ByteRange> = Vec::new();
        let mut counts = Vec::with_capacity(pieces.len());
        for (_, fsblocks) in &pieces {
            let first = ranges.len();
            for r in fsblocks.iter().map(|&b| self.block_range(b)) {
                match ranges[first..].last_mut() {
                    Some(last) if last.end() == r.offset_bytes => last.len += r.len,
                    _ => ranges.push(r),
                }
            }
            counts.push(ranges.len() - first);
        }
        let mut read = self.read(&ranges)?.into_iter();
        Ok(pieces
            .into_iter()
            .zip(counts)
            .map(|((file_block, fsblocks), n)| {
                let bytes = if n == 1 {
                    read.next().unwrap_or_else(|| Bytes::from(Vec::new()))
                } else {
                    Bytes::from(read.by_ref().take(n).fold(Vec::new(), |mut all, b| {
                        all.extend_from_slice(&b);
                        all
                    }))
                };
                ForkBlock { file_block, fsblocks, bytes }
            })
            .collect())
    }

    /// The entries of a directory, without `.` and `..`, in the order in which they are stored.
    ///
    /// # Errors
    /// When `ino` is not a directory, or is damaged.
    pub fn read_dir(&self, ino: u64) -> Result<Vec<DirEntry>, XfsError> {
        Ok(self.read_dir_with_parent(ino)?.1)
    }

    /// The parent and the entries of a directory.
    pub(crate) fn read_dir_with_parent(&self, ino: u64) -> Result<(u64, Vec<DirEntry>), XfsError> {
        let (inode, raw) = self.inode_and_bytes(ino)?;
        if inode.file_type() != FileType::Directory {
            return Err(XfsError::NotADirectory { what: format!("inode {ino}") });
        }
        let at = |d: Damage| d.at(format_args!("directory {ino}"));
        if let ForkContent::Local(fork) =
            fork_content(self.superblock(), &inode, Fork::Data, &raw).map_err(at)?
        {
            let fork = usize::try_from(inode.size_bytes).ok().and_then(|n| fork.get(..n));
            let short = ShortDir::parse(fork.unwrap_or(&[])).map_err(at)?;
            let mut entries = Vec::with_capacity(short.entries.len());
            for e in short.entries {
                entries.push(entry(&e.name, e.ino, e.ftype).map_err(at)?);
            }
            return Ok((short.parent, entries));
        }
        let mut parent = None;
        let mut entries = Vec::new();
        self.visit_dir_data(&inode, &raw, |block| {
            for item in dir::parse_data(block)? {
                match item {
                    DataItem::Entry { ino, name: b"..", .. } => parent = Some(ino),
                    DataItem::Entry { name: b".", .. } | DataItem::Free { .. } => {}
                    DataItem::Entry { ino, name, ftype, .. } => entries.push(entry(name, ino, ftype)?),
                }
            }
            Ok(())
        })?;
        match parent {
            Some(parent) => Ok((parent, entries)),
            None => Err(at(Damage("no entry `..`".to_owned()))),
        }
    }

    /// Reads the data blocks of a directory that is not in short form, a bounded number at a time.
    fn visit_dir_data(
        &self,
        inode: &Inode,
        raw: &[u8],
        mut visit: impl FnMut(&[u8]) -> Result<(), Damage>,
    ) -> Result<(), XfsError> {
        let sb = self.superblock();
        let at = |d: Damage| d.at(format_args!("directory {}", inode.ino));
        let leaf_start = dir::LEAF_OFFSET_BYTES >> sb.block_log;
        let mut extents = self.extents_of(inode, raw, Fork::Data)?;
        extents.retain(|e| e.file_block < leaf_start);
        let mut pieces = Pieces::new(&extents, sb.dir_block_blocks()).peekable();
        while pieces.peek().is_some() {
            let per_round = ROUND_BYTES / sb.dir_block_size_bytes as usize;
            let batch = pieces.by_ref().take(per_round.max(1)).collect::<Result<_, _>>().map_err(at)?;
            for b in self.read_pieces(batch)? {
                let allowed = [data::MAGIC_BLOCK, data::MAGIC_DATA];
                dir::verify_data_header(sb, inode.ino, self.daddr_of(&b.fsblocks), &allowed, &b.bytes)
                    .and_then(|_| visit(&b.bytes))
                    .map_err(at)?;
            }
        }
        Ok(())
    }

    /// The 512-byte address of the first of some blocks.
    pub(crate) fn daddr_of(&self, fsblocks: &[u64]) -> u64 {
        fsblocks.first().and_then(|&b| self.superblock().fsblock_offset_bytes(b)).unwrap_or(0) >> 9
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// When `ino` is not a symbolic link, or is damaged.
    pub fn read_link(&self, ino: u64) -> Result<Vec<u8>, XfsError> {
        let (inode, raw) = self.inode_and_bytes(ino)?;
        if inode.file_type() != FileType::Symlink {
            return Err(XfsError::WrongKind { ino, wanted: "a symbolic link" });
        }
        let at = |d: Damage| d.at(format_args!("symbolic link {ino}"));
        let size = match usize::try_from(inode.size_bytes) {
            Ok(n) if inode.size_bytes <= MAX_SYMLINK_BYTES => n,
            _ => return Err(at(Damage(format!("{} bytes long", inode.size_bytes)))),
        };
        match fork_content(self.superblock(), &inode, Fork::Data, &raw).map_err(at)? {
            ForkContent::Local(fork) => match fork.get(..size) {
                Some(target) => Ok(target.to_vec()),
                None => Err(at(Damage(format!("{size} bytes in a fork of {}", fork.len())))),
            },
            ForkContent::Extents(extents) => {
                let blocks = self.read_pieces(symlink_pieces(&extents))?;
                self.join_remote(RemoteKind::Symlink, ino, 0, size, &blocks).map_err(at)
            }
            _ => Err(at(Damage("it has neither content nor blocks".to_owned()))),
        }
    }

    /// Joins the parts of a remote symlink or attribute value of `len` bytes whose first block is `first`. Each part
    /// has a header: a part of a value is a block, one of a symlink is an extent.
    pub(crate) fn join_remote(
        &self,
        kind: RemoteKind,
        ino: u64,
        first: u64,
        len: usize,
        parts: &[ForkBlock],
    ) -> Result<Vec<u8>, Damage> {
        let sb = self.superblock();
        let from = parts.partition_point(|b| b.file_block < first);
        let mut next = first;
        let mut out = Vec::new();
        for part in &parts[from..] {
            if out.len() >= len || part.file_block != next {
                break;
            }
            next += part.fsblocks.len() as u64;
            let daddr = self.daddr_of(&part.fsblocks);
            let content = attr::parse_remote(sb, kind, ino, daddr, out.len(), &part.bytes)?;
            if content.len() != (len - out.len()).min(part.bytes.len() - attr::REMOTE_LEN) {
                return damage!("{} bytes in the part at {}", content.len(), out.len());
            }
            out.extend_from_slice(content);
        }
        if out.len() == len { Ok(out) } else { damage!("{} of {len} bytes are mapped", out.len()) }
    }

    /// The extended attributes of an inode.
    ///
    /// # Errors
    /// When the inode or its attributes are damaged.
    pub fn xattrs(&self, ino: u64) -> Result<Vec<Xattr>, XfsError> {
        let (inode, raw) = self.inode_and_bytes(ino)?;
        let sb = self.superblock();
        let at = |d: Damage| d.at(format_args!("attributes of inode {ino}"));
        let extents = match fork_content(sb, &inode, Fork::Attr, &raw).map_err(at)? {
            ForkContent::Empty => return Ok(Vec::new()),
            ForkContent::Local(fork) => return attr::parse_short(fork).map_err(at),
            ForkContent::Extents(_) | ForkContent::Tree(_) => self.extents_of(&inode, &raw, Fork::Attr)?,
        };
        let blocks: u64 = extents.iter().map(|e| e.count).sum();
        if blocks > (ROUND_BYTES as u64) >> sb.block_log {
            return Err(at(Damage(format!("{blocks} blocks, more than are read at once"))));
        }
        let blocks = self.read_pieces(Pieces::new(&extents, 1).collect::<Result<_, _>>().map_err(at)?)?;
        let mut out = Vec::new();
        for b in blocks.iter().filter(|b| u16_at(&b.bytes, da::MAGIC) == da::MAGIC_ATTR_LEAF) {
            let daddr = self.daddr_of(&b.fsblocks);
            // a part of a remote value may have the bytes of the magic by chance
            if attr::is_remote_block(&b.bytes) {
                continue;
            }
            dir::verify_da_header(sb, ino, daddr, &[da::MAGIC_ATTR_LEAF], &b.bytes).map_err(at)?;
            for e in AttrLeaf::parse(&b.bytes).map_err(at)?.entries {
                if e.flags & attr::FLAG_INCOMPLETE != 0 {
                    continue;
                }
                let value = match e.value {
                    AttrValue::Local(v) => v,
                    AttrValue::Remote { len, .. } if len > MAX_XATTR_BYTES => {
                        return Err(at(Damage(format!("a value of {len} bytes"))));
                    }
                    AttrValue::Remote { first_block, len } => self
                        .join_remote(RemoteKind::Value, ino, u64::from(first_block), len as usize, &blocks)
                        .map_err(at)?,
                };
                out.push(Xattr { namespace: e.namespace, name: e.name, value });
            }
        }
        Ok(out)
    }

    /// The content of a regular file.
    ///
    /// # Errors
    /// When `ino` is not a regular file, is longer than `max_bytes`, or is damaged.
    pub fn read_file(&self, ino: u64, max_bytes: u64) -> Result<Vec<u8>, XfsError> {
        let (inode, raw) = self.inode_and_bytes(ino)?;
        if inode.file_type() != FileType::Regular {
            return Err(XfsError::WrongKind { ino, wanted: "a regular file" });
        }
        let too_large = XfsError::TooLarge { ino, size_bytes: inode.size_bytes, limit_bytes: max_bytes };
        let Ok(size) = usize::try_from(inode.size_bytes) else { return Err(too_large) };
        if inode.size_bytes > max_bytes {
            return Err(too_large);
        }
        let mut out = vec![0; size];
        let block_log = self.superblock().block_log;
        let mut targets = Vec::new();
        let mut ranges = Vec::new();
        for e in self.extents_of(&inode, &raw, Fork::Data)?.iter().filter(|e| !e.unwritten) {
            let start = e.file_block.saturating_mul(1 << block_log);
            let len = (e.count << block_log).min(inode.size_bytes.saturating_sub(start));
            if let (Ok(at), Ok(len)) = (usize::try_from(start), usize::try_from(len))
                && len > 0
            {
                ranges.push(ByteRange { offset_bytes: self.block_range(e.fsblock).offset_bytes, len });
                targets.push(at);
            }
        }
        for (at, bytes) in targets.into_iter().zip(self.read_content(&ranges)?) {
            out[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(out)
    }

    /// The inode that a path names. Symbolic links are followed inside this file system: an absolute target starts
    /// at its root, and `..` stops there.
    ///
    /// # Errors
    /// When a part of the path does not exist or is not a directory, after 40 symbolic links, or at damage.
    pub fn resolve(&self, path: &[u8]) -> Result<u64, XfsError> {
        self.resolve_with(path, true)
    }

    /// As [`Volume::resolve`], but a symbolic link at the end of the path is not followed.
    ///
    /// # Errors
    /// As [`Volume::resolve`].
    pub fn resolve_link(&self, path: &[u8]) -> Result<u64, XfsError> {
        self.resolve_with(path, false)
    }

    fn resolve_with(&self, path: &[u8], follow_last: bool) -> Result<u64, XfsError> {
        let root = self.superblock().root_inode;
        let components = |p: &[u8]| -> Vec<Vec<u8>> {
            p.split(|&b| b == b'/')
                .filter(|c| !c.is_empty() && *c != b".")
                .rev()
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut left = components(path);
        // the way from the root, so that `..` needs no reading
        let mut trail = vec![root];
        let mut links = 0;
        while let Some(name) = left.pop() {
            let dir_ino = trail.last().copied().unwrap_or(root);
            if name == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let entries = self.read_dir(dir_ino).map_err(|e| match e {
                XfsError::NotADirectory { .. } => {
                    XfsError::NotADirectory { what: format!("a part of `{}`", String::from_utf8_lossy(path)) }
                }
                e => e,
            })?;
            let Some(found) = entries.iter().find(|e| e.name == name) else {
                return Err(XfsError::NotFound { path: path.to_vec() });
            };
            if found.file_type == FileType::Symlink && (follow_last || !left.is_empty()) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(XfsError::TooManyLinks { path: path.to_vec(), limit: MAX_LINKS });
                }
                let target = self.read_link(found.ino)?;
                if target.starts_with(b"/") {
                    trail.truncate(1);
                }
                left.extend(components(&target));
            } else {
                trail.push(found.ino);
            }
        }
        Ok(trail.last().copied().unwrap_or(root))
    }
}

/// The extents of a symlink as pieces: no more blocks than the longest target has.
pub(crate) fn symlink_pieces(extents: &[Extent]) -> Vec<(u64, Vec<u64>)> {
    let max = 1 + MAX_SYMLINK_BYTES / 512;
    extents.iter().map(|e| (e.file_block, (e.fsblock..e.fsblock + e.count.min(max)).collect())).collect()
}

fn entry(name: &[u8], ino: u64, ftype: u8) -> Result<DirEntry, Damage> {
    if !dir::is_valid_name(name) {
        return damage!("an entry with the name `{}`", String::from_utf8_lossy(name));
    }
    let Some(file_type) = FileType::from_dirent(ftype) else { return damage!("an entry of type {ftype}") };
    Ok(DirEntry { name: name.to_vec(), ino, file_type })
}
