//! The sample file system, unpacked, and damage to its structures. The fuzz target `xfs_check` has this file as well.

use std::io::Read;

/// A structure with a checksum.
#[derive(Debug, Clone, Copy)]
pub struct Structure {
    pub offset: usize,
    pub len: usize,
    pub crc_at: usize,
}

/// The image of packed pieces.
pub fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut raw).unwrap();
    let packed = raw;
    let number = |at: usize, n: usize| {
        let mut b = [0; 8];
        b[..n].copy_from_slice(&packed[at..at + n]);
        usize::try_from(u64::from_le_bytes(b)).unwrap()
    };
    let mut image = vec![0; number(0, 8)];
    let mut at = 8;
    while at < packed.len() {
        let (start, len) = (number(at, 8), number(at + 8, 4));
        image[start..start + len].copy_from_slice(&packed[at + 12..at + 12 + len]);
        at += 12 + len;
    }
    image
}

/// The checksum of a structure.
pub fn crc(b: &[u8], at: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&b[..at]), &[0; 4]), &b[at + 4..])
}

/// Every structure of the sample (blocks of 1 KiB, sectors and inodes of 512 bytes), by magic.
pub fn structures(image: &[u8]) -> Vec<Structure> {
    let mut out = Vec::new();
    for offset in (0..image.len()).step_by(512) {
        let b = &image[offset..offset + 512];
        let (len, crc_at) = match (&b[..4], &b[8..10]) {
            (b"XFSB", _) => (512, 224),
            (b"XAGF", _) => (512, 216),
            (b"XAGI", _) => (512, 312),
            (b"XAFL", _) => (512, 32),
            ([b'I', b'N', ..], _) => (512, 100),
            (b"AB3B" | b"AB3C" | b"IAB3" | b"FIB3" | b"RMB3" | b"R3FC", _) => (1024, 52),
            (b"BMA3", _) => (1024, 64),
            (b"XDB3" | b"XDD3" | b"XDF3", _) => (1024, 4),
            (b"XARM" | b"XSLM", _) | (_, [0x3D, 0xF1 | 0xFF] | [0x3E, 0xBE] | [0x3B, 0xEE]) => (1024, 12),
            _ => continue,
        };
        let s = &image[offset..offset + len];
        if crc(s, crc_at).to_le_bytes() == s[crc_at..crc_at + 4] {
            out.push(Structure { offset, len, crc_at });
        }
    }
    out
}

/// Changes one field of a structure, as `how` and `value` say, and makes its checksum right.
pub fn damage(b: &mut [u8], crc_at: usize, how: u64, value: u64) {
    let [place, kind, width, dense, ..] = how.to_le_bytes();
    let width = 1 << (width % 4);
    let range = if dense % 4 == 0 { b.len() } else { 256 };
    let at = (usize::from(place) | usize::from(kind / 16) << 8) % (range / width) * width;
    let field = &mut b[at..at + width];
    match kind % 5 {
        0 => field.fill(0),
        1 => field.fill(0xFF),
        2 => field[width - 1] = field[width - 1].wrapping_add(1),
        3 => field[width - 1] ^= 1 << (value % 8),
        _ => field.copy_from_slice(&value.to_le_bytes()[..width]),
    }
    let crc = crc(b, crc_at);
    b[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}
