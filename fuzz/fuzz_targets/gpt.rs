//! Partition tables: an error, or partitions that are inside the disk and apart. Checksums are made right first, so
//! that what they protect is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocne_disk::{MemoryDevice, gpt};

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    for sector in [512, 4096] {
        seal(&mut bytes, sector, sector);
        let last = (bytes.len() / sector).saturating_sub(1) * sector;
        seal(&mut bytes, last, sector);
    }
    let Ok(table) = gpt::read(&MemoryDevice { bytes }) else { return };
    let mut partitions = table.partitions;
    partitions.sort_by_key(|p| p.start_bytes);
    let mut end = 0;
    for p in &partitions {
        assert!(p.start_bytes >= end && p.size_bytes > 0);
        end = p.start_bytes + p.size_bytes;
    }
    assert!(end <= data.len() as u64);
});

/// Puts the right checksums into a header, if there is one.
fn seal(bytes: &mut [u8], at: usize, sector: usize) -> Option<()> {
    let u32_at = |bytes: &[u8], i: usize| {
        Some(u32::from_le_bytes(bytes.get(at + i..at + i + 4)?.try_into().ok()?) as usize)
    };
    if bytes.get(at..at + 8)? != b"EFI PART" {
        return None;
    }
    let array = u32_at(bytes, 72)?.checked_mul(sector)?;
    let len = u32_at(bytes, 80)?.checked_mul(u32_at(bytes, 84)?)?;
    if let Some(entries) = array.checked_add(len).and_then(|end| bytes.get(array..end)) {
        let sum = crc32fast::hash(entries);
        bytes.get_mut(at + 88..at + 92)?.copy_from_slice(&sum.to_le_bytes());
    }
    let header = u32_at(bytes, 12)?;
    bytes.get_mut(at + 16..at + 20)?.fill(0);
    let sum = crc32fast::hash(bytes.get(at..at.checked_add(header)?)?);
    bytes.get_mut(at + 16..at + 20)?.copy_from_slice(&sum.to_le_bytes());
    Some(())
}
