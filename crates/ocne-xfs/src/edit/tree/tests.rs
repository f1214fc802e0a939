//! The shape of a tree through insertions and removals.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const TREE: Tree = Tree::Refcount;

fn record(start: u32) -> RefcountRecord {
    RefcountRecord { start, count: 1, refs: 2 }
}

/// A tree of a root without records.
fn empty() -> GroupTree<RefcountRecord> {
    GroupTree {
        tree: TREE,
        leaf_max: 6,
        node_max: 5,
        leaves: vec![Leaf { place: Place::Old(0), records: Vec::new() }],
        inner: Vec::new(),
        freed: Vec::new(),
        changed: false,
    }
}

/// Places new nodes; the blocks in use.
fn place(tree: &mut GroupTree<RefcountRecord>, next: &mut u32, used: &mut BTreeSet<u32>) {
    for block in tree.take_freed() {
        assert!(used.remove(&block), "block {block} was freed twice");
    }
    while let Some(place) = tree.unplaced() {
        *next += 1;
        used.insert(*next);
        *place = Place::New(*next);
    }
}

fn verify(tree: &mut GroupTree<RefcountRecord>, wanted: &BTreeSet<u32>, used: &BTreeSet<u32>) {
    assert!(tree.iter().map(|r| r.start).eq(wanted.iter().copied()), "records");
    let is_root = |row: usize| row == tree.inner.len();
    for (row, sizes, max) in
        std::iter::once((0, tree.leaves.iter().map(|l| l.records.len()).collect(), tree.leaf_max)).chain(
            (1..)
                .zip(&tree.inner)
                .map(|(i, n)| (i, n.iter().map(|n| n.children).collect::<Vec<_>>(), tree.node_max)),
        )
    {
        let min = if is_root(row) { 0 } else { max / 2 };
        assert!(sizes.iter().all(|n| (min..=max).contains(n)), "row {row}: {sizes:?}");
        if is_root(row) {
            assert_eq!(sizes.len(), 1);
            assert!(row == 0 || sizes[0] > 1, "a root with one child");
        } else {
            assert_eq!(sizes.len(), tree.inner[row].iter().map(|n| n.children).sum::<usize>());
        }
    }
    let places: BTreeSet<u32> = tree.places().filter_map(|p| p.agbno()).collect();
    assert_eq!(&places, used);
    assert_eq!(places.len(), tree.block_count());
}

proptest! {
    #[test]
    fn keeps_its_shape(edits in proptest::collection::vec((0u8..5, 0u32..400), 1..600)) {
        let (mut tree, mut wanted) = (empty(), BTreeSet::new());
        let (mut next, mut used) = (0, BTreeSet::from([0]));
        // first mostly insertions, then mostly removals
        let half = edits.len() / 2;
        for (i, (what, start)) in edits.into_iter().enumerate() {
            let insert = if i < half { what > 0 } else { what == 0 };
            let present: Option<u32> = wanted.range(start..).next().or_else(|| wanted.first()).copied();
            match present {
                _ if insert && wanted.insert(start) => tree.insert(record(start)),
                _ if insert => {}
                Some(old) if what == 1 && !wanted.contains(&start) => {
                    tree.replace(&record(old), record(start)).unwrap();
                    wanted.remove(&old);
                    wanted.insert(start);
                }
                Some(old) => {
                    tree.remove(&record(old)).unwrap();
                    wanted.remove(&old);
                }
                None => {}
            }
            place(&mut tree, &mut next, &mut used);
            verify(&mut tree, &wanted, &used);
            let at = (u64::from(start), 0, 0);
            prop_assert_eq!(tree.from(at).next().map(|r| r.start), wanted.range(start..).next().copied());
            prop_assert_eq!(tree.before(at).next().map(|r| r.start), wanted.range(..start).next_back().copied());
        }
        prop_assert!(tree.remove(&record(1000)).is_err());
    }
}
