//! A new image with compressed clusters, from any device.
//!
//! Workers read and compress runs of clusters; one packer takes the runs in the order of the disk, so that the same
//! content gives the same file with any number of threads. Data comes first in the file, the tables after it, and
//! the header is written last: a file that was not finished is no qcow2 image.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::content::ContentChecksums;
use super::error::Qcow2Error;
use super::header::Compression;
use super::pack::{Packer, Unit};
use crate::device::BlockDevice;

/// Content that a worker takes at once.
const RUN_BYTES: u64 = 1 << 20;
/// Runs that a worker may be ahead of the packer.
const RUNS_AHEAD: usize = 4;
/// Default level of zlib; see docs/decisions/0002-recompress.md.
const ZLIB_LEVEL: u32 = 1;
/// Default level of zstd.
const ZSTD_LEVEL: u32 = 3;

/// How a new image is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressOptions {
    /// The compression.
    pub compression: Compression,
    /// Its level: zlib 1 to 12, zstd 1 to 19; by default 1 and 3.
    pub level: Option<u32>,
    /// Worker threads; 0 means one for each processor.
    pub threads: usize,
    /// Cluster size: a power of two from 512 bytes to 2 MiB; 65536 is what everybody uses.
    pub cluster_size_bytes: u64,
}

impl Default for CompressOptions {
    fn default() -> Self {
        Self { compression: Compression::Zlib, level: None, threads: 0, cluster_size_bytes: 1 << 16 }
    }
}

impl CompressOptions {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Qcow2Error::Unsupported`] for a level or a cluster size that does not exist.
    pub fn validate(&self) -> Result<(), Qcow2Error> {
        let most = match self.compression {
            Compression::Zlib => 12,
            Compression::Zstd => 19,
        };
        if let Some(level) = self.level.filter(|l| !(1..=most).contains(l)) {
            return Err(Qcow2Error::Unsupported(format!(
                "compression level {level}; it has to be 1 to {most}"
            )));
        }
        let size = self.cluster_size_bytes;
        if !size.is_power_of_two() || !(512..=2 << 20).contains(&size) {
            return Err(Qcow2Error::Unsupported(format!(
                "a cluster size of {size} bytes; it has to be a power of two from 512 to 2097152"
            )));
        }
        Ok(())
    }

    fn level(&self) -> u32 {
        self.level.unwrap_or(match self.compression {
            Compression::Zlib => ZLIB_LEVEL,
            Compression::Zstd => ZSTD_LEVEL,
        })
    }
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompressSummary {
    /// Size of the new file.
    pub file_size_bytes: u64,
    /// Clusters that are compressed.
    pub compressed_clusters: u64,
    /// Clusters that did not get smaller and are stored as they are.
    pub plain_clusters: u64,
    /// Clusters of zeros, which take no space.
    pub zero_clusters: u64,
    /// What was on the device.
    pub content: ContentChecksums,
}

/// What a worker made of one run.
struct RunDone {
    units: Vec<Unit>,
    len_bytes: usize,
    crc32: u32,
}

/// Writes everything on a device into an empty file as a compressed qcow2 image (version 3). `progress` hears how many
/// bytes of the device are done, in order, and may stop it. The file is not synced.
///
/// # Errors
/// When the device cannot be read, the file cannot be written, an option makes no sense, or `progress` says stop
/// ([`Qcow2Error::Interrupted`]); the file then holds no image.
pub fn write_compressed(
    device: &dyn BlockDevice,
    file: &fs_err::File,
    options: &CompressOptions,
    progress: &(dyn Fn(u64) -> ControlFlow<()> + Sync),
) -> Result<CompressSummary, Qcow2Error> {
    options.validate()?;
    let size = device.size_bytes();
    let run_bytes = RUN_BYTES.max(options.cluster_size_bytes);
    let runs = data_runs(device, run_bytes);
    let runs = runs.as_slice();
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let mut packer = Packer::new(file, size, options)?;
    let mut content = ContentChecksums::new(size);
    thread::scope(|scope| {
        let receivers: Vec<Receiver<Result<RunDone, Qcow2Error>>> = (0..threads)
            .map(|first| {
                let (sender, receiver) = sync_channel(RUNS_AHEAD);
                scope.spawn(move || {
                    let mut worker = Worker::new(device, options);
                    for &start in runs.iter().skip(first).step_by(threads) {
                        let done = worker.run(start, run_bytes.min(size - start));
                        if send(&sender, done).is_break() {
                            return;
                        }
                    }
                });
                receiver
            })
            .collect();
        // The receivers go away with this loop; a worker that still has something to say then ends.
        for (&start, receiver) in runs.iter().zip(receivers.iter().cycle()) {
            let done = receiver.recv().map_err(|_| Qcow2Error::Interrupted)??;
            content.add(start, done.len_bytes, done.crc32);
            for (guest, unit) in (start / options.cluster_size_bytes..).zip(done.units) {
                packer.add(guest, unit)?;
            }
            if progress((start + run_bytes).min(size)).is_break() {
                return Err(Qcow2Error::Interrupted);
            }
        }
        if progress(size).is_break() {
            return Err(Qcow2Error::Interrupted);
        }
        Ok(CompressSummary { content, ..packer.finish()? })
    })
}

/// Starts of the runs that are not known to be zeros. Halving passes over the holes of a huge disk in no time.
fn data_runs(device: &dyn BlockDevice, run_bytes: u64) -> Vec<u64> {
    let size = device.size_bytes();
    let mut runs = Vec::new();
    let mut ranges = vec![(0, size.div_ceil(run_bytes))];
    while let Some((start, end)) = ranges.pop() {
        let (from, to) = (start * run_bytes, end.saturating_mul(run_bytes).min(size));
        if start == end || device.known_zeros(from, to - from) {
            continue;
        }
        if end - start == 1 {
            runs.push(from);
            continue;
        }
        let middle = start + (end - start) / 2;
        ranges.extend([(middle, end), (start, middle)]);
    }
    runs
}

fn send<T>(sender: &SyncSender<Result<T, Qcow2Error>>, done: Result<T, Qcow2Error>) -> ControlFlow<()> {
    let failed = done.is_err();
    match sender.send(done) {
        Ok(()) if !failed => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    }
}

enum Engine {
    Zlib(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

/// Reads and compresses.
struct Worker<'a> {
    device: &'a dyn BlockDevice,
    options: &'a CompressOptions,
    engine: Option<Engine>,
    content: Vec<u8>,
    packed: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(device: &'a dyn BlockDevice, options: &'a CompressOptions) -> Self {
        Self { device, options, engine: None, content: Vec::new(), packed: Vec::new() }
    }

    /// The clusters of one range of the device.
    fn run(&mut self, start: u64, len: u64) -> Result<RunDone, Qcow2Error> {
        let cluster = usize::try_from(self.options.cluster_size_bytes).unwrap_or(usize::MAX);
        let len_bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let mut content = std::mem::take(&mut self.content);
        content.resize(len_bytes.next_multiple_of(cluster), 0);
        self.device.read_at(start, &mut content[..len_bytes])?;
        content[len_bytes..].fill(0);
        let crc32 = crc32fast::hash(&content[..len_bytes]);
        let units = content.chunks(cluster).map(|c| self.cluster(c)).collect::<Result<_, _>>()?;
        self.content = content;
        Ok(RunDone { units, len_bytes, crc32 })
    }

    fn cluster(&mut self, content: &[u8]) -> Result<Unit, Qcow2Error> {
        if is_zero(content) {
            return Ok(Unit::Zeros);
        }
        // One byte less than the cluster is what a compressed cluster may have at most: more is no gain.
        self.packed.resize(content.len() - 1, 0);
        let engine = match &mut self.engine {
            Some(engine) => engine,
            none => none.insert(engine(self.options)?),
        };
        let len = match engine {
            Engine::Zlib(c) => c.deflate_compress(content, &mut self.packed).ok(),
            Engine::Zstd(c) => c.compress_to_buffer(content, self.packed.as_mut_slice()).ok(),
        };
        Ok(match len {
            Some(len) => Unit::Compressed(self.packed[..len].to_vec()),
            None => Unit::Plain(content.to_vec()),
        })
    }
}

fn engine(options: &CompressOptions) -> Result<Engine, Qcow2Error> {
    let level = i32::try_from(options.level()).unwrap_or(0);
    let refused = |what: String| Qcow2Error::Unsupported(format!("compression level {level}: {what}"));
    Ok(match options.compression {
        Compression::Zlib => Engine::Zlib(libdeflater::Compressor::new(
            libdeflater::CompressionLvl::new(level).map_err(|e| refused(format!("{e:?}")))?,
        )),
        Compression::Zstd => {
            Engine::Zstd(zstd::bulk::Compressor::new(level).map_err(|e| refused(e.to_string()))?)
        }
    })
}

/// Whether all bytes are zero; in blocks that the compiler makes vectors of, because this is done to every byte of a
/// disk.
fn is_zero(content: &[u8]) -> bool {
    let (blocks, rest) = content.as_chunks::<64>();
    blocks.iter().all(|b| b.iter().fold(0, |any, byte| any | byte) == 0) && rest.iter().all(|&b| b == 0)
}
