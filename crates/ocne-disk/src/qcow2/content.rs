//! What a disk held when it was written: enough to prove later that an image of it holds the same.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::device::{BlockDevice, DeviceError};

/// A range of a disk with the CRC-32 of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    offset_bytes: u64,
    len_bytes: usize,
    crc32: u32,
}

/// Checksums of everything on a disk that is not zeros by its tables, in order. They find what went wrong between
/// memory and file, not what somebody changed on purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentChecksums {
    size_bytes: u64,
    runs: Vec<Run>,
}

/// How an image differs from the disk that it was made of.
#[derive(Debug)]
pub enum ContentDifference {
    /// The disk in it has another size.
    Size {
        /// Size in the image.
        found_bytes: u64,
        /// Size of the disk.
        expected_bytes: u64,
    },
    /// A range has another content.
    Range {
        /// Where it begins.
        offset_bytes: u64,
        /// How long it is.
        len_bytes: u64,
    },
    /// It cannot be read.
    Read(DeviceError),
}

impl fmt::Display for ContentDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { found_bytes, expected_bytes } => {
                write!(f, "its disk has {found_bytes} bytes instead of {expected_bytes}")
            }
            Self::Range { offset_bytes, len_bytes } => {
                write!(f, "the {len_bytes} bytes at offset {offset_bytes} of its disk differ")
            }
            Self::Read(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for ContentDifference {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(e) => Some(e),
            _ => None,
        }
    }
}

impl ContentChecksums {
    pub(super) fn new(size_bytes: u64) -> Self {
        Self { size_bytes, runs: Vec::new() }
    }

    pub(super) fn add(&mut self, offset_bytes: u64, len_bytes: usize, crc32: u32) {
        self.runs.push(Run { offset_bytes, len_bytes, crc32 });
    }

    /// Reads a disk and compares it with these, with a thread for each processor; ends early, and without a
    /// difference, once `cancel` is set.
    ///
    /// # Errors
    /// The difference.
    pub fn compare(&self, device: &dyn BlockDevice, cancel: &AtomicBool) -> Result<(), ContentDifference> {
        let (found_bytes, expected_bytes) = (device.size_bytes(), self.size_bytes);
        if found_bytes != expected_bytes {
            return Err(ContentDifference::Size { found_bytes, expected_bytes });
        }
        self.compare_gaps(device)?;
        let next = AtomicUsize::new(0);
        let work = || {
            let mut buffer = Vec::new();
            while let Some(run) = self.runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if cancel.load(Ordering::Relaxed) {
                    break;
                }
                buffer.resize(run.len_bytes, 0);
                device.read_at(run.offset_bytes, &mut buffer).map_err(ContentDifference::Read)?;
                if crc32fast::hash(&buffer) != run.crc32 {
                    let len_bytes = run.len_bytes as u64;
                    return Err(ContentDifference::Range { offset_bytes: run.offset_bytes, len_bytes });
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Between the runs there was nothing: an image that was made of it has nothing there either, and says so in its
    /// tables.
    fn compare_gaps(&self, device: &dyn BlockDevice) -> Result<(), ContentDifference> {
        let end = Run { offset_bytes: self.size_bytes, len_bytes: 0, crc32: 0 };
        let mut at = 0;
        for run in self.runs.iter().chain([&end]) {
            let len_bytes = run.offset_bytes.saturating_sub(at);
            if len_bytes > 0 && !device.known_zeros(at, len_bytes) {
                return Err(ContentDifference::Range { offset_bytes: at, len_bytes });
            }
            at = run.offset_bytes + run.len_bytes as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    fn checksums(bytes: &[u8]) -> ContentChecksums {
        let mut sums = ContentChecksums::new(bytes.len() as u64);
        for (i, chunk) in bytes.chunks(4).enumerate() {
            sums.add(4 * i as u64, chunk.len(), crc32fast::hash(chunk));
        }
        sums
    }

    #[test]
    fn differences_are_found_and_named() {
        let sums = checksums(b"abcdefghij");
        let compare = |bytes: &[u8]| {
            sums.compare(&MemoryDevice { bytes: bytes.to_vec() }, &AtomicBool::new(false))
                .map_err(|e| e.to_string())
        };
        assert_eq!(compare(b"abcdefghij"), Ok(()));
        assert_eq!(compare(b"abcdefghiJ").unwrap_err(), "the 2 bytes at offset 8 of its disk differ");
        assert_eq!(compare(b"abcd").unwrap_err(), "its disk has 4 bytes instead of 10");
    }

    #[test]
    fn something_where_nothing_was_is_a_difference() {
        let mut sums = ContentChecksums::new(8);
        sums.add(4, 4, crc32fast::hash(b"efgh"));
        let error =
            sums.compare(&MemoryDevice { bytes: b"abcdefgh".to_vec() }, &AtomicBool::new(false)).unwrap_err();
        assert_eq!(error.to_string(), "the 4 bytes at offset 0 of its disk differ");
    }
}
