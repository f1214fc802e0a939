//! A part of a file, as what is sent.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

/// How much is read at a time.
const CHUNK_BYTES: u64 = 128 << 10;

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
                let len = usize::try_from(self.left_bytes.min(CHUNK_BYTES)).unwrap_or(0);
                let mut buffer = vec![0; len];
                match file.read_at(&mut buffer, self.at_bytes) {
                    // Shorter than it was: the client has to see that something is missing.
                    Ok(0) => return Poll::Ready(Some(Err(std::io::ErrorKind::UnexpectedEof.into()))),
                    Ok(count) => buffer.truncate(count),
                    Err(e) => return Poll::Ready(Some(Err(e))),
                }
                Bytes::from(buffer)
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
