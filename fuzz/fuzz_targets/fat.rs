//! FAT file systems: every path that is listed can be followed, in bounded time and memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocne_disk::MemoryDevice;
use ocne_disk::fat::Fat;

fuzz_target!(|data: &[u8]| {
    // A file system of any size out of few bytes: the rest of the disk is zeros.
    let mut bytes = data.to_vec();
    bytes.resize((data.len() + 4096).next_multiple_of(64 << 10), 0);
    let Ok(fat) = Fat::open(MemoryDevice { bytes }) else { return };
    let mut paths = vec![String::new()];
    for depth in 0..3 {
        let mut next = Vec::new();
        for path in paths.iter().take(8) {
            for entry in fat.list(path).unwrap_or_default().into_iter().take(8) {
                let path = format!("{path}/{}", entry.name);
                if entry.is_dir {
                    next.push(path);
                } else if let Ok(content) = fat.read(&path, 1 << 20) {
                    assert!(content.len() <= 1 << 20);
                }
            }
        }
        let _ = (depth, fat.exists("EFI/BOOT/BOOTX64.EFI"));
        paths = next;
    }
});
