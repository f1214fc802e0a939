//! The btree by hash of a directory or of attributes: nodes over leaves, all in one fork.

use std::collections::BTreeMap;

use crate::dir::Node;
use crate::error::{Damage, damage};

/// A leaf, as far as the tree is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeafSummary {
    pub forw: u32,
    pub back: u32,
    /// Lowest and highest hash; `None` when there are no entries.
    pub hashes: Option<(u32, u32)>,
}

/// The blocks of a tree by file block.
#[derive(Debug, Default)]
pub(super) struct HashTree {
    pub nodes: BTreeMap<u32, Node>,
    pub leaves: BTreeMap<u32, LeafSummary>,
}

impl HashTree {
    /// Verifies that the blocks are one tree below `root`: every block is in it once, levels, siblings and hashes fit.
    pub(super) fn verify(mut self, root: u32) -> Result<(), Damage> {
        let mut row = vec![(root, None)];
        while let Some(level) = row.first().and_then(|(b, _)| self.nodes.get(b)).map(|n| n.level) {
            let mut next = Vec::new();
            for (i, &(block, hash)) in row.iter().enumerate() {
                let Some(node) = self.nodes.remove(&block) else {
                    return damage!(
                        "block {block:#x} is not a node of level {level}, or is in the tree twice"
                    );
                };
                if node.level != level {
                    return damage!("node {block:#x} has level {} instead of {level}", node.level);
                }
                verify_siblings(&row, i, node.forw, node.back)?;
                if node.children.windows(2).any(|w| w[0].0 > w[1].0) {
                    return damage!("hashes of node {block:#x} are out of order");
                }
                if hash.is_some() && hash != node.children.last().map(|c| c.0) {
                    return damage!("the last hash of node {block:#x} is not what its parent says");
                }
                next.extend(node.children.iter().map(|&(hash, child)| (child, Some(hash))));
            }
            if level > 1 && next.iter().any(|(b, _)| !self.nodes.contains_key(b)) {
                return damage!("a child of a node of level {level} is not a node");
            }
            row = next;
        }
        let mut last = 0;
        for (i, &(block, hash)) in row.iter().enumerate() {
            let Some(leaf) = self.leaves.remove(&block) else {
                return damage!("block {block:#x} is not a leaf, or is in the tree twice");
            };
            verify_siblings(&row, i, leaf.forw, leaf.back)?;
            if let Some((low, high)) = leaf.hashes {
                if low < last {
                    return damage!("hashes of leaf {block:#x} are below those before");
                }
                last = high;
            }
            if hash.is_some_and(|h| h != leaf.hashes.map_or(0, |(_, high)| high)) {
                return damage!("the last hash of leaf {block:#x} is not what its parent says");
            }
        }
        if let Some(block) = self.nodes.keys().chain(self.leaves.keys()).next() {
            return damage!("block {block:#x} is not in the tree");
        }
        Ok(())
    }
}

fn verify_siblings(row: &[(u32, Option<u32>)], i: usize, forw: u32, back: u32) -> Result<(), Damage> {
    let block = |n: Option<usize>| n.and_then(|n| row.get(n)).map_or(0, |b| b.0);
    if (forw, back) != (block(i.checked_add(1)), block(i.checked_sub(1))) {
        return damage!("block {:#x} has siblings {back:#x} and {forw:#x}", block(Some(i)));
    }
    Ok(())
}
