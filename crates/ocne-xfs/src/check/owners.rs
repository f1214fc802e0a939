//! Every block of every group has one owner, or is shared as the reference counts say.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Checker;
use super::inodes::SHAREABLE;
use crate::btree::{REFCOUNT_COW, RMAP_BMBT_BLOCK, RMAP_OFFSET_MASK, RefcountRecord, RmapRecord, owner};

/// Differences that are reported for one group.
const MAX_DIFFERENCES: usize = 5;

impl<D: ocne_disk::BlockDevice> Checker<'_, D> {
    pub(super) fn check_owners(&mut self) {
        for agno in 0..self.sb.ag_count {
            let group = &mut self.groups[agno as usize];
            let mut owners = std::mem::take(&mut group.owners);
            let refcounts = group.refcounts.take();
            let rmaps = group.rmaps.take();
            for r in refcounts.iter().flatten().filter(|r| r.start & REFCOUNT_COW != 0) {
                owners.push(RmapRecord {
                    start: r.start & !REFCOUNT_COW,
                    count: r.count,
                    owner: owner::COW,
                    offset: 0,
                });
            }
            owners.sort_unstable();
            let mut wrong = Vec::new();
            let shared = sweep(&owners, self.sb.ag_len_blocks(agno), self.owners_incomplete, &mut wrong);
            self.report.shared_blocks += shared.iter().map(|r| u64::from(r.count)).sum::<u64>();
            if let (Some(refcounts), false) = (refcounts, self.owners_incomplete) {
                let counted = merge_refcounts(refcounts.into_iter().filter(|r| r.start & REFCOUNT_COW == 0));
                let differs = counted.iter().zip(&shared).find(|(a, b)| a != b);
                if let Some((counted, found)) = differs {
                    wrong.push(format!("reference counts: {counted:?} in the tree, {found:?} found"));
                } else if counted.len() != shared.len() {
                    wrong.push(format!(
                        "{} reference counts in the tree, {} found",
                        counted.len(),
                        shared.len()
                    ));
                }
            }
            if let (Some(rmaps), false) = (rmaps, self.owners_incomplete) {
                owners.retain(|r| r.owner != owner::NULL);
                for r in &mut owners {
                    r.offset &= !SHAREABLE;
                }
                compare_rmaps(merge_rmaps(rmaps), merge_rmaps(owners), &mut wrong);
            }
            for what in wrong {
                self.problem(format_args!("AG {agno}"), what);
            }
        }
    }
}

/// Goes over the owners, which are in order, and finds blocks without an owner, blocks with two of which one does
/// not share, and the blocks that are shared.
fn sweep(owners: &[RmapRecord], len: u32, incomplete: bool, wrong: &mut Vec<String>) -> Vec<RefcountRecord> {
    let mut shared: Vec<RefcountRecord> = Vec::new();
    // ends of the extents at `at`, nearest first
    let mut active: BinaryHeap<Reverse<u32>> = BinaryHeap::new();
    let mut exclusive_end = 0;
    let mut at = 0;
    let last = RmapRecord { start: len, count: 0, owner: owner::NULL, offset: 0 };
    for r in owners.iter().chain([&last]) {
        while at < r.start {
            while active.peek().is_some_and(|Reverse(end)| *end <= at) {
                active.pop();
            }
            let next = active.peek().map_or(r.start, |Reverse(end)| (*end).min(r.start));
            if active.is_empty() && !incomplete && wrong.len() < MAX_DIFFERENCES {
                wrong.push(format!("{} blocks at {at} belong to nothing", next - at));
            }
            if active.len() > 1 {
                let refs = u32::try_from(active.len()).unwrap_or(u32::MAX);
                push_refcount(&mut shared, RefcountRecord { start: at, count: next - at, refs });
            }
            at = next;
        }
        while active.peek().is_some_and(|Reverse(end)| *end <= at) {
            active.pop();
        }
        if r.count == 0 {
            continue;
        }
        let exclusive = r.offset & SHAREABLE == 0;
        if (r.start < exclusive_end || (exclusive && !active.is_empty())) && wrong.len() < MAX_DIFFERENCES {
            wrong.push(format!(
                "{} blocks at {} belong to {} and to something else",
                r.count,
                r.start,
                name(r.owner)
            ));
        }
        let end = r.start.saturating_add(r.count);
        if exclusive {
            exclusive_end = exclusive_end.max(end);
        }
        active.push(Reverse(end));
    }
    shared
}

fn name(owner: u64) -> String {
    match owner {
        owner::NULL => "free space".to_owned(),
        owner::FS => "the group's headers".to_owned(),
        owner::LOG => "the log".to_owned(),
        owner::AG => "the free space btrees".to_owned(),
        owner::INOBT => "the inode btrees".to_owned(),
        owner::INODES => "inodes".to_owned(),
        owner::REFCOUNT => "the refcountbt".to_owned(),
        owner::COW => "copy on write".to_owned(),
        ino => format!("inode {ino}"),
    }
}

/// Adds a record, joined with the one before where that touches it and has as many references.
fn push_refcount(list: &mut Vec<RefcountRecord>, r: RefcountRecord) {
    match list.last_mut() {
        Some(last) if last.refs == r.refs && last.start.checked_add(last.count) == Some(r.start) => {
            last.count = last.count.saturating_add(r.count);
        }
        _ => list.push(r),
    }
}

fn merge_refcounts(records: impl Iterator<Item = RefcountRecord>) -> Vec<RefcountRecord> {
    let mut out = Vec::new();
    for r in records {
        push_refcount(&mut out, r);
    }
    out
}

/// Joins what touches and belongs together, so that two lists compare whatever the pieces were.
fn merge_rmaps(mut records: Vec<RmapRecord>) -> Vec<RmapRecord> {
    let has_offset = |r: &RmapRecord| r.is_inode_owner() && r.offset & RMAP_BMBT_BLOCK == 0;
    let flags = |r: &RmapRecord| r.offset & !RMAP_OFFSET_MASK;
    records.sort_unstable_by_key(|r| (r.owner, flags(r), r.offset & RMAP_OFFSET_MASK, r.start));
    let mut out: Vec<RmapRecord> = Vec::with_capacity(records.len());
    for r in records {
        match out.last_mut() {
            Some(l)
                if l.owner == r.owner
                    && flags(l) == flags(&r)
                    && l.start.checked_add(l.count) == Some(r.start)
                    && (!has_offset(&r) || l.offset + u64::from(l.count) == r.offset) =>
            {
                l.count = l.count.saturating_add(r.count);
            }
            _ => out.push(r),
        }
    }
    out.sort_unstable();
    out
}

fn compare_rmaps(tree: Vec<RmapRecord>, found: Vec<RmapRecord>, wrong: &mut Vec<String>) {
    let (mut tree, mut found) = (tree.into_iter().peekable(), found.into_iter().peekable());
    let mut differences = 0;
    while let Some(order) = match (tree.peek(), found.peek()) {
        (Some(a), Some(b)) => Some(a.cmp(b)),
        (Some(_), None) => Some(std::cmp::Ordering::Less),
        (None, Some(_)) => Some(std::cmp::Ordering::Greater),
        (None, None) => None,
    } {
        let (record, what) = match order {
            std::cmp::Ordering::Equal => {
                tree.next();
                found.next();
                continue;
            }
            std::cmp::Ordering::Less => (tree.next(), "is in the rmapbt only"),
            std::cmp::Ordering::Greater => (found.next(), "is not in the rmapbt"),
        };
        differences += 1;
        if let (Some(r), true) = (record, differences <= MAX_DIFFERENCES) {
            wrong.push(format!(
                "use of {} blocks at {} by {} at offset {:#x} {what}",
                r.count,
                r.start,
                name(r.owner),
                r.offset
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(start: u32, count: u32, owner: u64, offset: u64) -> RmapRecord {
        RmapRecord { start, count, owner, offset }
    }

    #[test]
    fn gaps_overlaps_and_shares() {
        let mut wrong = Vec::new();
        let owners = [
            owner(0, 4, owner::FS, 0),
            owner(4, 10, 131, SHAREABLE),
            owner(6, 4, 132, SHAREABLE),
            owner(8, 6, 133, SHAREABLE),
            owner(14, 2, owner::NULL, 0),
        ];
        let shared = sweep(&owners, 16, false, &mut wrong);
        let record = |start, count, refs| RefcountRecord { start, count, refs };
        assert_eq!(shared, [record(6, 2, 2), record(8, 2, 3), record(10, 4, 2)]);
        assert_eq!(wrong, [""; 0]);
        sweep(&owners, 20, false, &mut wrong);
        assert_eq!(wrong, ["4 blocks at 16 belong to nothing"]);
        wrong.clear();
        sweep(&[owner(0, 4, owner::FS, 0), owner(3, 5, 131, SHAREABLE)], 8, false, &mut wrong);
        assert_eq!(wrong, ["5 blocks at 3 belong to inode 131 and to something else"]);
    }

    #[test]
    fn mappings_are_joined() {
        let pieces = vec![
            owner(10, 5, 131, 0),
            owner(15, 5, 131, 5),
            owner(20, 5, 131, 9),
            owner(30, 1, owner::AG, 0),
        ];
        let joined = merge_rmaps(pieces);
        assert_eq!(joined, [owner(10, 10, 131, 0), owner(20, 5, 131, 9), owner(30, 1, owner::AG, 0)]);
    }
}
