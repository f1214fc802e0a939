//! The CRC-32C of metadata: over the whole sector, block or inode with the CRC field taken as zero, stored
//! little-endian.

use crate::bytes;

/// The CRC of `block` with the four bytes at `crc_at` taken as zero.
pub(crate) fn compute(block: &[u8], crc_at: usize) -> u32 {
    let (before, rest) = block.split_at(crc_at.min(block.len()));
    let crc = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(crc, rest.get(4..).unwrap_or(&[]))
}

/// Whether the CRC stored at `crc_at` is right.
pub(crate) fn verify(block: &[u8], crc_at: usize) -> bool {
    u32::from_le_bytes(bytes::array(block, crc_at)) == compute(block, crc_at)
}

/// Stores the right CRC at `crc_at`.
pub(crate) fn stamp(block: &mut [u8], crc_at: usize) {
    let crc = compute(block, crc_at);
    bytes::put(block, crc_at, &crc.to_le_bytes());
}
