//! A btree of an allocation group in memory, which remembers the blocks of its nodes.
//!
//! Leaves hold the records; a node above them is only the number of its children, because keys and siblings follow
//! from what is below and beside it. Shape rules are the kernel's: no block but the root is less than half full.

use ocne_disk::BlockDevice;

use crate::btree::{
    FreeRecord, InodeRecord, RefcountRecord, RmapKey, RmapRecord, ShortBlock, Tree, key_at, pointer_at,
    record_at, short, write_short_header,
};
use crate::bytes::{put_u16, put_u32};
use crate::cache::ByteRange;
use crate::crc;
use crate::edit::EditError;
use crate::error::{Damage, XfsError};
use crate::superblock::Superblock;
use crate::volume::Volume;

/// Keys of all trees, such that they compare as the trees order them.
pub(super) type Key = (u64, u64, u64);

/// What a tree has records of.
pub(super) trait Record: Copy + PartialEq + std::fmt::Debug {
    fn parse(sb: &Superblock, bytes: &[u8]) -> Self;
    fn write(&self, sb: &Superblock, bytes: &mut [u8]);
    fn key(&self, tree: Tree) -> Key;
    /// The highest key that the record covers; only the rmapbt stores it.
    fn high_key(&self, tree: Tree) -> Key {
        self.key(tree)
    }
}

impl Record for FreeRecord {
    fn parse(_: &Superblock, bytes: &[u8]) -> Self {
        Self::parse(bytes)
    }
    fn write(&self, _: &Superblock, bytes: &mut [u8]) {
        self.write(bytes);
    }
    fn key(&self, tree: Tree) -> Key {
        match tree {
            Tree::Cnt => (self.count.into(), self.start.into(), 0),
            _ => (self.start.into(), self.count.into(), 0),
        }
    }
}

impl Record for InodeRecord {
    fn parse(sb: &Superblock, bytes: &[u8]) -> Self {
        Self::parse(sb, bytes)
    }
    fn write(&self, sb: &Superblock, bytes: &mut [u8]) {
        self.write(sb, bytes);
    }
    fn key(&self, _: Tree) -> Key {
        (self.start.into(), 0, 0)
    }
}

impl Record for RefcountRecord {
    fn parse(_: &Superblock, bytes: &[u8]) -> Self {
        Self::parse(bytes)
    }
    fn write(&self, _: &Superblock, bytes: &mut [u8]) {
        self.write(bytes);
    }
    fn key(&self, _: Tree) -> Key {
        (self.start.into(), 0, 0)
    }
}

fn rmap_key(k: RmapKey) -> Key {
    (k.start.into(), k.owner, k.offset)
}

impl Record for RmapRecord {
    fn parse(_: &Superblock, bytes: &[u8]) -> Self {
        Self::parse(bytes)
    }
    fn write(&self, _: &Superblock, bytes: &mut [u8]) {
        self.write(bytes);
    }
    fn key(&self, _: Tree) -> Key {
        rmap_key(self.key())
    }
    fn high_key(&self, _: Tree) -> Key {
        rmap_key(self.high_key())
    }
}

/// Writes a key as a node stores it.
fn write_key(tree: Tree, (a, b, c): Key, bytes: &mut [u8]) {
    let low = |v: u64| u32::try_from(v).unwrap_or(u32::MAX);
    match tree {
        Tree::Bno => FreeRecord { start: low(a), count: low(b) }.write(bytes),
        Tree::Cnt => FreeRecord { start: low(b), count: low(a) }.write(bytes),
        Tree::Ino | Tree::Fino | Tree::Refcount => put_u32(bytes, 0, low(a)),
        Tree::Rmap => {
            put_u32(bytes, 0, low(a));
            crate::bytes::put_u64(bytes, 4, b);
            crate::bytes::put_u64(bytes, 12, c);
        }
    }
}

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the block where it was read.
    Old(u32),
    /// In a block that it got since.
    New(u32),
    /// In no block yet.
    Unplaced,
}

impl Place {
    pub(super) fn agbno(self) -> Option<u32> {
        match self {
            Self::Old(b) | Self::New(b) => Some(b),
            Self::Unplaced => None,
        }
    }
}

#[derive(Debug)]
struct Leaf<R> {
    place: Place,
    records: Vec<R>,
}

/// A node above the leaves.
#[derive(Debug)]
struct Inner {
    place: Place,
    children: usize,
}

/// A btree with all of its records.
#[derive(Debug)]
pub(super) struct GroupTree<R> {
    pub(super) tree: Tree,
    leaf_max: usize,
    node_max: usize,
    leaves: Vec<Leaf<R>>,
    /// Level 1 first; the last has one node, the root.
    inner: Vec<Vec<Inner>>,
    /// Blocks of nodes that are no more.
    freed: Vec<u32>,
    changed: bool,
}

impl<R: Record> GroupTree<R> {
    /// Reads a tree, level by level.
    pub(super) fn load<D: BlockDevice>(
        volume: &Volume<D>,
        agno: u32,
        tree: Tree,
        root: u32,
        levels: u32,
    ) -> Result<Self, XfsError> {
        let sb = volume.superblock();
        let at = |d: Damage| d.at(format_args!("{} of AG {agno}", tree.name()));
        if levels == 0 || levels > crate::btree::MAX_LEVELS {
            return Err(at(Damage(format!("{levels} levels"))));
        }
        let mut me = Self {
            tree,
            leaf_max: tree.max_records(sb.block_size_bytes),
            node_max: tree.max_children(sb.block_size_bytes),
            leaves: Vec::new(),
            inner: Vec::new(),
            freed: Vec::new(),
            changed: false,
        };
        let mut row = vec![root];
        for level in (0..levels).rev() {
            if row.len() > sb.ag_blocks as usize {
                return Err(at(Damage("more blocks than the group has".to_owned())));
            }
            let mut ranges = Vec::with_capacity(row.len());
            for &agbno in &row {
                if agbno >= sb.ag_len_blocks(agno) {
                    return Err(at(Damage(format!("a pointer to block {agbno}"))));
                }
                ranges.push(ByteRange {
                    offset_bytes: sb.agb_offset_bytes(agno, agbno),
                    len: sb.block_size_bytes as usize,
                });
            }
            let mut next = Vec::new();
            let mut nodes = Vec::new();
            for (&agbno, bytes) in row.iter().zip(volume.read(&ranges)?) {
                let is_root = level + 1 == levels;
                let block = ShortBlock::parse(sb, tree, agno, agbno, level, is_root, &bytes).map_err(at)?;
                if level == 0 {
                    let records = (0..block.count).map(|i| R::parse(sb, block.record(i))).collect();
                    me.leaves.push(Leaf { place: Place::Old(agbno), records });
                } else {
                    next.extend((0..block.count).map(|i| block.child(i)));
                    nodes.push(Inner { place: Place::Old(agbno), children: block.count });
                }
            }
            if level > 0 {
                me.inner.insert(0, nodes);
            }
            row = next;
        }
        Ok(me)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &R> {
        self.leaves.iter().flat_map(|l| &l.records)
    }

    pub(super) fn last(&self) -> Option<&R> {
        self.leaves.last().and_then(|l| l.records.last())
    }

    /// Leaf and index in it of the first record whose key is not below `key`.
    fn position(&self, key: Key) -> (usize, usize) {
        let tree = self.tree;
        let leaf = self
            .leaves
            .partition_point(|l| l.records.first().is_some_and(|r| r.key(tree) <= key))
            .saturating_sub(1);
        let index = self.leaves.get(leaf).map_or(0, |l| l.records.partition_point(|r| r.key(tree) < key));
        (leaf, index)
    }

    /// Records from the first whose key is not below `key` on.
    pub(super) fn from(&self, key: Key) -> impl Iterator<Item = &R> {
        let (leaf, index) = self.position(key);
        self.leaves[leaf.min(self.leaves.len())..].iter().flat_map(|l| &l.records).skip(index)
    }

    /// Records whose key is below `key`, last first.
    pub(super) fn before(&self, key: Key) -> impl Iterator<Item = &R> {
        let (leaf, index) = self.position(key);
        let head = self.leaves.get(leaf).map_or(&[][..], |l| &l.records[..index]);
        let rest = self.leaves[..leaf.min(self.leaves.len())].iter().flat_map(|l| &l.records);
        head.iter().rev().chain(rest.rev())
    }

    /// Adds a record.
    pub(super) fn insert(&mut self, record: R) {
        self.changed = true;
        let (leaf, index) = self.position(record.key(self.tree));
        let Some(l) = self.leaves.get_mut(leaf) else { return };
        l.records.insert(index.min(l.records.len()), record);
        if l.records.len() > self.leaf_max {
            let half = l.records.len() / 2;
            let records = l.records.split_off(half);
            self.leaves.insert(leaf + 1, Leaf { place: Place::Unplaced, records });
            self.child_added(0, leaf + 1);
        }
    }

    /// Removes a record, which must be there.
    pub(super) fn remove(&mut self, record: &R) -> Result<(), EditError> {
        let (leaf, index) = self.position(record.key(self.tree));
        match self.leaves.get_mut(leaf) {
            Some(l) if l.records.get(index) == Some(record) => {
                l.records.remove(index);
            }
            _ => {
                return Err(EditError::Inconsistent {
                    what: format!("{record:?} is not in the {}", self.tree.name()),
                });
            }
        }
        self.changed = true;
        self.balance_leaf(leaf);
        Ok(())
    }

    /// Changes a record, in place where its position stays.
    pub(super) fn replace(&mut self, old: &R, new: R) -> Result<(), EditError> {
        let tree = self.tree;
        let (leaf, index) = self.position(old.key(tree));
        if let Some(l) = self.leaves.get_mut(leaf)
            && l.records.get(index) == Some(old)
        {
            let after_previous = match index.checked_sub(1) {
                Some(i) => l.records[i].key(tree) < new.key(tree),
                None => leaf == 0 || old.key(tree) <= new.key(tree),
            };
            let is_last = index + 1 == l.records.len();
            let before_next = match l.records.get(index + 1) {
                Some(next) => new.key(tree) < next.key(tree),
                None => new.key(tree) <= old.key(tree),
            };
            if after_previous && (before_next || (is_last && leaf + 1 == self.leaves.len())) {
                self.leaves[leaf].records[index] = new;
                self.changed = true;
                return Ok(());
            }
        }
        self.remove(old)?;
        self.insert(new);
        Ok(())
    }

    /// The node above child `index` of the row below `inner[above]`.
    fn parent(&self, above: usize, index: usize) -> usize {
        let mut end = 0;
        self.inner[above]
            .iter()
            .position(|n| {
                end += n.children;
                index < end
            })
            .unwrap_or(self.inner[above].len().saturating_sub(1))
    }

    /// Child `index` (not the first) came to the row below `inner[above]`.
    fn child_added(&mut self, above: usize, index: usize) {
        if above == self.inner.len() {
            self.inner.push(vec![Inner { place: Place::Unplaced, children: 2 }]);
            return;
        }
        let parent = self.parent(above, index - 1);
        let node = &mut self.inner[above][parent];
        node.children += 1;
        if node.children > self.node_max {
            let right = node.children / 2;
            node.children -= right;
            self.inner[above].insert(parent + 1, Inner { place: Place::Unplaced, children: right });
            self.child_added(above + 1, parent + 1);
        }
    }

    fn balance_leaf(&mut self, leaf: usize) {
        let len = |i: usize| self.leaves[i].records.len();
        if self.leaves.len() == 1 || len(leaf) >= self.leaf_max / 2 {
            return;
        }
        let left = pair(leaf, self.leaves.len(), len);
        let right = self.leaves.remove(left + 1);
        let joined = &mut self.leaves[left].records;
        joined.extend(right.records);
        if joined.len() > self.leaf_max {
            let records = joined.split_off(joined.len() / 2);
            self.leaves.insert(left + 1, Leaf { place: right.place, records });
        } else {
            self.freed.extend(right.place.agbno());
            self.child_removed(0, left + 1);
        }
    }

    /// Child `index` went from the row below `inner[above]`; parents still count it.
    fn child_removed(&mut self, above: usize, index: usize) {
        let parent = self.parent(above, index);
        let row = &mut self.inner[above];
        row[parent].children -= 1;
        if row.len() == 1 {
            if row[0].children == 1 {
                self.freed.extend(row[0].place.agbno());
                self.inner.pop();
            }
            return;
        }
        if row[parent].children >= self.node_max / 2 {
            return;
        }
        let left = pair(parent, row.len(), |i| row[i].children);
        let total = row[left].children + row[left + 1].children;
        if total > self.node_max {
            row[left].children = total / 2;
            row[left + 1].children = total - total / 2;
        } else {
            row[left].children = total;
            let gone = row.remove(left + 1);
            self.freed.extend(gone.place.agbno());
            // the row above still counts the node that went
            self.child_removed(above + 1, left + 1);
        }
    }

    /// Blocks of nodes that are no more, each told once.
    pub(super) fn take_freed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.freed)
    }

    fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        let inner = self.inner.iter_mut().flatten().map(|n| &mut n.place);
        self.leaves.iter_mut().map(|l| &mut l.place).chain(inner)
    }

    /// A node without a block.
    pub(super) fn unplaced(&mut self) -> Option<&mut Place> {
        if !self.changed {
            return None;
        }
        self.places().find(|p| **p == Place::Unplaced)
    }

    /// How many blocks it has.
    pub(super) fn block_count(&self) -> usize {
        self.leaves.len() + self.inner.iter().map(Vec::len).sum::<usize>()
    }

    /// Block of the root and number of levels.
    pub(super) fn root(&self) -> (u32, u32) {
        let place = match self.inner.last() {
            Some(row) => row.first().map(|n| n.place),
            None => self.leaves.first().map(|l| l.place),
        };
        let agbno = place.and_then(Place::agbno).unwrap_or(u32::MAX);
        (agbno, u32::try_from(self.inner.len() + 1).unwrap_or(u32::MAX))
    }

    /// All blocks as they are to be written, with those that did not change left out. `old` gives what is there.
    pub(super) fn store(
        &self,
        sb: &Superblock,
        agno: u32,
        mut old: impl FnMut(u32) -> Result<Vec<u8>, EditError>,
        mut write: impl FnMut(u32, Vec<u8>),
    ) -> Result<(), EditError> {
        if !self.changed {
            return Ok(());
        }
        let tree = self.tree;
        // lowest and highest key below each node of the row
        let mut keys: Vec<(Key, Key)> = Vec::new();
        let mut row: Vec<Place> = self.leaves.iter().map(|l| l.place).collect();
        for level in 0..=self.inner.len() {
            let below = std::mem::take(&mut keys);
            let below_row = if level == 0 {
                Vec::new()
            } else {
                let places = self.inner[level - 1].iter().map(|n| n.place).collect();
                std::mem::replace(&mut row, places)
            };
            let agbnos: Vec<u32> = row.iter().map(|p| p.agbno().unwrap_or(u32::MAX)).collect();
            let mut first = 0;
            for (i, &place) in row.iter().enumerate() {
                let before = match place {
                    Place::Old(agbno) => old(agbno)?,
                    _ => Vec::new(),
                };
                let mut block = before.clone();
                let level_u16 = u16::try_from(level).unwrap_or(u16::MAX);
                if block.is_empty() {
                    block.resize(sb.block_size_bytes as usize, 0);
                    write_short_header(sb, tree, agno, agbnos[i], level_u16, &mut block);
                }
                let sibling = |i: Option<usize>| i.and_then(|i| agbnos.get(i)).copied().unwrap_or(u32::MAX);
                put_u32(&mut block, short::LEFT, sibling(i.checked_sub(1)));
                put_u32(&mut block, short::RIGHT, sibling(Some(i + 1)));
                let count = if level == 0 {
                    let records = &self.leaves[i].records;
                    for (n, r) in records.iter().enumerate() {
                        let at = record_at(tree, n);
                        r.write(sb, &mut block[at..at + tree.record_len()]);
                    }
                    let low = records.first().map_or((0, 0, 0), |r| r.key(tree));
                    keys.push((low, records.iter().map(|r| r.high_key(tree)).max().unwrap_or(low)));
                    records.len()
                } else {
                    let count = self.inner[level - 1][i].children;
                    let children = &below[first..first + count];
                    for (n, &(low, high)) in children.iter().enumerate() {
                        let at = key_at(tree, n);
                        write_key(tree, low, &mut block[at..at + tree.key_len()]);
                        if tree == Tree::Rmap {
                            write_key(tree, high, &mut block[at + tree.key_len()..at + tree.node_key_len()]);
                        }
                        let child = below_row[first + n].agbno().unwrap_or(u32::MAX);
                        let at = pointer_at(tree, block.len(), n);
                        put_u32(&mut block, at, child);
                    }
                    first += count;
                    let low = children.first().map_or((0, 0, 0), |k| k.0);
                    keys.push((low, children.iter().map(|k| k.1).max().unwrap_or(low)));
                    count
                };
                put_u16(&mut block, short::NUMRECS, u16::try_from(count).unwrap_or(u16::MAX));
                crc::stamp(&mut block, short::CRC);
                if block != before {
                    write(agbnos[i], block);
                }
            }
        }
        Ok(())
    }
}

/// The left one of two neighbours, one of which is `index`: the neighbour that has less.
fn pair(index: usize, len: usize, size: impl Fn(usize) -> usize) -> usize {
    if index == 0 {
        0
    } else if index + 1 < len && size(index + 1) < size(index - 1) {
        index
    } else {
        index - 1
    }
}

#[cfg(test)]
mod tests;
