//! A device that is read in pages which are kept: for a file system whose reader asks for one sector at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use ocne_disk::{BlockDevice, DeviceError, ReadRequest};

/// Bytes of a page.
const PAGE_BYTES: u64 = 64 << 10;
/// Pages that are kept; when there are more, all are forgotten.
const MAX_PAGES: usize = 256;

/// A device with a cache of pages.
#[derive(Debug)]
pub struct ReadAhead<D> {
    device: D,
    /// By number.
    pages: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl<D: BlockDevice> ReadAhead<D> {
    pub fn new(device: D) -> Self {
        Self { device, pages: Mutex::default() }
    }

    /// Reads the pages that are not kept yet, in one batch.
    fn fetch(&self, pages: &mut BTreeMap<u64, Vec<u8>>, wanted: &BTreeSet<u64>) -> Result<(), DeviceError> {
        let missing: Vec<u64> = wanted.iter().copied().filter(|n| !pages.contains_key(n)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut buffers: Vec<Vec<u8>> = missing
            .iter()
            .map(|n| {
                let len = self.device.size_bytes().saturating_sub(n * PAGE_BYTES).min(PAGE_BYTES);
                vec![0; usize::try_from(len).unwrap_or(0)]
            })
            .collect();
        let mut requests: Vec<_> = missing
            .iter()
            .zip(&mut buffers)
            .map(|(n, buffer)| ReadRequest { offset_bytes: n * PAGE_BYTES, buffer })
            .collect();
        self.device.read_batch(&mut requests)?;
        pages.extend(missing.into_iter().zip(buffers));
        Ok(())
    }
}

/// The numbers of the pages with a range that is inside the device.
fn page_numbers(request: &ReadRequest<'_>) -> std::ops::Range<u64> {
    let end = request.offset_bytes + request.buffer.len() as u64;
    request.offset_bytes / PAGE_BYTES..end.div_ceil(PAGE_BYTES)
}

impl<D: BlockDevice> BlockDevice for ReadAhead<D> {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        let total: usize = requests.iter().map(|r| r.buffer.len()).sum();
        let inside = |r: &ReadRequest<'_>| {
            r.offset_bytes.checked_add(r.buffer.len() as u64).is_some_and(|end| end <= self.size_bytes())
        };
        if total as u64 > PAGE_BYTES * MAX_PAGES as u64 / 2 || !requests.iter().all(inside) {
            return self.device.read_batch(requests);
        }
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.len() >= MAX_PAGES {
            pages.clear();
        }
        self.fetch(&mut pages, &requests.iter().flat_map(page_numbers).collect())?;
        for request in requests {
            for number in page_numbers(request) {
                let Some(page) = pages.get(&number) else { continue };
                let start = number * PAGE_BYTES;
                let (from, end) = (request.offset_bytes, request.offset_bytes + request.buffer.len() as u64);
                let (lo, hi) = (from.max(start), end.min(start + page.len() as u64));
                let [to, at, len] = [lo - from, lo - start, hi - lo].map(|n| usize::try_from(n).unwrap_or(0));
                request.buffer[to..to + len].copy_from_slice(&page[at..at + len]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ocne_disk::MemoryDevice;

    use super::*;

    #[test]
    fn as_the_device_itself() {
        let bytes: Vec<u8> = (0..200_003_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let device = ReadAhead::new(MemoryDevice { bytes: bytes.clone() });
        let end = bytes.len();
        for (at, len) in [(0, 1), (65_535, 2), (10, 150_000), (end - 5, 5), (end, 0), (0, end)] {
            let mut buffer = vec![0; len];
            device.read_at(at as u64, &mut buffer).unwrap();
            assert_eq!(buffer, bytes[at..at + len], "{at}, {len}");
        }
        device.read_at(end as u64 - 1, &mut [0; 2]).unwrap_err();
        device.read_at(u64::MAX, &mut [0; 2]).unwrap_err();
    }
}
