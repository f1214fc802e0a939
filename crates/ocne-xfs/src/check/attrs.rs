//! Attributes with blocks: leaves, the tree of hashes above them, and remote values.

use std::collections::BTreeMap;

use ocne_disk::BlockDevice;

use super::Checker;
use super::forks::ForkCheck;
use super::hash_tree::{HashTree, LeafSummary};
use super::inodes::{ForkWork, Found};
use super::links::REMOTE_LSN;
use crate::attr::{self, AttrLeaf, AttrValue, RemoteKind};
use crate::bytes::{u32_at, u64_at};
use crate::dir::{self, Node, da};
use crate::error::{Damage, XfsError, damage};
use crate::read::{ForkBlock, MAX_XATTR_BYTES};

/// The attributes of an inode, whose blocks are being read in the order of the fork.
struct AttrCheck {
    ino: u64,
    tree: HashTree,
    /// First block and length of remote values.
    remote_values: Vec<(u32, u32)>,
    /// Offset and length of what each block of remote values has.
    remote_blocks: BTreeMap<u32, (usize, usize)>,
}

impl<D: BlockDevice> Checker<'_, D> {
    pub(super) fn check_attributes(&mut self, found: &mut Found) -> Result<(), XfsError> {
        let forks = std::mem::take(&mut found.attr_forks);
        let start = |f: &ForkWork| AttrCheck {
            ino: f.ino,
            tree: HashTree::default(),
            remote_values: Vec::new(),
            remote_blocks: BTreeMap::new(),
        };
        let per_block = attr::remote_bytes_per_block(self.sb);
        self.stream_forks(&forks, 1, start, |_, check: AttrCheck| check.finish(per_block))
    }
}

impl<D: BlockDevice> ForkCheck<D> for AttrCheck {
    const PLACE: &'static str = "attributes of inode";

    fn visit(&mut self, checker: &mut Checker<'_, D>, block: &ForkBlock) -> Result<(), Damage> {
        let Ok(file_block) = u32::try_from(block.file_block) else {
            return damage!("block {}", block.file_block);
        };
        let place = |d: Damage| Damage(format!("block {file_block}: {}", d.0));
        let daddr = checker.volume.daddr_of(&block.fsblocks);
        let b = &block.bytes;
        if attr::is_remote_block(b) {
            let offset = u32_at(b, 4) as usize;
            let content = attr::parse_remote(checker.sb, RemoteKind::Value, self.ino, daddr, offset, b)
                .map_err(place)?;
            self.remote_blocks.insert(file_block, (offset, content.len()));
            checker.lsn(u64_at(b, REMOTE_LSN));
            return Ok(());
        }
        let allowed = [da::MAGIC_ATTR_LEAF, da::MAGIC_NODE];
        let magic = dir::verify_da_header(checker.sb, self.ino, daddr, &allowed, b).map_err(place)?;
        checker.lsn(u64_at(b, da::LSN));
        if magic == da::MAGIC_NODE {
            self.tree.nodes.insert(file_block, Node::parse(b).map_err(place)?);
            return Ok(());
        }
        let leaf = AttrLeaf::parse(b).map_err(place)?;
        let hashes = leaf.entries.first().zip(leaf.entries.last()).map(|(a, b)| (a.hash, b.hash));
        self.tree.leaves.insert(file_block, LeafSummary { forw: leaf.forw, back: leaf.back, hashes });
        if leaf.entries.windows(2).any(|w| w[0].hash > w[1].hash) {
            return Err(place(Damage("hashes are out of order".to_owned())));
        }
        for e in &leaf.entries {
            if e.flags & attr::FLAG_INCOMPLETE != 0 {
                return damage!("`{}` is incomplete", String::from_utf8_lossy(&e.name));
            }
            if e.hash != dir::hash_name(&e.name) {
                return damage!("`{}` has a wrong hash", String::from_utf8_lossy(&e.name));
            }
            if let AttrValue::Remote { first_block, len } = e.value {
                self.remote_values.push((first_block, len));
            }
        }
        Ok(())
    }
}

impl AttrCheck {
    fn finish(mut self, per_block: usize) -> Result<(), Damage> {
        self.tree.verify(0)?;
        for (first, len) in self.remote_values {
            if len == 0 || len > MAX_XATTR_BYTES {
                return damage!("a remote value of {len} bytes");
            }
            for (block, offset) in (first..).zip((0..len as usize).step_by(per_block)) {
                let wanted = (offset, per_block.min(len as usize - offset));
                if self.remote_blocks.remove(&block) != Some(wanted) {
                    return damage!("block {block} does not have the part at {offset} of a remote value");
                }
            }
        }
        match self.remote_blocks.keys().next() {
            Some(block) => damage!("block {block} belongs to no remote value"),
            None => Ok(()),
        }
    }
}
