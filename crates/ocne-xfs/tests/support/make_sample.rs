//! Making the sample file system. It is packed with gzip as the pieces that are not zero: size of the image, then
//! offset, length and bytes of each piece; numbers are little-endian.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ocne_disk::MemoryDevice;

/// Where the packed sample is.
pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sample.xfs-sparse.gz");

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

/// The sample, unpacked.
pub fn image() -> MemoryDevice {
    MemoryDevice { bytes: crate::support::sample::unpack(&fs_err::read(PATH).unwrap()) }
}

/// Fills a mounted file system with few files and all forms; its blocks have 1 KiB.
pub fn populate(top: &Path) {
    let files = top.join("files");
    fs_err::create_dir(&files).unwrap();
    fs_err::write(files.join("small"), b"content\n").unwrap();
    fs_err::write(files.join("large"), vec![7; 6_000]).unwrap();
    let [large, shared] = ["large", "shared"].map(|n| files.join(n));
    crate::support::run("cp", &["--reflink=always", large.to_str().unwrap(), shared.to_str().unwrap()]);
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
            crate::support::setxattr(&path, &format!("user.attribute-{i}"), &vec![b'v'; len + i]);
        }
    }
}
