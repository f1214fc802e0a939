//! qcow2 images, versions 2 and 3: read, and edited by staging writes in memory.
//!
//! Source: `docs/interop/qcow2.rst` of QEMU. Opening an image verifies all of its tables and reference counts, so
//! that everything after that works on an image that adds up. No file that is named inside an image is ever opened.

mod allocate;
mod check;
mod compress;
mod content;
mod error;
mod header;
mod pack;
mod read;
mod stage;
mod tables;
mod unpack;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub use check::Qcow2Check;
pub use compress::{CompressOptions, CompressSummary, write_compressed};
pub use content::{ContentChecksums, ContentDifference};
pub use error::Qcow2Error;
pub use header::{Compression, Qcow2Info};
pub use stage::{CommitPlan, FileWrite};

use crate::device::insert_change;
use header::Header;
use read::{ClusterCache, lock};
use tables::{COPIED, Geometry, Mapping, References};

/// L2 tables kept in memory; more than that are read again when they are needed.
const L2_CACHE_BYTES: usize = 64 << 20;

/// An open qcow2 image: a device whose writes are staged in memory until [`Qcow2::plan_commit`].
pub struct Qcow2 {
    file: fs_err::File,
    header: Header,
    geometry: Geometry,
    l1: Vec<u64>,
    refcount_table: Vec<u64>,
    l2_tables: Mutex<HashMap<u64, Arc<Vec<u64>>>>,
    references: References,
    leaked_clusters: u64,
    staged: BTreeMap<u64, Vec<u8>>,
    clusters: Mutex<ClusterCache>,
}

impl fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qcow2")
            .field("file", &self.file.path())
            .field("info", &self.header.info)
            .finish_non_exhaustive()
    }
}

impl Qcow2 {
    /// Opens an image for reading and verifies it.
    ///
    /// # Errors
    /// When the file cannot be read, is no qcow2, uses a feature that is not supported (backing and data files,
    /// encryption, snapshots, dirty and corrupt images, unknown features), or contradicts itself.
    pub fn open(path: &Path) -> Result<Self, Qcow2Error> {
        let io = |source| Qcow2Error::Io { what: "open the image", source };
        Self::from_file(fs_err::File::open(path).map_err(io)?)
    }

    /// As [`Qcow2::open`], of a file that is open already.
    ///
    /// # Errors
    /// As [`Qcow2::open`].
    pub fn from_file(file: fs_err::File) -> Result<Self, Qcow2Error> {
        let io = |source| Qcow2Error::Io { what: "read the header", source };
        let file_size_bytes = file.metadata().map_err(io)?.len();
        let mut first = vec![0; usize::try_from(file_size_bytes.min(2 << 20)).unwrap_or(0)];
        file.file().read_exact_at(&mut first, 0).map_err(io)?;
        let header = header::parse(&first, file_size_bytes)?;
        let geometry = Geometry::of(&header);
        let mut image = Self {
            references: References::new(&geometry)?,
            l1: Vec::new(),
            refcount_table: Vec::new(),
            l2_tables: Mutex::default(),
            leaked_clusters: 0,
            staged: BTreeMap::new(),
            clusters: Mutex::default(),
            file,
            header,
            geometry,
        };
        image.verify()?;
        Ok(image)
    }

    /// What the image says about itself.
    pub fn info(&self) -> &Qcow2Info {
        &self.header.info
    }

    /// Reads all tables, counts every use of every host cluster, and compares with the stored counts.
    fn verify(&mut self) -> Result<(), Qcow2Error> {
        let g = self.geometry;
        let damaged = |what: String| Qcow2Error::Damaged(what);
        let entries = u64::from(self.header.l1_entries);
        let table_bytes = u64::from(self.header.refcount_table_clusters) << g.cluster_bits;
        self.l1 = self.read_entries(self.header.l1_offset_bytes, entries)?;
        self.refcount_table = self.read_entries(self.header.refcount_table_offset_bytes, table_bytes / 8)?;

        self.references.claim(0, "the header")?;
        for (what, at, len) in [
            ("the L1 table", self.header.l1_offset_bytes, entries * 8),
            ("the refcount table", self.header.refcount_table_offset_bytes, table_bytes),
        ] {
            // Places and lengths were checked against the file with the header.
            for cluster in 0..len.div_ceil(g.cluster_bytes()) {
                self.references.claim(g.host_cluster(at) + cluster, what)?;
            }
        }
        self.load_refcounts()?;

        let clusters = self.header.info.virtual_size_bytes.div_ceil(g.cluster_bytes());
        for index in 0..self.l1.len() as u64 {
            let raw = self.l1[usize::try_from(index).unwrap_or(0)];
            let Some(at) = g.l2_offset(raw)? else { continue };
            self.references.claim(g.host_cluster(at), "an L2 table")?;
            self.check_copied(raw, at, "L1")?;
            let table = self.read_entries(at, g.l2_entries())?;
            for (i, &entry) in table.iter().enumerate() {
                if entry == 0 {
                    continue;
                }
                let guest = index * g.l2_entries() + i as u64;
                match g.mapping(entry)? {
                    Mapping::Unallocated | Mapping::Zero { host_offset_bytes: None } => {}
                    Mapping::Plain { host_offset_bytes: at }
                    | Mapping::Zero { host_offset_bytes: Some(at) } => {
                        self.references.claim(g.host_cluster(at), "a data cluster")?;
                        self.check_copied(entry, at, "L2")?;
                        let rest =
                            self.header.info.virtual_size_bytes.saturating_sub(guest << g.cluster_bits);
                        if at + rest.min(g.cluster_bytes()) > g.file_size_bytes {
                            return Err(damaged(format!(
                                "the file of {} bytes is cut short: a data cluster is at offset {at}",
                                g.file_size_bytes
                            )));
                        }
                    }
                    Mapping::Compressed { offset_bytes, max_bytes } => {
                        for cluster in g.compressed_clusters(offset_bytes, max_bytes) {
                            self.references.share(cluster)?;
                        }
                    }
                }
                if guest >= clusters {
                    return Err(damaged(format!("guest cluster {guest} is beyond the end of the disk")));
                }
            }
            self.keep_l2(index, table);
        }
        self.leaked_clusters += self.references.leaks()?;
        Ok(())
    }

    /// The refcount blocks; their own clusters are claimed on the way.
    fn load_refcounts(&mut self) -> Result<(), Qcow2Error> {
        let g = self.geometry;
        let mut block = vec![0; usize::try_from(g.cluster_bytes()).unwrap_or(0)];
        for (i, &raw) in self.refcount_table.iter().enumerate() {
            let Some(at) = g.block_offset(raw)? else { continue };
            self.references.claim(g.host_cluster(at), "a refcount block")?;
            self.file
                .file()
                .read_exact_at(&mut block, at)
                .map_err(|source| Qcow2Error::Io { what: "read a refcount block", source })?;
            let first = i as u64 * g.counts_per_block();
            for j in 0..g.counts_per_block() {
                let index = usize::try_from(j).unwrap_or(usize::MAX);
                let count = tables::count_at(&block, index, g.refcount_order).unwrap_or(0);
                if count != 0 && !self.references.set_stored(first + j, count) {
                    self.leaked_clusters += 1; // beyond the end of the file
                }
            }
        }
        Ok(())
    }

    /// The copied flag says that the reference count is exactly one.
    fn check_copied(&self, entry: u64, host_offset_bytes: u64, table: &str) -> Result<(), Qcow2Error> {
        let count = self.references.stored(self.geometry.host_cluster(host_offset_bytes));
        if (entry & COPIED != 0) == (count == 1) {
            return Ok(());
        }
        Err(Qcow2Error::Damaged(format!(
            "the {table} entry {entry:#018x} contradicts the reference count {count} of its cluster"
        )))
    }

    /// Reads big-endian entries of a table whose place was checked.
    fn read_entries(&self, offset_bytes: u64, entries: u64) -> Result<Vec<u64>, Qcow2Error> {
        let mut raw = vec![0; usize::try_from(entries * 8).unwrap_or(0)];
        if offset_bytes.checked_add(entries * 8).is_none_or(|end| end > self.geometry.file_size_bytes) {
            return Err(Qcow2Error::Damaged(format!(
                "a table at offset {offset_bytes} is outside the file of {} bytes",
                self.geometry.file_size_bytes
            )));
        }
        self.file
            .file()
            .read_exact_at(&mut raw, offset_bytes)
            .map_err(|source| Qcow2Error::Io { what: "read a table", source })?;
        Ok(raw.chunks_exact(8).map(|b| u64::from_be_bytes(b.try_into().unwrap_or_default())).collect())
    }

    fn keep_l2(&self, index: u64, table: Vec<u64>) -> Arc<Vec<u64>> {
        let table = Arc::new(table);
        let mut tables = lock(&self.l2_tables);
        let per_table = usize::try_from(self.geometry.cluster_bytes()).unwrap_or(usize::MAX);
        if tables.len().saturating_mul(per_table) >= L2_CACHE_BYTES {
            tables.clear();
        }
        tables.insert(index, Arc::clone(&table));
        table
    }

    /// The L2 table of an L1 index, if there is one.
    fn l2_table(&self, index: u64) -> Result<Option<Arc<Vec<u64>>>, Qcow2Error> {
        let raw = usize::try_from(index).ok().and_then(|i| self.l1.get(i)).copied().unwrap_or(0);
        let Some(at) = self.geometry.l2_offset(raw)? else { return Ok(None) };
        let kept = lock(&self.l2_tables).get(&index).cloned();
        match kept {
            Some(table) => Ok(Some(table)),
            None => Ok(Some(self.keep_l2(index, self.read_entries(at, self.geometry.l2_entries())?))),
        }
    }

    /// Where a guest cluster is.
    fn lookup(&self, guest_cluster: u64) -> Result<Mapping, Qcow2Error> {
        let (l1, l2) =
            (guest_cluster / self.geometry.l2_entries(), guest_cluster % self.geometry.l2_entries());
        match self.l2_table(l1)? {
            Some(table) => self
                .geometry
                .mapping(usize::try_from(l2).ok().and_then(|i| table.get(i)).copied().unwrap_or(0)),
            None => Ok(Mapping::Unallocated),
        }
    }
}

impl crate::BlockWrite for Qcow2 {
    fn write_at(&mut self, offset_bytes: u64, bytes: &[u8]) -> Result<(), crate::DeviceError> {
        crate::device::check_range(offset_bytes, bytes.len(), self.header.info.virtual_size_bytes)?;
        insert_change(&mut self.staged, offset_bytes, bytes);
        Ok(())
    }
}
