//! Forks: which blocks a file has, giving them back, and writing a new data fork.

use ocne_disk::BlockDevice;

use crate::bmap::{BlockMap, ForkContent, fork_content};
use crate::btree::{
    BmapRoot, RMAP_ATTR_FORK, RMAP_BMBT_BLOCK, RMAP_UNWRITTEN, long, long_pointer_at, write_long_header,
};
use crate::bytes::{put_u16, put_u64};
use crate::crc;
use crate::edit::blocks::Run;
use crate::edit::group::Owner;
use crate::edit::raw_inode::RawInode;
use crate::edit::{EditError, Editor};
use crate::inode::{EXTENT_LEN, Extent, Fork, ForkFormat};

/// A file's data.
pub(super) fn data_owner(ino: u64, extent: &Extent) -> Owner {
    let flag = if extent.unwritten { RMAP_UNWRITTEN } else { 0 };
    Owner { owner: ino, offset: extent.file_block | flag }
}

fn attr_owner(ino: u64, extent: &Extent) -> Owner {
    Owner { owner: ino, offset: extent.file_block | RMAP_ATTR_FORK }
}

/// The block map btree of a fork.
fn tree_owner(ino: u64, fork: Fork) -> Owner {
    let flag = if fork == Fork::Attr { RMAP_ATTR_FORK } else { 0 };
    Owner { owner: ino, offset: RMAP_BMBT_BLOCK | flag }
}

/// Blocks of a fork: its extents, and those of its btree.
pub(super) fn map_block_count(map: &BlockMap) -> u64 {
    map.extents.iter().map(|e| e.count).sum::<u64>() + map.tree_blocks.len() as u64
}

impl<D: BlockDevice> Editor<'_, D> {
    /// The inode as it is with the edits so far.
    pub(super) fn raw_inode(&self, ino: u64) -> Result<RawInode, EditError> {
        let (_, bytes) = self.view()?.inode_and_bytes(ino)?;
        Ok(RawInode { ino, bytes: bytes.to_vec() })
    }

    /// Stages an inode, with its checksum.
    pub(super) fn stage_inode(&mut self, raw: RawInode) -> Result<(), EditError> {
        let at =
            self.sb.ino_offset_bytes(raw.ino).ok_or(crate::error::XfsError::NoSuchInode { ino: raw.ino })?;
        self.stage(at, &raw.finished())
    }

    /// The group that blocks of an inode should be in: its own.
    pub(super) fn home_group(&self, ino: u64) -> u32 {
        self.sb.split_ino(ino).map_or(0, |(agno, _)| agno)
    }

    /// The blocks of a fork.
    pub(super) fn fork_map(&self, raw: &RawInode, fork: Fork) -> Result<BlockMap, EditError> {
        let inode = raw.parse(&self.sb)?;
        let at = |d: crate::error::Damage| d.at(format_args!("inode {}", raw.ino));
        Ok(match fork_content(&self.sb, &inode, fork, &raw.bytes).map_err(at)? {
            ForkContent::Empty | ForkContent::Local(_) => BlockMap::default(),
            ForkContent::Extents(extents) => BlockMap { extents, ..BlockMap::default() },
            ForkContent::Tree(tree) => self.view()?.read_block_maps(&[tree])?.swap_remove(0).map_err(at)?,
        })
    }

    /// Gives back all blocks of the data fork; `shareable` for the content of files.
    pub(super) fn free_data_fork(
        &mut self,
        ino: u64,
        map: &BlockMap,
        shareable: bool,
    ) -> Result<(), EditError> {
        for e in &map.extents {
            let owner = data_owner(ino, e);
            if shareable {
                self.free_data_blocks((e.fsblock, e.count), owner)?;
            } else {
                self.free_blocks((e.fsblock, e.count), owner)?;
            }
        }
        self.free_tree_blocks(ino, map, Fork::Data)
    }

    /// Gives back the blocks of a fork's btree, but not what it maps.
    pub(super) fn free_tree_blocks(&mut self, ino: u64, map: &BlockMap, fork: Fork) -> Result<(), EditError> {
        for &block in &map.tree_blocks {
            self.free_blocks((block, 1), tree_owner(ino, fork))?;
        }
        Ok(())
    }

    /// Gives back all blocks of the attribute fork.
    pub(super) fn free_attr_fork(&mut self, ino: u64, map: &BlockMap) -> Result<(), EditError> {
        for e in &map.extents {
            self.free_blocks((e.fsblock, e.count), attr_owner(ino, e))?;
        }
        self.free_tree_blocks(ino, map, Fork::Attr)
    }

    /// Writes extents (ascending) as the data fork: in the inode when they fit, else as a btree. Sets the number of
    /// blocks, with `attr_blocks` for the other fork.
    pub(super) fn write_data_extents(
        &mut self,
        raw: &mut RawInode,
        extents: &[Extent],
        attr_blocks: u64,
    ) -> Result<(), EditError> {
        let blocks = attr_blocks + extents.iter().map(|e| e.count).sum::<u64>();
        if extents.len() <= raw.data_fork_len() / EXTENT_LEN {
            let fork = raw.set_data_fork(ForkFormat::Extents, extents.len() as u64)?;
            for (e, b) in extents.iter().zip(fork.chunks_exact_mut(EXTENT_LEN)) {
                e.write(b);
            }
            raw.set_blocks(blocks);
            return Ok(());
        }
        let max = (self.sb.block_size_bytes as usize - long::LEN) / EXTENT_LEN;
        let records: Vec<[u8; EXTENT_LEN]> = extents
            .iter()
            .map(|e| {
                let mut b = [0; EXTENT_LEN];
                e.write(&mut b);
                b
            })
            .collect();
        let mut tree_blocks = 0;
        // each row: lowest key and block of every child
        let mut row: Vec<(u64, u64)> = Vec::new();
        let mut level: u16 = 0;
        let root_max = BmapRoot::max_children(raw.data_fork_len());
        while level == 0 || row.len() > root_max {
            let count = if level == 0 { records.len() } else { row.len() };
            let nodes = self.allocate_single(raw.ino, count.div_ceil(max))?;
            tree_blocks += nodes.len() as u64;
            let mut next = Vec::with_capacity(nodes.len());
            let mut first = 0;
            for (i, &fsblock) in nodes.iter().enumerate() {
                // as even as can be, so that none is less than half full
                let len = count / nodes.len() + usize::from(i < count % nodes.len());
                let mut b = vec![0; self.sb.block_size_bytes as usize];
                write_long_header(&self.sb, raw.ino, fsblock, level, &mut b);
                let sibling = |i: Option<usize>| i.and_then(|i| nodes.get(i)).copied().unwrap_or(long::NULL);
                put_u64(&mut b, long::LEFT, sibling(i.checked_sub(1)));
                put_u64(&mut b, long::RIGHT, sibling(Some(i + 1)));
                put_u16(&mut b, long::NUMRECS, u16::try_from(len).unwrap_or(u16::MAX));
                for n in 0..len {
                    if level == 0 {
                        let at = long::LEN + EXTENT_LEN * n;
                        b[at..at + EXTENT_LEN].copy_from_slice(&records[first + n]);
                    } else {
                        let (key, child) = row[first + n];
                        let at = long_pointer_at(b.len(), n);
                        put_u64(&mut b, long::LEN + 8 * n, key);
                        put_u64(&mut b, at, child);
                    }
                }
                crc::stamp(&mut b, long::CRC);
                let key = if level == 0 { extents[first].file_block } else { row[first].0 };
                next.push((key, fsblock));
                first += len;
                let at = self.sb.fsblock_offset_bytes(fsblock).unwrap_or(u64::MAX);
                self.stage(at, &b)?;
            }
            row = next;
            level += 1;
        }
        let root = BmapRoot { level, children: row };
        root.write(raw.set_data_fork(ForkFormat::Btree, extents.len() as u64)?);
        raw.set_blocks(blocks + tree_blocks);
        Ok(())
    }

    /// Takes `count` blocks for the block map btree of an inode's data fork.
    fn allocate_single(&mut self, ino: u64, count: usize) -> Result<Vec<u64>, EditError> {
        let runs: Vec<Run> =
            self.allocate(self.home_group(ino), count as u64, tree_owner(ino, Fork::Data))?;
        Ok(runs.into_iter().flat_map(|(first, n)| first..first + n).collect())
    }
}

/// Joins extents that continue each other, up to what a record can have.
pub(super) fn merge_extents(extents: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for e in extents {
        match out.last_mut() {
            Some(last)
                if last.end_file_block() == e.file_block
                    && last.fsblock + last.count == e.fsblock
                    && last.unwritten == e.unwritten
                    && last.count + e.count <= Extent::MAX_COUNT =>
            {
                last.count += e.count;
            }
            _ => out.push(e),
        }
    }
    out
}
