//! Every inode of every chunk: the core, the forks, and the blocks that the forks have.

use ocne_disk::BlockDevice;

use super::Checker;
use crate::attr;
use crate::bmap::{BlockMap, ForkContent, TreeFork, fork_content};
use crate::btree::{INODES_PER_CHUNK, InodeRecord, RMAP_ATTR_FORK, RMAP_BMBT_BLOCK, RMAP_UNWRITTEN, owner};
use crate::bytes::{u16_at, u64_at};
use crate::cache::{ByteRange, ROUND_BYTES};
use crate::dir::{self, ShortDir};
use crate::error::{Damage, XfsError, damage};
use crate::inode::{
    self, Extent, FLAG2_BIGTIME, FLAG2_COWEXTSIZE, FLAG2_DAX, FLAG2_NREXT64, FLAG2_REFLINK, FileType, Fork,
    ForkFormat, Inode,
};
use crate::read::MAX_SYMLINK_BYTES;
use crate::superblock::Superblock;

/// In the offset of an owner: the blocks may be shared. (Not in any record on disk.)
pub(super) const SHAREABLE: u64 = 1 << 60;
/// `di_flags` that have a meaning.
const KNOWN_FLAGS: u16 = 0x7FFF;
const FLAG_EXTSIZE_INHERIT: u16 = 1 << 12;
const KNOWN_FLAGS2: u64 = FLAG2_DAX | FLAG2_REFLINK | FLAG2_COWEXTSIZE | FLAG2_BIGTIME | FLAG2_NREXT64;

/// What the rest of the check needs of an inode.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InodeState {
    /// As the inode says.
    pub nlink: u32,
    /// Entries of directories that name it.
    pub found: u32,
    /// 0 when it is not in use, else the type as in a directory entry.
    pub ftype: u8,
}

/// A chunk of a group and where its inodes are in [`Found::states`].
#[derive(Debug, Clone, Copy)]
struct ChunkStates {
    first_ino: u64,
    first_state: usize,
}

/// A directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory {
    pub ino: u64,
    /// As `..` says; `None` when that could not be read.
    pub parent: Option<u64>,
    /// The directory that has an entry for it.
    pub named_by: Option<u64>,
}

/// An entry of a directory that names an inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    /// Index in [`Found::directories`].
    pub from: u32,
    pub ino: u64,
    pub ftype: u8,
}

/// A fork with blocks that have structure: of a directory, of attributes, of a link.
#[derive(Debug, Clone)]
pub(super) struct ForkWork {
    pub ino: u64,
    pub size_bytes: u64,
    pub extents: Vec<Extent>,
    /// Index in [`Found::directories`].
    pub directory: u32,
}

/// What was found in the inodes.
#[derive(Debug, Default)]
pub(super) struct Found {
    chunks: Vec<ChunkStates>,
    states: Vec<InodeState>,
    pub directories: Vec<Directory>,
    pub references: Vec<Reference>,
    pub dir_forks: Vec<ForkWork>,
    pub attr_forks: Vec<ForkWork>,
    pub link_forks: Vec<ForkWork>,
    /// Forks whose block map is a btree, with what is needed once it was read.
    trees: Vec<(TreeFork, Pending)>,
}

/// An inode whose block count is not verified yet.
#[derive(Debug, Clone)]
struct Pending {
    file_type: FileType,
    size_bytes: u64,
    reflinked: bool,
    directory: u32,
    /// As the inode says, less what was found already.
    blocks_left: u64,
    /// The next entry of `trees` is the other fork of this inode.
    more: bool,
}

impl Found {
    /// The state of an inode, when its chunk exists.
    pub(super) fn state(&mut self, ino: u64) -> Option<&mut InodeState> {
        let i = self.chunks.partition_point(|c| c.first_ino <= ino).checked_sub(1)?;
        let chunk = self.chunks[i];
        let slot = usize::try_from(ino - chunk.first_ino).ok().filter(|&s| s < INODES_PER_CHUNK as usize)?;
        self.states.get_mut(chunk.first_state + slot)
    }

    /// All states with their inode numbers.
    pub(super) fn states(&self) -> impl Iterator<Item = (u64, &InodeState)> {
        self.chunks.iter().flat_map(|c| {
            let states = &self.states[c.first_state..c.first_state + INODES_PER_CHUNK as usize];
            (c.first_ino..).zip(states)
        })
    }
}

impl<D: BlockDevice> Checker<'_, D> {
    pub(super) fn check_inodes(&mut self) -> Result<Found, XfsError> {
        let mut found = Found::default();
        // runs of inodes that exist: where on the device, the first number, the chunk's free mask from there on
        let mut batch: Vec<(ByteRange, u64, u64)> = Vec::new();
        let mut batch_bytes = 0;
        for agno in 0..self.sb.ag_count {
            for chunk in self.groups[agno as usize].chunks.take().unwrap_or_default() {
                let first_ino = self.sb.ino(agno, chunk.start);
                found.chunks.push(ChunkStates { first_ino, first_state: found.states.len() });
                found.states.resize(found.states.len() + INODES_PER_CHUNK as usize, InodeState::default());
                for (slot, count) in existing_runs(&chunk) {
                    let first = chunk.start + slot;
                    self.own_inode_blocks(agno, first, count);
                    let offset_bytes = self.sb.agb_offset_bytes(agno, 0)
                        + u64::from(first) * u64::from(self.sb.inode_size_bytes);
                    let len = (count * self.sb.inode_size_bytes) as usize;
                    batch.push((
                        ByteRange { offset_bytes, len },
                        first_ino + u64::from(slot),
                        chunk.free >> slot,
                    ));
                    batch_bytes += len;
                }
                if batch_bytes >= ROUND_BYTES {
                    self.check_inode_batch(&batch, &mut found)?;
                    batch.clear();
                    batch_bytes = 0;
                    if self.is_hopeless() {
                        return Ok(found);
                    }
                }
            }
        }
        self.check_inode_batch(&batch, &mut found)?;
        self.check_tree_forks(&mut found)?;
        Ok(found)
    }

    /// Notes the blocks of inodes; with large blocks, two chunks are in one.
    fn own_inode_blocks(&mut self, agno: u32, first: u32, count: u32) {
        let start = self.sb.agino_agbno(first);
        let end = self.sb.agino_agbno(first + count - 1) + 1;
        let last = self.groups[agno as usize].owners.last();
        let start = match last {
            Some(l) if l.owner == owner::INODES && l.start + l.count > start => l.start + l.count,
            _ => start,
        };
        if start < end {
            self.own_in_group(agno, start, end - start, owner::INODES, 0);
        }
    }

    fn check_inode_batch(
        &mut self,
        batch: &[(ByteRange, u64, u64)],
        found: &mut Found,
    ) -> Result<(), XfsError> {
        let ranges: Vec<ByteRange> = batch.iter().map(|b| b.0).collect();
        for (&(_, first, free), bytes) in batch.iter().zip(self.volume.read(&ranges)?) {
            for (i, raw) in (0..).zip(bytes.chunks_exact(self.sb.inode_size_bytes as usize)) {
                let ino = first + i;
                if let Err(d) = self.check_inode(ino, free >> i & 1 != 0, raw, found) {
                    self.owners_incomplete = true;
                    self.problem(format_args!("inode {ino}"), d.0);
                }
            }
        }
        Ok(())
    }

    fn check_inode(&mut self, ino: u64, free: bool, raw: &[u8], found: &mut Found) -> Result<(), Damage> {
        if free {
            return self.check_free_inode(ino, raw);
        }
        let inode = Inode::parse(self.sb, ino, raw)?;
        self.lsn(inode.lsn);
        self.report.inodes += 1;
        let file_type = inode.file_type();
        if let Some(state) = found.state(ino) {
            *state = InodeState { nlink: inode.nlink, ftype: file_type.to_dirent(), ..*state };
        }
        verify_core(self.sb, &inode, raw)?;
        let directory = u32::try_from(found.directories.len()).unwrap_or(u32::MAX);
        if file_type == FileType::Directory {
            self.report.directories += 1;
            found.directories.push(Directory { ino, parent: None, named_by: None });
        }
        let mut pending = Pending {
            file_type,
            size_bytes: inode.size_bytes,
            reflinked: inode.is_reflinked(),
            directory,
            blocks_left: inode.blocks,
            more: false,
        };
        let data = fork_content(self.sb, &inode, Fork::Data, raw)?;
        let attrs = fork_content(self.sb, &inode, Fork::Attr, raw)?;
        let mut trees = Vec::new();
        for (fork, content) in [(Fork::Data, data), (Fork::Attr, attrs)] {
            match content {
                ForkContent::Empty => {}
                ForkContent::Local(bytes) => self.check_local(&inode, fork, bytes, directory, found)?,
                ForkContent::Extents(extents) => {
                    let map = BlockMap { extents, ..BlockMap::default() };
                    self.take_map(ino, fork, map, &mut pending, found)?;
                }
                ForkContent::Tree(tree) => trees.push(tree),
            }
        }
        if trees.is_empty() {
            return verify_blocks_left(&pending);
        }
        let last = trees.len() - 1;
        for (i, tree) in trees.into_iter().enumerate() {
            found.trees.push((tree, Pending { more: i < last, ..pending.clone() }));
        }
        Ok(())
    }

    /// An inode that is not in use has an identity and nothing else.
    fn check_free_inode(&mut self, ino: u64, raw: &[u8]) -> Result<(), Damage> {
        let inode = Inode::parse(self.sb, ino, raw)?;
        self.lsn(inode.lsn);
        if inode.mode != 0 || inode.blocks != 0 || inode.next_unlinked != u32::MAX {
            return damage!("not in use, but with a mode, blocks, or in a chain of unlinked inodes");
        }
        let has_attrs = inode.fork_offset != 0 || inode.attr_extent_count != 0;
        if has_attrs || !matches!(inode.attr_format, ForkFormat::Extents | ForkFormat::Device) {
            return damage!("not in use, but with attributes");
        }
        verify_flags(self.sb, &inode, raw)?;
        verify_hints(self.sb, &inode)
    }

    /// Content in the inode.
    fn check_local(
        &mut self,
        inode: &Inode,
        fork: Fork,
        bytes: &[u8],
        directory: u32,
        found: &mut Found,
    ) -> Result<(), Damage> {
        if fork == Fork::Attr {
            return attr::parse_short(bytes).map(|_| ()).map_err(|d| Damage(format!("attributes: {}", d.0)));
        }
        let content = usize::try_from(inode.size_bytes).ok().and_then(|n| bytes.get(..n));
        let Some(content) = content else {
            return damage!("{} bytes of content in a fork of {}", inode.size_bytes, bytes.len());
        };
        if inode.file_type() == FileType::Symlink {
            return verify_target(content);
        }
        let short = ShortDir::parse(content)?;
        let mut names: Vec<&[u8]> = Vec::with_capacity(short.entries.len());
        for e in &short.entries {
            if !dir::is_valid_name(&e.name)
                || e.name == b"."
                || e.name == b".."
                || FileType::from_dirent(e.ftype).is_none()
            {
                return damage!("an entry `{}` of type {}", String::from_utf8_lossy(&e.name), e.ftype);
            }
            let end = usize::from(e.offset) + dir::entry_len(e.name.len());
            if end + 8 * (short.entries.len() + 2) + dir::BlockTail::LEN
                > self.sb.dir_block_size_bytes as usize
            {
                return damage!("an entry at {}, where no data block has one", e.offset);
            }
            names.push(&e.name);
            found.references.push(Reference { from: directory, ino: e.ino, ftype: e.ftype });
        }
        names.sort_unstable();
        if let Some(w) = names.windows(2).find(|w| w[0] == w[1]) {
            return damage!("two entries `{}`", String::from_utf8_lossy(w[0]));
        }
        if let Some(d) = found.directories.get_mut(directory as usize) {
            d.parent = Some(short.parent);
        }
        Ok(())
    }

    /// The blocks of a fork: who owns them, and what is to be read of them.
    fn take_map(
        &mut self,
        ino: u64,
        fork: Fork,
        map: BlockMap,
        pending: &mut Pending,
        found: &mut Found,
    ) -> Result<(), Damage> {
        self.lsn(map.max_lsn);
        let fork_flag = if fork == Fork::Attr { RMAP_ATTR_FORK } else { 0 };
        for &fsblock in &map.tree_blocks {
            self.own(fsblock, 1, ino, fork_flag | RMAP_BMBT_BLOCK);
        }
        let is_file = fork == Fork::Data && pending.file_type == FileType::Regular;
        let mut blocks = map.tree_blocks.len() as u64;
        for e in &map.extents {
            blocks += e.count;
            let unwritten = if e.unwritten { RMAP_UNWRITTEN } else { 0 };
            let shareable = if is_file && pending.reflinked { SHAREABLE } else { 0 };
            self.own(e.fsblock, e.count, ino, e.file_block | fork_flag | unwritten | shareable);
        }
        if !is_file && map.extents.iter().any(|e| e.unwritten) {
            return damage!("unwritten blocks in a {fork:?} fork of a {:?}", pending.file_type);
        }
        let Some(left) = pending.blocks_left.checked_sub(blocks) else {
            return damage!("more blocks than are counted");
        };
        pending.blocks_left = left;
        let work =
            |extents| ForkWork { ino, size_bytes: pending.size_bytes, extents, directory: pending.directory };
        match (fork, pending.file_type) {
            (Fork::Attr, _) if !map.extents.is_empty() => found.attr_forks.push(work(map.extents)),
            (Fork::Data, FileType::Directory) => found.dir_forks.push(work(map.extents)),
            (Fork::Data, FileType::Symlink) => found.link_forks.push(work(map.extents)),
            _ => {}
        }
        Ok(())
    }

    /// Reads the block maps that are btrees.
    fn check_tree_forks(&mut self, found: &mut Found) -> Result<(), XfsError> {
        let (forks, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut found.trees).into_iter().unzip();
        let mut carried: Option<u64> = None;
        for ((map, fork), mut p) in self.volume.read_block_maps(&forks)?.into_iter().zip(&forks).zip(pending)
        {
            if let Some(left) = carried.take() {
                p.blocks_left = left;
            }
            let taken =
                map.and_then(|map| self.take_map(fork.ino, fork.fork, map, &mut p, found)).and_then(|()| {
                    if p.more {
                        carried = Some(p.blocks_left);
                        Ok(())
                    } else {
                        verify_blocks_left(&p)
                    }
                });
            if let Err(d) = taken {
                self.owners_incomplete = true;
                self.problem(format_args!("inode {}", fork.ino), d.0);
            }
        }
        Ok(())
    }
}

fn verify_blocks_left(p: &Pending) -> Result<(), Damage> {
    if p.blocks_left == 0 {
        Ok(())
    } else {
        damage!("{} blocks are counted more than there are", p.blocks_left)
    }
}

/// The target of a symbolic link.
pub(super) fn verify_target(target: &[u8]) -> Result<(), Damage> {
    if target.is_empty() || target.contains(&0) {
        damage!("a target that is empty or has a NUL")
    } else {
        Ok(())
    }
}

/// Runs of existing inodes of a chunk: first slot and number.
fn existing_runs(chunk: &InodeRecord) -> Vec<(u32, u32)> {
    let mut runs = Vec::new();
    let mut left = !chunk.holes();
    let mut slot = 0;
    while left != 0 {
        let skip = left.trailing_zeros();
        left = left.checked_shr(skip).unwrap_or(0);
        slot += skip;
        let n = left.trailing_ones();
        left = left.checked_shr(n).unwrap_or(0);
        runs.push((slot, n));
        slot += n;
    }
    runs
}

/// An inode in use by itself: what the kernel's verifier and `xfs_repair` want of it.
fn verify_core(sb: &Superblock, i: &Inode, raw: &[u8]) -> Result<(), Damage> {
    let kind = i.file_type();
    if kind == FileType::Unknown {
        return damage!("mode {:#o}", i.mode);
    }
    if i.size_bytes >> 63 != 0 {
        return damage!("size {:#x}", i.size_bytes);
    }
    if i.next_unlinked != u32::MAX {
        return damage!("in a chain of unlinked inodes");
    }
    verify_flags(sb, i, raw)?;
    verify_hints(sb, i)?;
    if !i.has_bigtime()
        && [i.atime, i.mtime, i.ctime, i.crtime].iter().any(|t| t.nanoseconds >= 1_000_000_000)
    {
        return damage!("a time with too many nanoseconds");
    }
    if i.blocks > sb.blocks || i.extent_count.saturating_add(i.attr_extent_count) > i.blocks {
        return damage!("{} and {} extents, {} blocks", i.extent_count, i.attr_extent_count, i.blocks);
    }
    let wide = usize::from(i.has_nrext64());
    if i.extent_count > inode::MAX_EXTENTS[wide] || i.attr_extent_count > inode::MAX_ATTR_EXTENTS[wide] {
        return damage!("{} and {} extents", i.extent_count, i.attr_extent_count);
    }
    if u16_at(raw, inode::ONLINK) != 0 {
        return damage!("a number of links in the old format");
    }
    verify_formats(sb, i)
}

/// The flags, and the fields whose meaning depends on them.
fn verify_flags(sb: &Superblock, i: &Inode, raw: &[u8]) -> Result<(), Damage> {
    if i.flags & !KNOWN_FLAGS != 0 || i.flags2 & !KNOWN_FLAGS2 != 0 {
        return damage!("unknown flags {:#x} or {:#x}", i.flags, i.flags2);
    }
    if i.flags & inode::FLAG_REALTIME != 0 {
        return damage!("on the realtime section, which there is none of");
    }
    let is_file = i.file_type() == FileType::Regular;
    if (i.is_reflinked() && !(sb.has_reflink() && is_file))
        || (i.has_bigtime() && !sb.has_bigtime())
        || (i.has_nrext64() && !sb.has_nrext64())
    {
        return damage!("flags {:#x} that the file system has no feature for", i.flags2);
    }
    let padding = if i.has_nrext64() {
        u64::from(u16_at(raw, inode::ANEXTENTS))
    } else {
        u64_at(raw, inode::BIG_NEXTENTS)
    };
    if padding != 0 {
        return damage!("padding that is not zero");
    }
    Ok(())
}

/// The extent size hints, as in `xfs_inode_validate_extsize`.
fn verify_hints(sb: &Superblock, i: &Inode) -> Result<(), Damage> {
    let kind = i.file_type();
    // an inode that is freed loses its flags and keeps its hints
    let hint_needs_flag = i.mode != 0;
    let own = i.flags & inode::FLAG_EXTSIZE != 0;
    let inherit = i.flags & FLAG_EXTSIZE_INHERIT != 0;
    let max = u64::from(sb.ag_blocks / 2).min(Extent::MAX_COUNT);
    if (own && kind != FileType::Regular)
        || (inherit && kind != FileType::Directory)
        || (hint_needs_flag && (own || inherit) == (i.extent_size_hint == 0))
        || ((own || inherit) && i.extent_size_hint == 0)
        || u64::from(i.extent_size_hint) > max
    {
        return damage!("extent size hint {} with flags {:#x}", i.extent_size_hint, i.flags);
    }
    let cow = i.flags2 & FLAG2_COWEXTSIZE != 0;
    let cow_kind = matches!(kind, FileType::Regular | FileType::Directory);
    if (cow && !(sb.has_reflink() && cow_kind))
        || (hint_needs_flag && cow == (i.cow_extent_size_hint == 0))
        || (cow && i.cow_extent_size_hint == 0)
        || u64::from(i.cow_extent_size_hint) > max
    {
        return damage!(
            "copy on write extent size hint {} with flags {:#x}",
            i.cow_extent_size_hint,
            i.flags2
        );
    }
    Ok(())
}

/// The formats of the forks, for the kind of file.
fn verify_formats(sb: &Superblock, i: &Inode) -> Result<(), Damage> {
    use ForkFormat::{Btree, Device, Extents, Local};
    let kind = i.file_type();
    let dir_block = u64::from(sb.dir_block_size_bytes);
    let is_tree = matches!(i.format, Extents | Btree);
    let fits = match kind {
        FileType::Regular => is_tree,
        FileType::Directory => match i.format {
            Local => i.extent_count == 0,
            Extents | Btree => {
                i.size_bytes > 0
                    && i.size_bytes.is_multiple_of(dir_block)
                    && i.size_bytes <= dir::LEAF_OFFSET_BYTES
            }
            Device => false,
        },
        FileType::Symlink => {
            let size_fits = i.size_bytes > 0 && i.size_bytes <= MAX_SYMLINK_BYTES;
            size_fits && ((i.format == Local && i.extent_count == 0) || i.format == Extents)
        }
        _ => i.format == Device && i.size_bytes == 0 && i.extent_count == 0,
    };
    if !fits {
        return damage!(
            "a {kind:?} of {} bytes with {} extents in format {:?}",
            i.size_bytes,
            i.extent_count,
            i.format
        );
    }
    if i.format == Device && i.fork_offset > 1 {
        return damage!("attribute fork of a device at {}", u32::from(i.fork_offset) * 8);
    }
    let attr_fits = match (i.fork_offset, i.attr_format) {
        (0, Extents) => i.attr_extent_count == 0,
        (0, _) | (_, Device) => false,
        (_, Local) => i.attr_extent_count == 0,
        (_, Extents | Btree) => true,
    };
    if !attr_fits {
        return damage!(
            "attribute fork at {} with {} extents in format {:?}",
            u32::from(i.fork_offset) * 8,
            i.attr_extent_count,
            i.attr_format
        );
    }
    Ok(())
}
