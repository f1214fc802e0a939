//! A part of a file, as what is sent.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

/// How much is read at a time.
const CHUNK_BYTES: usize = 128 << 10;
/// What is shorter has memory of its own.
const SHORT_BYTES: usize = 16 << 10;
/// How many chunks are kept when nobody needs them, 8 MiB.
const CHUNKS_KEPT: usize = 64;

/// Memory of chunks that were sent. The allocator would give each back to the system, and fetching it again takes longer
/// than reading the file.
static SENT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A part of a file in memory that is used again.
struct Chunk {
    memory: Vec<u8>,
    length: usize,
}

impl Chunk {
    fn new() -> Self {
        let memory = SENT.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { memory: memory.unwrap_or_else(|| vec![0; CHUNK_BYTES]), length: 0 }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut sent = SENT.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.len() < CHUNKS_KEPT {
            sent.push(std::mem::take(&mut self.memory));
        }
    }
}

/// Reads at most so many bytes, which are at most [`CHUNK_BYTES`]; none at the end.
fn read(file: &File, at_bytes: u64, most: usize) -> std::io::Result<Bytes> {
    if most <= SHORT_BYTES {
        let mut memory = vec![0; most];
        let length = file.read_at(&mut memory, at_bytes)?;
        memory.truncate(length);
        return Ok(memory.into());
    }
    let mut chunk = Chunk::new();
    chunk.length = file.read_at(&mut chunk.memory[..most], at_bytes)?;
    Ok(Bytes::from_owner(chunk))
}

/// What is sent.
#[derive(Debug)]
pub struct Content {
    file: Option<File>,
    at_bytes: u64,
    left_bytes: u64,
    text: Bytes,
}

impl Content {
    /// Nothing but this text.
    pub fn text(text: &'static str) -> Self {
        let text = Bytes::from_static(text.as_bytes());
        Self { file: None, at_bytes: 0, left_bytes: text.len() as u64, text }
    }

    /// A part of a file.
    pub fn file(file: File, at_bytes: u64, left_bytes: u64) -> Self {
        Self { file: Some(file), at_bytes, left_bytes, text: Bytes::new() }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = std::io::Error;

    /// Reads the next bytes. That may wait for a disk, as it does in any server that hands files to the kernel; a chunk is
    /// small, and the files of a repository are in memory or small.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left_bytes == 0 {
            return Poll::Ready(None);
        }
        let bytes = match &self.file {
            None => std::mem::take(&mut self.text),
            Some(file) => {
                let most = usize::try_from(self.left_bytes).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
                match read(file, self.at_bytes, most) {
                    // Shorter than it was: the client has to see that something is missing.
                    Ok(bytes) if bytes.is_empty() => {
                        return Poll::Ready(Some(Err(std::io::ErrorKind::UnexpectedEof.into())));
                    }
                    Ok(bytes) => bytes,
                    Err(e) => return Poll::Ready(Some(Err(e))),
                }
            }
        };
        let count = bytes.len() as u64;
        self.at_bytes += count;
        self.left_bytes = self.left_bytes.saturating_sub(count);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

/// Content of nothing.
impl Default for Content {
    fn default() -> Self {
        Self::text("")
    }
}
