#![no_main]
//! A client that lies: frames with right checksums and any content, to an agent that reads a disk or takes a file.

use std::io::{self, Cursor};
use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use ocne_disk::BlockDevice as _;
use ocne_transfer::messages::Mode;
use ocne_transfer::{Channel, agent, receive_whole};

#[path = "../src/frames.rs"]
mod frames;

fuzz_target!(|data: &[u8]| {
    let stream = frames::stream(data);
    let mut channel = Channel::new(stream.as_slice(), io::sink());
    let Ok(job) = agent::accept(&mut channel, "fuzz") else { return };
    match job.mode {
        Mode::Blocks => {
            let device = agent::RemoteDevice::new(channel, job.size_bytes);
            let mut buffer = vec![0; 70_000];
            let _ = device.read_at(0, &mut buffer);
            let _ =
                agent::deliver(&mut device.into_channel(), &[(0, buffer)].into(), job.options, None, None);
        }
        Mode::Full | Mode::Pull => {
            let mut file = Cursor::new(vec![1, 2, 3]);
            let max_bytes = job.size_bytes.min(1 << 20);
            let taken =
                receive_whole(&mut channel, &mut file, max_bytes, &AtomicBool::new(false), &mut |_| {});
            if let Ok(whole) = taken {
                assert_eq!(whole.size_bytes, file.get_ref().len() as u64);
            }
            assert!(file.get_ref().len() as u64 <= max_bytes.max(3));
        }
    }
});
