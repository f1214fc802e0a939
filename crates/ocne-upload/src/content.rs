//! The bytes of an object, any of which can be computed from the file at any time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use md5::{Digest as _, Md5};

use crate::archive::{Archive, Piece};
use crate::lanes::{LANES, Md5Lanes};

/// What is read of a part at a time to be hashed, alone or beside others: all of it fits into a processor's cache.
const HASH_BYTES: usize = 64 << 10;
/// From so many on, hashing side by side is faster than one after the other.
const LANES_WORTH: usize = 3;
/// What is read at a time to be sent.
const READ_BYTES: usize = 1 << 20;
/// What is sent at a time. Time-outs look at whether pieces of this size get on.
pub(crate) const SEND_BYTES: usize = 256 << 10;

/// The content of an object.
#[derive(Debug, Clone)]
pub(crate) struct Content(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    length: u64,
    /// Around the file, or the file as it is.
    archive: Option<Archive>,
    /// Buffers that were sent, to be filled again: fresh memory costs more than what is read into it.
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A buffer that goes back when nobody reads it any more.
struct Lent {
    buffer: Vec<u8>,
    length: usize,
    home: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.home.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

impl Content {
    pub fn new(file: File, file_bytes: u64, archive: Option<Archive>) -> Self {
        let length = archive.as_ref().map_or(file_bytes, Archive::length);
        Self(Arc::new(Inner { file, length, archive, free: Arc::default() }))
    }

    /// Tells the CRC-32 of the file, which the end of an archive has.
    pub fn seal(&self, file_crc32: u32) {
        if let Some(archive) = &self.0.archive {
            archive.seal(file_crc32);
        }
    }

    /// Whether all bytes before `end` are known without the CRC-32 of the file.
    pub fn is_known_to(&self, end: u64) -> bool {
        self.0.archive.as_ref().is_none_or(|archive| archive.is_known_to(end))
    }

    pub fn length(&self) -> u64 {
        self.0.length
    }

    /// Reads bytes, all of which have to be there.
    pub fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        let Some(archive) = &self.0.archive else { return self.0.file.read_exact_at(buffer, offset) };
        while !buffer.is_empty() {
            let room = buffer.len();
            let limit = |length: u64| usize::try_from(length).unwrap_or(room).min(room);
            let count = match archive.at(offset) {
                Piece::Bytes(bytes) => copy(bytes, buffer),
                Piece::Header(bytes, from) => copy(bytes.get(from..).unwrap_or_default(), buffer),
                Piece::Zeros(length) => {
                    let count = limit(length);
                    buffer[..count].fill(0);
                    count
                }
                Piece::Image { offset, length } => {
                    let count = limit(length);
                    self.0.file.read_exact_at(&mut buffer[..count], offset)?;
                    count
                }
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += count as u64;
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    /// Checksums of ranges; of ranges of one length sooner.
    pub async fn checksums(&self, ranges: Vec<Range<u64>>) -> io::Result<Vec<Checksums>> {
        let content = self.clone();
        blocking(move || {
            let length = |range: &Range<u64>| range.end - range.start;
            let is_even = ranges.windows(2).all(|two| length(&two[0]) == length(&two[1]));
            let mut all = Vec::with_capacity(ranges.len());
            for some in ranges.chunks(LANES) {
                if is_even && some.len() >= LANES_WORTH {
                    all.extend(content.side_by_side(some)?);
                } else {
                    for range in some {
                        all.push(content.checksums_of_one(range)?);
                    }
                }
            }
            Ok(all)
        })
        .await
    }

    fn checksums_of_one(&self, range: &Range<u64>) -> io::Result<Checksums> {
        let (mut hash, mut crc32c) = (Md5::new(), 0);
        let mut buffer = vec![0; HASH_BYTES];
        let mut at = range.start;
        while at < range.end {
            let count = at_most(range.end - at, HASH_BYTES);
            self.read_at(at, &mut buffer[..count])?;
            hash.update(&buffer[..count]);
            crc32c = crc32c::crc32c_append(crc32c, &buffer[..count]);
            at += count as u64;
        }
        Ok(Checksums { md5: hash.finalize().into(), crc32c, length: range.end - range.start })
    }

    /// At most [`LANES`] ranges of one length.
    fn side_by_side(&self, ranges: &[Range<u64>]) -> io::Result<impl Iterator<Item = Checksums>> {
        let length = ranges.first().map_or(0, |range| range.end - range.start);
        let mut buffers = vec![vec![0; HASH_BYTES]; ranges.len()];
        let mut crcs = vec![0; ranges.len()];
        let mut md5 = Md5Lanes::new();
        let mut at = 0;
        let digests = loop {
            let count = at_most(length - at, HASH_BYTES);
            for ((range, buffer), crc) in ranges.iter().zip(&mut buffers).zip(&mut crcs) {
                self.read_at(range.start + at, &mut buffer[..count])?;
                *crc = crc32c::crc32c_append(*crc, &buffer[..count]);
            }
            at += count as u64;
            // A lane that nobody needs does what the first one does.
            let messages = std::array::from_fn(|lane| &buffers.get(lane).unwrap_or(&buffers[0])[..count]);
            if at == length {
                break md5.finish(&messages);
            }
            md5.update(&messages);
        };
        Ok(digests.into_iter().zip(crcs).map(move |(md5, crc32c)| Checksums { md5, crc32c, length }))
    }

    /// A range in pieces of at most `piece_bytes`.
    pub fn stream(&self, range: Range<u64>, piece_bytes: usize) -> BoxStream<'static, io::Result<Bytes>> {
        let (content, end) = (self.clone(), range.end);
        stream::unfold((range.start, Bytes::new()), move |(at, mut read)| {
            let content = content.clone();
            async move {
                let mut at = at;
                if read.is_empty() {
                    let count = at_most(end - at, READ_BYTES);
                    if count == 0 {
                        return None;
                    }
                    match blocking(move || content.lend(at, count)).await {
                        Ok(more) => (at, read) = (at + count as u64, more),
                        // After an error the stream is over.
                        Err(error) => return Some((Err(error), (end, read))),
                    }
                }
                let piece = read.split_to(piece_bytes.min(read.len()));
                Some((Ok(piece), (at, read)))
            }
        })
        .boxed()
    }

    /// Reads bytes into a buffer that was used before, if there is one.
    fn lend(&self, at: u64, count: usize) -> io::Result<Bytes> {
        let home = Arc::clone(&self.0.free);
        let buffer = home.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut lent = Lent { buffer: buffer.unwrap_or_else(|| vec![0; READ_BYTES]), length: count, home };
        self.read_at(at, &mut lent.buffer[..count])?;
        Ok(Bytes::from_owner(lent))
    }
}

fn at_most(left: u64, most: usize) -> usize {
    usize::try_from(left).map_or(most, |left| left.min(most))
}

/// Checksums of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checksums {
    md5: [u8; 16],
    crc32c: u32,
    length: u64,
}

impl Checksums {
    /// MD5 as the service writes it.
    pub fn md5_text(&self) -> String {
        BASE64.encode(self.md5)
    }

    /// CRC-32C as the service writes it.
    pub fn crc32c_text(&self) -> String {
        BASE64.encode(self.crc32c.to_be_bytes())
    }

    /// Checksums of an object as the service writes them: MD5 of the parts' MD5s with their number, and CRC-32C of all
    /// bytes.
    pub fn of_object<'a>(parts: impl ExactSizeIterator<Item = &'a Self>) -> (String, String) {
        let count = parts.len();
        let (mut hash, mut crc32c) = (Md5::new(), 0);
        for part in parts {
            hash.update(part.md5);
            let length = usize::try_from(part.length).unwrap_or(usize::MAX);
            crc32c = crc32c::crc32c_combine(crc32c, part.crc32c, length);
        }
        (format!("{}-{count}", BASE64.encode(hash.finalize())), BASE64.encode(crc32c.to_be_bytes()))
    }
}

fn copy(bytes: &[u8], buffer: &mut [u8]) -> usize {
    let count = bytes.len().min(buffer.len());
    buffer[..count].copy_from_slice(&bytes[..count]);
    count
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn archive_of(image: &[u8], metadata: &[u8]) -> Content {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, image).unwrap();
        let archive = Archive::new(metadata, image.len() as u64).unwrap();
        archive.seal(crc32fast::hash(image));
        Content::new(file, image.len() as u64, Some(archive))
    }

    fn all(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(content.length()).unwrap()];
        content.read_at(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn archives_are_read_by_gzip_and_tar() {
        for size in [0_usize, 1, 511, 512, 513, 63_999, 64_000, 65_535, 65_536, 300_000] {
            let image: Vec<u8> = (0..size).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
            let bytes = all(&archive_of(&image, b"{\"version\":2}"));
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
            let mut archive = tar::Archive::new(&plain[..]);
            let found: Vec<(String, Vec<u8>)> = archive
                .entries()
                .unwrap()
                .map(|entry| {
                    let mut entry = entry.unwrap();
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content).unwrap();
                    (entry.path().unwrap().display().to_string(), content)
                })
                .collect();
            assert_eq!(found[0], ("image_metadata.json".to_owned(), b"{\"version\":2}".to_vec()), "{size}");
            assert_eq!(found[1], ("output.QCOW2".to_owned(), image), "{size}");
            assert_eq!(found.len(), 2);
        }
    }

    proptest! {
        #[test]
        fn any_range_is_what_the_whole_has_there(size in 0_usize..200_000, from in 0.0..1.0_f64, to in 0.0..1.0_f64) {
            let image: Vec<u8> = (0..size).map(|n| u8::try_from(n % 253).unwrap()).collect();
            let content = archive_of(&image, b"{}");
            let whole = all(&content);
            let position = |part: f64| {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
                let at = (whole.len() as f64 * part) as usize;
                at
            };
            let (start, end) = (position(from.min(to)), position(from.max(to)));
            let mut range = vec![0; end - start];
            content.read_at(start as u64, &mut range).unwrap();
            prop_assert_eq!(&range[..], &whole[start..end]);
        }
    }

    #[test]
    fn beyond_the_end_is_an_error() {
        let content = archive_of(b"image", b"{}");
        assert!(content.read_at(content.length() - 1, &mut [0; 2]).is_err());
        assert!(content.read_at(content.length(), &mut [0; 1]).is_err());
    }

    #[tokio::test]
    async fn streams_and_checksums_agree() {
        let image: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n % 249).unwrap()).collect();
        let content = archive_of(&image, b"{}");
        let pieces: Vec<Bytes> =
            content.stream(10..2_500_010, SEND_BYTES).map(Result::unwrap).collect().await;
        assert_eq!(pieces.iter().map(Bytes::len).max(), Some(256 << 10));
        let all = pieces.concat();
        let range = 10..2_500_010;
        let whole = content.checksums(vec![range]).await.unwrap()[0];
        assert_eq!(whole.md5_text(), BASE64.encode(Md5::digest(&all)));
        assert_eq!(whole.crc32c, crc32c::crc32c(&all));
        // One after the other, and side by side: with a rest in the last round, and more than go at once.
        for (length, count) in [(1_250_000, 2), (250_000, 10)] {
            let ranges = (0..count).map(|n| 10 + n * length..10 + (n + 1) * length).collect();
            let parts = content.checksums(ranges).await.unwrap();
            for (number, part) in parts.iter().enumerate() {
                let begin = number * usize::try_from(length).unwrap();
                let bytes = &all[begin..begin + usize::try_from(length).unwrap()];
                assert_eq!((part.md5, part.length), (Md5::digest(bytes).into(), length));
            }
            let (md5, crc32c) = Checksums::of_object(parts.iter());
            let joined = parts.iter().flat_map(|part| part.md5).collect::<Vec<_>>();
            assert_eq!(md5, format!("{}-{count}", BASE64.encode(Md5::digest(joined))));
            assert_eq!(crc32c, whole.crc32c_text());
        }
        let uneven = content.checksums(vec![0..10, 10..30, 30..40]).await.unwrap();
        assert_eq!(uneven[1].md5, <[u8; 16]>::from(Md5::digest(&all[..20])));
    }

    #[tokio::test]
    async fn the_end_of_an_archive_waits_for_the_crc_of_the_file() {
        let archive = Archive::new(b"{}", 0).unwrap();
        let content = Content::new(tempfile::tempfile().unwrap(), 0, Some(archive));
        let end = content.length();
        assert!(content.is_known_to(end - 8) && !content.is_known_to(end - 7));
        assert!(content.read_at(end - 8, &mut [0; 8]).is_err());
        content.seal(0);
        assert!(content.is_known_to(end) && content.read_at(end - 8, &mut [0; 8]).is_ok());
    }
}
