//! Unpacking one compressed cluster.

use super::header::Compression;

/// What is kept between clusters: buffers and the decompressor's state.
pub(crate) struct Unpacker {
    compression: Compression,
    input: Vec<u8>,
    deflate: libdeflater::Decompressor,
}

impl Unpacker {
    pub fn new(compression: Compression) -> Self {
        Self { compression, input: Vec::new(), deflate: libdeflater::Decompressor::new() }
    }

    /// The buffer for the next cluster's compressed bytes.
    pub fn input(&mut self, len: usize) -> &mut [u8] {
        self.input.resize(len, 0);
        &mut self.input
    }

    /// Unpacks the input: exactly `out.len()` bytes, or why not. What follows the compressed data in the input (the
    /// length of a compressed cluster is known only in sectors) is not looked at.
    pub fn unpack(&mut self, out: &mut [u8]) -> Result<(), String> {
        match self.compression {
            Compression::Zlib => match self.deflate.deflate_decompress(&self.input, out) {
                Ok(n) if n == out.len() => Ok(()),
                // A stream that goes on after a full cluster, or lacks its end: QEMU takes them, and so do we.
                _ => inflate_prefix(&self.input, out),
            },
            Compression::Zstd => unzstd(&self.input, out),
        }
    }
}

fn inflate_prefix(packed: &[u8], out: &mut [u8]) -> Result<(), String> {
    let mut inflate = flate2::Decompress::new(false);
    inflate
        .decompress(packed, out, flate2::FlushDecompress::Finish)
        .map_err(|e| format!("a compressed cluster cannot be inflated: {e}"))?;
    full(usize::try_from(inflate.total_out()).unwrap_or(0), out.len())
}

fn unzstd(packed: &[u8], out: &mut [u8]) -> Result<(), String> {
    use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
    // A stream, because what follows the frame is not part of it.
    let mut decoder = Decoder::new().map_err(|e| e.to_string())?;
    let wanted = out.len();
    let (mut from, mut to) = (InBuffer::around(packed), OutBuffer::around(out));
    while to.pos() < wanted {
        let before = (from.pos(), to.pos());
        let left = decoder
            .run(&mut from, &mut to)
            .map_err(|e| format!("a compressed cluster cannot be unpacked: {e}"))?;
        if (from.pos(), to.pos()) == before || left == 0 {
            break;
        }
    }
    full(to.pos(), wanted)
}

fn full(unpacked: usize, wanted: usize) -> Result<(), String> {
    if unpacked == wanted {
        return Ok(());
    }
    Err(format!("a compressed cluster holds {unpacked} bytes, not {wanted}"))
}
