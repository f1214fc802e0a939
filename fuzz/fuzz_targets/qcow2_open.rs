//! Opening any file as qcow2: a refusal or an image that can be checked and read, and never more than that.
#![no_main]

#[path = "../support/image_file.rs"]
mod image_file;

use libfuzzer_sys::fuzz_target;
use ocne_disk::{BlockDevice as _, Qcow2};

fuzz_target!(|data: &[u8]| {
    let Ok(image) = Qcow2::from_file(image_file::of(data)) else { return };
    image.check().expect("an image that was opened has tables that can be read");
    let size = image.size_bytes();
    let mut buffer = [0; 700];
    for at in [0, size / 3, size / 2, size.saturating_sub(700)] {
        let len = (size - at).min(700) as usize;
        let _ = image.read_at(at, &mut buffer[..len]);
    }
    let _ = image.check_content();
});
