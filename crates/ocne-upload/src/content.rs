//! The bytes of an object, any of which can be computed from the file at any time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use md5::{Digest as _, Md5};

use crate::archive::{Archive, Piece};

/// What is read at a time to be hashed.
const HASH_BYTES: usize = 1 << 20;
/// What is read at a time to be sent. Time-outs look at whether pieces of this size get on.
pub(crate) const SEND_BYTES: u64 = 256 << 10;

/// The content of an object.
#[derive(Debug, Clone)]
pub(crate) struct Content(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    length: u64,
    /// Around the file, or the file as it is.
    archive: Option<Archive>,
}

impl Content {
    pub fn new(file: File, file_bytes: u64, archive: Option<Archive>) -> Self {
        let length = archive.as_ref().map_or(file_bytes, Archive::length);
        Self(Arc::new(Inner { file, length, archive }))
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

    /// Checksums of a range.
    pub async fn checksums(&self, offset: u64, length: u64) -> io::Result<Checksums> {
        let content = self.clone();
        blocking(move || {
            let (mut hash, mut crc32c) = (Md5::new(), 0);
            let mut buffer = vec![0; HASH_BYTES];
            let (mut at, end) = (offset, offset + length);
            while at < end {
                let count = usize::try_from(end - at).map_or(HASH_BYTES, |left| left.min(HASH_BYTES));
                content.read_at(at, &mut buffer[..count])?;
                hash.update(&buffer[..count]);
                crc32c = crc32c::crc32c_append(crc32c, &buffer[..count]);
                at += count as u64;
            }
            Ok(Checksums { md5: hash.finalize().into(), crc32c, length })
        })
        .await
    }

    /// A range in pieces of at most `piece_bytes`.
    pub fn stream(
        &self,
        offset: u64,
        length: u64,
        piece_bytes: u64,
    ) -> BoxStream<'static, io::Result<Vec<u8>>> {
        let (content, end) = (self.clone(), offset + length);
        stream::unfold(offset, move |at| {
            let content = content.clone();
            async move {
                let count = (end - at).min(piece_bytes);
                if count == 0 {
                    return None;
                }
                let piece = blocking(move || {
                    let mut buffer = vec![0; usize::try_from(count).unwrap_or(0)];
                    content.read_at(at, &mut buffer).map(|()| buffer)
                });
                // After an error the stream is over.
                Some(match piece.await {
                    Ok(piece) => (Ok(piece), at + count),
                    Err(error) => (Err(error), end),
                })
            }
        })
        .boxed()
    }
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
        let archive = Archive::new(metadata, image.len() as u64, crc32fast::hash(image)).unwrap();
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
        let content = archive_of(&vec![7; 1_000_000], b"{}");
        let pieces: Vec<Vec<u8>> =
            content.stream(10, 900_000, SEND_BYTES).map(Result::unwrap).collect().await;
        assert_eq!(pieces.len(), 4);
        let all = pieces.concat();
        let whole = content.checksums(10, 900_000).await.unwrap();
        assert_eq!(whole.md5_text(), BASE64.encode(Md5::digest(&all)));
        assert_eq!(whole.crc32c, crc32c::crc32c(&all));
        let halves = [
            content.checksums(10, 400_000).await.unwrap(),
            content.checksums(400_010, 500_000).await.unwrap(),
        ];
        let (md5, crc32c) = Checksums::of_object(halves.iter());
        let joined = [halves[0].md5, halves[1].md5].concat();
        assert_eq!(md5, format!("{}-2", BASE64.encode(Md5::digest(joined))));
        assert_eq!(crc32c, whole.crc32c_text());
    }
}
