//! Inodes: taking free ones, making new chunks, and giving them back.

use ocne_disk::BlockDevice;

use crate::btree::{FreeRecord, INODES_PER_CHUNK, INODES_PER_HOLE_BIT, InodeRecord, owner};
use crate::edit::group::{Group, Owner};
use crate::edit::raw_inode;
use crate::edit::{EditError, Editor};
use crate::superblock::{Superblock, VERSION_ALIGN};

/// Where a new chunk goes, or a part of one.
#[derive(Debug, Clone, Copy)]
struct ChunkPlace {
    from: FreeRecord,
    agbno: u32,
    blocks: u32,
}

impl<D: BlockDevice> Editor<'_, D> {
    /// Takes a free inode, from the group `prefer` if it has one; makes new ones where there are none.
    pub(super) fn allocate_inode(&mut self, prefer: u32) -> Result<u64, EditError> {
        let groups: Vec<u32> = self.group_numbers(prefer).collect();
        // a group that has free inodes, then one that has room for a chunk, then one that has room for a part
        for &agno in &groups {
            if let Some(agino) = self.group(agno)?.take_free_inode()? {
                return Ok(self.sb.ino(agno, agino));
            }
        }
        for sparse in [false, true] {
            for &agno in &groups {
                if !self.make_chunk(agno, sparse)? {
                    continue;
                }
                if let Some(agino) = self.group(agno)?.take_free_inode()? {
                    return Ok(self.sb.ino(agno, agino));
                }
            }
        }
        Err(EditError::NoInodes)
    }

    /// Marks an inode as not used.
    pub(super) fn free_inode(&mut self, ino: u64) -> Result<(), EditError> {
        let (agno, agino) = self.sb.split_ino(ino).ok_or(crate::error::XfsError::NoSuchInode { ino })?;
        self.group(agno)?.give_back_inode(agino)
    }

    /// Makes new inodes in a group: a whole chunk, or (`sparse`) the least that the file system allows. `false` when
    /// there is no room for them.
    fn make_chunk(&mut self, agno: u32, sparse: bool) -> Result<bool, EditError> {
        let sb = self.sb.clone();
        let group = self.group(agno)?;
        let Some(place) = group.find_chunk_place(&sb, sparse) else { return Ok(false) };
        group.take(place.from, place.agbno, place.blocks, Owner::special(owner::INODES))?;
        let first = place.agbno << sb.inodes_per_block_log;
        let count = place.blocks << sb.inodes_per_block_log;
        group.add_inodes(&sb, first, count)?;
        let inode_len = u64::from(sb.inode_size_bytes);
        let start = sb.agb_offset_bytes(agno, place.agbno);
        for i in 0..count {
            let generation = u32::try_from(self.random() >> 32).unwrap_or(0);
            let bytes = raw_inode::stamped(&sb, sb.ino(agno, first + i), generation);
            let at = start + u64::from(i) * inode_len;
            self.stage_new(at, &bytes)?;
        }
        Ok(true)
    }
}

impl Group {
    /// Takes the first free inode of the group.
    fn take_free_inode(&mut self) -> Result<Option<u32>, EditError> {
        if self.agi.free_count == 0 {
            return Ok(None);
        }
        let records = self.fino.as_ref().unwrap_or(&self.ino);
        let Some(old) = records.iter().find(|r| r.free & !r.holes() != 0).copied() else { return Ok(None) };
        let bit = (old.free & !old.holes()).trailing_zeros();
        let new =
            InodeRecord { free: old.free & !(1 << bit), free_count: old.free_count.saturating_sub(1), ..old };
        self.replace_record(&old, new)?;
        self.agi.free_count -= 1;
        Ok(Some(old.start + bit))
    }

    fn give_back_inode(&mut self, agino: u32) -> Result<(), EditError> {
        let wrong = || EditError::Inconsistent { what: format!("inode {agino} of the group is not in use") };
        let old = self
            .ino
            .before((u64::from(agino) + 1, 0, 0))
            .next()
            .copied()
            .filter(|r| agino - r.start < INODES_PER_CHUNK)
            .ok_or_else(wrong)?;
        let mask = 1u64 << (agino - old.start);
        if old.free & mask != 0 {
            return Err(wrong());
        }
        let new = InodeRecord { free: old.free | mask, free_count: old.free_count + 1, ..old };
        self.replace_record(&old, new)?;
        self.agi.free_count += 1;
        Ok(())
    }

    /// Changes a record in both trees; the second one has only those with free inodes.
    fn replace_record(&mut self, old: &InodeRecord, new: InodeRecord) -> Result<(), EditError> {
        self.ino.replace(old, new)?;
        if let Some(fino) = &mut self.fino {
            match (old.free_count > 0, new.free_count > 0) {
                (true, true) => fino.replace(old, new)?,
                (true, false) => fino.remove(old)?,
                (false, true) => fino.insert(new),
                (false, false) => {}
            }
        }
        Ok(())
    }

    /// Adds a record, which has free inodes, to both trees.
    fn insert_record(&mut self, new: InodeRecord) {
        self.ino.insert(new);
        if let Some(fino) = &mut self.fino {
            fino.insert(new);
        }
    }

    /// Free space for a chunk of inodes with the alignment that it must have.
    fn find_chunk_place(&self, sb: &Superblock, sparse: bool) -> Option<ChunkPlace> {
        let inodes = INODES_PER_CHUNK.max(sb.inodes_per_block());
        let full = inodes >> sb.inodes_per_block_log;
        let chunk_align = if sb.version & VERSION_ALIGN == 0 { 1 } else { sb.inode_align_blocks.max(1) };
        let (blocks, align) = if sparse {
            let blocks = sb.sparse_inode_align_blocks;
            if !sb.has_sparse_inodes() || blocks == 0 || blocks >= full {
                return None;
            }
            (blocks, blocks)
        } else {
            (full, chunk_align)
        };
        // the whole chunk of a part must be inside the group, also where it does not exist
        let last = self.agf.length.checked_sub(full)?;
        let fits = |r: &FreeRecord| {
            let agbno = r.start.checked_next_multiple_of(align)?;
            let chunk = agbno - if sparse { agbno % chunk_align } else { 0 };
            (u64::from(agbno) + u64::from(blocks) <= r.end() && (!sparse || (chunk > 0 && chunk <= last)))
                .then_some(ChunkPlace { from: *r, agbno, blocks })
        };
        // the shortest that does it, so that long ones stay
        self.cnt.from((blocks.into(), 0, 0)).find_map(fits)
    }

    /// Adds inodes that are free: records of their own, or bits of a sparse one.
    fn add_inodes(&mut self, sb: &Superblock, first: u32, count: u32) -> Result<(), EditError> {
        if count >= INODES_PER_CHUNK {
            for start in (first..first + count).step_by(INODES_PER_CHUNK as usize) {
                let record = InodeRecord { start, hole_mask: 0, count: 64, free_count: 64, free: u64::MAX };
                self.insert_record(record);
            }
        } else {
            let align = sb.inode_align_blocks.max(1) << sb.inodes_per_block_log;
            let start = first - first % align;
            let bits = (count / INODES_PER_HOLE_BIT).min(16);
            let shift = (first - start) / INODES_PER_HOLE_BIT;
            let present = u16::try_from(((1u32 << bits) - 1) << shift).unwrap_or(0);
            let old = self.ino.from((start.into(), 0, 0)).next().copied().filter(|r| r.start == start);
            let empty = InodeRecord { start, hole_mask: u16::MAX, count: 0, free_count: 0, free: u64::MAX };
            let base = old.unwrap_or(empty);
            if base.hole_mask & present != present {
                return Err(EditError::Inconsistent { what: format!("inode {first} of the group exists") });
            }
            let new = InodeRecord {
                hole_mask: base.hole_mask & !present,
                count: base.count + u8::try_from(count).unwrap_or(u8::MAX),
                free_count: base.free_count + count,
                ..base
            };
            if let Some(old) = old {
                self.replace_record(&old, new)?;
            } else {
                self.insert_record(new);
            }
        }
        self.agi.count += count;
        self.agi.free_count += count;
        self.agi.new_ino = first;
        Ok(())
    }
}
