//! An allocation group in memory: its headers and btrees, and what changes them.

use ocne_disk::BlockDevice;

use crate::ag::{AGF_SECTOR, AGI_SECTOR, Agf, Agi, agf, agi};
use crate::btree::{
    FreeRecord, INODES_PER_CHUNK, InodeRecord, REFCOUNT_COW, RMAP_BMBT_BLOCK, RefcountRecord, RmapRecord,
    Tree, owner,
};
use crate::bytes::put_u32;
use crate::cache::ByteRange;
use crate::crc;
use crate::edit::EditError;
use crate::edit::tree::{GroupTree, Place, Record};
use crate::error::XfsError;
use crate::superblock::Superblock;
use crate::volume::Volume;

/// Rounds of giving blocks to new btree nodes, which can make more nodes.
const MAX_SETTLE_ROUNDS: usize = 100_000;

/// Who has blocks: what a reverse mapping says besides the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub owner: u64,
    /// With the flags of a reverse mapping.
    pub offset: u64,
}

impl Owner {
    /// Something that is not a file.
    pub(super) fn special(owner: u64) -> Self {
        Self { owner, offset: 0 }
    }
    /// The blocks after the first `blocks`.
    pub(super) fn after(self, blocks: u64) -> Self {
        let mapping = RmapRecord { start: 0, count: 0, owner: self.owner, offset: self.offset };
        let moves = mapping.is_inode_owner() && self.offset & RMAP_BMBT_BLOCK == 0;
        Self { offset: self.offset + if moves { blocks } else { 0 }, ..self }
    }
}

/// How much of the free space of a group files do not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserve {
    /// What the kernel keeps (`xfs_ag_resv_init`), so that btrees can grow to their largest.
    Kernel,
    /// What btrees may need for an edit.
    Edit,
    /// Nothing.
    Nothing,
}

/// An allocation group that is being changed.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) agno: u32,
    pub(super) agf: Agf,
    pub(super) agi: Agi,
    pub(super) bno: GroupTree<FreeRecord>,
    pub(super) cnt: GroupTree<FreeRecord>,
    pub(super) ino: GroupTree<InodeRecord>,
    pub(super) fino: Option<GroupTree<InodeRecord>>,
    refcounts: Option<GroupTree<RefcountRecord>>,
    rmaps: Option<GroupTree<RmapRecord>>,
}

fn inconsistent(what: impl Into<String>) -> EditError {
    EditError::Inconsistent { what: what.into() }
}

impl Group {
    /// Reads the headers of a group.
    pub(super) fn load_headers<D: BlockDevice>(
        volume: &Volume<D>,
        agno: u32,
    ) -> Result<(Agf, Agi), XfsError> {
        let sb = volume.superblock();
        let at = |i: u32| ByteRange {
            offset_bytes: sb.ag_offset_bytes(agno) + u64::from(i * sb.sector_size_bytes),
            len: sb.sector_size_bytes as usize,
        };
        let headers = volume.read(&[at(AGF_SECTOR), at(AGI_SECTOR)])?;
        let agf = Agf::parse(sb, agno, &headers[0]).map_err(|d| d.at(format_args!("AGF {agno}")))?;
        let agi = Agi::parse(sb, agno, &headers[1]).map_err(|d| d.at(format_args!("AGI {agno}")))?;
        Ok((agf, agi))
    }

    /// Reads the headers and trees of a group.
    pub(super) fn load<D: BlockDevice>(volume: &Volume<D>, agno: u32) -> Result<Self, XfsError> {
        let (agf, agi) = Self::load_headers(volume, agno)?;
        Ok(Self {
            agno,
            bno: GroupTree::load(volume, agno, Tree::Bno, agf.bno_root, agf.bno_level)?,
            cnt: GroupTree::load(volume, agno, Tree::Cnt, agf.cnt_root, agf.cnt_level)?,
            ino: GroupTree::load(volume, agno, Tree::Ino, agi.root, agi.level)?,
            fino: optional(volume, agno, Tree::Fino, agi.free_root, agi.free_level)?,
            refcounts: optional(volume, agno, Tree::Refcount, agf.refcount_root, agf.refcount_level)?,
            rmaps: optional(volume, agno, Tree::Rmap, agf.rmap_root, agf.rmap_level)?,
            agf,
            agi,
        })
    }

    /// Blocks of the longest free extent.
    pub(super) fn longest(&self) -> u32 {
        self.cnt.last().map_or(0, |r| r.count)
    }

    /// Free blocks that are not given to files.
    pub(super) fn reserve_blocks(&self, sb: &Superblock, reserve: Reserve) -> u32 {
        let levels = self.agf.bno_level + self.agf.cnt_level + self.agf.rmap_level + self.agf.refcount_level;
        let for_edit = 2 * (levels + self.agi.level + self.agi.free_level) + 8;
        match reserve {
            Reserve::Nothing => 0,
            Reserve::Edit => for_edit,
            Reserve::Kernel => {
                let blocks = u64::from(self.agf.length);
                let grows = |tree: Tree, records: u64, has: u32| {
                    let most = if tree.is_in(sb) { largest_tree(sb, tree, records) } else { 0 };
                    u32::try_from(most).unwrap_or(u32::MAX).saturating_sub(has)
                };
                let chunks = (blocks << sb.inodes_per_block_log) / u64::from(INODES_PER_CHUNK);
                for_edit
                    .saturating_add(grows(Tree::Refcount, blocks, self.agf.refcount_blocks))
                    .saturating_add(grows(Tree::Rmap, blocks, self.agf.rmap_blocks))
                    .saturating_add(grows(Tree::Fino, chunks, self.agi.finobt_blocks))
            }
        }
    }

    /// Takes `count` blocks from the end of the longest free extent, which is as long at least.
    pub(super) fn take_from_longest(&mut self, count: u32, owner: Owner) -> Result<u32, EditError> {
        match self.cnt.last().copied() {
            Some(r) if r.count >= count && count > 0 => {
                let start = r.start + (r.count - count);
                self.take(r, start, count, owner)?;
                Ok(start)
            }
            _ => Err(inconsistent(format!("no {count} free blocks in AG {}", self.agno))),
        }
    }

    /// Takes blocks out of a free extent.
    pub(super) fn take(
        &mut self,
        from: FreeRecord,
        start: u32,
        count: u32,
        owner: Owner,
    ) -> Result<(), EditError> {
        let end = start + count;
        let from_end = from.start + from.count;
        let left = FreeRecord { start: from.start, count: start - from.start };
        let right = FreeRecord { start: end, count: from_end - end };
        match (left.count, right.count) {
            (0, 0) => {
                self.bno.remove(&from)?;
                self.cnt.remove(&from)?;
            }
            (_, 0) => {
                self.bno.replace(&from, left)?;
                self.cnt.replace(&from, left)?;
            }
            (0, _) => {
                self.bno.replace(&from, right)?;
                self.cnt.replace(&from, right)?;
            }
            _ => {
                self.bno.replace(&from, left)?;
                self.cnt.replace(&from, left)?;
                self.bno.insert(right);
                self.cnt.insert(right);
            }
        }
        self.agf.free_blocks = self
            .agf
            .free_blocks
            .checked_sub(count)
            .ok_or_else(|| inconsistent(format!("more free blocks taken than AG {} has", self.agno)))?;
        self.map(start, count, owner)
    }

    /// Makes blocks free that nobody maps any more.
    fn give_back(&mut self, start: u32, count: u32) -> Result<(), EditError> {
        let end = start + count;
        let before = self.bno.before((start.into(), 0, 0)).next().copied();
        let after = self.bno.from((start.into(), 0, 0)).next().copied();
        if before.is_some_and(|r| r.end() > start.into()) || after.is_some_and(|r| r.start < end) {
            return Err(inconsistent(format!(
                "{count} blocks at {start} of AG {} are free already",
                self.agno
            )));
        }
        let before = before.filter(|r| r.end() == u64::from(start));
        let after = after.filter(|r| r.start == end);
        let merged = FreeRecord {
            start: before.map_or(start, |r| r.start),
            count: count + before.map_or(0, |r| r.count) + after.map_or(0, |r| r.count),
        };
        if let (Some(_), Some(a)) = (before, after) {
            self.bno.remove(&a)?;
            self.cnt.remove(&a)?;
        }
        if let Some(old) = before.or(after) {
            self.bno.replace(&old, merged)?;
            self.cnt.replace(&old, merged)?;
        } else {
            self.bno.insert(merged);
            self.cnt.insert(merged);
        }
        self.agf.free_blocks += count;
        Ok(())
    }

    /// Frees blocks that only `owner` has.
    pub(super) fn free(&mut self, start: u32, count: u32, owner: Owner) -> Result<(), EditError> {
        self.unmap(start, count, owner)?;
        self.give_back(start, count)
    }

    /// Frees blocks of a file's data, which may be shared: those get one reference less. Returns the runs that
    /// became free.
    pub(super) fn free_shareable(
        &mut self,
        start: u32,
        count: u32,
        owner: Owner,
    ) -> Result<Vec<(u32, u32)>, EditError> {
        self.unmap(start, count, owner)?;
        let unshared = self.drop_references(start, count)?;
        for &(start, count) in &unshared {
            self.give_back(start, count)?;
        }
        Ok(unshared)
    }

    /// Takes one reference of each block; returns the runs that had one only.
    fn drop_references(&mut self, start: u32, count: u32) -> Result<Vec<(u32, u32)>, EditError> {
        let Some(tree) = &mut self.refcounts else { return Ok(vec![(start, count)]) };
        let end = start + count;
        // everything that overlaps or touches the range, so that what becomes equal can be merged
        let mut old: Vec<RefcountRecord> = Vec::new();
        old.extend(tree.before((start.into(), 0, 0)).next().filter(|r| r.start + r.count >= start));
        old.extend(
            tree.from((start.into(), 0, 0)).take_while(|r| r.start & REFCOUNT_COW == 0 && r.start <= end),
        );
        let mut unshared = Vec::new();
        let mut at = start;
        let mut pieces: Vec<RefcountRecord> = Vec::new();
        for r in &old {
            let r_end = r.start + r.count;
            let (lo, hi) = (r.start.clamp(start, end), r_end.clamp(start, end));
            if lo > at {
                unshared.push((at, lo - at));
            }
            at = at.max(hi);
            let left = r.refs.saturating_sub(u32::from(r.refs != u32::MAX));
            for (from, to, refs) in [(r.start, lo, r.refs), (lo, hi, left), (hi, r_end, r.refs)] {
                if from < to && refs > 1 {
                    pieces.push(RefcountRecord { start: from, count: to - from, refs });
                }
            }
        }
        if at < end {
            unshared.push((at, end - at));
        }
        let mut new: Vec<RefcountRecord> = Vec::new();
        for p in pieces {
            match new.last_mut() {
                Some(last) if last.start + last.count == p.start && last.refs == p.refs => {
                    last.count += p.count;
                }
                _ => new.push(p),
            }
        }
        if new != old {
            for r in &old {
                tree.remove(r)?;
            }
            for r in new {
                tree.insert(r);
            }
        }
        Ok(unshared)
    }

    /// Adds a reverse mapping, merged with those beside it.
    fn map(&mut self, start: u32, count: u32, owner: Owner) -> Result<(), EditError> {
        let Some(tree) = &mut self.rmaps else { return Ok(()) };
        let same = |r: &RmapRecord, o: Owner| r.owner == o.owner && r.offset == o.offset;
        let key = (u64::from(start), 0, 0);
        // with shared blocks, other mappings can be between; only new blocks are mapped, so there are none here
        let left = tree.before(key).next().copied().filter(|r| {
            let o = Owner { owner: r.owner, offset: r.offset };
            r.start + r.count == start && r.owner == owner.owner && o.after(r.count.into()) == owner
        });
        let right = tree
            .from(key)
            .next()
            .copied()
            .filter(|r| r.start == start + count && same(r, owner.after(count.into())));
        let new = RmapRecord {
            start: left.map_or(start, |l| l.start),
            count: count + left.map_or(0, |l| l.count) + right.map_or(0, |r| r.count),
            owner: owner.owner,
            offset: left.map_or(owner.offset, |l| l.offset),
        };
        if let (Some(_), Some(r)) = (left, right) {
            tree.remove(&r)?;
        }
        match left.or(right) {
            Some(old) => tree.replace(&old, new)?,
            None => tree.insert(new),
        }
        Ok(())
    }

    /// Removes the reverse mapping of blocks, which can be a part of one record, or more than one.
    fn unmap(&mut self, mut start: u32, mut count: u32, mut owner: Owner) -> Result<(), EditError> {
        let Some(tree) = &mut self.rmaps else { return Ok(()) };
        while count > 0 {
            let has_first = |r: &&RmapRecord| {
                r.owner == owner.owner
                    && r.start <= start
                    && u64::from(r.start) + u64::from(r.count) > u64::from(start)
                    && (Owner { owner: r.owner, offset: r.offset }).after(u64::from(start - r.start)) == owner
            };
            let old =
                tree.before((u64::from(start) + 1, 0, 0)).find(has_first).copied().ok_or_else(|| {
                    inconsistent(format!(
                        "no reverse mapping of block {start} of AG {} to {owner:?}",
                        self.agno
                    ))
                })?;
            let end = old.start + old.count;
            let done = count.min(end - start);
            let left = RmapRecord { count: start - old.start, ..old };
            let (start_after, owner_after) = (start + done, owner.after(done.into()));
            let right = RmapRecord {
                start: start_after,
                count: end - start_after,
                owner: old.owner,
                offset: owner_after.offset,
            };
            if left.count > 0 {
                tree.replace(&old, left)?;
            } else {
                tree.remove(&old)?;
            }
            if right.count > 0 {
                tree.insert(right);
            }
            (start, count, owner) = (start_after, count - done, owner_after);
        }
        Ok(())
    }

    /// Gives blocks to btree nodes that have none, and frees those of nodes that are no more, until none are left:
    /// taking and freeing changes the trees itself.
    pub(super) fn settle(&mut self) -> Result<(), EditError> {
        for _ in 0..MAX_SETTLE_ROUNDS {
            if let Some(owner) = self.next_unplaced() {
                let start = match self.longest() {
                    0 => return Err(EditError::NoSpace { wanted_blocks: 1 }),
                    _ => self.take_from_longest(1, owner)?,
                };
                // taking may have changed the trees, but not have placed the node
                self.place(owner, start)?;
                continue;
            }
            let freed = self.take_freed();
            if freed.is_empty() {
                self.refresh_headers();
                return Ok(());
            }
            for (agbno, owner) in freed {
                self.free(agbno, 1, owner)?;
            }
        }
        Err(inconsistent(format!("the btrees of AG {} do not settle", self.agno)))
    }

    /// Who will have the block of a node that has none.
    fn next_unplaced(&mut self) -> Option<Owner> {
        if self.bno.unplaced().is_some()
            || self.cnt.unplaced().is_some()
            || self.rmaps.as_mut().and_then(GroupTree::unplaced).is_some()
        {
            Some(Owner::special(owner::AG))
        } else if self.ino.unplaced().is_some() || self.fino.as_mut().and_then(GroupTree::unplaced).is_some()
        {
            Some(Owner::special(owner::INOBT))
        } else if self.refcounts.as_mut().and_then(GroupTree::unplaced).is_some() {
            Some(Owner::special(owner::REFCOUNT))
        } else {
            None
        }
    }

    /// Gives a block to a node of a tree whose blocks have this owner; frees it again when there is none any more.
    fn place(&mut self, owner: Owner, agbno: u32) -> Result<(), EditError> {
        let place = match owner.owner {
            owner::AG => self
                .bno
                .unplaced()
                .or_else(|| self.cnt.unplaced())
                .or_else(|| self.rmaps.as_mut().and_then(GroupTree::unplaced)),
            owner::INOBT => self.ino.unplaced().or_else(|| self.fino.as_mut().and_then(GroupTree::unplaced)),
            _ => self.refcounts.as_mut().and_then(GroupTree::unplaced),
        };
        match place {
            Some(place) => {
                *place = Place::New(agbno);
                Ok(())
            }
            None => self.free(agbno, 1, owner),
        }
    }

    fn take_freed(&mut self) -> Vec<(u32, Owner)> {
        fn of<R: Record>(tree: Option<&mut GroupTree<R>>, owner: u64, out: &mut Vec<(u32, Owner)>) {
            let freed = tree.map(GroupTree::take_freed).unwrap_or_default();
            out.extend(freed.into_iter().map(|b| (b, Owner::special(owner))));
        }
        let mut out = Vec::new();
        of(Some(&mut self.bno), owner::AG, &mut out);
        of(Some(&mut self.cnt), owner::AG, &mut out);
        of(self.rmaps.as_mut(), owner::AG, &mut out);
        of(Some(&mut self.ino), owner::INOBT, &mut out);
        of(self.fino.as_mut(), owner::INOBT, &mut out);
        of(self.refcounts.as_mut(), owner::REFCOUNT, &mut out);
        out
    }

    /// Roots, levels and numbers of blocks in the headers.
    fn refresh_headers(&mut self) {
        fn count<R: Record>(t: &GroupTree<R>) -> u32 {
            u32::try_from(t.block_count()).unwrap_or(u32::MAX)
        }
        let f = &mut self.agf;
        (f.bno_root, f.bno_level) = self.bno.root();
        (f.cnt_root, f.cnt_level) = self.cnt.root();
        f.longest = self.cnt.last().map_or(0, |r| r.count);
        f.btree_blocks = (count(&self.bno) - 1) + (count(&self.cnt) - 1);
        if let Some(t) = &self.rmaps {
            (f.rmap_root, f.rmap_level) = t.root();
            f.rmap_blocks = count(t);
            f.btree_blocks += f.rmap_blocks - 1;
        }
        if let Some(t) = &self.refcounts {
            (f.refcount_root, f.refcount_level) = t.root();
            f.refcount_blocks = count(t);
        }
        let i = &mut self.agi;
        (i.root, i.level) = self.ino.root();
        i.inobt_blocks = count(&self.ino);
        if let Some(t) = &self.fino {
            (i.free_root, i.free_level) = t.root();
            i.finobt_blocks = count(t);
        }
    }

    /// Everything of the group as it is to be written: `write` gets the byte offset and the bytes.
    pub(super) fn store<D: BlockDevice>(
        &self,
        volume: &Volume<D>,
        mut write: impl FnMut(u64, Vec<u8>),
    ) -> Result<(), EditError> {
        let sb = volume.superblock();
        let agno = self.agno;
        let old = |agbno: u32| -> Result<Vec<u8>, EditError> {
            let range = ByteRange {
                offset_bytes: sb.agb_offset_bytes(agno, agbno),
                len: sb.block_size_bytes as usize,
            };
            Ok(volume.read(&[range])?[0].to_vec())
        };
        let mut put = |agbno: u32, block: Vec<u8>| write(sb.agb_offset_bytes(agno, agbno), block);
        self.bno.store(sb, agno, old, &mut put)?;
        self.cnt.store(sb, agno, old, &mut put)?;
        self.ino.store(sb, agno, old, &mut put)?;
        if let Some(t) = &self.fino {
            t.store(sb, agno, old, &mut put)?;
        }
        if let Some(t) = &self.refcounts {
            t.store(sb, agno, old, &mut put)?;
        }
        if let Some(t) = &self.rmaps {
            t.store(sb, agno, old, &mut put)?;
        }
        for (sector, is_agf) in [(AGF_SECTOR, true), (AGI_SECTOR, false)] {
            let offset_bytes = sb.ag_offset_bytes(agno) + u64::from(sector * sb.sector_size_bytes);
            let range = ByteRange { offset_bytes, len: sb.sector_size_bytes as usize };
            let before = volume.read(&[range])?.swap_remove(0);
            let mut bytes = before.to_vec();
            if is_agf {
                self.write_agf(sb, &mut bytes);
            } else {
                self.write_agi(sb, &mut bytes);
            }
            if bytes[..] != before[..] {
                write(offset_bytes, bytes);
            }
        }
        Ok(())
    }

    fn write_agf(&self, sb: &Superblock, b: &mut [u8]) {
        let f = &self.agf;
        for (at, v) in [
            (agf::BNO_ROOT, f.bno_root),
            (agf::CNT_ROOT, f.cnt_root),
            (agf::BNO_LEVEL, f.bno_level),
            (agf::CNT_LEVEL, f.cnt_level),
            (agf::FREEBLKS, f.free_blocks),
            (agf::LONGEST, f.longest),
            (agf::BTREEBLKS, f.btree_blocks),
        ] {
            put_u32(b, at, v);
        }
        if sb.has_rmapbt() {
            put_u32(b, agf::RMAP_ROOT, f.rmap_root);
            put_u32(b, agf::RMAP_LEVEL, f.rmap_level);
            put_u32(b, agf::RMAP_BLOCKS, f.rmap_blocks);
        }
        if sb.has_reflink() {
            put_u32(b, agf::REFCOUNT_ROOT, f.refcount_root);
            put_u32(b, agf::REFCOUNT_LEVEL, f.refcount_level);
            put_u32(b, agf::REFCOUNT_BLOCKS, f.refcount_blocks);
        }
        crc::stamp(b, agf::CRC);
    }

    fn write_agi(&self, sb: &Superblock, b: &mut [u8]) {
        let i = &self.agi;
        for (at, v) in [
            (agi::COUNT, i.count),
            (agi::ROOT, i.root),
            (agi::LEVEL, i.level),
            (agi::FREECOUNT, i.free_count),
            (agi::NEWINO, i.new_ino),
        ] {
            put_u32(b, at, v);
        }
        if sb.has_finobt() {
            put_u32(b, agi::FREE_ROOT, i.free_root);
            put_u32(b, agi::FREE_LEVEL, i.free_level);
        }
        if sb.has_inobt_counts() {
            put_u32(b, agi::IBLOCKS, i.inobt_blocks);
            put_u32(b, agi::FBLOCKS, if sb.has_finobt() { i.finobt_blocks } else { 0 });
        }
        crc::stamp(b, agi::CRC);
    }
}

/// Blocks of a tree with so many records whose blocks are half full.
fn largest_tree(sb: &Superblock, tree: Tree, records: u64) -> u64 {
    let [leaf, node] = [tree.max_records(sb.block_size_bytes), tree.max_children(sb.block_size_bytes)]
        .map(|max| (max as u64 / 2).max(2));
    let mut row = records.div_ceil(leaf);
    let mut blocks = row;
    while row > 1 {
        row = row.div_ceil(node);
        blocks += row;
    }
    blocks
}

/// A tree, when the file system has it.
fn optional<D: BlockDevice, R: Record>(
    volume: &Volume<D>,
    agno: u32,
    tree: Tree,
    root: u32,
    levels: u32,
) -> Result<Option<GroupTree<R>>, XfsError> {
    tree.is_in(volume.superblock()).then(|| GroupTree::load(volume, agno, tree, root, levels)).transpose()
}
