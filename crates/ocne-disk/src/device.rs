//! What everything above a disk image sees: bytes at offsets, read in batches.
//!
//! Reading is separate from writing on purpose: an editor reads from a [`BlockDevice`], stages what it wants
//! changed in an [`Overlay`], verifies the overlay as if it were the device, and only then hands the changed
//! ranges to something that implements [`BlockWrite`].

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// An error of a device: what was tried where, and why it failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The range is not inside the device.
    #[error("{len_bytes} bytes at offset {offset_bytes} are outside the device of {size_bytes} bytes")]
    OutOfRange {
        /// Start of the range.
        offset_bytes: u64,
        /// Length of the range.
        len_bytes: u64,
        /// Size of the device.
        size_bytes: u64,
    },
    /// The operating system could not read or write.
    #[error("cannot access {len_bytes} bytes at offset {offset_bytes}: {source}")]
    Io {
        /// Start of the range.
        offset_bytes: u64,
        /// Length of the range.
        len_bytes: u64,
        /// The operating system's error.
        source: io::Error,
    },
    /// The image format that holds the device is damaged there.
    #[error("the image is damaged at device offset {offset_bytes}: {reason}")]
    Damaged {
        /// Offset in the device.
        offset_bytes: u64,
        /// What is wrong.
        reason: String,
    },
}

/// One range to read: the buffer's length is the range's.
pub struct ReadRequest<'a> {
    /// Where the range starts on the device.
    pub offset_bytes: u64,
    /// Filled completely, or the whole batch fails.
    pub buffer: &'a mut [u8],
}

impl fmt::Debug for ReadRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadRequest({} + {})", self.offset_bytes, self.buffer.len())
    }
}

/// A disk, a partition or a disk image that can be read at any byte offset.
pub trait BlockDevice: Send + Sync {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;

    /// Fills every buffer of the batch. One call is one round trip to whatever holds the bytes, so callers
    /// collect everything they can name before they ask; implementations may work in parallel.
    ///
    /// # Errors
    /// When any range is outside the device or cannot be read; the buffers are then unspecified.
    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError>;

    /// Fills one buffer: a batch of one.
    ///
    /// # Errors
    /// As [`BlockDevice::read_batch`].
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        self.read_batch(&mut [ReadRequest { offset_bytes, buffer }])
    }

    /// Whether the range is known to read as zeros, without reading it. `false` says nothing: it lets whoever copies
    /// a sparse disk pass over its holes.
    fn known_zeros(&self, _offset_bytes: u64, _len_bytes: u64) -> bool {
        false
    }
}

/// Something that takes changed bytes at offsets of a device.
pub trait BlockWrite {
    /// Writes all of `bytes` at `offset_bytes`. Implementations may stage it.
    ///
    /// # Errors
    /// When the range is outside the device, or cannot be written or staged.
    fn write_at(&mut self, offset_bytes: u64, bytes: &[u8]) -> Result<(), DeviceError>;
}

impl<T: BlockDevice + ?Sized> BlockDevice for &T {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }
    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        (**self).read_batch(requests)
    }
    fn known_zeros(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        (**self).known_zeros(offset_bytes, len_bytes)
    }
}

impl<T: BlockDevice + ?Sized> BlockDevice for std::sync::Arc<T> {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }
    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        (**self).read_batch(requests)
    }
    fn known_zeros(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        (**self).known_zeros(offset_bytes, len_bytes)
    }
}

/// Checks that a range is inside a device of `size_bytes`.
pub(crate) fn check_range(offset_bytes: u64, len: usize, size_bytes: u64) -> Result<(), DeviceError> {
    let len_bytes = len as u64;
    match offset_bytes.checked_add(len_bytes) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => Err(DeviceError::OutOfRange { offset_bytes, len_bytes, size_bytes }),
    }
}

/// A raw disk image or block device in a file.
#[derive(Debug)]
pub struct RawDevice {
    file: fs_err::File,
    size_bytes: u64,
}

impl RawDevice {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = fs_err::File::open(path)?;
        let size_bytes = file.metadata()?.len();
        Ok(Self { file, size_bytes })
    }
}

impl BlockDevice for RawDevice {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        for r in requests {
            check_range(r.offset_bytes, r.buffer.len(), self.size_bytes)?;
            self.file.file().read_exact_at(r.buffer, r.offset_bytes).map_err(|source| DeviceError::Io {
                offset_bytes: r.offset_bytes,
                len_bytes: r.buffer.len() as u64,
                source,
            })?;
        }
        Ok(())
    }
}

/// A device in memory, for tests and small images.
#[derive(Debug, Clone, Default)]
pub struct MemoryDevice {
    /// The content.
    pub bytes: Vec<u8>,
}

impl BlockDevice for MemoryDevice {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        for r in requests {
            check_range(r.offset_bytes, r.buffer.len(), self.size_bytes())?;
            let at = usize::try_from(r.offset_bytes).unwrap_or(usize::MAX);
            r.buffer.copy_from_slice(&self.bytes[at..at + r.buffer.len()]);
        }
        Ok(())
    }
}

impl BlockWrite for MemoryDevice {
    fn write_at(&mut self, offset_bytes: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        check_range(offset_bytes, bytes.len(), self.size_bytes())?;
        let at = usize::try_from(offset_bytes).unwrap_or(usize::MAX);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// A part of a device, such as a partition.
#[derive(Debug, Clone)]
pub struct Slice<D> {
    device: D,
    start_bytes: u64,
    size_bytes: u64,
}

impl<D: BlockDevice> Slice<D> {
    /// The `size_bytes` of `device` from `start_bytes` on.
    ///
    /// # Errors
    /// When the range is not inside the device.
    pub fn new(device: D, start_bytes: u64, size_bytes: u64) -> Result<Self, DeviceError> {
        match start_bytes.checked_add(size_bytes) {
            Some(end) if end <= device.size_bytes() => Ok(Self { device, start_bytes, size_bytes }),
            _ => Err(DeviceError::OutOfRange {
                offset_bytes: start_bytes,
                len_bytes: size_bytes,
                size_bytes: device.size_bytes(),
            }),
        }
    }

    /// Where the slice starts on the whole device.
    pub fn start_bytes(&self) -> u64 {
        self.start_bytes
    }
}

impl<D: BlockDevice> BlockDevice for Slice<D> {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        for r in requests.iter() {
            check_range(r.offset_bytes, r.buffer.len(), self.size_bytes)?;
        }
        let mut shifted: Vec<ReadRequest<'_>> = requests
            .iter_mut()
            .map(|r| ReadRequest { offset_bytes: self.start_bytes + r.offset_bytes, buffer: &mut *r.buffer })
            .collect();
        self.device.read_batch(&mut shifted)
    }

    fn known_zeros(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        let inside = offset_bytes.checked_add(len_bytes).is_some_and(|end| end <= self.size_bytes);
        inside && self.device.known_zeros(self.start_bytes + offset_bytes, len_bytes)
    }
}

/// A device with changes on top that exist in memory only.
///
/// Ranges that were written are kept apart by offset and never overlap; a later write wins.
#[derive(Debug, Clone)]
pub struct Overlay<D> {
    device: D,
    changes: BTreeMap<u64, Vec<u8>>,
}

impl<D: BlockDevice> Overlay<D> {
    /// An overlay without changes.
    pub fn new(device: D) -> Self {
        Self { device, changes: BTreeMap::new() }
    }

    /// The changed ranges, ascending and disjoint.
    pub fn changes(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.changes.iter().map(|(&at, bytes)| (at, bytes.as_slice()))
    }

    /// How many bytes were changed.
    pub fn changed_bytes(&self) -> u64 {
        self.changes.values().map(|b| b.len() as u64).sum()
    }

    /// The device below.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The changes alone.
    pub fn into_changes(self) -> BTreeMap<u64, Vec<u8>> {
        self.changes
    }
}

impl<D: BlockDevice> BlockDevice for Overlay<D> {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        read_changed(&self.changes, requests, |below| self.device.read_batch(below))
    }

    fn known_zeros(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        !is_changed(&self.changes, offset_bytes, len_bytes)
            && self.device.known_zeros(offset_bytes, len_bytes)
    }
}

impl<D: BlockDevice> BlockWrite for Overlay<D> {
    fn write_at(&mut self, offset_bytes: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        check_range(offset_bytes, bytes.len(), self.size_bytes())?;
        insert_change(&mut self.changes, offset_bytes, bytes);
        Ok(())
    }
}

/// Reads through changes: `below` gets what they do not cover, if there is any such.
pub(crate) fn read_changed(
    changes: &BTreeMap<u64, Vec<u8>>,
    requests: &mut [ReadRequest<'_>],
    below: impl FnOnce(&mut [ReadRequest<'_>]) -> Result<(), DeviceError>,
) -> Result<(), DeviceError> {
    // What is covered by one change needs nothing from below: a batch that is covered costs no round.
    let covered = |r: &ReadRequest<'_>| {
        changes.range(..=r.offset_bytes).next_back().is_some_and(|(&at, b)| {
            at + b.len() as u64 >= r.offset_bytes.saturating_add(r.buffer.len() as u64)
        })
    };
    let mut rest: Vec<ReadRequest<'_>> = requests
        .iter_mut()
        .filter(|r| !covered(r))
        .map(|r| ReadRequest { offset_bytes: r.offset_bytes, buffer: &mut *r.buffer })
        .collect();
    if !rest.is_empty() {
        below(&mut rest)?;
    }
    for r in requests {
        let (start, end) = (r.offset_bytes, r.offset_bytes + r.buffer.len() as u64);
        let first = changes.range(..=start).next_back().map_or(start, |(&at, _)| at);
        for (&at, bytes) in changes.range(first..end) {
            let (lo, hi) = (at.max(start), (at + bytes.len() as u64).min(end));
            if lo < hi {
                let [to, from, n] = [lo - start, lo - at, hi - lo].map(|v| usize::try_from(v).unwrap_or(0));
                r.buffer[to..to + n].copy_from_slice(&bytes[from..from + n]);
            }
        }
    }
    Ok(())
}

/// Whether changes touch a range.
pub(crate) fn is_changed(changes: &BTreeMap<u64, Vec<u8>>, offset_bytes: u64, len_bytes: u64) -> bool {
    let before_end = changes.range(..offset_bytes.saturating_add(len_bytes)).next_back();
    before_end.is_some_and(|(&at, b)| at + b.len() as u64 > offset_bytes)
}

/// Puts a change over those that are there, which stay disjoint.
pub(crate) fn insert_change(changes: &mut BTreeMap<u64, Vec<u8>>, offset_bytes: u64, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset_bytes + bytes.len() as u64;
    let first = changes.range(..offset_bytes).next_back().map_or(offset_bytes, |(&at, _)| at);
    let touched: Vec<u64> = changes
        .range(first..end)
        .filter(|(at, b)| **at + b.len() as u64 > offset_bytes)
        .map(|(&at, _)| at)
        .collect();
    for at in touched {
        let Some(old) = changes.remove(&at) else { continue };
        if at < offset_bytes {
            let keep = usize::try_from(offset_bytes - at).unwrap_or(0);
            changes.insert(at, old[..keep].to_vec());
        }
        if at + old.len() as u64 > end {
            let from = usize::try_from(end - at).unwrap_or(0);
            changes.insert(end, old[from..].to_vec());
        }
    }
    changes.insert(offset_bytes, bytes.to_vec());
}
