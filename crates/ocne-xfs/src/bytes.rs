//! Numbers in byte slices: XFS is big-endian on disk.
//!
//! Callers check lengths before they parse. Bytes past the end of a slice read as zero and are not written, so
//! that a length which was not checked gives a wrong number, which is then found, and never a panic.

/// `N` bytes at `at`, zero where the slice ends before.
pub(crate) fn array<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(s) = at.checked_add(N).and_then(|end| b.get(at..end)) {
        out.copy_from_slice(s);
    }
    out
}

/// The byte at `at`.
pub(crate) fn u8_at(b: &[u8], at: usize) -> u8 {
    b.get(at).copied().unwrap_or(0)
}

/// The big-endian 16-bit number at `at`.
pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(b, at))
}

/// The big-endian 32-bit number at `at`.
pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(b, at))
}

/// The big-endian 64-bit number at `at`.
pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(b, at))
}

/// Writes `bytes` at `at`.
pub(crate) fn put(b: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(s) = at.checked_add(bytes.len()).and_then(|end| b.get_mut(at..end)) {
        s.copy_from_slice(bytes);
    }
}

/// Writes one byte at `at`.
pub(crate) fn put_u8(b: &mut [u8], at: usize, v: u8) {
    put(b, at, &[v]);
}

/// Writes a big-endian 16-bit number at `at`.
pub(crate) fn put_u16(b: &mut [u8], at: usize, v: u16) {
    put(b, at, &v.to_be_bytes());
}

/// Writes a big-endian 32-bit number at `at`.
pub(crate) fn put_u32(b: &mut [u8], at: usize, v: u32) {
    put(b, at, &v.to_be_bytes());
}

/// Writes a big-endian 64-bit number at `at`.
pub(crate) fn put_u64(b: &mut [u8], at: usize, v: u64) {
    put(b, at, &v.to_be_bytes());
}
