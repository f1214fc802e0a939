//! A file system on a device: opening it, and reads that everything else is made of.

use std::fmt;
use std::sync::Arc;

use ocne_disk::{BlockDevice, BlockWrite, Overlay};

use crate::cache::{self, ByteRange, Bytes, Cache, Changes, Keep};
use crate::error::XfsError;
use crate::superblock::Superblock;

/// An XFS file system on a device, opened for reading.
///
/// Metadata that was read is kept in memory, up to a budget.
pub struct Volume<D> {
    device: D,
    superblock: Superblock,
    cache: Arc<Cache>,
    changes: Arc<Changes>,
}

impl<D> fmt::Debug for Volume<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("superblock", &self.superblock).finish_non_exhaustive()
    }
}

/// Bytes read for the primary superblock: the largest sector.
const SUPERBLOCK_READ_BYTES: u64 = 32 << 10;

impl<D: BlockDevice> Volume<D> {
    /// Opens the file system that starts at the first byte of `device`.
    ///
    /// # Errors
    /// When there is none, when it is of a version or with features that this crate does not know (named in the
    /// error), when its superblock is damaged, or when it is larger than the device.
    pub fn open(device: D) -> Result<Self, XfsError> {
        Self::open_with(device, Arc::default(), Arc::default())
    }

    fn open_with(device: D, cache: Arc<Cache>, changes: Arc<Changes>) -> Result<Self, XfsError> {
        let len = device.size_bytes().min(SUPERBLOCK_READ_BYTES);
        if len < 512 {
            return Err(XfsError::NotXfs { reason: format!("the device has {len} bytes") });
        }
        let range = ByteRange { offset_bytes: 0, len: usize::try_from(len).unwrap_or(512) };
        let sector = read_through(&device, &cache, &changes, &[range], Keep::Yes)?.swap_remove(0);
        let superblock = Superblock::parse_primary(&sector)?;
        if superblock.size_bytes() > device.size_bytes() {
            return Err(XfsError::Damaged {
                place: "superblock".to_owned(),
                reason: format!(
                    "the file system has {} bytes, the device {}",
                    superblock.size_bytes(),
                    device.size_bytes()
                ),
            });
        }
        Ok(Self { device, superblock, cache, changes })
    }

    /// The same file system with changed ranges (ascending and disjoint) on top of its device, and of the
    /// changes that this volume may have already. The cache is shared: what did not change is not read again.
    ///
    /// # Errors
    /// As [`Volume::open`], for the changed superblock; when a change is outside the device.
    pub fn with_changes(&self, changes: &Changes) -> Result<Volume<&D>, XfsError> {
        let mut all = Overlay::new(&self.device);
        for (&at, bytes) in self.changes.iter().chain(changes) {
            all.write_at(at, bytes)?;
        }
        let all = all.into_changes();
        Volume::open_with(&self.device, Arc::clone(&self.cache), Arc::new(all))
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The device, without changes.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Reads ranges with at most one batch to the device; metadata is kept.
    pub(crate) fn read(&self, ranges: &[ByteRange]) -> Result<Vec<Bytes>, XfsError> {
        read_through(&self.device, &self.cache, &self.changes, ranges, Keep::Yes)
    }

    /// Reads ranges of file content, which is not kept.
    pub(crate) fn read_content(&self, ranges: &[ByteRange]) -> Result<Vec<Bytes>, XfsError> {
        read_through(&self.device, &self.cache, &self.changes, ranges, Keep::No)
    }
}

/// Reads through the cache; ranges that one change covers cost nothing.
fn read_through<D: BlockDevice>(
    device: &D,
    cache: &Cache,
    changes: &Changes,
    ranges: &[ByteRange],
    keep: Keep,
) -> Result<Vec<Bytes>, XfsError> {
    if changes.is_empty() {
        return Ok(cache.read(device, ranges, keep)?);
    }
    let below: Vec<ByteRange> = ranges.iter().copied().filter(|&r| !cache::covered(changes, r)).collect();
    let mut from_below = cache.read(device, &below, keep)?.into_iter();
    Ok(ranges
        .iter()
        .map(|&r| {
            let bytes = if cache::covered(changes, r) {
                Bytes::from(vec![0; r.len])
            } else {
                from_below.next().unwrap_or_else(|| Bytes::from(vec![0; r.len]))
            };
            cache::apply(changes, r, bytes)
        })
        .collect())
}
