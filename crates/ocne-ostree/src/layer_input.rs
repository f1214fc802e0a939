//! A layer as it comes: decompressed, and hashed.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use ocne_tar::{TarInput, read_buffered};
use sha2::{Digest as _, Sha256};

use crate::checksum::Checksum;

/// Size of the buffers for compressed and for plain bytes.
const BUFFER_BYTES: usize = 256 << 10;
/// The largest window of zstd that is given memory: 2^25 bytes, which all levels but the "ultra" ones stay below.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;
/// No layer is larger than this.
const LAYER_MAX_BYTES: u64 = 64 << 30;

/// The most that a layer of this size may decompress to.
fn limit_bytes(compressed_bytes: u64) -> u64 {
    compressed_bytes.saturating_mul(200).saturating_add(256 << 20).min(LAYER_MAX_BYTES)
}

/// Counts what is read.
struct Counted<'c, R> {
    input: R,
    count: &'c AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(into)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// The uncompressed bytes of a layer.
pub(crate) struct LayerInput<'c> {
    decoder: Box<dyn Read + Send + 'c>,
    buffer: Vec<u8>,
    /// What of the buffer is content that was not taken.
    filled: std::ops::Range<usize>,
    hasher: Sha256,
    total_bytes: u64,
    limit_bytes: u64,
}

/// What is read instead of the end of a layer that grows beyond reason.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
pub(crate) struct Bomb(pub u64);

impl<'c> LayerInput<'c> {
    /// A layer in gzip, zstd or plain; its first bytes tell.
    pub fn new(
        input: Box<dyn Read + Send + 'c>,
        compressed_bytes: u64,
        count: &'c AtomicU64,
    ) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(BUFFER_BYTES, Counted { input, count });
        let decoder: Box<dyn Read + Send + 'c> = match first(&mut input, 4)? {
            [0x1F, 0x8B, ..] => Box::new(MultiGzDecoder::new(input)),
            [0x28, 0xB5, 0x2F, 0xFD, ..] => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
            _ => Box::new(input),
        };
        Ok(Self {
            decoder,
            buffer: vec![0; BUFFER_BYTES],
            filled: 0..0,
            hasher: Sha256::new(),
            total_bytes: 0,
            limit_bytes: limit_bytes(compressed_bytes),
        })
    }

    /// Reads the rest, which is the padding of the tar file, and returns the digest of all.
    pub fn finish(mut self) -> io::Result<Checksum> {
        self.skip(u64::MAX)?;
        Ok(Checksum::finish(self.hasher))
    }
}

/// The first bytes of an input, as far as one buffer has them.
fn first<R: Read>(input: &mut BufReader<R>, wanted: usize) -> io::Result<&[u8]> {
    // A reader that gives single bytes would hide what the layer is; none of ours does.
    let found = input.fill_buf()?;
    Ok(&found[..found.len().min(wanted)])
}

impl BufRead for LayerInput<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.filled.is_empty() {
            let count = match self.decoder.read(&mut self.buffer) {
                Ok(0) => return Ok(&[]),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.filled = 0..count;
            self.hasher.update(&self.buffer[..count]);
            self.total_bytes += count as u64;
            if self.total_bytes > self.limit_bytes {
                return Err(io::Error::other(Bomb(self.limit_bytes)));
            }
        }
        Ok(&self.buffer[self.filled.clone()])
    }

    fn consume(&mut self, count: usize) {
        self.filled.start = self.filled.end.min(self.filled.start + count);
    }
}

impl Read for LayerInput<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, into)
    }
}

impl TarInput for LayerInput<'_> {}
