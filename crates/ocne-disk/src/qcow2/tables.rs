//! L1, L2 and refcount tables: what an entry means, and whether all of them together make sense.
//!
//! Source: `docs/interop/qcow2.rst` of QEMU, sections "Cluster mapping" and "Host cluster management".

use std::ops::Range;

use super::error::Qcow2Error;
use super::header::Header;

pub(crate) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const STANDARD_RESERVED: u64 = !(COPIED | COMPRESSED | OFFSET_MASK | ZERO);

/// Where the content of a guest cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// Nowhere: it reads as zeros.
    Unallocated,
    /// It reads as zeros; a host cluster may be reserved for it.
    Zero { host_offset_bytes: Option<u64> },
    /// In a host cluster as it is.
    Plain { host_offset_bytes: u64 },
    /// Compressed, in at most so many bytes. The end is rounded up to a sector, so that it may lie beyond the data
    /// and up to 511 bytes beyond the end of the file.
    Compressed { offset_bytes: u64, max_bytes: u64 },
}

/// Geometry that entries are read with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub cluster_bits: u32,
    pub version: u32,
    pub refcount_order: u32,
    pub file_size_bytes: u64,
}

impl Geometry {
    pub fn of(h: &Header) -> Self {
        Self {
            cluster_bits: h.cluster_bits,
            version: h.info.version,
            refcount_order: h.refcount_order,
            file_size_bytes: h.info.file_size_bytes,
        }
    }

    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table.
    pub fn l2_entries(&self) -> u64 {
        1 << (self.cluster_bits - 3)
    }

    /// Reference counts in a refcount block.
    pub fn counts_per_block(&self) -> u64 {
        1 << (self.cluster_bits + 3 - self.refcount_order)
    }

    /// Number of the host cluster that holds a file offset.
    pub fn host_cluster(&self, offset_bytes: u64) -> u64 {
        offset_bytes >> self.cluster_bits
    }

    /// Host clusters that the compressed bytes touch.
    pub fn compressed_clusters(&self, offset_bytes: u64, max_bytes: u64) -> Range<u64> {
        let last = (offset_bytes + max_bytes - 1).min(self.file_size_bytes.saturating_sub(1));
        self.host_cluster(offset_bytes)..self.host_cluster(last) + 1
    }

    /// Reads an L2 entry.
    pub fn mapping(&self, entry: u64) -> Result<Mapping, Qcow2Error> {
        let damaged = |what: &str| Qcow2Error::Damaged(format!("the L2 entry {entry:#018x} {what}"));
        if entry & COMPRESSED != 0 {
            if entry & COPIED != 0 {
                return Err(damaged("is both compressed and marked as copied"));
            }
            let x = 62 - (self.cluster_bits - 8);
            let offset_bytes = entry & ((1 << x) - 1);
            let sectors = (entry & !(COPIED | COMPRESSED)) >> x;
            let max_bytes = (sectors + 1) * 512 - (offset_bytes & 511);
            let end = offset_bytes + max_bytes;
            if offset_bytes >= self.file_size_bytes || end > self.file_size_bytes.next_multiple_of(512) {
                return Err(damaged(&format!(
                    "puts compressed data at {offset_bytes}, beyond the end of the file of {} bytes",
                    self.file_size_bytes
                )));
            }
            return Ok(Mapping::Compressed { offset_bytes, max_bytes });
        }
        if entry & STANDARD_RESERVED != 0 || (self.version == 2 && entry & ZERO != 0) {
            return Err(damaged("has reserved bits set"));
        }
        let host_offset_bytes = entry & OFFSET_MASK;
        if host_offset_bytes & (self.cluster_bytes() - 1) != 0 {
            return Err(damaged("names an offset that is not at a cluster"));
        }
        Ok(match (host_offset_bytes, entry & ZERO != 0) {
            (0, false) => Mapping::Unallocated,
            (0, true) => Mapping::Zero { host_offset_bytes: None },
            (at, true) => Mapping::Zero { host_offset_bytes: Some(at) },
            (at, false) => Mapping::Plain { host_offset_bytes: at },
        })
    }

    /// Reads an L1 entry: offset of the L2 table.
    pub fn l2_offset(&self, entry: u64) -> Result<Option<u64>, Qcow2Error> {
        let at = entry & OFFSET_MASK;
        if entry & !(COPIED | OFFSET_MASK) != 0 || at & (self.cluster_bytes() - 1) != 0 {
            return Err(Qcow2Error::Damaged(format!("the L1 entry {entry:#018x} is malformed")));
        }
        Ok((at != 0).then_some(at))
    }

    /// Reads a refcount table entry: offset of the refcount block.
    pub fn block_offset(&self, entry: u64) -> Result<Option<u64>, Qcow2Error> {
        if entry & 511 != 0 || entry & (self.cluster_bytes() - 1) != 0 {
            return Err(Qcow2Error::Damaged(format!("the refcount table entry {entry:#018x} is malformed")));
        }
        Ok((entry != 0).then_some(entry))
    }

    /// An L2 entry for compressed data.
    pub fn compressed_entry(&self, offset_bytes: u64, len_bytes: u64) -> u64 {
        let x = 62 - (self.cluster_bits - 8);
        let sectors = (offset_bytes + len_bytes - 1) / 512 - offset_bytes / 512;
        COMPRESSED | (sectors << x) | offset_bytes
    }
}

/// Reads a reference count out of a block.
pub(crate) fn count_at(block: &[u8], index: usize, refcount_order: u32) -> Option<u64> {
    let bits = 1_usize << refcount_order;
    if bits < 8 {
        let bit = index * bits;
        let mask = (1_u8 << bits) - 1;
        return Some(u64::from((block.get(bit / 8)? >> (bit % 8)) & mask));
    }
    let n = bits / 8;
    let raw = block.get(index * n..(index + 1) * n)?;
    Some(raw.iter().fold(0, |sum, &b| (sum << 8) | u64::from(b)))
}

/// Writes a reference count into a block; the value must fit.
pub(crate) fn set_count(block: &mut [u8], index: usize, refcount_order: u32, value: u64) -> Option<()> {
    let bits = 1_usize << refcount_order;
    if bits < 64 && value >> bits != 0 {
        return None;
    }
    if bits < 8 {
        let bit = index * bits;
        let mask = (1_u8 << bits) - 1;
        let byte = block.get_mut(bit / 8)?;
        *byte = (*byte & !(mask << (bit % 8))) | (u8::try_from(value).ok()? << (bit % 8));
        return Some(());
    }
    let n = bits / 8;
    block.get_mut(index * n..(index + 1) * n)?.copy_from_slice(&value.to_be_bytes()[8 - n..]);
    Some(())
}

/// How often each host cluster is used, by what the tables say and by what the refcount blocks say.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// Uses found in the tables; the top bit marks a cluster that nothing may share.
    counted: Vec<u32>,
    /// Refcounts stored in the file, saturating.
    stored: Vec<u32>,
}

const EXCLUSIVE: u32 = 1 << 31;
/// Host clusters that are tracked: 2 TiB of 64 KiB clusters.
const MAX_HOST_CLUSTERS: u64 = 1 << 25;

impl References {
    pub fn new(g: &Geometry) -> Result<Self, Qcow2Error> {
        let clusters = g.file_size_bytes.div_ceil(g.cluster_bytes());
        if clusters > MAX_HOST_CLUSTERS {
            return Err(Qcow2Error::Unsupported(format!(
                "{clusters} clusters of {} bytes; at most {MAX_HOST_CLUSTERS} are handled",
                g.cluster_bytes()
            )));
        }
        let n = usize::try_from(clusters).unwrap_or(0);
        Ok(Self { counted: vec![0; n], stored: vec![0; n] })
    }

    pub fn len(&self) -> u64 {
        self.counted.len() as u64
    }

    /// Notes the stored refcount of a cluster; those beyond the file are only a leak.
    pub fn set_stored(&mut self, cluster: u64, count: u64) -> bool {
        match usize::try_from(cluster).ok().and_then(|i| self.stored.get_mut(i)) {
            Some(s) => *s = u32::try_from(count).unwrap_or(u32::MAX),
            None => return count == 0,
        }
        true
    }

    pub fn stored(&self, cluster: u64) -> u32 {
        usize::try_from(cluster).ok().and_then(|i| self.stored.get(i)).copied().unwrap_or(0)
    }

    pub fn counted(&self, cluster: u64) -> u32 {
        usize::try_from(cluster).ok().and_then(|i| self.counted.get(i)).map_or(0, |c| c & !EXCLUSIVE)
    }

    /// A whole cluster that nothing else may use: a table, a block, or plain data.
    pub fn claim(&mut self, cluster: u64, what: &str) -> Result<(), Qcow2Error> {
        let slot = usize::try_from(cluster).ok().and_then(|i| self.counted.get_mut(i));
        match slot {
            Some(c) if *c == 0 => *c = EXCLUSIVE | 1,
            Some(_) => {
                return Err(Qcow2Error::Damaged(format!(
                    "{what} overlaps something else in host cluster {cluster}"
                )));
            }
            None => {
                return Err(Qcow2Error::Damaged(format!(
                    "{what} is at host cluster {cluster}, and the file has only {}; it may be cut short",
                    self.counted.len()
                )));
            }
        }
        Ok(())
    }

    /// A cluster that compressed data touches.
    pub fn share(&mut self, cluster: u64) -> Result<(), Qcow2Error> {
        let slot = usize::try_from(cluster).ok().and_then(|i| self.counted.get_mut(i));
        match slot {
            Some(c) if *c & EXCLUSIVE == 0 && *c < EXCLUSIVE - 1 => *c += 1,
            _ => {
                return Err(Qcow2Error::Damaged(format!(
                    "compressed data overlaps something else in host cluster {cluster}"
                )));
            }
        }
        Ok(())
    }

    /// Compares the two counts: how many clusters are stored with more references than there are (a leak).
    pub fn leaks(&self) -> Result<u64, Qcow2Error> {
        let mut leaks = 0;
        for (i, (&c, &s)) in self.counted.iter().zip(&self.stored).enumerate() {
            let c = c & !EXCLUSIVE;
            if s < c {
                return Err(Qcow2Error::Damaged(format!(
                    "the reference counts do not add up: host cluster {i} has {c} uses and a count of {s}"
                )));
            }
            leaks += u64::from(s > c);
        }
        Ok(leaks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(cluster_bits: u32) -> Geometry {
        Geometry { cluster_bits, version: 3, refcount_order: 4, file_size_bytes: 1 << 30 }
    }

    #[test]
    fn compressed_entries_round_trip_at_sector_and_cluster_edges() {
        for cluster_bits in 9..=21 {
            let g = geometry(cluster_bits);
            let cluster = g.cluster_bytes();
            for offset in [cluster, cluster + 1, 3 * cluster - 1, 2 * cluster - 512, 2 * cluster + 511] {
                for len in [1, 511, 512, cluster - 1, cluster] {
                    let Ok(Mapping::Compressed { offset_bytes, max_bytes }) =
                        g.mapping(g.compressed_entry(offset, len))
                    else {
                        panic!("not compressed")
                    };
                    assert_eq!(offset_bytes, offset);
                    assert!(max_bytes >= len && max_bytes < len + 512, "{max_bytes} for {len}");
                    assert_eq!((offset_bytes + max_bytes) % 512, 0);
                    // the last byte of the data decides, also when it is the last byte of a cluster
                    let clusters = g.compressed_clusters(offset_bytes, max_bytes);
                    assert_eq!(clusters, offset / cluster..(offset + len - 1) / cluster + 1);
                }
            }
        }
    }

    #[test]
    fn counts_of_every_width_round_trip() {
        for order in 0..=6 {
            let mut block = vec![0; 64];
            let n = (64 * 8) >> order;
            let max = if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 };
            for i in 0..n {
                set_count(&mut block, i, order, max - (i as u64 & max)).unwrap();
            }
            for i in 0..n {
                assert_eq!(
                    count_at(&block, i, order),
                    Some(max - (i as u64 & max)),
                    "width {order} index {i}"
                );
            }
            assert_eq!(count_at(&block, n, order), None);
            if order < 6 {
                assert_eq!(set_count(&mut block, 0, order, max + 1), None);
            }
        }
    }

    #[test]
    fn malformed_entries_are_refused() {
        let g = geometry(16);
        assert!(g.mapping(0x200).is_err(), "not at a cluster");
        assert!(g.mapping(1 << 57).is_err(), "reserved");
        assert!(g.mapping(COMPRESSED | COPIED | 0x10000).is_err());
        assert!(g.mapping(COMPRESSED | (1 << 40)).is_err(), "outside the file");
        assert!(Geometry { version: 2, ..g }.mapping(1).is_err(), "no zero flag in version 2");
        assert!(g.l2_offset(1).is_err());
        assert!(g.block_offset(0x100).is_err());
    }
}
