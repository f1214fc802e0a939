//! Adding an entry to a directory and removing one: the whole directory is laid out again.

use std::collections::{BTreeMap, BTreeSet};

use ocne_disk::BlockDevice;

use crate::bytes::{array, put, put_u64};
use crate::crc;
use crate::dir::{da, data, is_valid_name};
use crate::edit::fork::{data_owner, map_block_count, merge_extents};
use crate::edit::layout::{Layout, NewBlock, lay_out};
use crate::edit::raw_inode::RawInode;
use crate::edit::{EditError, Editor};
use crate::error::XfsError;
use crate::inode::{Extent, Fork, ForkFormat};
use crate::read::DirEntry;

/// A directory that is being changed.
#[derive(Debug)]
pub(super) struct OpenDir {
    pub raw: RawInode,
    pub parent: u64,
    pub entries: Vec<DirEntry>,
}

impl OpenDir {
    /// Removes an entry; what it was.
    pub(super) fn remove(&mut self, name: &[u8]) -> Result<DirEntry, EditError> {
        match self.entries.iter().position(|e| e.name == name) {
            Some(i) => Ok(self.entries.remove(i)),
            None => Err(XfsError::NotFound { path: name.to_vec() }.into()),
        }
    }
}

impl<D: BlockDevice> Editor<'_, D> {
    /// Reads a directory.
    pub(super) fn open_dir(&self, ino: u64) -> Result<OpenDir, EditError> {
        let (parent, entries) = self.view()?.read_dir_with_parent(ino)?;
        Ok(OpenDir { raw: self.raw_inode(ino)?, parent, entries })
    }

    /// Reads a directory that is to get a new entry; the name must be free.
    pub(super) fn open_dir_for(&self, ino: u64, name: &[u8]) -> Result<OpenDir, EditError> {
        if !is_valid_name(name) || name == b"." || name == b".." {
            return Err(EditError::InvalidName { name: name.to_vec() });
        }
        let dir = self.open_dir(ino)?;
        if dir.entries.iter().any(|e| e.name == name) {
            return Err(EditError::Exists { dir_ino: ino, name: name.to_vec() });
        }
        Ok(dir)
    }

    /// Stages a directory whose entries changed, with its times.
    pub(super) fn store_dir(&mut self, mut dir: OpenDir) -> Result<(), EditError> {
        dir.raw.touch_content(&self.options)?;
        self.write_dir(dir)
    }

    /// Stages a directory.
    pub(super) fn write_dir(&mut self, dir: OpenDir) -> Result<(), EditError> {
        let OpenDir { mut raw, parent, entries } = dir;
        let map = self.fork_map(&raw, Fork::Data)?;
        let attr_blocks = map_block_count(&self.fork_map(&raw, Fork::Attr)?);
        match lay_out(&self.sb, raw.ino, parent, &entries, raw.data_fork_len()) {
            Layout::Short(bytes) => {
                self.free_data_fork(raw.ino, &map, false)?;
                put(raw.set_data_fork(ForkFormat::Local, 0)?, 0, &bytes);
                raw.set_size(bytes.len() as u64);
                raw.set_blocks(attr_blocks);
            }
            Layout::Blocks { blocks, data_bytes } => {
                self.free_tree_blocks(raw.ino, &map, Fork::Data)?;
                let extents = self.place_dir_blocks(&raw, &map.extents, blocks)?;
                raw.set_size(data_bytes);
                self.write_data_extents(&mut raw, &extents, attr_blocks)?;
            }
        }
        self.stage_inode(raw)
    }

    /// Gives directory blocks the blocks that the directory has at their place, or new ones; frees the others; stages
    /// the blocks. Returns the extents.
    fn place_dir_blocks(
        &mut self,
        raw: &RawInode,
        old: &[Extent],
        blocks: Vec<NewBlock>,
    ) -> Result<Vec<Extent>, EditError> {
        let ino = raw.ino;
        let per_block = u64::from(self.sb.dir_block_blocks());
        let mut mapped: BTreeMap<u64, u64> =
            old.iter().flat_map(|e| (0..e.count).map(|i| (e.file_block + i, e.fsblock + i))).collect();
        let mut kept = Vec::new();
        let mut missing: Vec<u64> = Vec::new();
        for b in &blocks {
            for file_block in b.file_block..b.file_block + per_block {
                match mapped.remove(&file_block) {
                    Some(fsblock) => kept.push(Extent { file_block, fsblock, count: 1, unwritten: false }),
                    None => missing.push(file_block),
                }
            }
        }
        let unused = mapped.into_iter().map(|(file_block, fsblock)| Extent {
            file_block,
            fsblock,
            count: 1,
            unwritten: false,
        });
        for e in merge_extents(unused) {
            self.free_blocks((e.fsblock, e.count), data_owner(ino, &e))?;
        }
        let old_blocks: BTreeSet<u64> = kept.iter().map(|e| e.fsblock).collect();
        let mut all = kept;
        missing.sort_unstable();
        for run in missing.chunk_by(|a, b| a + 1 == *b) {
            let wanted = Extent { file_block: run[0], fsblock: 0, count: 0, unwritten: false };
            let mut file_block = run[0];
            for (fsblock, count) in
                self.allocate(self.home_group(ino), run.len() as u64, data_owner(ino, &wanted))?
            {
                all.extend((0..count).map(|i| Extent {
                    file_block: file_block + i,
                    fsblock: fsblock + i,
                    count: 1,
                    unwritten: false,
                }));
                file_block += count;
            }
        }
        all.sort_unstable();
        let places: BTreeMap<u64, u64> = all.iter().map(|e| (e.file_block, e.fsblock)).collect();
        for mut b in blocks {
            let fsblocks: Vec<u64> =
                (b.file_block..b.file_block + per_block).filter_map(|f| places.get(&f).copied()).collect();
            let offsets: Vec<u64> =
                fsblocks.iter().filter_map(|&f| self.sb.fsblock_offset_bytes(f)).collect();
            let first = offsets.first().copied().unwrap_or(u64::MAX);
            let (blkno_at, lsn_at, crc_at) =
                if b.is_index { (da::BLKNO, da::LSN, da::CRC) } else { (data::BLKNO, data::LSN, data::CRC) };
            put_u64(&mut b.bytes, blkno_at, first >> 9);
            // a block that stays where it is keeps its LSN: its header is of the same kind
            if fsblocks.first().is_some_and(|f| old_blocks.contains(f)) {
                put(&mut b.bytes, lsn_at, &array::<8>(&self.block(first)?, lsn_at));
            }
            crc::stamp(&mut b.bytes, crc_at);
            for (&at, bytes) in offsets.iter().zip(b.bytes.chunks_exact(self.sb.block_size_bytes as usize)) {
                self.stage(at, bytes)?;
            }
        }
        Ok(merge_extents(all))
    }
}
