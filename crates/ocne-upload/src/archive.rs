//! The archive that the service imports: a gzip tar of `image_metadata.json` and `output.QCOW2`.
//!
//! The qcow2 is compressed already, so the tar goes into stored deflate blocks (RFC 1951, 3.2.4). All of them but the last
//! have the same length: where a byte of the archive comes from is arithmetic, and no temporary file is needed.

use std::sync::OnceLock;

use crc32fast::Hasher;

/// The two members, in this order.
const METADATA_NAME: &str = "image_metadata.json";
const IMAGE_NAME: &str = "output.QCOW2";
/// Sizes in a tar are whole blocks.
const TAR_BLOCK: u64 = 512;
/// Two blocks of zeros end a tar.
const TAR_END: u64 = 2 * TAR_BLOCK;
/// Deflate, no flags, no time, unknown system (RFC 1952): the same bytes from any machine at any time.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// CRC-32 and length.
const GZIP_TRAILER: u64 = 8;
/// The most that a stored block holds, and what stands before it.
const BLOCK: u64 = 0xffff;
const BLOCK_HEADER: u64 = 5;

/// Where the bytes of an archive come from.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    /// Everything in the tar before the image.
    head: Vec<u8>,
    image_bytes: u64,
    tar_bytes: u64,
    /// What is known last: it has the CRC-32 of all that is in the archive.
    trailer: OnceLock<[u8; 8]>,
}

/// What stands at a position.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// This header of a block, from an index on.
    Header([u8; 5], usize),
    /// The image, from `offset`, at most `length` bytes.
    Image { offset: u64, length: u64 },
    /// Zeros.
    Zeros(u64),
}

impl Archive {
    /// An archive of an image of which the length is known.
    ///
    /// # Errors
    /// When a tar header cannot be written; lengths of real files can.
    pub fn new(metadata: &[u8], image_bytes: u64) -> std::io::Result<Self> {
        let mut head = header(METADATA_NAME, metadata.len() as u64)?;
        head.extend_from_slice(metadata);
        head.resize(head.len().next_multiple_of(512), 0);
        head.extend(header(IMAGE_NAME, image_bytes)?);
        let tar_bytes = head.len() as u64 + image_bytes.next_multiple_of(TAR_BLOCK) + TAR_END;
        Ok(Self { head, image_bytes, tar_bytes, trailer: OnceLock::new() })
    }

    /// Tells the CRC-32 of the image, once.
    pub fn seal(&self, image_crc32: u32) {
        let mut crc = Hasher::new();
        crc.update(&self.head);
        crc.combine(&Hasher::new_with_initial_len(image_crc32, self.image_bytes));
        let rest = self.tar_bytes - self.head.len() as u64 - self.image_bytes;
        crc.update(&vec![0; usize::try_from(rest).unwrap_or(0)]);
        let mut trailer = [0; 8];
        trailer[..4].copy_from_slice(&crc.finalize().to_le_bytes());
        // The length modulo 2^32, as the format has it.
        trailer[4..].copy_from_slice(&self.tar_bytes.to_le_bytes()[..4]);
        self.trailer.get_or_init(|| trailer);
    }

    /// Whether all bytes before `end` are known.
    pub fn is_known_to(&self, end: u64) -> bool {
        end <= self.trailer_offset() || self.trailer.get().is_some()
    }

    fn blocks(&self) -> u64 {
        self.tar_bytes.div_ceil(BLOCK)
    }

    fn trailer_offset(&self) -> u64 {
        GZIP_HEADER.len() as u64 + self.blocks() * BLOCK_HEADER + self.tar_bytes
    }

    /// The length of the archive.
    pub fn length(&self) -> u64 {
        self.trailer_offset() + GZIP_TRAILER
    }

    /// What stands at a position before the end, as far as one source goes. Nothing where it is not known yet.
    pub fn at(&self, position: u64) -> Piece<'_> {
        let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        if position < GZIP_HEADER.len() as u64 {
            return Piece::Bytes(&GZIP_HEADER[index(position)..]);
        }
        if position >= self.trailer_offset() {
            let trailer = self.trailer.get().map(<[u8; 8]>::as_slice).unwrap_or_default();
            return Piece::Bytes(trailer.get(index(position - self.trailer_offset())..).unwrap_or_default());
        }
        let position = position - GZIP_HEADER.len() as u64;
        let (block, within) = (position / (BLOCK + BLOCK_HEADER), position % (BLOCK + BLOCK_HEADER));
        let block_bytes = (self.tar_bytes - block * BLOCK).min(BLOCK);
        if within < BLOCK_HEADER {
            let is_last = block + 1 == self.blocks();
            let length = u16::try_from(block_bytes).unwrap_or(u16::MAX);
            let ([a, b], [c, d]) = (length.to_le_bytes(), (!length).to_le_bytes());
            return Piece::Header([u8::from(is_last), a, b, c, d], index(within));
        }
        let in_block = within - BLOCK_HEADER;
        let (offset, left) = (block * BLOCK + in_block, block_bytes - in_block);
        let image_offset = self.head.len() as u64;
        let image_end = image_offset + self.image_bytes;
        if offset < image_offset {
            let end = image_offset.min(offset + left);
            Piece::Bytes(&self.head[index(offset)..index(end)])
        } else if offset < image_end {
            Piece::Image { offset: offset - image_offset, length: left.min(image_end - offset) }
        } else {
            Piece::Zeros(left)
        }
    }
}

fn header(name: &str, size_bytes: u64) -> std::io::Result<Vec<u8>> {
    // GNU's form of sizes from 8 GiB on is what tar programs everywhere read.
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}
