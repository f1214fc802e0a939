//! Directories: the short form in the inode, data blocks, the block form, and the hash index (leaf, node, free).
//!
//! Offsets of entries are within a directory block; an address in the index is `byte offset in the file / 8`.

use crate::bytes::{array, put, put_u8, put_u16, put_u32, put_u64, u8_at, u16_at, u32_at, u64_at};
use crate::crc;
use crate::error::{Damage, damage};
use crate::superblock::Superblock;

/// Byte offset in the directory of the first block of the hash index.
pub(crate) const LEAF_OFFSET_BYTES: u64 = 32 << 30;
/// Byte offset in the directory of the first block of the free index.
pub(crate) const FREE_OFFSET_BYTES: u64 = 64 << 30;

/// Offsets in a data block (also the block form).
pub(crate) mod data {
    /// Data and index in one block.
    pub(crate) const MAGIC_BLOCK: u32 = 0x5844_4233;
    /// Data only.
    pub(crate) const MAGIC_DATA: u32 = 0x5844_4433;
    /// Free index.
    pub(crate) const MAGIC_FREE: u32 = 0x5844_4633;
    pub(crate) const CRC: usize = 4;
    pub(crate) const BLKNO: usize = 8;
    pub(crate) const LSN: usize = 16;
    pub(crate) const UUID: usize = 24;
    pub(crate) const OWNER: usize = 40;
    /// Three times offset and length.
    pub(crate) const BEST_FREE: usize = 48;
    pub(crate) const LEN: usize = 64;
    /// Free index: number of the first data block, entries there are, entries used.
    pub(crate) const FREE_FIRST: usize = 48;
    pub(crate) const FREE_VALID: usize = 52;
    pub(crate) const FREE_USED: usize = 56;
    /// Marks a free region.
    pub(crate) const FREE_TAG: u16 = 0xFFFF;
    /// No data block there.
    pub(crate) const NO_BLOCK: u16 = 0xFFFF;
}

/// Offsets in a block of the hash index, and of the attribute btree.
pub(crate) mod da {
    pub(crate) const MAGIC_LEAF1: u16 = 0x3DF1;
    pub(crate) const MAGIC_LEAFN: u16 = 0x3DFF;
    pub(crate) const MAGIC_NODE: u16 = 0x3EBE;
    pub(crate) const MAGIC_ATTR_LEAF: u16 = 0x3BEE;
    pub(crate) const FORW: usize = 0;
    pub(crate) const BACK: usize = 4;
    pub(crate) const MAGIC: usize = 8;
    pub(crate) const CRC: usize = 12;
    pub(crate) const BLKNO: usize = 16;
    pub(crate) const LSN: usize = 24;
    pub(crate) const UUID: usize = 32;
    pub(crate) const OWNER: usize = 48;
    pub(crate) const COUNT: usize = 56;
    /// Directory leaf.
    pub(crate) const STALE: usize = 58;
    /// Node.
    pub(crate) const LEVEL: usize = 58;
    /// First entry of a directory leaf or node: 8 bytes each (hash, then address or block).
    pub(crate) const LEN: usize = 64;
}

/// The hash of a name, for directories and attributes.
pub(crate) fn hash_name(name: &[u8]) -> u32 {
    let mut hash = 0u32;
    let mut words = name.chunks_exact(4);
    for w in &mut words {
        let [a, b, c, d] = array(w, 0).map(u32::from);
        hash = a << 21 ^ b << 14 ^ c << 7 ^ d ^ hash.rotate_left(28);
    }
    match *words.remainder() {
        [a, b, c] => u32::from(a) << 14 ^ u32::from(b) << 7 ^ u32::from(c) ^ hash.rotate_left(21),
        [a, b] => u32::from(a) << 7 ^ u32::from(b) ^ hash.rotate_left(14),
        [a] => u32::from(a) ^ hash.rotate_left(7),
        _ => hash,
    }
}

/// Whether a name may be in a directory.
pub(crate) fn is_valid_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.iter().any(|&b| b == 0 || b == b'/')
}

/// Bytes of an entry with a name of `name_len` bytes in a data block: number, length, name, type, tag.
pub(crate) fn entry_len(name_len: usize) -> usize {
    (12 + name_len).next_multiple_of(8)
}

/// An entry of a directory in short form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShortEntry {
    /// Where the entry would be in a data block.
    pub offset: u16,
    pub name: Vec<u8>,
    pub ftype: u8,
    pub ino: u64,
}

/// A directory in the inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShortDir {
    pub parent: u64,
    /// Inode numbers have 8 bytes.
    pub wide: bool,
    pub entries: Vec<ShortEntry>,
}

impl ShortDir {
    /// First offset after `.` and `..` in a data block.
    pub(crate) const FIRST_OFFSET: usize = data::LEN + 16 + 16;

    /// Parses the fork, which is as long as the directory's size; verifies lengths, names and order.
    pub(crate) fn parse(fork: &[u8]) -> Result<Self, Damage> {
        let (count, wide_count) = (usize::from(u8_at(fork, 0)), usize::from(u8_at(fork, 1)));
        let wide = wide_count != 0;
        let ino_len = if wide { 8 } else { 4 };
        let number = |at: usize| if wide { u64_at(fork, at) } else { u64::from(u32_at(fork, at)) };
        if fork.len() < 2 + ino_len {
            return damage!("{} bytes are too few for a short directory", fork.len());
        }
        let parent = number(2);
        let mut at = 2 + ino_len;
        let mut entries = Vec::with_capacity(count);
        let mut min_offset = Self::FIRST_OFFSET;
        let mut big = usize::from(parent > u64::from(u32::MAX));
        for i in 0..count {
            let name_len = usize::from(u8_at(fork, at));
            let end = at + 3 + name_len + 1 + ino_len;
            if name_len == 0 || end > fork.len() {
                return damage!(
                    "entry {i} of {count} ends after the {} bytes of the short directory",
                    fork.len()
                );
            }
            let offset = u16_at(fork, at + 1);
            let name = fork[at + 3..at + 3 + name_len].to_vec();
            let ino = number(at + 4 + name_len);
            if usize::from(offset) < min_offset {
                return damage!("entry {i} has offset {offset}, less than {min_offset}");
            }
            min_offset = usize::from(offset) + entry_len(name_len);
            big += usize::from(ino > u64::from(u32::MAX));
            entries.push(ShortEntry { offset, name, ftype: u8_at(fork, at + 3 + name_len), ino });
            at = end;
        }
        if at != fork.len() {
            return damage!("{} bytes after the last entry of the short directory", fork.len() - at);
        }
        if wide_count != big {
            return damage!("{wide_count} long inode numbers counted, {big} found");
        }
        Ok(Self { parent, wide, entries })
    }

    /// Bytes it has in the inode.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn len(&self) -> usize {
        let ino_len = if self.wide { 8 } else { 4 };
        2 + ino_len + self.entries.iter().map(|e| 4 + e.name.len() + ino_len).sum::<usize>()
    }

    /// As stored; `wide` is recomputed.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let is_big = |ino: u64| ino > u64::from(u32::MAX);
        let big = self.entries.iter().filter(|e| is_big(e.ino)).count() + usize::from(is_big(self.parent));
        let mut out =
            vec![u8::try_from(self.entries.len()).unwrap_or(u8::MAX), u8::try_from(big).unwrap_or(u8::MAX)];
        let number = |out: &mut Vec<u8>, ino: u64| {
            let b = ino.to_be_bytes();
            out.extend_from_slice(if big != 0 { &b } else { &b[4..] });
        };
        number(&mut out, self.parent);
        for e in &self.entries {
            out.push(u8::try_from(e.name.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(&e.offset.to_be_bytes());
            out.extend_from_slice(&e.name);
            out.push(e.ftype);
            number(&mut out, e.ino);
        }
        out
    }
}

/// Verifies what all directory blocks with a data-style header have: magic, checksum, identity. Returns the magic.
pub(crate) fn verify_data_header(
    sb: &Superblock,
    ino: u64,
    daddr: u64,
    allowed: &[u32],
    block: &[u8],
) -> Result<u32, Damage> {
    let magic = u32_at(block, 0);
    if !allowed.contains(&magic) {
        return damage!("magic {magic:#x}");
    }
    if block.len() != sb.dir_block_size_bytes as usize {
        return damage!("{} bytes", block.len());
    }
    if !crc::verify(block, data::CRC) {
        return damage!("wrong checksum");
    }
    if array::<16>(block, data::UUID) != sb.meta_uuid {
        return damage!("UUID of another file system");
    }
    let (blkno, owner) = (u64_at(block, data::BLKNO), u64_at(block, data::OWNER));
    if blkno != daddr || owner != ino {
        return damage!("says it is at sector {blkno} of inode {owner}");
    }
    Ok(magic)
}

/// Writes the header of a data-style block; the checksum is left to `crc::stamp`.
pub(crate) fn write_data_header(sb: &Superblock, magic: u32, ino: u64, daddr: u64, block: &mut [u8]) {
    put_u32(block, 0, magic);
    put_u64(block, data::BLKNO, daddr);
    put_u64(block, data::LSN, 0);
    put(block, data::UUID, &sb.meta_uuid);
    put_u64(block, data::OWNER, ino);
}

/// What is at an offset of a data block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataItem<'a> {
    /// An entry.
    Entry { offset: usize, ino: u64, name: &'a [u8], ftype: u8 },
    /// A free region.
    Free { offset: usize, len: usize },
}

impl DataItem<'_> {
    pub(crate) fn offset(&self) -> usize {
        match self {
            Self::Entry { offset, .. } | Self::Free { offset, .. } => *offset,
        }
    }
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Entry { name, .. } => entry_len(name.len()),
            Self::Free { len, .. } => *len,
        }
    }
}

/// Where the entries of a data block end: before the index in the block form.
pub(crate) fn data_end(block: &[u8]) -> Result<usize, Damage> {
    if u32_at(block, 0) == data::MAGIC_BLOCK { Ok(BlockTail::parse(block)?.leaf_at) } else { Ok(block.len()) }
}

/// Everything in a data block, in order: entries and free regions cover it exactly, each with its tag.
pub(crate) fn parse_data(block: &[u8]) -> Result<Vec<DataItem<'_>>, Damage> {
    let end = data_end(block)?;
    let mut items = Vec::new();
    let mut at = data::LEN;
    while at < end {
        let item = if u16_at(block, at) == data::FREE_TAG {
            let len = usize::from(u16_at(block, at + 2));
            // a block of 64 KiB has at most 65536 - 64 free bytes, which fit
            if len < 8 || len % 8 != 0 {
                return damage!("free region of {len} bytes at {at}");
            }
            DataItem::Free { offset: at, len }
        } else {
            let name_len = usize::from(u8_at(block, at + 8));
            let Some(name) = block.get(at + 9..at + 9 + name_len).filter(|n| !n.is_empty()) else {
                return damage!("entry at {at} with a name of {name_len} bytes");
            };
            DataItem::Entry {
                offset: at,
                ino: u64_at(block, at),
                name,
                ftype: u8_at(block, at + 9 + name_len),
            }
        };
        let next = at + item.len();
        if next > end {
            return damage!("what is at {at} ends at {next}, after {end}");
        }
        let tag = usize::from(u16_at(block, next - 2));
        if tag != at {
            return damage!("what is at {at} has tag {tag}");
        }
        items.push(item);
        at = next;
    }
    Ok(items)
}

/// Writes an entry at `offset`.
pub(crate) fn write_entry(block: &mut [u8], offset: usize, ino: u64, name: &[u8], ftype: u8) {
    let len = entry_len(name.len());
    if let Some(b) = block.get_mut(offset..offset + len) {
        b.fill(0);
        put_u64(b, 0, ino);
        put_u8(b, 8, u8::try_from(name.len()).unwrap_or(u8::MAX));
        put(b, 9, name);
        put_u8(b, 9 + name.len(), ftype);
        put_u16(b, len - 2, u16::try_from(offset).unwrap_or(u16::MAX));
    }
}

/// Writes a free region of `len` bytes at `offset`; what was in it stays.
pub(crate) fn write_free(block: &mut [u8], offset: usize, len: usize) {
    put_u16(block, offset, data::FREE_TAG);
    put_u16(block, offset + 2, u16::try_from(len).unwrap_or(u16::MAX));
    put_u16(block, offset + len - 2, u16::try_from(offset).unwrap_or(u16::MAX));
}

/// The three longest free regions as (offset, length), longest first, as a data block stores them.
pub(crate) fn best_free(block: &[u8]) -> [(u16, u16); 3] {
    [0, 1, 2].map(|i| (u16_at(block, data::BEST_FREE + 4 * i), u16_at(block, data::BEST_FREE + 4 * i + 2)))
}

/// An entry of the hash index; address 0 marks a stale one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeafEntry {
    pub hash: u32,
    pub address: u32,
}

impl LeafEntry {
    pub(crate) const LEN: usize = 8;
    pub(crate) fn parse(b: &[u8], at: usize) -> Self {
        Self { hash: u32_at(b, at), address: u32_at(b, at + 4) }
    }
    pub(crate) fn write(self, b: &mut [u8], at: usize) {
        put_u32(b, at, self.hash);
        put_u32(b, at + 4, self.address);
    }
}

/// The index at the end of a directory in block form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockTail {
    /// Offset of the first index entry.
    pub leaf_at: usize,
    pub count: usize,
    pub stale: usize,
}

impl BlockTail {
    /// Bytes of count and stale count.
    pub(crate) const LEN: usize = 8;
    pub(crate) fn parse(block: &[u8]) -> Result<Self, Damage> {
        let at = block.len().saturating_sub(Self::LEN);
        let (count, stale) = (u32_at(block, at) as usize, u32_at(block, at + 4) as usize);
        match at.checked_sub(count.saturating_mul(LeafEntry::LEN)) {
            Some(leaf_at) if leaf_at >= data::LEN && stale <= count => Ok(Self { leaf_at, count, stale }),
            _ => damage!("{count} index entries, {stale} of them stale, in a block of {} bytes", block.len()),
        }
    }
    pub(crate) fn entries(&self, block: &[u8]) -> Vec<LeafEntry> {
        (0..self.count).map(|i| LeafEntry::parse(block, self.leaf_at + LeafEntry::LEN * i)).collect()
    }
}

/// Verifies what all blocks of a hash index (and of an attribute btree) have. Returns the magic.
pub(crate) fn verify_da_header(
    sb: &Superblock,
    ino: u64,
    daddr: u64,
    allowed: &[u16],
    block: &[u8],
) -> Result<u16, Damage> {
    let magic = u16_at(block, da::MAGIC);
    if !allowed.contains(&magic) {
        return damage!("magic {magic:#x}");
    }
    if !crc::verify(block, da::CRC) {
        return damage!("wrong checksum");
    }
    if array::<16>(block, da::UUID) != sb.meta_uuid {
        return damage!("UUID of another file system");
    }
    let (blkno, owner) = (u64_at(block, da::BLKNO), u64_at(block, da::OWNER));
    if blkno != daddr || owner != ino {
        return damage!("says it is at sector {blkno} of inode {owner}");
    }
    Ok(magic)
}

/// Writes the header of a block of a hash index; the checksum is left to `crc::stamp`.
pub(crate) fn write_da_header(sb: &Superblock, magic: u16, ino: u64, daddr: u64, block: &mut [u8]) {
    put_u32(block, da::FORW, 0);
    put_u32(block, da::BACK, 0);
    put_u16(block, da::MAGIC, magic);
    put_u64(block, da::BLKNO, daddr);
    put_u64(block, da::LSN, 0);
    put(block, da::UUID, &sb.meta_uuid);
    put_u64(block, da::OWNER, ino);
}

/// A leaf of the hash index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The only leaf, with `bests` at its end.
    pub is_single: bool,
    pub forw: u32,
    pub back: u32,
    pub stale: usize,
    pub entries: Vec<LeafEntry>,
    /// The longest free region of each data block, of a single leaf.
    pub bests: Vec<u16>,
}

impl Leaf {
    /// Parses a block that [`verify_da_header`] accepted.
    pub(crate) fn parse(block: &[u8]) -> Result<Self, Damage> {
        let is_single = u16_at(block, da::MAGIC) == da::MAGIC_LEAF1;
        let (count, stale) = (usize::from(u16_at(block, da::COUNT)), usize::from(u16_at(block, da::STALE)));
        let entries_end = da::LEN + count * LeafEntry::LEN;
        let best_count = if is_single { u32_at(block, block.len() - 4) as usize } else { 0 };
        let tail = if is_single { best_count.saturating_mul(2).saturating_add(4) } else { 0 };
        let Some(bests_at) = block.len().checked_sub(tail).filter(|&at| at >= entries_end && stale <= count)
        else {
            return damage!(
                "{count} entries, {stale} of them stale, and {best_count} best free lengths in {} bytes",
                block.len()
            );
        };
        Ok(Self {
            is_single,
            forw: u32_at(block, da::FORW),
            back: u32_at(block, da::BACK),
            stale,
            entries: (0..count).map(|i| LeafEntry::parse(block, da::LEN + LeafEntry::LEN * i)).collect(),
            bests: (0..best_count).map(|i| u16_at(block, bests_at + 2 * i)).collect(),
        })
    }
}

/// A node above leaves: of a hash index or of an attribute btree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub forw: u32,
    pub back: u32,
    /// 1 above leaves.
    pub level: u16,
    /// Highest hash and file block (in blocks of the file system) of each child.
    pub children: Vec<(u32, u32)>,
}

impl Node {
    /// Parses a block that [`verify_da_header`] accepted.
    pub(crate) fn parse(block: &[u8]) -> Result<Self, Damage> {
        let (count, level) = (usize::from(u16_at(block, da::COUNT)), u16_at(block, da::LEVEL));
        let max = (block.len() - da::LEN) / 8;
        if count == 0 || count > max {
            return damage!("{count} children of at most {max}");
        }
        // XFS_DA_NODE_MAXDEPTH
        if level == 0 || level > 5 {
            return damage!("level {level}");
        }
        Ok(Self {
            forw: u32_at(block, da::FORW),
            back: u32_at(block, da::BACK),
            level,
            children: (0..count)
                .map(|i| (u32_at(block, da::LEN + 8 * i), u32_at(block, da::LEN + 8 * i + 4)))
                .collect(),
        })
    }
}

/// A block of the free index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FreeIndex {
    /// Number (in directory blocks) of the first data block it is about.
    pub first: u32,
    /// Entries that are not [`data::NO_BLOCK`].
    pub used: usize,
    /// The longest free region of each data block.
    pub bests: Vec<u16>,
}

impl FreeIndex {
    /// How many data blocks one block of the free index is about.
    pub(crate) fn max_bests(dir_block_size_bytes: u32) -> u32 {
        (dir_block_size_bytes - 64) / 2
    }
    /// Parses a block that [`verify_data_header`] accepted.
    pub(crate) fn parse(block: &[u8]) -> Result<Self, Damage> {
        let first = u32_at(block, data::FREE_FIRST);
        let (valid, used) =
            (u32_at(block, data::FREE_VALID) as usize, u32_at(block, data::FREE_USED) as usize);
        if valid > (block.len() - data::LEN) / 2 || used > valid {
            return damage!("{used} of {valid} entries used in {} bytes", block.len());
        }
        Ok(Self { first, used, bests: (0..valid).map(|i| u16_at(block, data::LEN + 2 * i)).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_names() {
        // `.` and `..` as every directory in block form has them
        assert_eq!(hash_name(b"."), 0x2E);
        assert_eq!(hash_name(b".."), 0x172E);
        assert_eq!(hash_name(b"abcd"), 0x61 << 21 ^ 0x62 << 14 ^ 0x63 << 7 ^ 0x64);
        assert_eq!(hash_name(b"abcde"), hash_name(b"abcd").rotate_left(7) ^ 0x65);
    }

    #[test]
    fn short_directories_are_written_as_read() {
        for ino in [131, 1 << 40] {
            let entries = vec![ShortEntry { offset: 0x60, name: b"name".to_vec(), ftype: 1, ino }];
            let dir = ShortDir { parent: 128, wide: ino > 1 << 32, entries };
            let bytes = dir.to_bytes();
            assert_eq!(bytes.len(), dir.len());
            assert_eq!(ShortDir::parse(&bytes), Ok(dir));
            assert!(ShortDir::parse(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn data_blocks_are_covered() {
        let mut block = vec![0; 1024];
        put_u32(&mut block, 0, data::MAGIC_DATA);
        write_entry(&mut block, 64, 131, b"name", 1);
        write_free(&mut block, 80, 1024 - 80);
        let items = parse_data(&block).unwrap();
        assert_eq!(items[0], DataItem::Entry { offset: 64, ino: 131, name: b"name", ftype: 1 });
        assert_eq!(items[1], DataItem::Free { offset: 80, len: 944 });
        put_u16(&mut block, 82, 936);
        assert!(parse_data(&block).is_err());
    }
}
