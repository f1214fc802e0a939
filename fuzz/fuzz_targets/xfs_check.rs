//! The whole check, and reading everything, on a sound file system with some fields changed. Each change is 12 bytes of
//! the input: which structure, where, what, and whether its checksum is made right.
#![no_main]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use ocne_disk::{BlockDevice, DeviceError, ReadRequest};
use ocne_xfs::{FileType, Volume};

#[path = "../../crates/ocne-xfs/tests/support/sample.rs"]
#[allow(dead_code)]
mod sample;

const SAMPLE: &[u8] = include_bytes!("../../crates/ocne-xfs/tests/fixtures/sample.xfs-sparse.gz");
const BLOCK: usize = 1024;

/// The blocks of the sample that are not zero, and its structures.
struct Base {
    size: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
    structures: Vec<sample::Structure>,
}

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let image = sample::unpack(SAMPLE);
        let blocks = (0u64..)
            .zip(image.chunks(BLOCK))
            .filter(|(_, b)| b.iter().any(|&x| x != 0))
            .map(|(i, b)| (i, b.to_vec()))
            .collect();
        Base { size: image.len() as u64, blocks, structures: sample::structures(&image) }
    })
}

/// The sample with some blocks changed.
struct Patched {
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl BlockDevice for Patched {
    fn size_bytes(&self) -> u64 {
        base().size
    }
    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        for r in requests {
            let size_bytes = self.size_bytes();
            let (offset_bytes, len_bytes) = (r.offset_bytes, r.buffer.len() as u64);
            if offset_bytes.checked_add(len_bytes).is_none_or(|end| end > size_bytes) {
                return Err(DeviceError::OutOfRange { offset_bytes, len_bytes, size_bytes });
            }
            r.buffer.fill(0);
            let (first, last) = (offset_bytes / BLOCK as u64, (offset_bytes + len_bytes) / BLOCK as u64);
            for blocks in [&base().blocks, &self.blocks] {
                for (i, b) in blocks.range(first..=last) {
                    let at = (i * BLOCK as u64) as i64 - offset_bytes as i64;
                    let (lo, hi) =
                        (at.max(0) as usize, ((at + BLOCK as i64).max(0) as usize).min(r.buffer.len()));
                    if lo < hi {
                        let from = (lo as i64 - at) as usize;
                        r.buffer[lo..hi].copy_from_slice(&b[from..from + hi - lo]);
                    }
                }
            }
        }
        Ok(())
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let base = base();
    let mut device = Patched { blocks: BTreeMap::new() };
    for change in data.chunks_exact(12).take(16) {
        let n = |r: std::ops::Range<usize>| change[r].iter().fold(0usize, |v, &b| v << 8 | usize::from(b));
        let s = base.structures[n(0..2) % base.structures.len()];
        let (at, width, fix) = (n(2..4) % s.len, 1 << (change[4] & 3), change[4] & 4 == 0);
        // a structure is in one block: sectors and inodes have half of one
        let block = (s.offset / BLOCK) as u64;
        let bytes = device.blocks.entry(block).or_insert_with(|| base.blocks[&block].clone());
        let start = s.offset % BLOCK;
        let bytes = &mut bytes[start..start + s.len];
        let end = (at + width).min(s.len);
        bytes[at..end].copy_from_slice(&change[5..12].repeat(2)[..end - at]);
        if fix {
            let crc = sample::crc(bytes, s.crc_at);
            bytes[s.crc_at..s.crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let Ok(volume) = Volume::open(&device) else { return };
    let _ = volume.check().expect("the device does not fail");
    let mut todo = vec![volume.superblock().root_inode];
    for _ in 0..50 {
        let Some(dir) = todo.pop() else { break };
        for e in volume.read_dir(dir).unwrap_or_default().into_iter().take(60) {
            let _ = volume.xattrs(e.ino);
            match volume.inode(e.ino).map(|i| i.file_type()) {
                Ok(FileType::Directory) => todo.push(e.ino),
                Ok(FileType::Symlink) => drop(volume.read_link(e.ino)),
                Ok(FileType::Regular) => drop(volume.read_file(e.ino, 1 << 20)),
                _ => {}
            }
        }
    }
});
