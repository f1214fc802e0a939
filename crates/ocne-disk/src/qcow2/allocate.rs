//! Host clusters for new content: free ones inside the file first, then at its end; in the same order every time.

use std::collections::{BTreeMap, BTreeSet};

use super::Qcow2;
use super::error::Qcow2Error;
use super::header::MAX_REFCOUNT_TABLE_BYTES;

/// Clusters given out so far. They are in use once, and were not in use before.
#[derive(Clone)]
pub(super) struct Allocator<'a> {
    image: &'a Qcow2,
    /// Where the search for a free cluster goes on.
    next: u64,
    allocated: BTreeSet<u64>,
    /// New refcount blocks: their place in the refcount table, and their cluster.
    new_blocks: BTreeMap<u64, u64>,
}

/// A refcount table that replaces one that became too small.
pub(super) struct NewTable {
    pub first_cluster: u64,
    pub clusters: u32,
    pub bytes: Vec<u8>,
}

impl<'a> Allocator<'a> {
    pub fn new(image: &'a Qcow2) -> Self {
        Self { image, next: 1, allocated: BTreeSet::new(), new_blocks: BTreeMap::new() }
    }

    pub fn allocated(&self) -> &BTreeSet<u64> {
        &self.allocated
    }

    pub fn new_blocks(&self) -> &BTreeMap<u64, u64> {
        &self.new_blocks
    }

    /// A cluster that is free, with a refcount block that covers it.
    pub fn allocate(&mut self) -> u64 {
        loop {
            let cluster = self.take();
            let range = self.range_of(cluster);
            if self.has_block(range) {
                return cluster;
            }
            // The block takes the cluster, and so counts itself: it is right as soon as it is in the table.
            self.new_blocks.insert(range, cluster);
        }
    }

    /// Gives the refcount table a new place if it has no room for the new blocks. Nothing may be allocated afterwards.
    pub fn grow_table(&mut self) -> Result<Option<NewTable>, Qcow2Error> {
        let g = self.image.geometry;
        let room = self.image.refcount_table.len() as u64;
        let mut wanted = self.new_blocks.last_key_value().map_or(0, |(range, _)| range + 1);
        if wanted <= room {
            return Ok(None);
        }
        loop {
            let mut trial = self.clone();
            let clusters = (wanted * 8).div_ceil(g.cluster_bytes());
            if clusters * g.cluster_bytes() > MAX_REFCOUNT_TABLE_BYTES {
                return Err(Qcow2Error::Unsupported(format!("a file that needs {wanted} refcount blocks")));
            }
            let first_cluster = trial.next.max(self.image.references.len());
            trial.allocated.extend(first_cluster..first_cluster + clusters);
            trial.next = first_cluster + clusters;
            let mut range = self.range_of(first_cluster);
            while range <= self.range_of(trial.next - 1) {
                if !trial.has_block(range) {
                    let cluster = trial.take();
                    trial.new_blocks.insert(range, cluster);
                }
                range += 1;
            }
            wanted = trial.new_blocks.last_key_value().map_or(0, |(range, _)| range + 1);
            if wanted * 8 <= clusters * g.cluster_bytes() {
                *self = trial;
                let mut entries = self.image.refcount_table.clone();
                entries.resize(usize::try_from(clusters * g.cluster_bytes() / 8).unwrap_or(0), 0);
                for (&range, &cluster) in &self.new_blocks {
                    if let Some(entry) = usize::try_from(range).ok().and_then(|i| entries.get_mut(i)) {
                        *entry = cluster << g.cluster_bits;
                    }
                }
                let bytes = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
                let clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
                return Ok(Some(NewTable { first_cluster, clusters, bytes }));
            }
        }
    }

    /// The next free cluster, counted or not.
    fn take(&mut self) -> u64 {
        let references = &self.image.references;
        while self.next < references.len()
            && (references.counted(self.next) != 0 || references.stored(self.next) != 0)
        {
            self.next += 1;
        }
        let cluster = self.next;
        self.next += 1;
        self.allocated.insert(cluster);
        cluster
    }

    fn range_of(&self, cluster: u64) -> u64 {
        cluster / self.image.geometry.counts_per_block()
    }

    fn has_block(&self, range: u64) -> bool {
        let old = usize::try_from(range).ok().and_then(|i| self.image.refcount_table.get(i));
        old.is_some_and(|&at| at != 0) || self.new_blocks.contains_key(&range)
    }
}
