//! Laying out a directory: from its entries to the smallest form that holds them.

use crate::btree::MAX_LEVELS;
use crate::bytes::{put_u16, put_u32};
use crate::dir::{
    BlockTail, FREE_OFFSET_BYTES, FreeIndex, LEAF_OFFSET_BYTES, LeafEntry, ShortDir, ShortEntry, da, data,
    entry_len, hash_name, write_da_header, write_data_header, write_entry, write_free,
};
use crate::inode::FileType;
use crate::read::DirEntry;
use crate::superblock::Superblock;

/// A directory as it is to be stored.
#[derive(Debug)]
pub(super) enum Layout {
    /// In the inode.
    Short(Vec<u8>),
    /// In blocks.
    Blocks {
        blocks: Vec<NewBlock>,
        /// Of the data blocks alone, which is the directory's size.
        data_bytes: u64,
    },
}

/// A directory block without what depends on where it will be: address, LSN and checksum.
#[derive(Debug)]
pub(super) struct NewBlock {
    /// In blocks of the file system.
    pub file_block: u64,
    pub bytes: Vec<u8>,
    /// Whether its header is that of the hash index.
    pub is_index: bool,
}

/// A block of the index, and the highest hash in it.
type Child = (u32, u64);

struct Builder<'a> {
    sb: &'a Superblock,
    ino: u64,
    block_len: usize,
    blocks: Vec<NewBlock>,
}

/// Lays out a directory whose data fork has `fork_len` bytes.
pub(super) fn lay_out(
    sb: &Superblock,
    ino: u64,
    parent: u64,
    entries: &[DirEntry],
    fork_len: usize,
) -> Layout {
    let block_len = sb.dir_block_size_bytes as usize;
    // `.` and `..` have 16 bytes each
    let data_bytes = 32 + entries.iter().map(|e| entry_len(e.name.len())).sum::<usize>();
    let index_bytes = LeafEntry::LEN * (entries.len() + 2) + BlockTail::LEN;
    let fits_block = data::LEN + data_bytes + index_bytes <= block_len;
    if fits_block && let Some(short) = short(parent, entries, fork_len) {
        return Layout::Short(short);
    }
    let mut b = Builder { sb, ino, block_len, blocks: Vec::new() };
    if fits_block {
        b.block_form(parent, entries);
        return Layout::Blocks { blocks: b.blocks, data_bytes: block_len as u64 };
    }
    let (index, bests) = b.data_blocks(parent, entries, data::MAGIC_DATA);
    let data_bytes = (bests.len() * block_len) as u64;
    if da::LEN + LeafEntry::LEN * index.len() + 2 * bests.len() + 4 <= block_len {
        b.single_leaf(&index, &bests);
    } else {
        b.node_form(&index, &bests);
    }
    Layout::Blocks { blocks: b.blocks, data_bytes }
}

fn short(parent: u64, entries: &[DirEntry], fork_len: usize) -> Option<Vec<u8>> {
    if entries.len() > usize::from(u8::MAX) {
        return None;
    }
    let mut offset = ShortDir::FIRST_OFFSET;
    let mut short = Vec::with_capacity(entries.len());
    for e in entries {
        short.push(ShortEntry {
            offset: u16::try_from(offset).ok()?,
            name: e.name.clone(),
            ftype: e.file_type.to_dirent(),
            ino: e.ino,
        });
        offset += entry_len(e.name.len());
    }
    let bytes = ShortDir { parent, wide: false, entries: short }.to_bytes();
    (bytes.len() <= fork_len).then_some(bytes)
}

impl Builder<'_> {
    fn dir_block_blocks(&self) -> u64 {
        u64::from(self.sb.dir_block_blocks())
    }

    /// The number (in blocks of the file system) of block `i` of the index.
    fn index_block(&self, i: usize) -> u64 {
        (LEAF_OFFSET_BYTES >> self.sb.block_log) + i as u64 * self.dir_block_blocks()
    }

    /// Data blocks of the entries in order, and `.` and `..`; returns the index, sorted, and the longest free region
    /// of each block.
    fn data_blocks(&mut self, parent: u64, entries: &[DirEntry], magic: u32) -> (Vec<LeafEntry>, Vec<u16>) {
        let directory = FileType::Directory.to_dirent();
        let own = [(&b"."[..], self.ino, directory), (&b".."[..], parent, directory)];
        let all =
            own.into_iter().chain(entries.iter().map(|e| (&e.name[..], e.ino, e.file_type.to_dirent())));
        let mut index = Vec::with_capacity(entries.len() + 2);
        let mut bests = Vec::new();
        let mut block = self.empty_data(magic);
        let mut at = data::LEN;
        for (name, ino, ftype) in all {
            if at + entry_len(name.len()) > self.block_len {
                bests.push(self.finish_data(block, at, self.block_len));
                block = self.empty_data(magic);
                at = data::LEN;
            }
            write_entry(&mut block, at, ino, name, ftype);
            let address = (bests.len() * self.block_len + at) / 8;
            index.push(LeafEntry {
                hash: hash_name(name),
                address: u32::try_from(address).unwrap_or(u32::MAX),
            });
            at += entry_len(name.len());
        }
        index.sort_unstable();
        let end = match magic {
            data::MAGIC_BLOCK => self.block_len - BlockTail::LEN - LeafEntry::LEN * index.len(),
            _ => self.block_len,
        };
        bests.push(self.finish_data(block, at, end));
        (index, bests)
    }

    fn empty_data(&self, magic: u32) -> Vec<u8> {
        let mut block = vec![0; self.block_len];
        write_data_header(self.sb, magic, self.ino, 0, &mut block);
        block
    }

    /// Marks the rest of a data block as free, and keeps the block.
    fn finish_data(&mut self, mut block: Vec<u8>, at: usize, end: usize) -> u16 {
        let free = u16::try_from(end - at).unwrap_or(u16::MAX);
        if free > 0 {
            write_free(&mut block, at, usize::from(free));
            put_u16(&mut block, data::BEST_FREE, u16::try_from(at).unwrap_or(u16::MAX));
            put_u16(&mut block, data::BEST_FREE + 2, free);
        }
        let file_block = self.blocks.len() as u64 * self.dir_block_blocks();
        self.blocks.push(NewBlock { file_block, bytes: block, is_index: false });
        free
    }

    fn block_form(&mut self, parent: u64, entries: &[DirEntry]) {
        let (index, _) = self.data_blocks(parent, entries, data::MAGIC_BLOCK);
        let block_len = self.block_len;
        if let Some(NewBlock { bytes, .. }) = self.blocks.last_mut() {
            let leaf_at = block_len - BlockTail::LEN - LeafEntry::LEN * index.len();
            for (i, e) in index.iter().enumerate() {
                e.write(bytes, leaf_at + LeafEntry::LEN * i);
            }
            put_u32(bytes, block_len - BlockTail::LEN, u32::try_from(index.len()).unwrap_or(u32::MAX));
        }
    }

    /// A block of the index: `i` is its place there, `entries` are hashes with addresses or blocks.
    fn push_index(
        &mut self,
        i: usize,
        magic: u16,
        entries: &[LeafEntry],
        (back, forw): (u64, u64),
        level: u16,
    ) {
        let mut bytes = vec![0; self.block_len];
        write_da_header(self.sb, magic, self.ino, 0, &mut bytes);
        put_u32(&mut bytes, da::FORW, u32::try_from(forw).unwrap_or(u32::MAX));
        put_u32(&mut bytes, da::BACK, u32::try_from(back).unwrap_or(u32::MAX));
        put_u16(&mut bytes, da::COUNT, u16::try_from(entries.len()).unwrap_or(u16::MAX));
        if magic == da::MAGIC_NODE {
            put_u16(&mut bytes, da::LEVEL, level);
        }
        for (n, e) in entries.iter().enumerate() {
            e.write(&mut bytes, da::LEN + LeafEntry::LEN * n);
        }
        let file_block = self.index_block(i);
        self.blocks.push(NewBlock { file_block, bytes, is_index: true });
    }

    fn single_leaf(&mut self, index: &[LeafEntry], bests: &[u16]) {
        self.push_index(0, da::MAGIC_LEAF1, index, (0, 0), 0);
        let len = self.block_len;
        if let Some(NewBlock { bytes, .. }) = self.blocks.last_mut() {
            let at = len - 4 - 2 * bests.len();
            for (i, &best) in bests.iter().enumerate() {
                put_u16(bytes, at + 2 * i, best);
            }
            put_u32(bytes, len - 4, u32::try_from(bests.len()).unwrap_or(u32::MAX));
        }
    }

    fn node_form(&mut self, index: &[LeafEntry], bests: &[u16]) {
        let max = (self.block_len - da::LEN) / LeafEntry::LEN;
        // block 0 of the index is the root, so that leaves start at 1; there are two at least
        let mut next_block = 1;
        let mut row = self.push_row(index, index.len().div_ceil(max).max(2), next_block, da::MAGIC_LEAFN, 0);
        next_block += row.len();
        for level in 1..u16::try_from(MAX_LEVELS).unwrap_or(9) {
            let children: Vec<LeafEntry> = row
                .iter()
                .map(|&(hash, block)| LeafEntry { hash, address: u32::try_from(block).unwrap_or(u32::MAX) })
                .collect();
            if children.len() <= max {
                self.push_index(0, da::MAGIC_NODE, &children, (0, 0), level);
                break;
            }
            row = self.push_row(&children, children.len().div_ceil(max), next_block, da::MAGIC_NODE, level);
            next_block += row.len();
        }
        let per_block = FreeIndex::max_bests(self.sb.dir_block_size_bytes) as usize;
        for (i, part) in bests.chunks(per_block).enumerate() {
            let mut bytes = vec![0; self.block_len];
            write_data_header(self.sb, data::MAGIC_FREE, self.ino, 0, &mut bytes);
            let count = u32::try_from(part.len()).unwrap_or(u32::MAX);
            put_u32(&mut bytes, data::FREE_FIRST, u32::try_from(i * per_block).unwrap_or(u32::MAX));
            put_u32(&mut bytes, data::FREE_VALID, count);
            put_u32(&mut bytes, data::FREE_USED, count);
            for (n, &best) in part.iter().enumerate() {
                put_u16(&mut bytes, data::LEN + 2 * n, best);
            }
            let file_block = (FREE_OFFSET_BYTES >> self.sb.block_log) + i as u64 * self.dir_block_blocks();
            self.blocks.push(NewBlock { file_block, bytes, is_index: false });
        }
    }

    /// Distributes entries evenly over `count` blocks of the index from `first` on.
    fn push_row(
        &mut self,
        entries: &[LeafEntry],
        count: usize,
        first: usize,
        magic: u16,
        level: u16,
    ) -> Vec<Child> {
        let mut row = Vec::with_capacity(count);
        let mut start = 0;
        for i in 0..count {
            let len = entries.len() / count + usize::from(i < entries.len() % count);
            let part = &entries[start..start + len];
            let back = if i == 0 { 0 } else { self.index_block(first + i - 1) };
            let forw = if i + 1 == count { 0 } else { self.index_block(first + i + 1) };
            self.push_index(first + i, magic, part, (back, forw), level);
            row.push((part.last().map_or(0, |e| e.hash), self.index_block(first + i)));
            start += len;
        }
        row
    }
}
