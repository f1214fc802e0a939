//! Writes into any image that opens: after the commit it opens again, with what was written and what was there, and
//! without new leaks; a commit that stops half way leaves an image that opens too.
#![no_main]

#[path = "../support/image_file.rs"]
mod image_file;

use std::os::unix::fs::FileExt as _;

use libfuzzer_sys::fuzz_target;
use ocne_disk::{BlockDevice as _, BlockWrite as _, Qcow2};

/// Images of hostile geometry may describe disks of exabytes.
const MOST: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    // The last bytes say where to write, and where to stop.
    let Some((image, script)) = data.split_at_checked(data.len().saturating_sub(24)) else { return };
    if script.len() < 24 {
        return;
    }
    let Ok(mut qcow2) = Qcow2::from_file(image_file::of(image)) else { return };
    let size = qcow2.size_bytes().min(MOST);
    let mut model = vec![0; size as usize];
    let readable = qcow2.read_at(0, &mut model).is_ok();
    for step in script.chunks_exact(6) {
        let at = u64::from(u32::from_le_bytes([step[0], step[1], step[2], 0])) % size.max(1);
        let len = (u64::from(step[3]) * u64::from(step[4])).min(size - at) as usize;
        let bytes: Vec<u8> = (0..len).map(|i| step[5].wrapping_mul(i as u8 | 1)).collect();
        qcow2.write_at(at, &bytes).expect("it is inside the disk");
        model[at as usize..][..len].copy_from_slice(&bytes);
    }
    let Ok(plan) = qcow2.plan_commit() else { return };
    assert!(plan.file_size_bytes < image.len() as u64 + (16 << 20), "the file grows by what was written");
    let leaks = qcow2.check().expect("its tables can be read").leaked_clusters;

    let stop = script[0] as usize;
    let file = image_file::of(image);
    for (i, write) in plan.phases.iter().flatten().enumerate() {
        if i == stop {
            break;
        }
        file.file().write_all_at(&write.bytes, write.offset_bytes).expect("write");
    }
    Qcow2::from_file(file).expect("a commit that stopped half way leaves an image");

    let file = image_file::of(image);
    file.set_len(plan.file_size_bytes.max(image.len() as u64)).expect("grow");
    for (at, bytes) in plan.patches() {
        file.file().write_all_at(&bytes, at).expect("write");
    }
    let after = Qcow2::from_file(file).expect("a committed image opens");
    assert!(after.check().expect("its tables can be read").leaked_clusters <= leaks, "no new leaks");
    if readable {
        let mut content = vec![0; model.len()];
        after.read_at(0, &mut content).expect("what could be read can be read");
        assert!(content == model, "the disk is as written");
    }
});
