//! What a whole image adds up to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::Qcow2;
use super::error::Qcow2Error;
use super::tables::Mapping;
use super::unpack::Unpacker;

/// Leaked clusters that are named one by one.
const NAMED_LEAKS: usize = 20;

/// What is in an image, and what is wrong with it.
///
/// Everything that would make an image unsafe to read or write is an error of [`Qcow2::open`] already, so that the
/// problems here are those that do no harm to its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Qcow2Check {
    /// What is wrong, one text each.
    pub problems: Vec<String>,
    /// Host clusters that are reserved and not used.
    pub leaked_clusters: u64,
    /// Guest clusters that are stored as they are.
    pub plain_clusters: u64,
    /// Guest clusters that are stored compressed.
    pub compressed_clusters: u64,
    /// Guest clusters that are marked as zeros.
    pub zero_clusters: u64,
}

impl Qcow2Check {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Qcow2 {
    /// Goes through all tables: what every guest cluster is, whether every reference count is right, and whether all
    /// compressed ranges are inside the file. No content is read, see [`Qcow2::check_content`].
    ///
    /// # Errors
    /// When a table cannot be read, or was changed since the image was opened.
    pub fn check(&self) -> Result<Qcow2Check, Qcow2Error> {
        let mut check = Qcow2Check { leaked_clusters: self.leaked_clusters, ..Qcow2Check::default() };
        self.each_mapping(|_, mapping| match mapping {
            Mapping::Unallocated => {}
            Mapping::Zero { .. } => check.zero_clusters += 1,
            Mapping::Plain { .. } => check.plain_clusters += 1,
            Mapping::Compressed { .. } => check.compressed_clusters += 1,
        })?;
        let leaks = (0..self.references.len())
            .filter(|&c| self.references.stored(c) > self.references.counted(c))
            .take(NAMED_LEAKS);
        check.problems.extend(leaks.map(|c| {
            format!(
                "host cluster {c} is leaked: its reference count is {}, and it has {} uses",
                self.references.stored(c),
                self.references.counted(c)
            )
        }));
        let named = check.problems.len() as u64;
        if check.leaked_clusters > named {
            check.problems.push(format!("{} more host clusters are leaked", check.leaked_clusters - named));
        }
        Ok(check)
    }

    /// Unpacks every compressed cluster on all processors, and says which guest offsets cannot be unpacked (in bytes,
    /// ascending).
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn check_content(&self) -> Result<Vec<(u64, String)>, Qcow2Error> {
        let mut compressed = Vec::new();
        self.each_mapping(|guest, mapping| {
            if let Mapping::Compressed { offset_bytes, max_bytes } = mapping {
                compressed.push((guest << self.geometry.cluster_bits, offset_bytes, max_bytes));
            }
        })?;
        let (compressed, next) = (compressed.as_slice(), AtomicU64::new(0));
        let work = || {
            let mut unpacker = Unpacker::new(self.header.info.compression);
            let mut out = vec![0; usize::try_from(self.geometry.cluster_bytes()).unwrap_or(0)];
            let mut bad = Vec::new();
            while let Some(&(guest, at, len)) =
                usize::try_from(next.fetch_add(1, Ordering::Relaxed)).ok().and_then(|i| compressed.get(i))
            {
                if let Err(e) = self.unpack(&mut unpacker, at, len, &mut out, guest) {
                    bad.push((guest, e.to_string()));
                }
            }
            bad
        };
        let mut bad: Vec<(u64, String)> = thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .flat_map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        bad.sort();
        Ok(bad)
    }

    /// Calls back for every guest cluster of every L2 table.
    fn each_mapping(&self, mut each: impl FnMut(u64, Mapping)) -> Result<(), Qcow2Error> {
        for l1 in 0..self.l1.len() as u64 {
            let Some(table) = self.l2_table(l1)? else { continue };
            for (i, &entry) in table.iter().enumerate() {
                each(l1 * self.geometry.l2_entries() + i as u64, self.geometry.mapping(entry)?);
            }
        }
        Ok(())
    }
}
