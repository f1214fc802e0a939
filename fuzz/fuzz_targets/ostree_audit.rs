#![no_main]
//! The layer of an image that a builder pod made: audited, and always ended.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static FILE: OnceLock<File> = OnceLock::new();

fuzz_target!(|layer: &[u8]| {
    let file = FILE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("ocne-fuzz-audit.{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    });
    file.set_len(0).unwrap();
    file.write_all_at(layer, 0).unwrap();
    ocne_ostree::fuzzing::repository(file, layer.len() as u64);
});
