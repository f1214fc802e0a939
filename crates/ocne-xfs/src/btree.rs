//! Blocks and records of all btrees. The six btrees of an allocation group have short pointers (block numbers in
//! the group), the block map of a file has long ones (file system block numbers).

use crate::bytes::{array, put_u8, put_u16, put_u32, put_u64, u8_at, u16_at, u32_at, u64_at};
use crate::crc;
use crate::error::{Damage, damage};
use crate::superblock::Superblock;

/// No tree that fits in a file system is higher.
pub(crate) const MAX_LEVELS: u32 = 9;

/// Offsets in the header of a block with short pointers.
pub(crate) mod short {
    pub(crate) const LEVEL: usize = 4;
    pub(crate) const NUMRECS: usize = 6;
    pub(crate) const LEFT: usize = 8;
    pub(crate) const RIGHT: usize = 12;
    pub(crate) const BLKNO: usize = 16;
    pub(crate) const LSN: usize = 24;
    pub(crate) const UUID: usize = 32;
    pub(crate) const OWNER: usize = 48;
    pub(crate) const CRC: usize = 52;
    pub(crate) const LEN: usize = 56;
}

/// Offsets in the header of a block with long pointers.
pub(crate) mod long {
    pub(crate) const MAGIC: u32 = 0x424D_4133;
    pub(crate) const LEVEL: usize = 4;
    pub(crate) const NUMRECS: usize = 6;
    pub(crate) const LEFT: usize = 8;
    pub(crate) const RIGHT: usize = 16;
    pub(crate) const BLKNO: usize = 24;
    pub(crate) const LSN: usize = 32;
    pub(crate) const UUID: usize = 40;
    pub(crate) const OWNER: usize = 56;
    pub(crate) const CRC: usize = 64;
    pub(crate) const LEN: usize = 72;
    /// No sibling.
    pub(crate) const NULL: u64 = u64::MAX;
}

/// The btrees of an allocation group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Tree {
    /// Free space by block.
    Bno,
    /// Free space by length, then block.
    Cnt,
    /// Reverse mappings.
    Rmap,
    /// Reference counts of shared blocks.
    Refcount,
    /// Inode chunks.
    Ino,
    /// Inode chunks with free inodes.
    Fino,
}

impl Tree {
    pub(crate) const ALL: [Self; 6] =
        [Self::Bno, Self::Cnt, Self::Rmap, Self::Refcount, Self::Ino, Self::Fino];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bno => "bnobt",
            Self::Cnt => "cntbt",
            Self::Rmap => "rmapbt",
            Self::Refcount => "refcountbt",
            Self::Ino => "inobt",
            Self::Fino => "finobt",
        }
    }

    pub(crate) fn magic(self) -> u32 {
        u32::from_be_bytes(*match self {
            Self::Bno => b"AB3B",
            Self::Cnt => b"AB3C",
            Self::Rmap => b"RMB3",
            Self::Refcount => b"R3FC",
            Self::Ino => b"IAB3",
            Self::Fino => b"FIB3",
        })
    }

    /// Whether a file system has this tree.
    pub(crate) fn is_in(self, sb: &Superblock) -> bool {
        match self {
            Self::Bno | Self::Cnt | Self::Ino => true,
            Self::Rmap => sb.has_rmapbt(),
            Self::Refcount => sb.has_reflink(),
            Self::Fino => sb.has_finobt(),
        }
    }

    /// Bytes of a record.
    pub(crate) fn record_len(self) -> usize {
        match self {
            Self::Bno | Self::Cnt => 8,
            Self::Rmap => 24,
            Self::Refcount => 12,
            Self::Ino | Self::Fino => 16,
        }
    }

    /// Bytes of a key.
    pub(crate) fn key_len(self) -> usize {
        match self {
            Self::Bno | Self::Cnt => 8,
            Self::Rmap => 20,
            Self::Refcount | Self::Ino | Self::Fino => 4,
        }
    }

    /// Bytes of what a node has for a child besides the pointer: the rmapbt has the child's lowest and highest key.
    pub(crate) fn node_key_len(self) -> usize {
        match self {
            Self::Rmap => 40,
            _ => self.key_len(),
        }
    }

    /// Records of a full leaf.
    pub(crate) fn max_records(self, block_size_bytes: u32) -> usize {
        (block_size_bytes as usize - short::LEN) / self.record_len()
    }

    /// Children of a full node.
    pub(crate) fn max_children(self, block_size_bytes: u32) -> usize {
        (block_size_bytes as usize - short::LEN) / (self.node_key_len() + 4)
    }
}

/// A btree block with short pointers whose header was verified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShortBlock<'a> {
    pub tree: Tree,
    pub count: usize,
    pub left: u32,
    pub right: u32,
    pub bytes: &'a [u8],
}

impl<'a> ShortBlock<'a> {
    /// Verifies checksum, magic, level, identity and the number of entries (at least one unless `is_root`).
    pub(crate) fn parse(
        sb: &Superblock,
        tree: Tree,
        agno: u32,
        agbno: u32,
        level: u32,
        is_root: bool,
        bytes: &'a [u8],
    ) -> Result<Self, Damage> {
        if bytes.len() != sb.block_size_bytes as usize {
            return damage!("{} bytes", bytes.len());
        }
        if u32_at(bytes, 0) != tree.magic() {
            return damage!("magic {:#x} instead of {:#x}", u32_at(bytes, 0), tree.magic());
        }
        if !crc::verify(bytes, short::CRC) {
            return damage!("wrong checksum");
        }
        if array::<16>(bytes, short::UUID) != sb.meta_uuid {
            return damage!("UUID of another file system");
        }
        let (blkno, owner) = (u64_at(bytes, short::BLKNO), u32_at(bytes, short::OWNER));
        if blkno != sb.agb_daddr(agno, agbno) || owner != agno {
            return damage!("says it is at sector {blkno} of AG {owner}");
        }
        let found_level = u16_at(bytes, short::LEVEL);
        if u32::from(found_level) != level {
            return damage!("level {found_level} instead of {level}");
        }
        let count = usize::from(u16_at(bytes, short::NUMRECS));
        let max = if level == 0 {
            tree.max_records(sb.block_size_bytes)
        } else {
            tree.max_children(sb.block_size_bytes)
        };
        if count > max || (count == 0 && !(is_root && level == 0)) {
            return damage!("{count} entries of at most {max}");
        }
        let (left, right) = (u32_at(bytes, short::LEFT), u32_at(bytes, short::RIGHT));
        Ok(Self { tree, count, left, right, bytes })
    }

    /// The bytes of record `i` of a leaf.
    pub(crate) fn record(&self, i: usize) -> &'a [u8] {
        let at = record_at(self.tree, i);
        self.bytes.get(at..at + self.tree.record_len()).unwrap_or(&[])
    }

    /// The (lowest) key of child `i` of a node.
    pub(crate) fn key(&self, i: usize) -> &'a [u8] {
        let at = key_at(self.tree, i);
        self.bytes.get(at..at + self.tree.key_len()).unwrap_or(&[])
    }

    /// The highest key of child `i` of an rmapbt node.
    pub(crate) fn high_key(&self, i: usize) -> &'a [u8] {
        let at = key_at(self.tree, i) + self.tree.key_len();
        self.bytes.get(at..at + self.tree.key_len()).unwrap_or(&[])
    }

    /// The block of child `i` of a node.
    pub(crate) fn child(&self, i: usize) -> u32 {
        u32_at(self.bytes, pointer_at(self.tree, self.bytes.len(), i))
    }
}

/// Offset of record `i` in a leaf.
pub(crate) fn record_at(tree: Tree, i: usize) -> usize {
    short::LEN + i * tree.record_len()
}

/// Offset of the key of child `i` in a node.
pub(crate) fn key_at(tree: Tree, i: usize) -> usize {
    short::LEN + i * tree.node_key_len()
}

/// Offset of the pointer to child `i` in a node of `block_len` bytes.
pub(crate) fn pointer_at(tree: Tree, block_len: usize, i: usize) -> usize {
    let max = (block_len - short::LEN) / (tree.node_key_len() + 4);
    short::LEN + max * tree.node_key_len() + 4 * i
}

/// Writes a header for an empty block with short pointers; the checksum is left to `crc::stamp`.
pub(crate) fn write_short_header(
    sb: &Superblock,
    tree: Tree,
    agno: u32,
    agbno: u32,
    level: u16,
    bytes: &mut [u8],
) {
    put_u32(bytes, 0, tree.magic());
    put_u16(bytes, short::LEVEL, level);
    put_u16(bytes, short::NUMRECS, 0);
    put_u32(bytes, short::LEFT, u32::MAX);
    put_u32(bytes, short::RIGHT, u32::MAX);
    put_u64(bytes, short::BLKNO, sb.agb_daddr(agno, agbno));
    put_u64(bytes, short::LSN, 0);
    crate::bytes::put(bytes, short::UUID, &sb.meta_uuid);
    put_u32(bytes, short::OWNER, agno);
    put_u32(bytes, short::CRC, 0);
}

/// Free space: a record of bnobt or cntbt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FreeRecord {
    pub start: u32,
    pub count: u32,
}

impl FreeRecord {
    pub(crate) fn parse(b: &[u8]) -> Self {
        Self { start: u32_at(b, 0), count: u32_at(b, 4) }
    }
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as the other records")]
    pub(crate) fn write(&self, b: &mut [u8]) {
        put_u32(b, 0, self.start);
        put_u32(b, 4, self.count);
    }
    /// Block after the last, in 64 bits so that it cannot overflow.
    pub(crate) fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.count)
    }
}

/// Inodes of a chunk: always 64 numbers.
pub(crate) const INODES_PER_CHUNK: u32 = 64;
/// Inodes of a bit of the hole mask.
pub(crate) const INODES_PER_HOLE_BIT: u32 = 4;

/// An inode chunk: a record of inobt or finobt. Without sparse inodes, `hole_mask` is 0 and `count` 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InodeRecord {
    /// Number in the group of the first inode.
    pub start: u32,
    /// A bit set for each four inodes that do not exist.
    pub hole_mask: u16,
    /// Inodes that exist.
    pub count: u8,
    /// Inodes that exist and are not used. (Up to 64; a byte on disk with sparse inodes, else a word.)
    pub free_count: u32,
    /// A bit set for each inode that is not used or does not exist.
    pub free: u64,
}

impl InodeRecord {
    pub(crate) fn parse(sb: &Superblock, b: &[u8]) -> Self {
        let (start, free) = (u32_at(b, 0), u64_at(b, 8));
        if sb.has_sparse_inodes() {
            let (hole_mask, count, free_count) = (u16_at(b, 4), u8_at(b, 6), u32::from(u8_at(b, 7)));
            Self { start, hole_mask, count, free_count, free }
        } else {
            Self { start, hole_mask: 0, count: 64, free_count: u32_at(b, 4), free }
        }
    }
    pub(crate) fn write(&self, sb: &Superblock, b: &mut [u8]) {
        put_u32(b, 0, self.start);
        if sb.has_sparse_inodes() {
            put_u16(b, 4, self.hole_mask);
            put_u8(b, 6, self.count);
            put_u8(b, 7, u8::try_from(self.free_count).unwrap_or(u8::MAX));
        } else {
            put_u32(b, 4, self.free_count);
        }
        put_u64(b, 8, self.free);
    }
    /// A bit set for each inode that does not exist.
    pub(crate) fn holes(&self) -> u64 {
        (0..16).filter(|i| self.hole_mask >> i & 1 != 0).fold(0, |m, i| m | 0xF << (4 * i))
    }
}

/// The bit of a reference count record's start that marks blocks staged for copy on write.
pub(crate) const REFCOUNT_COW: u32 = 1 << 31;

/// Reference count of shared blocks: a record of refcountbt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefcountRecord {
    /// With [`REFCOUNT_COW`] in it.
    pub start: u32,
    pub count: u32,
    pub refs: u32,
}

impl RefcountRecord {
    pub(crate) fn parse(b: &[u8]) -> Self {
        Self { start: u32_at(b, 0), count: u32_at(b, 4), refs: u32_at(b, 8) }
    }
    pub(crate) fn write(&self, b: &mut [u8]) {
        put_u32(b, 0, self.start);
        put_u32(b, 4, self.count);
        put_u32(b, 8, self.refs);
    }
}

/// Owners of a reverse mapping that are not inodes (`XFS_RMAP_OWN_*`: negative numbers).
pub(crate) mod owner {
    pub(crate) const NULL: u64 = u64::MAX;
    /// AG headers.
    pub(crate) const FS: u64 = u64::MAX - 2;
    pub(crate) const LOG: u64 = u64::MAX - 3;
    /// Free space btrees, rmapbt and AGFL.
    pub(crate) const AG: u64 = u64::MAX - 4;
    pub(crate) const INOBT: u64 = u64::MAX - 5;
    pub(crate) const INODES: u64 = u64::MAX - 6;
    pub(crate) const REFCOUNT: u64 = u64::MAX - 7;
    pub(crate) const COW: u64 = u64::MAX - 8;
}

/// Flags in the offset of a reverse mapping.
pub(crate) const RMAP_ATTR_FORK: u64 = 1 << 63;
pub(crate) const RMAP_BMBT_BLOCK: u64 = 1 << 62;
pub(crate) const RMAP_UNWRITTEN: u64 = 1 << 61;
pub(crate) const RMAP_OFFSET_MASK: u64 = (1 << 54) - 1;

/// Reverse mapping: a record of rmapbt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RmapRecord {
    pub start: u32,
    pub count: u32,
    pub owner: u64,
    /// Offset in the owner, in blocks, with the three flags.
    pub offset: u64,
}

impl RmapRecord {
    pub(crate) fn parse(b: &[u8]) -> Self {
        Self { start: u32_at(b, 0), count: u32_at(b, 4), owner: u64_at(b, 8), offset: u64_at(b, 16) }
    }
    pub(crate) fn write(&self, b: &mut [u8]) {
        put_u32(b, 0, self.start);
        put_u32(b, 4, self.count);
        put_u64(b, 8, self.owner);
        put_u64(b, 16, self.offset);
    }
    /// Whether the owner is an inode.
    pub(crate) fn is_inode_owner(&self) -> bool {
        self.owner < owner::COW - 64
    }
    /// The lowest key, for comparisons: without the unwritten flag, which kernels treat differently in keys.
    pub(crate) fn key(&self) -> RmapKey {
        RmapKey { start: self.start, owner: self.owner, offset: self.offset & !RMAP_UNWRITTEN }
    }
    /// The highest key: of the last block; the offset moves only for file data.
    pub(crate) fn high_key(&self) -> RmapKey {
        let more = self.count.saturating_sub(1);
        let mut key = self.key();
        key.start = key.start.saturating_add(more);
        if self.is_inode_owner() && self.offset & RMAP_BMBT_BLOCK == 0 {
            key.offset = key.offset.saturating_add(u64::from(more));
        }
        key
    }
}

/// A key of the rmapbt, without the unwritten flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RmapKey {
    pub start: u32,
    pub owner: u64,
    pub offset: u64,
}

impl RmapKey {
    pub(crate) fn parse(b: &[u8]) -> Self {
        Self { start: u32_at(b, 0), owner: u64_at(b, 4), offset: u64_at(b, 12) & !RMAP_UNWRITTEN }
    }
}

/// A block of a file's block map btree whose header was verified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LongBlock<'a> {
    pub count: usize,
    pub left: u64,
    pub right: u64,
    pub bytes: &'a [u8],
}

impl<'a> LongBlock<'a> {
    /// Verifies checksum, magic, level, identity (`ino` owns it) and the number of entries (at least one).
    pub(crate) fn parse(
        sb: &Superblock,
        ino: u64,
        fsblock: u64,
        level: u32,
        bytes: &'a [u8],
    ) -> Result<Self, Damage> {
        if bytes.len() != sb.block_size_bytes as usize {
            return damage!("{} bytes", bytes.len());
        }
        if u32_at(bytes, 0) != long::MAGIC {
            return damage!("magic {:#x} instead of {:#x}", u32_at(bytes, 0), long::MAGIC);
        }
        if !crc::verify(bytes, long::CRC) {
            return damage!("wrong checksum");
        }
        if array::<16>(bytes, long::UUID) != sb.meta_uuid {
            return damage!("UUID of another file system");
        }
        let (blkno, owner) = (u64_at(bytes, long::BLKNO), u64_at(bytes, long::OWNER));
        if sb.fsblock_offset_bytes(fsblock).map(|b| b >> 9) != Some(blkno) || owner != ino {
            return damage!("says it is at sector {blkno} of inode {owner}");
        }
        let found_level = u16_at(bytes, long::LEVEL);
        if u32::from(found_level) != level {
            return damage!("level {found_level} instead of {level}");
        }
        let count = usize::from(u16_at(bytes, long::NUMRECS));
        // records and key plus pointer have 16 bytes both
        let max = (bytes.len() - long::LEN) / 16;
        if count == 0 || count > max {
            return damage!("{count} entries of at most {max}");
        }
        let (left, right) = (u64_at(bytes, long::LEFT), u64_at(bytes, long::RIGHT));
        Ok(Self { count, left, right, bytes })
    }

    /// The bytes of record `i` of a leaf: see `inode::Extent`.
    pub(crate) fn record(&self, i: usize) -> &'a [u8] {
        self.bytes.get(long::LEN + 16 * i..long::LEN + 16 * i + 16).unwrap_or(&[])
    }
    /// The first file block of child `i` of a node.
    pub(crate) fn key(&self, i: usize) -> u64 {
        u64_at(self.bytes, long::LEN + 8 * i)
    }
    /// The block of child `i` of a node.
    pub(crate) fn child(&self, i: usize) -> u64 {
        u64_at(self.bytes, long_pointer_at(self.bytes.len(), i))
    }
}

/// Offset of the pointer to child `i` in a block map node of `block_len` bytes.
pub(crate) fn long_pointer_at(block_len: usize, i: usize) -> usize {
    long::LEN + 8 * ((block_len - long::LEN) / 16) + 8 * i
}

/// Writes a header for an empty block of a block map; the checksum is left to `crc::stamp`.
pub(crate) fn write_long_header(sb: &Superblock, ino: u64, fsblock: u64, level: u16, bytes: &mut [u8]) {
    put_u32(bytes, 0, long::MAGIC);
    put_u16(bytes, long::LEVEL, level);
    put_u16(bytes, long::NUMRECS, 0);
    put_u64(bytes, long::LEFT, long::NULL);
    put_u64(bytes, long::RIGHT, long::NULL);
    put_u64(bytes, long::BLKNO, sb.fsblock_offset_bytes(fsblock).unwrap_or(0) >> 9);
    put_u64(bytes, long::LSN, 0);
    crate::bytes::put(bytes, long::UUID, &sb.meta_uuid);
    put_u64(bytes, long::OWNER, ino);
    put_u64(bytes, long::CRC, 0);
}

/// The root of a block map in an inode's fork: level and count, then keys, then pointers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BmapRoot {
    /// At least 1: the children are at `level - 1`.
    pub level: u16,
    /// First file block and block of each child.
    pub children: Vec<(u64, u64)>,
}

impl BmapRoot {
    /// How many children fit in a fork of `fork_len` bytes.
    pub(crate) fn max_children(fork_len: usize) -> usize {
        fork_len.saturating_sub(4) / 16
    }
    pub(crate) fn parse(fork: &[u8]) -> Result<Self, Damage> {
        let (level, count) = (u16_at(fork, 0), usize::from(u16_at(fork, 2)));
        let max = Self::max_children(fork.len());
        if level == 0 || u32::from(level) > MAX_LEVELS {
            return damage!("block map root of level {level}");
        }
        if count == 0 || count > max {
            return damage!("block map root with {count} entries of at most {max}");
        }
        let children =
            (0..count).map(|i| (u64_at(fork, 4 + 8 * i), u64_at(fork, 4 + 8 * max + 8 * i))).collect();
        Ok(Self { level, children })
    }
    /// Writes the root; the rest of the fork becomes zero.
    pub(crate) fn write(&self, fork: &mut [u8]) {
        fork.fill(0);
        let max = Self::max_children(fork.len());
        put_u16(fork, 0, self.level);
        put_u16(fork, 2, u16::try_from(self.children.len()).unwrap_or(u16::MAX));
        for (i, (key, block)) in self.children.iter().enumerate().take(max) {
            put_u64(fork, 4 + 8 * i, *key);
            put_u64(fork, 4 + 8 * max + 8 * i, *block);
        }
    }
}
