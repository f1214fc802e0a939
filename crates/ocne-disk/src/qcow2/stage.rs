//! From staged writes to a plan of file writes that is safe to stop at any point.
//!
//! The order is that of `docs/interop/qcow2.rst` of QEMU read backwards: nothing may be used before it is counted,
//! and nothing may be given back before its last use is gone. What is stopped half way has leaked clusters at worst.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileExt as _;

use super::Qcow2;
use super::allocate::Allocator;
use super::error::Qcow2Error;
use super::header::{AUTOCLEAR_FIELD_BYTES, REFCOUNT_TABLE_FIELD_BYTES};
use super::tables::{COPIED, Mapping, set_count};
use crate::device::{ReadRequest, insert_change};

/// Guest clusters whose old content is read in one go while a plan is made.
const CLUSTERS_PER_READ: usize = 256;

/// Bytes for one place in the image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWrite {
    /// Offset in the file.
    pub offset_bytes: u64,
    /// What is written there.
    pub bytes: Vec<u8>,
}

/// The file writes that turn an image into the edited one.
///
/// The phases have to reach the disk one after the other. The writes of one phase may be done in any order, and
/// stopping anywhere leaves an image whose every cluster has its old or its new content; clusters may be leaked then
/// (`qemu-img check -r leaks` gives them back).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitPlan {
    /// The phases; there is a sync after each.
    pub phases: Vec<Vec<FileWrite>>,
    /// Size of the file afterwards. What lies between its old end and this and is not written has to read as zeros.
    pub file_size_bytes: u64,
}

impl CommitPlan {
    /// Writes the plan into the file that it was made for.
    ///
    /// # Errors
    /// When a write or a sync fails. The image is whole then, with its old or new content cluster by cluster.
    pub fn apply(&self, file: &fs_err::File) -> io::Result<()> {
        for phase in &self.phases {
            for write in phase {
                file.file().write_all_at(&write.bytes, write.offset_bytes)?;
            }
            file.sync_data()?;
        }
        Ok(())
    }

    /// All phases together: disjoint ranges of the file, ascending. For an image that is written as a changed copy.
    pub fn patches(&self) -> BTreeMap<u64, Vec<u8>> {
        let mut patches = BTreeMap::new();
        for write in self.phases.iter().flatten() {
            insert_change(&mut patches, write.offset_bytes, &write.bytes);
        }
        patches
    }
}

/// What is collected while staged clusters are looked at.
#[derive(Default)]
struct Changes {
    /// Content of new and of overwritten clusters.
    data: Vec<FileWrite>,
    /// New L2 entries by guest cluster.
    entries: BTreeMap<u64, u64>,
    /// New reference counts of host clusters that lose references.
    released: BTreeMap<u64, u64>,
}

impl Qcow2 {
    /// Plans the file writes for everything that was staged. The plan is for the file as it was opened: an image that
    /// a plan was applied to has to be opened anew.
    ///
    /// Clusters whose content does not change are not written. A compressed cluster that changes becomes a plain one,
    /// or none if it is all zeros; free clusters inside the file are used first.
    ///
    /// # Errors
    /// When the image has valid dirty bitmaps (a write would make them wrong), when reference counts of clusters that
    /// are touched do not add up, or when old content cannot be read.
    pub fn plan_commit(&mut self) -> Result<CommitPlan, Qcow2Error> {
        let g = self.geometry;
        let mut allocator = Allocator::new(self);
        let changes = self.collect(&mut allocator)?;
        if changes.data.is_empty() && changes.entries.is_empty() {
            return Ok(CommitPlan { phases: Vec::new(), file_size_bytes: self.geometry.file_size_bytes });
        }
        if self.header.has_bitmaps {
            return Err(Qcow2Error::Unsupported(
                "persistent dirty bitmaps, which a write would make wrong (hint: `qemu-img bitmap --remove FILE NAME` \
                 for each that `qemu-img info FILE` lists)"
                    .into(),
            ));
        }
        let (l2_writes, links) = self.plan_tables(&changes, &mut allocator)?;
        let table = allocator.grow_table()?;
        let up: BTreeMap<u64, u64> = allocator.allocated().iter().map(|&c| (c, 1)).collect();
        let mut down = changes.released;
        let (mut new, mut link_blocks) = (changes.data, Vec::new());
        new.extend(self.new_blocks(&allocator));
        if let Some(table) = table {
            let offset_bytes = table.first_cluster << g.cluster_bits;
            new.push(FileWrite { offset_bytes, bytes: table.bytes });
            // Offset and size lie side by side in one sector of the header: they change together.
            let field = [&offset_bytes.to_be_bytes()[..], &table.clusters.to_be_bytes()].concat();
            link_blocks.push(FileWrite { offset_bytes: REFCOUNT_TABLE_FIELD_BYTES, bytes: field });
            let old = g.host_cluster(self.header.refcount_table_offset_bytes);
            for cluster in old..old + u64::from(self.header.refcount_table_clusters) {
                self.release(cluster, &mut down)?;
            }
        } else {
            for (&range, &cluster) in allocator.new_blocks() {
                let bytes = (cluster << g.cluster_bits).to_be_bytes().to_vec();
                let offset_bytes = self.header.refcount_table_offset_bytes + range * 8;
                link_blocks.push(FileWrite { offset_bytes, bytes });
            }
        }
        let (new_l2, changed_l2): (Vec<_>, Vec<_>) = l2_writes
            .into_iter()
            .partition(|w| allocator.allocated().contains(&g.host_cluster(w.offset_bytes)));
        new.extend(new_l2);
        let mut phases = Vec::new();
        if self.header.autoclear_features != 0 {
            // A writer that does not keep a feature's data right takes its bit away before the first change.
            phases.push(vec![FileWrite { offset_bytes: AUTOCLEAR_FIELD_BYTES, bytes: vec![0; 8] }]);
        }
        phases.extend([
            new,
            self.count_writes(&BTreeMap::new(), &up)?,
            link_blocks,
            [changed_l2, links].concat(),
            self.count_writes(&up, &down)?,
        ]);
        phases.retain(|p| !p.is_empty());
        let ends = phases.iter().flatten().map(|w| w.offset_bytes + w.bytes.len() as u64);
        let file_size_bytes = ends.max().unwrap_or(0).max(g.file_size_bytes);
        Ok(CommitPlan { phases, file_size_bytes })
    }

    /// Compares every staged cluster with what is stored, and gives those that changed a place.
    fn collect(&self, allocator: &mut Allocator<'_>) -> Result<Changes, Qcow2Error> {
        let g = self.geometry;
        let cluster_bytes = usize::try_from(g.cluster_bytes()).unwrap_or(0);
        let mut touched = BTreeSet::new();
        for (&at, bytes) in &self.staged {
            touched.extend(at >> g.cluster_bits..=(at + bytes.len() as u64 - 1) >> g.cluster_bits);
        }
        let touched: Vec<u64> = touched.into_iter().collect();
        let mut changes = Changes::default();
        for some in touched.chunks(CLUSTERS_PER_READ) {
            // The last cluster may reach beyond the end of the disk, where it holds zeros.
            let mut old = vec![vec![0; cluster_bytes]; some.len()];
            let mut requests: Vec<ReadRequest<'_>> = some
                .iter()
                .zip(&mut old)
                .map(|(&guest, content)| {
                    let offset_bytes = guest << g.cluster_bits;
                    let inside = self.header.info.virtual_size_bytes - offset_bytes;
                    let len = usize::try_from(inside).unwrap_or(usize::MAX).min(cluster_bytes);
                    ReadRequest { offset_bytes, buffer: &mut content[..len] }
                })
                .collect();
            self.read_stored(&mut requests)?;
            for (&guest, old) in some.iter().zip(&old) {
                let mut content = old.clone();
                self.lay_over(guest << g.cluster_bits, &mut content);
                if content != *old {
                    self.place(guest, old, content, allocator, &mut changes)?;
                }
            }
        }
        Ok(changes)
    }

    /// Puts the staged bytes of one cluster over its content.
    fn lay_over(&self, start: u64, content: &mut [u8]) {
        let end = start + content.len() as u64;
        let first = self.staged.range(..=start).next_back().map_or(start, |(&at, _)| at);
        for (&at, bytes) in self.staged.range(first..end) {
            let (lo, hi) = (at.max(start), (at + bytes.len() as u64).min(end));
            if lo < hi {
                let [to, from, n] = [lo - start, lo - at, hi - lo].map(|v| usize::try_from(v).unwrap_or(0));
                content[to..to + n].copy_from_slice(&bytes[from..from + n]);
            }
        }
    }

    /// Decides where the new content of a cluster goes.
    fn place(
        &self,
        guest: u64,
        old: &[u8],
        content: Vec<u8>,
        allocator: &mut Allocator<'_>,
        changes: &mut Changes,
    ) -> Result<(), Qcow2Error> {
        let g = self.geometry;
        match self.lookup(guest)? {
            Mapping::Plain { host_offset_bytes } => {
                changes.data.extend(changed_middle(host_offset_bytes, old, &content));
                return Ok(());
            }
            Mapping::Zero { host_offset_bytes: Some(at) } => {
                changes.data.push(FileWrite { offset_bytes: at, bytes: content });
                changes.entries.insert(guest, at | COPIED);
                return Ok(());
            }
            Mapping::Compressed { offset_bytes, max_bytes } => {
                for cluster in g.compressed_clusters(offset_bytes, max_bytes) {
                    self.release(cluster, &mut changes.released)?;
                }
                if content.iter().all(|&b| b == 0) {
                    changes.entries.insert(guest, 0);
                    return Ok(());
                }
            }
            Mapping::Unallocated | Mapping::Zero { host_offset_bytes: None } => {}
        }
        let offset_bytes = allocator.allocate() << g.cluster_bits;
        changes.data.push(FileWrite { offset_bytes, bytes: content });
        changes.entries.insert(guest, offset_bytes | COPIED);
        Ok(())
    }

    /// Writes to L2 tables (whole new ones, or runs of entries), and to the L1 table.
    fn plan_tables(
        &self,
        changes: &Changes,
        allocator: &mut Allocator<'_>,
    ) -> Result<(Vec<FileWrite>, Vec<FileWrite>), Qcow2Error> {
        let g = self.geometry;
        let (mut l2_writes, mut links): (Vec<FileWrite>, Vec<FileWrite>) = (Vec::new(), Vec::new());
        let mut new_table: Option<u64> = None;
        for (&guest, &entry) in &changes.entries {
            let (l1, l2) = (guest / g.l2_entries(), guest % g.l2_entries());
            let raw = usize::try_from(l1).ok().and_then(|i| self.l1.get(i)).copied().unwrap_or(0);
            let bytes = entry.to_be_bytes();
            if let Some(table) = g.l2_offset(raw)? {
                let offset_bytes = table + l2 * 8;
                match l2_writes.last_mut() {
                    Some(last) if last.offset_bytes + last.bytes.len() as u64 == offset_bytes => {
                        last.bytes.extend(bytes);
                    }
                    _ => l2_writes.push(FileWrite { offset_bytes, bytes: bytes.to_vec() }),
                }
                continue;
            }
            if new_table != Some(l1) {
                let offset_bytes = allocator.allocate() << g.cluster_bits;
                let table = vec![0; usize::try_from(g.cluster_bytes()).unwrap_or(0)];
                l2_writes.push(FileWrite { offset_bytes, bytes: table });
                links.push(FileWrite {
                    offset_bytes: self.header.l1_offset_bytes + l1 * 8,
                    bytes: (offset_bytes | COPIED).to_be_bytes().to_vec(),
                });
                new_table = Some(l1);
            }
            let at = usize::try_from(l2 * 8).unwrap_or(usize::MAX);
            if let Some(slot) =
                l2_writes.last_mut().and_then(|t| t.bytes.get_mut(at..)?.first_chunk_mut::<8>())
            {
                *slot = bytes;
            }
        }
        Ok((l2_writes, links))
    }

    /// New refcount blocks: they count only what was allocated now.
    fn new_blocks(&self, allocator: &Allocator<'_>) -> Vec<FileWrite> {
        let g = self.geometry;
        let block = |(&range, &cluster): (&u64, &u64)| {
            let mut bytes = vec![0; usize::try_from(g.cluster_bytes()).unwrap_or(0)];
            let first = range * g.counts_per_block();
            for &counted in allocator.allocated().range(first..first + g.counts_per_block()) {
                let index = usize::try_from(counted - first).unwrap_or(usize::MAX);
                set_count(&mut bytes, index, g.refcount_order, 1);
            }
            FileWrite { offset_bytes: cluster << g.cluster_bits, bytes }
        };
        allocator.new_blocks().iter().map(block).collect()
    }

    /// Writes to the refcount blocks of the image that set the counts in `change`; those in `done` are set already.
    fn count_writes(
        &self,
        done: &BTreeMap<u64, u64>,
        change: &BTreeMap<u64, u64>,
    ) -> Result<Vec<FileWrite>, Qcow2Error> {
        let g = self.geometry;
        let mut writes = Vec::new();
        let mut next = 0;
        while let Some((&cluster, _)) = change.range(next..).next() {
            let range = cluster / g.counts_per_block();
            let first = range * g.counts_per_block();
            next = first + g.counts_per_block();
            let entry = usize::try_from(range).ok().and_then(|i| self.refcount_table.get(i));
            let Some(&at) = entry.filter(|at| **at != 0) else { continue };
            let mut old = vec![0; usize::try_from(g.cluster_bytes()).unwrap_or(0)];
            let io = |source| Qcow2Error::Io { what: "read a refcount block", source };
            self.file.file().read_exact_at(&mut old, at).map_err(io)?;
            let set = |block: &mut [u8], counts: &BTreeMap<u64, u64>| {
                for (&cluster, &count) in counts.range(first..next) {
                    let index = usize::try_from(cluster - first).unwrap_or(usize::MAX);
                    set_count(block, index, g.refcount_order, count);
                }
            };
            set(&mut old, done);
            let mut new = old.clone();
            set(&mut new, change);
            writes.extend(changed_middle(at, &old, &new));
        }
        Ok(writes)
    }

    /// Takes one reference off a host cluster.
    fn release(&self, cluster: u64, counts: &mut BTreeMap<u64, u64>) -> Result<(), Qcow2Error> {
        let (stored, counted) = (self.references.stored(cluster), self.references.counted(cluster));
        if stored != counted {
            return Err(Qcow2Error::Damaged(format!(
                "the reference counts do not add up: host cluster {cluster} has {counted} uses and a count of {stored}"
            )));
        }
        let count = counts.entry(cluster).or_insert_with(|| u64::from(stored));
        *count = count.saturating_sub(1);
        Ok(())
    }
}

/// What has to be written over `old` at an offset to make it `new`: one range, if any.
fn changed_middle(offset_bytes: u64, old: &[u8], new: &[u8]) -> Option<FileWrite> {
    let first = old.iter().zip(new).position(|(a, b)| a != b)?;
    let last = old.iter().zip(new).rposition(|(a, b)| a != b)?;
    Some(FileWrite { offset_bytes: offset_bytes + first as u64, bytes: new[first..=last].to_vec() })
}
