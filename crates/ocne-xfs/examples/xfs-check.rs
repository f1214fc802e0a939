//! Checks the file system in a raw file: prints what is wrong, the rounds of reads and the time.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ocne_disk::{BlockDevice, DeviceError, RawDevice, ReadRequest};
use ocne_xfs::Volume;

/// Counts rounds and bytes.
struct Counting(RawDevice, AtomicU64, AtomicU64);

impl BlockDevice for Counting {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.2.fetch_add(requests.iter().map(|r| r.buffer.len() as u64).sum(), Ordering::Relaxed);
        self.0.read_batch(requests)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: xfs-check FILE")?;
    let device = Counting(RawDevice::open(path.as_ref())?, AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    let volume = Volume::open(&device)?;
    let report = volume.check()?;
    for p in &report.problems {
        println!("{p}");
    }
    println!(
        "{} problems, {} inodes, {} directories, {} free and {} shared blocks; {} rounds, {} KiB, {:?}",
        report.problems.len() as u64 + report.more_problems,
        report.inodes,
        report.directories,
        report.free_blocks,
        report.shared_blocks,
        device.1.load(Ordering::Relaxed),
        device.2.load(Ordering::Relaxed) >> 10,
        started.elapsed()
    );
    Ok(())
}
