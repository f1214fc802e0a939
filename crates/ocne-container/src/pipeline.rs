//! One pass over a layer: read and hash, decompress, unpack and write, each on a thread of its own, with a few
//! buffers between them.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::bufread::MultiGzDecoder;
use fs_err::File;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::digest::Digest;
use crate::error::FetchError;
use crate::layer::{DiskSink, Found, LayerError, PathInImage, SearchError, search};
use ocne_tar::{TarInput, TarReader, read_buffered};

/// Size of a buffer.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;
/// How many buffers may wait between two threads.
const QUEUE_BUFFERS: usize = 8;
/// No disk image is as large as this.
const LAYER_MAX_BYTES: u64 = 64 << 30;
/// The largest window of zstd that is given memory: 2^27 bytes, as for the program `zstd`.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The most that a layer of this size may decompress to. Disk images are hardly compressible; even one that
/// consists mostly of zeros stays below this.
pub(crate) fn limit_bytes(compressed_bytes: u64) -> u64 {
    compressed_bytes.saturating_mul(200).saturating_add(256 << 20).min(LAYER_MAX_BYTES)
}

/// How a layer is compressed, which its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// None for a plain layer.
    pub fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1F, 0x8B, ..] => Some(Self::Gzip),
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Reads what the layer is, uncompressed.
    pub fn decoder<'a>(self, input: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>, LayerError> {
        match self {
            Self::Gzip => Ok(Box::new(MultiGzDecoder::new(input))),
            Self::Zstd => {
                let damaged = |source| LayerError::Compression { format: "zstd", source };
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(damaged)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(damaged)?;
                Ok(Box::new(decoder))
            }
        }
    }
}

/// Memory for buffers, used again and again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer with content; goes back to where it came from when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Always of the full size, so that nothing is ever cleared only to be written.
    memory: Vec<u8>,
    /// How much of it is content.
    len: usize,
    pool: Pool,
}

impl Pool {
    /// An empty buffer with room for [`BUFFER_BYTES`].
    pub fn take(&self) -> Buffer {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer { memory: memory.unwrap_or_else(|| vec![0; BUFFER_BYTES]), len: 0, pool: self.clone() }
    }
}

impl Buffer {
    fn content(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    /// Reads until the buffer is full, or the input at its end.
    fn fill(&mut self, input: &mut impl Read) -> io::Result<()> {
        while self.len < BUFFER_BYTES {
            match input.read(&mut self.memory[self.len..]) {
                Ok(0) => break,
                Ok(count) => self.len += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes as many bytes as there is room for; how many that are.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(BUFFER_BYTES - self.len);
        self.memory[self.len..self.len + count].copy_from_slice(&bytes[..count]);
        self.len += count;
        count
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

/// Where the bytes of a layer go in, as they were transferred.
#[derive(Debug)]
pub(crate) struct Feed {
    sender: Option<Sender<Buffer>>,
    hasher: Sha256,
    buffer: Buffer,
    done_bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// All of the layer was fed.
    whole: Arc<AtomicBool>,
}

impl Feed {
    /// What is set once all of the layer was fed.
    pub fn whole(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.whole)
    }

    /// Feeds a part of a file, and returns its digest. Blocks.
    pub fn file(
        mut self,
        file: &File,
        offset_bytes: u64,
        size_bytes: u64,
        what: &str,
    ) -> Result<Digest, FetchError> {
        use std::os::unix::fs::FileExt as _;
        let mut at_bytes = 0;
        while at_bytes < size_bytes {
            if self.stop.load(Ordering::Relaxed) {
                return Err(FetchError::Interrupted);
            }
            let mut buffer = self.buffer.pool.take();
            let len = usize::try_from(size_bytes - at_bytes).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            let count =
                match file.file().read_at(&mut buffer.memory[..len], offset_bytes.saturating_add(at_bytes)) {
                    Ok(0) => {
                        let what = what.to_owned();
                        return Err(FetchError::SizeMismatch {
                            what,
                            expected_bytes: size_bytes,
                            found_bytes: at_bytes,
                        });
                    }
                    Ok(count) => count,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(source) => return Err(FetchError::Io { action: "read a layer", source }),
                };
            buffer.len = count;
            self.hasher.update(buffer.content());
            at_bytes += count as u64;
            self.done_bytes.store(at_bytes, Ordering::Relaxed);
            // When nobody unpacks any more, the digest still says whether the layer is damaged.
            if let Some(sender) = &self.sender
                && sender.blocking_send(buffer).is_err()
            {
                self.sender = None;
            }
        }
        self.whole.store(true, Ordering::Release);
        Ok(Digest::finish(self.hasher))
    }

    /// Feeds bytes as they arrive from a network.
    pub async fn push(&mut self, mut bytes: &[u8]) {
        self.hasher.update(bytes);
        self.done_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        while !bytes.is_empty() {
            let count = self.buffer.append(bytes);
            bytes = &bytes[count..];
            if self.buffer.len == BUFFER_BYTES {
                self.send().await;
            }
        }
    }

    /// Ends the layer, and returns its digest.
    pub async fn finish(mut self) -> Digest {
        self.send().await;
        self.whole.store(true, Ordering::Release);
        Digest::finish(self.hasher)
    }

    async fn send(&mut self) {
        let empty = self.buffer.pool.take();
        let buffer = std::mem::replace(&mut self.buffer, empty);
        if let Some(sender) = &self.sender
            && sender.send(buffer).await.is_err()
        {
            self.sender = None;
        }
    }
}

/// What was found in a layer, and the digest of its content if that was wanted.
pub(crate) type Unpacked<D> = (Found<D>, Option<Digest>);

/// A layer on its way.
#[derive(Debug)]
pub(crate) struct Pipeline<D> {
    pub inflate: tokio::task::JoinHandle<Result<(), LayerError>>,
    pub unpack: tokio::task::JoinHandle<Result<Unpacked<D>, SearchError>>,
    pub done_bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl<D> Pipeline<D> {
    /// What has all threads end soon, once it is set.
    pub fn stopper(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }
}

/// The two ends of the way that a layer's bytes take as they are transferred.
pub(crate) fn pipe(stop: &Arc<AtomicBool>) -> (Feed, ChannelReader) {
    let (sender, receiver) = channel(QUEUE_BUFFERS);
    let feed = Feed {
        sender: Some(sender),
        hasher: Sha256::new(),
        buffer: Pool::default().take(),
        done_bytes: Arc::default(),
        stop: Arc::clone(stop),
        whole: Arc::default(),
    };
    (feed, ChannelReader::new(receiver, stop))
}

/// Starts the threads that take what is fed. The digest they return is of the uncompressed layer.
pub(crate) fn start<S>(
    compressed_bytes: u64,
    wanted: PathInImage,
    mut sink: S,
    hash_content: bool,
) -> (Feed, Pipeline<S::Disk>)
where
    S: DiskSink<Disk: Send> + Send + 'static,
{
    let pool = Pool::default();
    let stop = Arc::new(AtomicBool::new(false));
    let done_bytes = Arc::new(AtomicU64::new(0));
    let (mut feed, compressed) = pipe(&stop);
    feed.done_bytes = Arc::clone(&done_bytes);
    feed.buffer = pool.take();
    let (to_unpack, plain) = channel(QUEUE_BUFFERS);
    let mut plain = ChannelReader::new(plain, &stop);
    plain.hasher = hash_content.then(Sha256::new);
    let inflate =
        tokio::task::spawn_blocking(move || inflate(compressed, &to_unpack, &pool, compressed_bytes));
    let unpack = tokio::task::spawn_blocking(move || {
        let mut tar = TarReader::new(plain);
        let found = search(&mut tar, &wanted, &mut sink)?;
        // What is behind the end of the tar file belongs to the digest.
        let mut rest = tar.into_input();
        rest.skip(u64::MAX).map_err(|e| LayerError::Tar(ocne_tar::TarError::Io(e)))?;
        Ok((found, rest.hasher.take().map(Digest::finish)))
    });
    (feed, Pipeline { inflate, unpack, done_bytes, stop })
}

fn inflate(
    mut input: ChannelReader,
    output: &Sender<Buffer>,
    pool: &Pool,
    compressed_bytes: u64,
) -> Result<(), LayerError> {
    let limit_bytes = limit_bytes(compressed_bytes);
    let mut total_bytes = 0_u64;
    let mut pass_on = |buffer: Buffer| {
        total_bytes = total_bytes.saturating_add(buffer.len as u64);
        if total_bytes > limit_bytes {
            return Err(LayerError::Bomb { compressed_bytes, limit_bytes });
        }
        // Nobody takes it any more: whoever stopped says why.
        Ok(output.blocking_send(buffer).is_ok())
    };
    let start = input.fill_buf().map_err(|source| LayerError::Compression { format: "tar", source })?;
    let Some(compression) = Compression::of(start) else {
        while let Some(buffer) = input.next_buffer() {
            if !pass_on(buffer)? {
                break;
            }
        }
        return Ok(());
    };
    let (format, mut decoder) = (compression.name(), compression.decoder(input)?);
    loop {
        let mut buffer = pool.take();
        buffer.fill(&mut decoder).map_err(|source| LayerError::Compression { format, source })?;
        if buffer.len == 0 || !pass_on(buffer)? {
            return Ok(());
        }
    }
}

/// Reads what comes through a channel.
#[derive(Debug)]
pub(crate) struct ChannelReader {
    receiver: Receiver<Buffer>,
    current: Option<Buffer>,
    /// How much of the current buffer was read.
    read: usize,
    stop: Arc<AtomicBool>,
    /// Hashes all that comes.
    hasher: Option<Sha256>,
}

impl ChannelReader {
    fn new(receiver: Receiver<Buffer>, stop: &Arc<AtomicBool>) -> Self {
        Self { receiver, current: None, read: 0, stop: Arc::clone(stop), hasher: None }
    }

    /// The current buffer if there is one, or the next; none at the end.
    fn next_buffer(&mut self) -> Option<Buffer> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        self.current.take().or_else(|| self.receiver.blocking_recv())
    }
}

impl BufRead for ChannelReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|b| self.read >= b.len) {
            self.current = None;
            self.read = 0;
            self.current = self.next_buffer();
            if let (Some(hasher), Some(buffer)) = (&mut self.hasher, &self.current) {
                hasher.update(buffer.content());
            }
        }
        Ok(self.current.as_ref().map_or(&[][..], |b| &b.content()[self.read..]))
    }

    fn consume(&mut self, count: usize) {
        self.read += count;
    }
}

impl Read for ChannelReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, into)
    }
}

impl TarInput for ChannelReader {}
