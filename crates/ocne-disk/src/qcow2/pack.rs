//! Where clusters of a new image go, and the tables that say so.

use std::os::unix::fs::FileExt as _;

use super::compress::{CompressOptions, CompressSummary};
use super::error::Qcow2Error;
use super::header::{self, Compression};
use super::tables::{COPIED, Geometry, set_count};

/// Bytes that are written in one go.
const BUFFER_BYTES: usize = 1 << 20;
const REFCOUNT_ORDER: u32 = 4;

/// One cluster on its way from a worker to the packer.
#[derive(Debug)]
pub(super) enum Unit {
    Zeros,
    Compressed(Vec<u8>),
    Plain(Vec<u8>),
}

/// Takes the clusters of a disk in order.
pub(super) struct Packer<'a> {
    file: &'a fs_err::File,
    geometry: Geometry,
    compression: Compression,
    virtual_size_bytes: u64,
    /// L2 tables that have entries, ascending.
    tables: Vec<(u64, Vec<u64>)>,
    /// Reference count of each host cluster.
    counts: Vec<u16>,
    /// Where the next compressed cluster goes, if there is room behind the last one.
    tail: Option<u64>,
    buffer: Vec<u8>,
    buffer_at: u64,
    summary: CompressSummary,
}

impl<'a> Packer<'a> {
    pub fn new(
        file: &'a fs_err::File,
        virtual_size_bytes: u64,
        options: &CompressOptions,
    ) -> Result<Self, Qcow2Error> {
        let geometry = Geometry {
            cluster_bits: options.cluster_size_bytes.trailing_zeros(),
            version: 3,
            refcount_order: REFCOUNT_ORDER,
            file_size_bytes: 0,
        };
        let entries = virtual_size_bytes.div_ceil(geometry.cluster_bytes() * geometry.l2_entries());
        if entries * 8 > header::MAX_L1_BYTES || virtual_size_bytes > i64::MAX.unsigned_abs() {
            return Err(Qcow2Error::Unsupported(format!(
                "a disk of {virtual_size_bytes} bytes in clusters of {} bytes; larger clusters are needed",
                geometry.cluster_bytes()
            )));
        }
        Ok(Self {
            file,
            geometry,
            compression: options.compression,
            virtual_size_bytes,
            tables: Vec::new(),
            counts: vec![1],
            tail: None,
            buffer: Vec::new(),
            buffer_at: 0,
            summary: CompressSummary::default(),
        })
    }

    /// Takes a guest cluster; their numbers go up. Those that are left out are zeros.
    pub fn add(&mut self, guest: u64, unit: Unit) -> Result<(), Qcow2Error> {
        match unit {
            Unit::Zeros => {}
            Unit::Plain(content) => {
                self.summary.plain_clusters += 1;
                let at = self.append(&content)?;
                self.map(guest, at | COPIED);
            }
            Unit::Compressed(packed) => {
                self.summary.compressed_clusters += 1;
                let at = self.place(packed.len() as u64);
                self.write(at, &packed)?;
                self.map(guest, self.geometry.compressed_entry(at, packed.len() as u64));
            }
        }
        Ok(())
    }

    /// Finds room for compressed bytes, and counts the clusters that they touch.
    fn place(&mut self, len: u64) -> u64 {
        let g = self.geometry;
        let end_of_file = (self.counts.len() as u64) << g.cluster_bits;
        let fits = self.tail.filter(|&at| {
            let room_in_cluster = g.cluster_bytes() - at % g.cluster_bytes();
            let last = self.counts[usize::try_from(g.host_cluster(at)).unwrap_or(0)];
            // It may go on in the next cluster only if that one is new.
            last < u16::MAX
                && (len <= room_in_cluster || g.host_cluster(at) + 1 == g.host_cluster(end_of_file))
        });
        let at = fits.unwrap_or(end_of_file);
        let last = g.host_cluster(at + len - 1);
        self.counts.resize(self.counts.len().max(usize::try_from(last + 1).unwrap_or(0)), 0);
        for cluster in g.host_cluster(at)..=last {
            self.counts[usize::try_from(cluster).unwrap_or(0)] += 1;
        }
        self.tail = Some(at + len).filter(|end| end % g.cluster_bytes() != 0);
        at
    }

    /// Writes whole clusters at the end of the file.
    fn append(&mut self, content: &[u8]) -> Result<u64, Qcow2Error> {
        let at = (self.counts.len() as u64) << self.geometry.cluster_bits;
        let clusters = (content.len() as u64).div_ceil(self.geometry.cluster_bytes());
        self.counts.resize(self.counts.len() + usize::try_from(clusters).unwrap_or(0), 1);
        self.write(at, content)?;
        Ok(at)
    }

    fn map(&mut self, guest: u64, entry: u64) {
        let entries = self.geometry.l2_entries();
        let (l1, l2) = (guest / entries, guest % entries);
        if self.tables.last().is_none_or(|(last, _)| *last != l1) {
            self.tables.push((l1, vec![0; usize::try_from(entries).unwrap_or(0)]));
        }
        if let Some((_, table)) = self.tables.last_mut() {
            table[usize::try_from(l2).unwrap_or(0)] = entry;
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Qcow2Error> {
        if self.buffer_at + self.buffer.len() as u64 != at || self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
            self.buffer_at = at;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Qcow2Error> {
        let io = |source| Qcow2Error::Io { what: "write the new image", source };
        self.file.file().write_all_at(&self.buffer, self.buffer_at).map_err(io)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the tables and the header.
    pub fn finish(mut self) -> Result<CompressSummary, Qcow2Error> {
        let g = self.geometry;
        let l1_entries = self.virtual_size_bytes.div_ceil(g.cluster_bytes() * g.l2_entries());
        let mut l1 = vec![0; usize::try_from(l1_entries.max(1)).unwrap_or(0)];
        for (index, table) in std::mem::take(&mut self.tables) {
            let at = self.append(&to_bytes(&table))?;
            l1[usize::try_from(index).unwrap_or(0)] = at | COPIED;
        }
        let l1_offset_bytes = self.append(&to_bytes(&l1))?;
        // The blocks count themselves and the table, which may need more blocks.
        let used = self.counts.len() as u64;
        let (mut blocks, mut table_clusters) = (0, 0);
        loop {
            let wanted = (used + blocks + table_clusters).div_ceil(g.counts_per_block());
            let wanted_table = (wanted * 8).div_ceil(g.cluster_bytes());
            if (wanted, wanted_table) == (blocks, table_clusters) {
                break;
            }
            (blocks, table_clusters) = (wanted, wanted_table);
        }
        if table_clusters * g.cluster_bytes() > header::MAX_REFCOUNT_TABLE_BYTES {
            return Err(Qcow2Error::Unsupported(
                "a file of that many clusters; larger clusters are needed".into(),
            ));
        }
        let table: Vec<u64> = (0..blocks).map(|i| (used + table_clusters + i) << g.cluster_bits).collect();
        let table_bytes = usize::try_from(table_clusters * g.cluster_bytes()).unwrap_or(0);
        let mut table = to_bytes(&table);
        table.resize(table_bytes, 0);
        let table_offset_bytes = self.append(&table)?;
        let mut counted = vec![0; usize::try_from(blocks * g.cluster_bytes()).unwrap_or(0)];
        let all = self.counts.iter().map(|&c| u64::from(c)).chain(std::iter::repeat(1));
        let clusters = usize::try_from(used + table_clusters + blocks).unwrap_or(0);
        for (i, count) in all.take(clusters).enumerate() {
            set_count(&mut counted, i, g.refcount_order, count);
        }
        self.append(&counted)?;
        self.flush()?;
        let header = header::New {
            virtual_size_bytes: self.virtual_size_bytes,
            cluster_bits: g.cluster_bits,
            compression: self.compression,
            l1_offset_bytes,
            l1_entries: u32::try_from(l1.len()).unwrap_or(u32::MAX),
            refcount_table_offset_bytes: table_offset_bytes,
            refcount_table_clusters: u32::try_from(table_clusters).unwrap_or(u32::MAX),
            refcount_order: g.refcount_order,
        };
        let io = |source| Qcow2Error::Io { what: "write the header of the new image", source };
        let clusters = self.virtual_size_bytes.div_ceil(g.cluster_bytes());
        self.summary.zero_clusters =
            clusters - self.summary.compressed_clusters - self.summary.plain_clusters;
        // The last table may end before its cluster does.
        self.summary.file_size_bytes = (self.counts.len() as u64) << g.cluster_bits;
        self.file.file().set_len(self.summary.file_size_bytes).map_err(io)?;
        self.file.file().write_all_at(&header.to_bytes(), 0).map_err(io)?;
        Ok(self.summary)
    }
}

fn to_bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|e| e.to_be_bytes()).collect()
}
