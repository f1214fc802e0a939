//! Proving that a new image holds what it has to hold, by opening it as the image that it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ocne_disk::{BlockDevice as _, ContentChecksums, Qcow2, ReadRequest};

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

/// Opens the image and compares the whole disk in it with what was written.
///
/// # Errors
/// What is not as it has to be.
pub fn whole(path: &Path, expected: &ContentChecksums, cancel: &AtomicBool) -> Result<(), String> {
    expected.compare(&open(path)?, cancel).map_err(|e| e.to_string())
}

fn open(path: &Path) -> Result<Qcow2, String> {
    Qcow2::open(path).map_err(|e| format!("it cannot be opened: {e}"))
}
