//! Proving that a new image holds what it has to hold, by opening it as the image that it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use ocne_disk::{BlockDevice, Qcow2, ReadRequest};

/// How much is compared at a time; two threads hold two buffers each.
const WINDOW_BYTES: u64 = 2 << 20;

/// Opens the image, which verifies its tables and counts, and reads the changed ranges of the disk in it.
///
/// # Errors
/// What is not as it has to be.
pub fn changes(path: &Path, changes: &BTreeMap<u64, Vec<u8>>) -> Result<(), String> {
    let image = open(path)?;
    let mut found: Vec<Vec<u8>> = changes.values().map(|b| vec![0; b.len()]).collect();
    let mut requests: Vec<ReadRequest<'_>> = changes
        .keys()
        .zip(&mut found)
        .map(|(&offset_bytes, buffer)| ReadRequest { offset_bytes, buffer })
        .collect();
    image.read_batch(&mut requests).map_err(|e| e.to_string())?;
    match changes.iter().zip(&found).find(|((_, expected), actual)| expected != actual) {
        Some(((at, _), _)) => Err(format!("the change at offset {at} of the disk is not in it")),
        None => Ok(()),
    }
}

/// Opens the image and compares the whole disk in it with another.
///
/// # Errors
/// What is not as it has to be.
pub fn whole(path: &Path, expected: &dyn BlockDevice, cancel: &AtomicBool) -> Result<(), String> {
    let image = open(path)?;
    let size_bytes = expected.size_bytes();
    if image.size_bytes() != size_bytes {
        return Err(format!("its disk has {} bytes instead of {size_bytes}", image.size_bytes()));
    }
    let next = AtomicU64::new(0);
    let compare = || {
        let [mut a, mut b] = [Vec::new(), Vec::new()];
        while !cancel.load(Ordering::Relaxed) {
            let at = next.fetch_add(WINDOW_BYTES, Ordering::Relaxed);
            if at >= size_bytes {
                break;
            }
            let len = usize::try_from(WINDOW_BYTES.min(size_bytes - at)).unwrap_or(0);
            for (device, buffer) in [(&image as &dyn BlockDevice, &mut a), (expected, &mut b)] {
                buffer.resize(len, 0);
                device.read_at(at, buffer).map_err(|e| e.to_string())?;
            }
            if a != b {
                return Err(format!("the {len} bytes at offset {at} of its disk differ"));
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(compare);
        let mine = compare();
        mine.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn open(path: &Path) -> Result<Qcow2, String> {
    Qcow2::open(path).map_err(|e| format!("it cannot be opened: {e}"))
}
