//! Block maps: from a fork to its extents. The trees of many forks are read level by level, all at once.

use ocne_disk::BlockDevice;

use crate::btree::{BmapRoot, LongBlock, long};
use crate::bytes::u64_at;
use crate::cache::ByteRange;
use crate::error::{Damage, XfsError, damage};
use crate::inode::{Extent, Fork, ForkFormat, Inode, parse_extent_list};
use crate::superblock::Superblock;
use crate::volume::Volume;

/// Blocks that are asked for in one round.
const BLOCKS_PER_ROUND: usize = 4096;

/// The extents of a fork, and the blocks of the btree that has them.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockMap {
    pub extents: Vec<Extent>,
    /// File system block numbers.
    pub tree_blocks: Vec<u64>,
    /// The highest LSN in the tree.
    pub max_lsn: u64,
}

/// A fork whose block map is a btree, to be read.
#[derive(Debug, Clone)]
pub(crate) struct TreeFork {
    pub ino: u64,
    pub fork: Fork,
    pub root: BmapRoot,
    /// As the inode says.
    pub extent_count: u64,
}

/// What is in a fork without reading more than the inode.
#[derive(Debug, Clone)]
pub(crate) enum ForkContent<'a> {
    /// Nothing, or a device number.
    Empty,
    /// Local content: the whole fork.
    Local(&'a [u8]),
    /// All extents.
    Extents(Vec<Extent>),
    /// The root of a btree.
    Tree(TreeFork),
}

/// What is in a fork of an inode with the bytes `raw`.
pub(crate) fn fork_content<'a>(
    sb: &Superblock,
    inode: &Inode,
    fork: Fork,
    raw: &'a [u8],
) -> Result<ForkContent<'a>, Damage> {
    let bytes = inode.fork_bytes(fork, raw);
    let (format, count) = inode.fork_form(fork);
    if fork == Fork::Attr && inode.fork_offset == 0 {
        return if count == 0 {
            Ok(ForkContent::Empty)
        } else {
            damage!("{count} attribute extents and no fork")
        };
    }
    match format {
        ForkFormat::Device => Ok(ForkContent::Empty),
        ForkFormat::Local => Ok(ForkContent::Local(bytes)),
        ForkFormat::Extents => {
            let extents = parse_extent_list(bytes, count)?;
            verify_extents(sb, &extents, 0)?;
            Ok(ForkContent::Extents(extents))
        }
        ForkFormat::Btree => {
            let root = BmapRoot::parse(bytes)?;
            if count <= (bytes.len() / 16) as u64 {
                return damage!("a btree of {count} extents, which would fit in the inode");
            }
            Ok(ForkContent::Tree(TreeFork { ino: inode.ino, fork, root, extent_count: count }))
        }
    }
}

/// Verifies that extents are inside the file system and ascend from `min_file_block` on; returns the file block
/// after the last.
pub(crate) fn verify_extents(
    sb: &Superblock,
    extents: &[Extent],
    min_file_block: u64,
) -> Result<u64, Damage> {
    let mut next = min_file_block;
    for e in extents {
        if e.count == 0 || !sb.is_extent_inside(e.fsblock, e.count) {
            return damage!("extent of {} blocks at {:#x}, outside the file system", e.count, e.fsblock);
        }
        if e.file_block < next {
            return damage!("extent at file block {} where {next} or more is wanted", e.file_block);
        }
        next = e.end_file_block();
        if next > 1 << 54 {
            return damage!("extent that ends at file block {next}");
        }
    }
    Ok(next)
}

/// A block of a tree to be read: which fork, where, and the key that its parent has for it.
struct Pending {
    fork: usize,
    fsblock: u64,
    key: u64,
}

impl<D: BlockDevice> Volume<D> {
    /// Reads the btrees of many forks. Each result is the map or what is wrong with the tree; the error is one of
    /// the device.
    pub(crate) fn read_block_maps(
        &self,
        forks: &[TreeFork],
    ) -> Result<Vec<Result<BlockMap, Damage>>, XfsError> {
        let sb = self.superblock();
        let mut maps: Vec<Result<BlockMap, Damage>> = forks.iter().map(|_| Ok(BlockMap::default())).collect();
        let mut level = forks.iter().map(|f| u32::from(f.root.level)).max().unwrap_or(0);
        let mut pending: Vec<Pending> = Vec::new();
        while level > 0 {
            // roots join at their level
            for (fork, f) in forks.iter().enumerate().filter(|(_, f)| u32::from(f.root.level) == level) {
                pending.extend(f.root.children.iter().map(|&(key, fsblock)| Pending { fork, fsblock, key }));
            }
            pending.sort_by_key(|p| p.fork);
            level -= 1;
            let mut next = Vec::new();
            for group in pending.chunk_by(|a, b| a.fork == b.fork) {
                let Some(Pending { fork, .. }) = group.first() else { continue };
                if let Err(d) = verify_pointers(sb, &forks[*fork], group) {
                    maps[*fork] = Err(d);
                }
            }
            pending.retain(|p| maps[p.fork].is_ok());
            // a group of blocks at a time, so that a huge tree needs rounds and not memory
            for first in (0..pending.len()).step_by(BLOCKS_PER_ROUND) {
                let batch = &pending[first..(first + BLOCKS_PER_ROUND).min(pending.len())];
                let ranges: Vec<ByteRange> = batch.iter().map(|p| self.block_range(p.fsblock)).collect();
                for (i, bytes) in (first..).zip(self.read(&ranges)?) {
                    let p = &pending[i];
                    let neighbour = |n: Option<&Pending>| {
                        n.filter(|n| n.fork == p.fork).map_or(long::NULL, |n| n.fsblock)
                    };
                    let siblings = (
                        neighbour(i.checked_sub(1).and_then(|i| pending.get(i))),
                        neighbour(pending.get(i + 1)),
                    );
                    let map = &mut maps[p.fork];
                    if let Ok(m) = map
                        && let Err(d) =
                            map_block(sb, &forks[p.fork], p, level, &bytes, siblings, m, &mut next)
                    {
                        *map = Err(d);
                    }
                }
            }
            pending = next;
        }
        for (map, f) in maps.iter_mut().zip(forks) {
            if let Ok(m) = map
                && m.extents.len() as u64 != f.extent_count
            {
                *map = damage!("{} extents counted, {} found", f.extent_count, m.extents.len());
            }
        }
        Ok(maps)
    }

    /// The bytes of one block, which is inside the file system.
    pub(crate) fn block_range(&self, fsblock: u64) -> ByteRange {
        let sb = self.superblock();
        ByteRange {
            offset_bytes: sb.fsblock_offset_bytes(fsblock).unwrap_or(u64::MAX),
            len: sb.block_size_bytes as usize,
        }
    }
}

/// One block of a tree: extents go to the map, children to `next`.
#[expect(clippy::too_many_arguments, reason = "the loop above, named")]
fn map_block(
    sb: &Superblock,
    fork: &TreeFork,
    p: &Pending,
    level: u32,
    bytes: &[u8],
    (left, right): (u64, u64),
    map: &mut BlockMap,
    next: &mut Vec<Pending>,
) -> Result<(), Damage> {
    let block = LongBlock::parse(sb, fork.ino, p.fsblock, level, bytes)
        .map_err(|d| Damage(format!("block map block {:#x}: {}", p.fsblock, d.0)))?;
    if (block.left, block.right) != (left, right) {
        return damage!(
            "block map block {:#x} has siblings {:#x} and {:#x} instead of {left:#x} and {right:#x}",
            p.fsblock,
            block.left,
            block.right
        );
    }
    map.tree_blocks.push(p.fsblock);
    map.max_lsn = map.max_lsn.max(crate::log::plain_lsn(u64_at(bytes, long::LSN)));
    let first_key = if level == 0 {
        let extents: Vec<Extent> = (0..block.count).map(|i| Extent::parse(block.record(i))).collect();
        if (map.extents.len() + extents.len()) as u64 > fork.extent_count {
            return damage!("more than the {} extents that are counted", fork.extent_count);
        }
        verify_extents(sb, &extents, map.extents.last().map_or(0, Extent::end_file_block))?;
        let key = extents.first().map(|e| e.file_block);
        map.extents.extend(extents);
        key
    } else {
        if (map.tree_blocks.len() + block.count) as u64 > fork.extent_count {
            return damage!("more blocks than the {} extents that are counted", fork.extent_count);
        }
        next.extend((0..block.count).map(|i| Pending {
            fork: p.fork,
            fsblock: block.child(i),
            key: block.key(i),
        }));
        Some(block.key(0))
    };
    if first_key != Some(p.key) {
        return damage!("block map block {:#x} does not start at file block {}", p.fsblock, p.key);
    }
    Ok(())
}

/// The children of one level of a fork's tree: inside the file system, different, their keys ascending.
fn verify_pointers(sb: &Superblock, fork: &TreeFork, group: &[Pending]) -> Result<(), Damage> {
    if group.len() as u64 > fork.extent_count {
        return damage!("more blocks than the {} extents that are counted", fork.extent_count);
    }
    if let Some(p) = group.iter().find(|p| sb.split_fsblock(p.fsblock).is_none()) {
        return damage!("block map pointer {:#x}, outside the file system", p.fsblock);
    }
    if let Some(w) = group.windows(2).find(|w| w[0].key >= w[1].key) {
        return damage!("block map keys {} and {} are out of order", w[0].key, w[1].key);
    }
    Ok(())
}
