#![no_main]
//! An agent that lies: frames with right checksums and any content, to a client that has a disk and one that has a file.

use std::io;
use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use ocne_disk::MemoryDevice;
use ocne_transfer::client::{Task, convert_blocks, convert_full};
use ocne_transfer::{Channel, ReadAt};

#[path = "../src/frames.rs"]
mod frames;

struct Zeros;

impl ReadAt for Zeros {
    fn size_bytes(&self) -> u64 {
        5000
    }
    fn read_exact_at(&self, into: &mut [u8], _: u64) -> io::Result<()> {
        into.fill(0);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&way, data)) = data.split_first() else { return };
    let stream = frames::stream(data);
    let mut channel = Channel::new(stream.as_slice(), io::sink());
    let cancel = AtomicBool::new(false);
    let task = Task { program: "fuzz", options: serde_json::Value::Null, events: &|_| {}, cancel: &cancel };
    let disk = MemoryDevice { bytes: vec![7; 1 << 16] };
    let result = if way % 2 == 0 {
        convert_blocks(&mut channel, &disk, task)
    } else {
        convert_full(&mut channel, &Zeros, "key", &disk, task, &mut |_| {})
    };
    if let Ok(outcome) = result {
        let mut next = 0;
        for (&at, bytes) in &outcome.changes {
            assert!(at >= next && !bytes.is_empty());
            next = at + bytes.len() as u64;
        }
        assert!(next <= 1 << 16);
    }
});
