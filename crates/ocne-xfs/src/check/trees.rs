//! The btrees of all allocation groups, level by level.

use ocne_disk::BlockDevice;

use super::Checker;
use crate::ag::NULL_AGBNO;
use crate::btree::{FreeRecord, InodeRecord, MAX_LEVELS, REFCOUNT_COW, RefcountRecord, RmapKey, RmapRecord};
use crate::btree::{ShortBlock, Tree, owner, short};
use crate::bytes::{u32_at, u64_at};
use crate::cache::{ByteRange, ROUND_BYTES};
use crate::error::{Damage, XfsError, damage};
use crate::superblock::Superblock;

/// A key of any tree, such that keys compare as the tree orders them.
type Key = (u64, u64, u64);

/// A block to be read, and what its parent says about it: lowest key, and highest in an rmapbt.
struct Pending {
    agbno: u32,
    low: Option<Key>,
    high: Option<Key>,
}

/// A tree that is being walked.
struct Walk {
    agno: u32,
    tree: Tree,
    root: u32,
    /// Of the blocks in `pending`.
    level: u32,
    pending: Vec<Pending>,
    /// Blocks that were read.
    blocks: u32,
    records: Records,
    last_record: Option<Key>,
    damaged: bool,
}

/// The records of a tree, of one kind each.
#[derive(Default)]
struct Records {
    free: Vec<FreeRecord>,
    chunks: Vec<InodeRecord>,
    refcounts: Vec<RefcountRecord>,
    rmaps: Vec<RmapRecord>,
}

impl<D: BlockDevice> Checker<'_, D> {
    pub(super) fn check_trees(&mut self) -> Result<(), XfsError> {
        let mut walks = self.start_walks();
        while walks.iter().any(|w| !w.pending.is_empty()) {
            self.walk_level(&mut walks)?;
        }
        for walk in walks {
            self.finish_walk(walk);
        }
        for agno in 0..self.sb.ag_count {
            self.compare_trees(agno);
        }
        Ok(())
    }

    fn start_walks(&self) -> Vec<Walk> {
        let mut walks = Vec::new();
        for (agno, group) in (0..).zip(&self.groups) {
            for tree in Tree::ALL.into_iter().filter(|t| t.is_in(self.sb)) {
                let root = match tree {
                    Tree::Ino | Tree::Fino => group.agi.as_ref().map(|a| a.root(tree)),
                    _ => group.agf.as_ref().map(|a| a.root(tree)),
                };
                let Some((root, levels)) = root else { continue };
                let usable = root < self.sb.ag_len_blocks(agno) && levels > 0 && levels <= MAX_LEVELS;
                let mut pending = Vec::new();
                if usable {
                    pending.push(Pending { agbno: root, low: None, high: None });
                }
                walks.push(Walk {
                    agno,
                    tree,
                    root,
                    level: levels.saturating_sub(1),
                    pending,
                    blocks: 0,
                    records: Records::default(),
                    last_record: None,
                    damaged: !usable,
                });
            }
        }
        walks
    }

    /// Reads the next level of every tree.
    fn walk_level(&mut self, walks: &mut [Walk]) -> Result<(), XfsError> {
        let block_len = self.sb.block_size_bytes as usize;
        let per_round = (ROUND_BYTES / block_len).max(1);
        let all: Vec<(usize, usize)> = walks
            .iter()
            .enumerate()
            .flat_map(|(w, walk)| (0..walk.pending.len()).map(move |i| (w, i)))
            .collect();
        let mut next: Vec<Vec<Pending>> = walks.iter().map(|_| Vec::new()).collect();
        for batch in all.chunks(per_round) {
            // a tree that is damaged already is not read on
            let batch: Vec<(usize, usize)> =
                batch.iter().copied().filter(|&(w, _)| !walks[w].damaged).collect();
            let ranges: Vec<ByteRange> = batch
                .iter()
                .map(|&(w, i)| ByteRange {
                    offset_bytes: self.sb.agb_offset_bytes(walks[w].agno, walks[w].pending[i].agbno),
                    len: block_len,
                })
                .collect();
            for (&(w, i), bytes) in batch.iter().zip(self.volume.read(&ranges)?) {
                let walk = &mut walks[w];
                if walk.damaged {
                    continue;
                }
                self.lsn(u64_at(&bytes, short::LSN));
                let agbno = walk.pending[i].agbno;
                if let Err(d) = walk.visit(self.sb, i, &bytes, &mut next[w]) {
                    walk.damaged = true;
                    self.problem(
                        format_args!("{} of AG {}, block {agbno}", walk.tree.name(), walk.agno),
                        d.0,
                    );
                } else {
                    self.own_in_group(walk.agno, agbno, 1, walk.tree.owner(), 0);
                }
            }
        }
        for (walk, mut next) in walks.iter_mut().zip(next) {
            if !walk.damaged
                && let Err(d) = verify_level(self.sb, walk, &next)
            {
                walk.damaged = true;
                self.problem(format_args!("{} of AG {}", walk.tree.name(), walk.agno), d.0);
            }
            if walk.damaged {
                next.clear();
            }
            walk.pending = next;
            walk.level = walk.level.saturating_sub(1);
        }
        Ok(())
    }

    fn finish_walk(&mut self, walk: Walk) {
        if walk.damaged {
            self.owners_incomplete = true;
            return;
        }
        let group = &mut self.groups[walk.agno as usize];
        let mut wrong = Vec::new();
        let mut count = |name: &str, counted: u32, found: u32| {
            if counted != found {
                wrong.push(format!("{counted} blocks of the {name} counted, {found} found"));
            }
        };
        let Records { free, chunks, refcounts, rmaps } = walk.records;
        match walk.tree {
            Tree::Bno => group.free = Some(free),
            Tree::Cnt => group.by_length = Some(free),
            Tree::Ino => {
                if let (Some(agi), true) = (&group.agi, self.sb.has_inobt_counts()) {
                    count("inobt", agi.inobt_blocks, walk.blocks);
                }
                group.chunks = Some(chunks);
            }
            Tree::Fino => {
                if let (Some(agi), true) = (&group.agi, self.sb.has_inobt_counts()) {
                    count("finobt", agi.finobt_blocks, walk.blocks);
                }
                group.free_chunks = Some(chunks);
            }
            Tree::Refcount => {
                if let Some(agf) = &group.agf {
                    count("refcountbt", agf.refcount_blocks, walk.blocks);
                }
                group.refcounts = Some(refcounts);
            }
            Tree::Rmap => {
                if let Some(agf) = &group.agf {
                    count("rmapbt", agf.rmap_blocks, walk.blocks);
                }
                group.rmaps = Some(rmaps);
            }
        }
        if matches!(walk.tree, Tree::Bno | Tree::Cnt | Tree::Rmap) {
            group.free_space_tree_blocks += walk.blocks.saturating_sub(1);
        }
        for what in wrong {
            self.problem(format_args!("AG {}", walk.agno), what);
        }
    }

    /// The trees of a group against each other and its headers.
    fn compare_trees(&mut self, agno: u32) {
        let group = &mut self.groups[agno as usize];
        let mut wrong: Vec<String> = Vec::new();
        if let (Some(free), Some(by_length)) = (&group.free, group.by_length.take()) {
            let mut by_start = by_length;
            by_start.sort_unstable();
            if *free != by_start {
                wrong.push("the two free space btrees differ".to_owned());
            }
        }
        if let (Some(agf), Some(free)) = (&group.agf, &group.free) {
            let sum: u64 = free.iter().map(|r| u64::from(r.count)).sum();
            let longest = free.iter().map(|r| r.count).max().unwrap_or(0);
            if u64::from(agf.free_blocks) != sum {
                wrong.push(format!("{} free blocks counted, {sum} found", agf.free_blocks));
            }
            if agf.longest != longest {
                wrong.push(format!("longest free extent {} instead of {longest}", agf.longest));
            }
            let trees_read = group.rmaps.is_some() || !self.sb.has_rmapbt();
            if trees_read && agf.btree_blocks != group.free_space_tree_blocks {
                wrong.push(format!(
                    "{} blocks of free space btrees counted, {} found",
                    agf.btree_blocks, group.free_space_tree_blocks
                ));
            }
        }
        if let (Some(agi), Some(chunks)) = (&group.agi, &group.chunks) {
            let inodes: u64 = chunks.iter().map(|c| u64::from(c.count)).sum();
            let free: u64 = chunks.iter().map(|c| u64::from(c.free_count)).sum();
            if u64::from(agi.count) != inodes || u64::from(agi.free_count) != free {
                wrong.push(format!(
                    "{} inodes, {} of them free, counted; {inodes}, {free} of them free, found",
                    agi.count, agi.free_count
                ));
            }
        }
        if let (Some(chunks), Some(free_chunks)) = (&group.chunks, group.free_chunks.take())
            && !chunks.iter().filter(|c| c.free_count > 0).eq(&free_chunks)
        {
            wrong.push("the finobt differs from the inobt".to_owned());
        }
        let free = group.free.as_ref().map_or(&[][..], |f| f);
        group.owners.extend(free.iter().map(|r| RmapRecord {
            start: r.start,
            count: r.count,
            owner: owner::NULL,
            offset: 0,
        }));
        for what in wrong {
            self.problem(format_args!("AG {agno}"), what);
        }
    }
}

impl Tree {
    /// Who owns the tree's blocks, for the rmapbt.
    fn owner(self) -> u64 {
        match self {
            Self::Bno | Self::Cnt | Self::Rmap => owner::AG,
            Self::Refcount => owner::REFCOUNT,
            Self::Ino | Self::Fino => owner::INOBT,
        }
    }

    /// A key as it is in a node.
    fn parse_key(self, b: &[u8]) -> Key {
        match self {
            Self::Bno => (u64::from(u32_at(b, 0)), u64::from(u32_at(b, 4)), 0),
            Self::Cnt => (u64::from(u32_at(b, 4)), u64::from(u32_at(b, 0)), 0),
            Self::Rmap => rmap_key(RmapKey::parse(b)),
            Self::Refcount | Self::Ino | Self::Fino => (u64::from(u32_at(b, 0)), 0, 0),
        }
    }

    /// The key of a record.
    fn record_key(self, b: &[u8]) -> Key {
        match self {
            Self::Rmap => rmap_key(RmapRecord::parse(b).key()),
            _ => self.parse_key(b),
        }
    }
}

fn rmap_key(k: RmapKey) -> Key {
    (u64::from(k.start), k.owner, k.offset)
}

/// The children that one level has, before they are read.
fn verify_level(sb: &Superblock, walk: &Walk, next: &[Pending]) -> Result<(), Damage> {
    let len = sb.ag_len_blocks(walk.agno);
    if next.len() as u64 + u64::from(walk.blocks) > u64::from(len) {
        return damage!("more blocks than the group has");
    }
    if let Some(p) = next.iter().find(|p| p.agbno >= len) {
        return damage!("block {}, outside the group", p.agbno);
    }
    if next.windows(2).any(|w| w[0].low >= w[1].low) {
        return damage!("keys of level {} are out of order", walk.level);
    }
    Ok(())
}

impl Walk {
    /// Verifies block `i` of the level: children go to `next`, records to `self.records`.
    fn visit(
        &mut self,
        sb: &Superblock,
        i: usize,
        bytes: &[u8],
        next: &mut Vec<Pending>,
    ) -> Result<(), Damage> {
        let p = &self.pending[i];
        let block =
            ShortBlock::parse(sb, self.tree, self.agno, p.agbno, self.level, p.agbno == self.root, bytes)?;
        self.blocks += 1;
        let neighbour = |n: Option<&Pending>| n.map_or(NULL_AGBNO, |n| n.agbno);
        let left = neighbour(i.checked_sub(1).and_then(|i| self.pending.get(i)));
        let right = neighbour(self.pending.get(i + 1));
        if (block.left, block.right) != (left, right) {
            return damage!(
                "siblings {:#x} and {:#x} instead of {left:#x} and {right:#x}",
                block.left,
                block.right
            );
        }
        let is_rmap = self.tree == Tree::Rmap;
        let (mut first, mut highest): (Option<Key>, Option<Key>) = (None, None);
        for n in 0..block.count {
            let (low, high) = if self.level > 0 {
                let low = self.tree.parse_key(block.key(n));
                let high = is_rmap.then(|| rmap_key(RmapKey::parse(block.high_key(n))));
                next.push(Pending { agbno: block.child(n), low: Some(low), high });
                (low, high)
            } else {
                let record = block.record(n);
                let low = self.tree.record_key(record);
                if self.last_record.is_some_and(|last| last >= low) {
                    return damage!("record {n} is out of order");
                }
                self.last_record = Some(low);
                self.records
                    .push(sb, self.agno, self.tree, record)
                    .map_err(|d| Damage(format!("record {n}: {}", d.0)))?;
                (low, is_rmap.then(|| rmap_key(RmapRecord::parse(record).high_key())))
            };
            first = first.or(Some(low));
            highest = highest.max(high);
        }
        if p.low.is_some() && p.low != first {
            return damage!("its first key is not what its parent says");
        }
        if p.high.is_some() && p.high != highest {
            return damage!("its highest key is not what its parent says");
        }
        Ok(())
    }
}

impl Records {
    /// Verifies a record by itself and against the one before, and keeps it.
    fn push(&mut self, sb: &Superblock, agno: u32, tree: Tree, b: &[u8]) -> Result<(), Damage> {
        let len = sb.ag_len_blocks(agno);
        let inside =
            |start: u32, count: u32| count > 0 && u64::from(start) + u64::from(count) <= u64::from(len);
        match tree {
            Tree::Bno | Tree::Cnt => {
                let r = FreeRecord::parse(b);
                if !inside(r.start, r.count) {
                    return damage!("{} free blocks at {}, outside the group", r.count, r.start);
                }
                if tree == Tree::Bno && self.free.last().is_some_and(|last| last.end() >= u64::from(r.start))
                {
                    return damage!("free blocks at {} overlap or touch those before", r.start);
                }
                self.free.push(r);
            }
            Tree::Ino | Tree::Fino => {
                let r = InodeRecord::parse(sb, b);
                verify_chunk(sb, len, &r)?;
                if self.chunks.last().is_some_and(|last| u64::from(last.start) + 64 > u64::from(r.start)) {
                    return damage!("chunk at {} overlaps the one before", r.start);
                }
                self.chunks.push(r);
            }
            Tree::Refcount => {
                let r = RefcountRecord::parse(b);
                let start = r.start & !REFCOUNT_COW;
                let refs_ok = if r.start & REFCOUNT_COW == 0 { r.refs >= 2 } else { r.refs == 1 };
                if !inside(start, r.count) || !refs_ok {
                    return damage!("{} references to {} blocks at {:#x}", r.refs, r.count, r.start);
                }
                let last = self.refcounts.last();
                if last.is_some_and(|l| u64::from(l.start) + u64::from(l.count) > u64::from(r.start)) {
                    return damage!("blocks at {:#x} overlap those before", r.start);
                }
                self.refcounts.push(r);
            }
            Tree::Rmap => {
                let r = RmapRecord::parse(b);
                if !inside(r.start, r.count) {
                    return damage!("{} blocks at {}, outside the group", r.count, r.start);
                }
                self.rmaps.push(r);
            }
        }
        Ok(())
    }
}

/// An inode chunk by itself: alignment, range, counts against masks.
fn verify_chunk(sb: &Superblock, ag_len: u32, r: &InodeRecord) -> Result<(), Damage> {
    let per_block = sb.inodes_per_block();
    let agbno = sb.agino_agbno(r.start);
    let last = u64::from(r.start) + u64::from(crate::btree::INODES_PER_CHUNK) - 1;
    let align = sb.inode_align_blocks;
    let unaligned =
        (sb.version & crate::superblock::VERSION_ALIGN != 0 && align > 0 && !agbno.is_multiple_of(align))
            || !r.start.is_multiple_of(per_block.min(crate::btree::INODES_PER_CHUNK));
    // holes at its end may be outside the group
    let holes = r.holes();
    let last_existing = last - u64::from(holes.leading_ones());
    if unaligned || agbno == 0 || last_existing >> sb.inodes_per_block_log >= u64::from(ag_len) {
        return damage!("chunk of inodes at {}, outside the group or not aligned", r.start);
    }
    let existing = 64 - holes.count_ones();
    let free = (r.free & !holes).count_ones();
    if u32::from(r.count) != existing || r.free_count != free || holes & !r.free != 0 || existing == 0 {
        return damage!(
            "chunk at {}: {} inodes, {} of them free, counted; {existing}, {free} of them free, in its masks",
            r.start,
            r.count,
            r.free_count
        );
    }
    Ok(())
}
