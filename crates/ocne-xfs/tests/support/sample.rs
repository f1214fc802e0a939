//! The sample file system: packed as the pieces that are not zero with gzip, and damage to its structures.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ocne_disk::MemoryDevice;

/// Where the packed sample is: size, then offset, length and bytes of each piece; numbers are little-endian.
pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sample.xfs-sparse.gz");

/// A structure with a checksum.
#[derive(Debug, Clone, Copy)]
pub struct Structure {
    pub offset: usize,
    pub len: usize,
    pub crc_at: usize,
}

/// Zeros that end a piece.
const GAP: usize = 24;

/// The pieces of an image that are not zero.
pub fn pack(image: &[u8]) -> Vec<u8> {
    let mut out = (image.len() as u64).to_le_bytes().to_vec();
    let mut at = 0;
    while let Some(start) = image[at..].iter().position(|&b| b != 0).map(|n| at + n) {
        let mut end = start + 1;
        while let Some(next) = image[end..].iter().take(GAP).position(|&b| b != 0) {
            end += next + 1;
        }
        out.extend((start as u64).to_le_bytes());
        out.extend(u32::try_from(end - start).unwrap().to_le_bytes());
        out.extend(&image[start..end]);
        at = end;
    }
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gz.write_all(&out).unwrap();
    gz.finish().unwrap()
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

/// The sample, unpacked.
pub fn image() -> MemoryDevice {
    MemoryDevice { bytes: unpack(&fs_err::read(PATH).unwrap()) }
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
            (b"XARM" | b"XSLM", _) => (1024, 12),
            (_, [0x3D, 0xF1 | 0xFF] | [0x3E, 0xBE] | [0x3B, 0xEE]) => (1024, 12),
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

/// Fills a mounted file system with few files and all forms; its blocks have 1 KiB.
pub fn populate(top: &Path) {
    let files = top.join("files");
    fs_err::create_dir(&files).unwrap();
    fs_err::write(files.join("small"), b"content\n").unwrap();
    fs_err::write(files.join("large"), vec![7; 6_000]).unwrap();
    let [large, shared] = ["large", "shared"].map(|n| files.join(n));
    super::run("cp", &["--reflink=always", large.to_str().unwrap(), shared.to_str().unwrap()]);
    for (name, pieces) in [("list", 5u64), ("tree", 200)] {
        let f = fs_err::File::create(files.join(name)).unwrap();
        for i in 0..pieces {
            f.file().write_all_at(b"piece", i * 16_384).unwrap();
        }
    }
    for (name, target) in [
        ("link", "small".to_owned()),
        ("absolute", "/files/small".to_owned()),
        ("loop", "loop".to_owned()),
        ("long", "x/".repeat(500)),
    ] {
        fs_err::os::unix::fs::symlink(target, files.join(name)).unwrap();
    }
    for (dir, count) in [("block", 12), ("leaf", 50), ("node", 300)] {
        let dir = top.join(dir);
        fs_err::create_dir(&dir).unwrap();
        for i in 0..count {
            // names of files that exist: few inodes
            fs_err::hard_link(files.join("small"), dir.join(format!("name-{i:04}"))).unwrap();
        }
        for i in (0..count).step_by(5) {
            fs_err::remove_file(dir.join(format!("name-{i:04}"))).unwrap();
        }
    }
    for i in 0..100 {
        fs_err::write(top.join(format!("block/inode-{i}")), b"").unwrap();
    }
    for i in (0..100).step_by(3) {
        fs_err::remove_file(top.join(format!("block/inode-{i}"))).unwrap();
    }
    for (name, count, len) in [("few", 1, 20), ("many", 60, 40), ("remote", 1, 3000)] {
        let path = files.join(name);
        fs_err::write(&path, b"x").unwrap();
        for i in 0..count {
            super::setxattr(&path, &format!("user.attribute-{i}"), &vec![b'v'; len + i]);
        }
    }
}
