//! Directories with blocks: entries, free space in blocks, and the index of hashes that must say the same.

use ocne_disk::BlockDevice;

use super::Checker;
use super::forks::ForkCheck;
use super::hash_tree::{HashTree, LeafSummary};
use super::inodes::{ForkWork, Found, Reference};
use crate::bytes::{u16_at, u64_at};
use crate::dir::{self, BlockTail, DataItem, FreeIndex, Leaf, LeafEntry, Node, da, data};
use crate::error::{Damage, XfsError, damage};
use crate::inode::FileType;
use crate::read::ForkBlock;
use crate::superblock::Superblock;

/// A directory whose blocks are being read, in the order of the file.
struct DirCheck {
    ino: u64,
    directory: u32,
    size_bytes: u64,
    references: Vec<Reference>,
    /// Hash and address of each entry, and a second hash that tells apart names with one hash.
    entries: Vec<(u32, u32, u32)>,
    /// Number of each data block and its longest free region.
    bests: Vec<(u32, u16)>,
    parent: Option<u64>,
    is_block_form: bool,
    index: Vec<LeafEntry>,
    single_leaf_bests: Option<Vec<u16>>,
    tree: HashTree,
    /// Place in the free index of each of its blocks.
    free_index: Vec<(u32, FreeIndex)>,
}

impl<D: BlockDevice> Checker<'_, D> {
    pub(super) fn check_directories(&mut self, found: &mut Found) -> Result<(), XfsError> {
        let forks = std::mem::take(&mut found.dir_forks);
        for f in forks.iter().filter(|f| f.extents.is_empty()) {
            self.problem(format_args!("directory {}", f.ino), "it has no blocks");
        }
        self.stream_forks(
            &forks,
            self.sb.dir_block_blocks(),
            DirCheck::new,
            |checker, mut check: DirCheck| {
                let references = std::mem::take(&mut check.references);
                found.references.extend(references);
                let (parent, directory) = (check.parent, check.directory);
                check.finish(checker.sb)?;
                if parent.is_none() {
                    return damage!("no entry `..`");
                }
                if let Some(d) = found.directories.get_mut(directory as usize) {
                    d.parent = parent;
                }
                Ok(())
            },
        )
    }
}

impl<D: BlockDevice> ForkCheck<D> for DirCheck {
    const PLACE: &'static str = "directory";

    fn visit(&mut self, checker: &mut Checker<'_, D>, block: &ForkBlock) -> Result<(), Damage> {
        let sb = checker.sb;
        let daddr = checker.volume.daddr_of(&block.fsblocks);
        let [leaf_start, free_start] =
            [dir::LEAF_OFFSET_BYTES, dir::FREE_OFFSET_BYTES].map(|b| b >> sb.block_log);
        if block.file_block < leaf_start {
            let number =
                u32::try_from(block.file_block / u64::from(sb.dir_block_blocks())).unwrap_or(u32::MAX);
            self.visit_data(sb, number, daddr, &block.bytes)
                .map_err(|d| Damage(format!("data block {number}: {}", d.0)))?;
            checker.lsn(u64_at(&block.bytes, data::LSN));
        } else if block.file_block < free_start {
            self.visit_index(sb, block.file_block, daddr, &block.bytes)
                .map_err(|d| Damage(format!("index block {:#x}: {}", block.file_block, d.0)))?;
            checker.lsn(u64_at(&block.bytes, da::LSN));
        } else {
            let number = (block.file_block - free_start) / u64::from(sb.dir_block_blocks());
            let place = |d: Damage| Damage(format!("free index block {number}: {}", d.0));
            dir::verify_data_header(sb, self.ino, daddr, &[data::MAGIC_FREE], &block.bytes).map_err(place)?;
            let free = FreeIndex::parse(&block.bytes).map_err(place)?;
            self.free_index.push((u32::try_from(number).unwrap_or(u32::MAX), free));
            checker.lsn(u64_at(&block.bytes, data::LSN));
        }
        Ok(())
    }
}

impl DirCheck {
    fn new(f: &ForkWork) -> Self {
        Self {
            ino: f.ino,
            directory: f.directory,
            size_bytes: f.size_bytes,
            references: Vec::new(),
            entries: Vec::new(),
            bests: Vec::new(),
            parent: None,
            is_block_form: false,
            index: Vec::new(),
            single_leaf_bests: None,
            tree: HashTree::default(),
            free_index: Vec::new(),
        }
    }

    fn visit_data(&mut self, sb: &Superblock, number: u32, daddr: u64, block: &[u8]) -> Result<(), Damage> {
        let allowed = [data::MAGIC_BLOCK, data::MAGIC_DATA];
        let magic = dir::verify_data_header(sb, self.ino, daddr, &allowed, block)?;
        let items = dir::parse_data(block)?;
        let base = u64::from(number) * u64::from(sb.dir_block_size_bytes);
        let mut free: Vec<(u16, u16)> = Vec::new();
        let mut after_free = false;
        for (i, item) in items.iter().enumerate() {
            let &DataItem::Entry { offset, ino, name, ftype } = item else {
                if after_free {
                    return damage!("two free regions that touch at {}", item.offset());
                }
                after_free = true;
                free.push((
                    u16::try_from(item.len()).unwrap_or(0),
                    u16::try_from(item.offset()).unwrap_or(0),
                ));
                continue;
            };
            after_free = false;
            match (number, i, name) {
                (0, 0, b".") if ino == self.ino && ftype == FileType::Directory.to_dirent() => {}
                (0, 1, b"..") if ftype == FileType::Directory.to_dirent() => self.parent = Some(ino),
                (0, 0 | 1, _) | (_, _, b"." | b"..") => {
                    return damage!("entry `{}` at {offset}", String::from_utf8_lossy(name));
                }
                _ if dir::is_valid_name(name) && FileType::from_dirent(ftype).is_some() => {
                    self.references.push(Reference { from: self.directory, ino, ftype });
                }
                _ => return damage!("an entry `{}` of type {ftype}", String::from_utf8_lossy(name)),
            }
            let address = u32::try_from((base + offset as u64) / 8).unwrap_or(u32::MAX);
            self.entries.push((dir::hash_name(name), address, crc32c::crc32c(name)));
        }
        verify_best_free(block, free.clone())?;
        let best = free.iter().map(|f| f.0).max().unwrap_or(0);
        self.bests.push((number, best));
        if magic == data::MAGIC_BLOCK {
            let tail = BlockTail::parse(block)?;
            self.is_block_form = true;
            self.index = tail.entries(block);
            verify_order(&self.index, tail.stale)?;
        }
        Ok(())
    }

    fn visit_index(
        &mut self,
        sb: &Superblock,
        file_block: u64,
        daddr: u64,
        block: &[u8],
    ) -> Result<(), Damage> {
        let Ok(file_block) = u32::try_from(file_block) else { return damage!("too far") };
        let allowed = [da::MAGIC_LEAF1, da::MAGIC_LEAFN, da::MAGIC_NODE];
        if dir::verify_da_header(sb, self.ino, daddr, &allowed, block)? == da::MAGIC_NODE {
            self.tree.nodes.insert(file_block, Node::parse(block)?);
            return Ok(());
        }
        let leaf = Leaf::parse(block)?;
        verify_order(&leaf.entries, leaf.stale)?;
        let hashes = leaf.entries.first().zip(leaf.entries.last()).map(|(a, b)| (a.hash, b.hash));
        self.tree.leaves.insert(file_block, LeafSummary { forw: leaf.forw, back: leaf.back, hashes });
        if leaf.is_single {
            self.single_leaf_bests = Some(leaf.bests);
        }
        self.index.extend(leaf.entries);
        Ok(())
    }

    /// What all blocks say together.
    fn finish(mut self, sb: &Superblock) -> Result<(), Damage> {
        let block_count = self.bests.last().map_or(0, |b| u64::from(b.0) + 1);
        if self.size_bytes != block_count * u64::from(sb.dir_block_size_bytes) {
            return damage!("{} bytes, but data blocks up to number {block_count}", self.size_bytes);
        }
        let has_index_blocks = !self.tree.leaves.is_empty() || !self.tree.nodes.is_empty();
        if self.is_block_form {
            if block_count != 1 || has_index_blocks || !self.free_index.is_empty() {
                return damage!("a block with an index of its own, and other blocks");
            }
        } else {
            let root = u32::try_from(dir::LEAF_OFFSET_BYTES >> sb.block_log).unwrap_or(u32::MAX);
            let single = self.single_leaf_bests.take();
            if single.is_some() && (self.tree.leaves.len() > 1 || !self.tree.nodes.is_empty()) {
                return damage!("a single leaf, and other index blocks");
            }
            std::mem::take(&mut self.tree).verify(root)?;
            match single {
                Some(bests) => self.verify_single_leaf_bests(&bests, block_count)?,
                None => self.verify_free_index(sb)?,
            }
        }
        self.index.retain(|e| e.address != 0);
        let mut index: Vec<(u32, u32)> = self.index.iter().map(|e| (e.hash, e.address)).collect();
        let mut entries: Vec<(u32, u32)> = self.entries.iter().map(|e| (e.0, e.1)).collect();
        index.sort_unstable();
        entries.sort_unstable();
        if index != entries {
            return damage!("its index differs from its entries");
        }
        let mut names: Vec<(u32, u32)> = self.entries.iter().map(|e| (e.0, e.2)).collect();
        names.sort_unstable();
        if names.windows(2).any(|w| w[0] == w[1]) {
            return damage!("two entries with one name");
        }
        Ok(())
    }

    fn verify_single_leaf_bests(&self, bests: &[u16], block_count: u64) -> Result<(), Damage> {
        if !self.free_index.is_empty() || bests.len() as u64 != block_count {
            return damage!("{} lengths of free space for {block_count} data blocks", bests.len());
        }
        let mut wanted = vec![data::NO_BLOCK; bests.len()];
        for &(number, best) in &self.bests {
            if let Some(w) = wanted.get_mut(number as usize) {
                *w = best;
            }
        }
        if wanted == bests {
            Ok(())
        } else {
            damage!("lengths of free space in the leaf differ from the data blocks'")
        }
    }

    fn verify_free_index(&self, sb: &Superblock) -> Result<(), Damage> {
        let mut covered = 0;
        for (place, free) in &self.free_index {
            let max = FreeIndex::max_bests(sb.dir_block_size_bytes);
            if place.checked_mul(max) != Some(free.first) {
                return damage!("free index block {place} is about data blocks from {} on", free.first);
            }
            if free.bests.iter().filter(|&&b| b != data::NO_BLOCK).count() != free.used {
                return damage!("free index block {place} counts {} used entries", free.used);
            }
            if free.bests.last() == Some(&data::NO_BLOCK) {
                return damage!("free index block {place} ends with data blocks that do not exist");
            }
            let from = self.bests.partition_point(|b| b.0 < free.first);
            let mut blocks = self.bests[from..].iter().peekable();
            for (number, &best) in (free.first..).zip(&free.bests) {
                let wanted = match blocks.next_if(|b| b.0 == number) {
                    Some(b) => {
                        covered += 1;
                        b.1
                    }
                    None => data::NO_BLOCK,
                };
                if wanted != best {
                    return damage!(
                        "free index block {place} says {best} of data block {number}, which has {wanted}"
                    );
                }
            }
        }
        if covered != self.bests.len() {
            return damage!("the free index is about {covered} of {} data blocks", self.bests.len());
        }
        Ok(())
    }
}

/// The three longest free regions that a block stores are those that it has.
fn verify_best_free(block: &[u8], mut free: Vec<(u16, u16)>) -> Result<(), Damage> {
    let stored = dir::best_free(block);
    free.sort_unstable_by(|a, b| b.cmp(a));
    for (i, &(offset, len)) in stored.iter().enumerate() {
        let is_there = len == 0 && offset == 0 || free.contains(&(len, offset));
        let is_twice = len != 0 && stored[..i].contains(&(offset, len));
        if !is_there || is_twice || len != free.get(i).map_or(0, |f| f.0) {
            return damage!("{len} bytes at {offset} in the list of longest free regions");
        }
    }
    // the padding after the list
    if u16_at(block, data::BEST_FREE + 12) != 0 || u16_at(block, data::BEST_FREE + 14) != 0 {
        return damage!("padding that is not zero");
    }
    Ok(())
}

/// An index is ordered by hash, stale entries included, which are counted.
fn verify_order(entries: &[LeafEntry], stale: usize) -> Result<(), Damage> {
    if entries.windows(2).any(|w| w[0].hash > w[1].hash) {
        return damage!("hashes are out of order");
    }
    let found = entries.iter().filter(|e| e.address == 0).count();
    if found == stale { Ok(()) } else { damage!("{stale} stale entries counted, {found} found") }
}
