//! Content of files as raw deflate streams, whole or in pieces.

use flate2::{Compress, Compression, FlushCompress, Status};
use libdeflater::{CompressionLvl, Compressor};

/// Size of pieces.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Compresses; one for each thread. What is there whole is work for libdeflate, which takes half the time for the same
/// size; it cannot leave a stream open for the next piece, as zlib can.
pub(crate) struct Deflater {
    whole: Compressor,
    pieces: Compress,
    /// Memory for what comes out.
    buffer: Vec<u8>,
}

impl Deflater {
    pub fn new(level: u32) -> Self {
        // Which levels of each come to the size of zlib's own (docs/benchmarks.md). The first one of zlib-rs is left out:
        // it panics when it is used again after a buffer was full.
        let [whole, pieces] = [(level * 2 / 3).max(1), level.saturating_sub(1).max(2)];
        let whole = i32::try_from(whole).ok().and_then(|level| CompressionLvl::new(level).ok());
        Self {
            whole: Compressor::new(whole.unwrap_or_default()),
            pieces: Compress::new(Compression::new(pieces), false),
            buffer: Vec::new(),
        }
    }

    /// A raw deflate stream.
    pub fn whole(&mut self, content: &[u8]) -> Vec<u8> {
        self.buffer.resize(self.whole.deflate_compress_bound(content.len()), 0);
        let Ok(size) = self.whole.deflate_compress(content, &mut self.buffer) else {
            return self.piece(content, true); // there is always room
        };
        let compressed = self.buffer[..size].to_vec();
        self.buffer.truncate(PIECE_BYTES);
        self.buffer.shrink_to(PIECE_BYTES);
        compressed
    }

    /// A part of a raw deflate stream; one that is not the last ends at a whole byte, so that another one can follow.
    pub fn piece(&mut self, content: &[u8], last: bool) -> Vec<u8> {
        self.pieces.reset();
        self.buffer.clear();
        let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
        loop {
            let done = usize::try_from(self.pieces.total_in()).unwrap_or(usize::MAX).min(content.len());
            // Room enough for what cannot be compressed; a flush is complete when it leaves room.
            self.buffer.reserve(content.len() - done + 1024);
            let status = self.pieces.compress_vec(&content[done..], &mut self.buffer, flush);
            let whole = self.pieces.total_in() == content.len() as u64;
            match status {
                Ok(Status::StreamEnd) => break,
                Ok(_) if !last && whole && self.buffer.len() < self.buffer.capacity() => break,
                // It only ever asks for more room.
                _ => {}
            }
        }
        self.buffer.as_slice().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// Bytes without a pattern.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        std::iter::repeat_with(&mut next).take(len).collect()
    }

    #[test]
    fn what_was_compressed_comes_back() {
        let noise = noise(2 * PIECE_BYTES + 1);
        let text: Vec<u8> = noise.iter().map(|b| b"etaoin s"[usize::from(b & 7)]).collect();
        let contents = [&[], &b"x"[..], &noise[..99], &noise, &text, &vec![0; PIECE_BYTES]];
        for level in 1..=9 {
            let mut deflater = Deflater::new(level);
            for content in contents {
                let whole = deflater.whole(content);
                let mut pieces = Vec::new();
                for (at, piece) in content.chunks(PIECE_BYTES).enumerate() {
                    pieces.extend(deflater.piece(piece, (at + 1) * PIECE_BYTES >= content.len()));
                }
                for (compressed, is_there) in [(whole, true), (pieces, !content.is_empty())] {
                    let mut found = Vec::new();
                    let mut input = flate2::read::DeflateDecoder::new(&compressed[..]);
                    let read = input.read_to_end(&mut found);
                    assert!(!is_there || read.is_ok() && found == content, "{} at {level}", content.len());
                    assert!(compressed.len() <= content.len() + content.len() / 1000 + 64, "{level}");
                    assert_eq!(input.total_in(), compressed.len() as u64, "nothing behind it");
                }
            }
        }
    }
}
