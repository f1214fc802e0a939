//! Tar files, read in one pass and in bounded memory: POSIX ustar and pax (IEEE Std 1003.1, pax), and the
//! names, sizes and sparse files of GNU tar (its manual, "Basic Tar Format").
//!
//! The same reader goes through archives in files, whose content it skips by seeking, and through layers
//! that come as a stream. It is synchronous, and opens nothing by a name in an archive.

use std::io::{self, BufRead, BufReader, Read as _, Seek as _};

use fs_err::File;

/// Size of a header, and what content is padded to.
const BLOCK_BYTES: u64 = 512;
/// The most that the names and attributes ahead of one entry may take.
const EXTENSION_MAX_BYTES: u64 = 1 << 20;

/// Something that is no tar file, or one that ends too early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// Reading failed.
    #[error("cannot read the tar file")]
    Io(#[source] io::Error),
    /// The file ends inside an entry or a header.
    #[error("the tar file ends early, after {offset_bytes} bytes")]
    Truncated {
        /// How much of it there is.
        offset_bytes: u64,
    },
    /// A header's checksum is wrong, or there is no header where one has to be.
    #[error("there is no valid tar header at offset {offset_bytes}")]
    BadHeader {
        /// Where the header has to be.
        offset_bytes: u64,
    },
    /// The whole file is compressed.
    #[error("the tar file is compressed, and can only be read uncompressed")]
    Compressed,
    /// A number in a header is none.
    #[error("the {field} in the tar header at offset {offset_bytes} is no number that a file can have")]
    BadNumber {
        /// Which number.
        field: &'static str,
        /// Where the header is.
        offset_bytes: u64,
    },
    /// Long names or attributes are beyond what is accepted.
    #[error(
        "the names and attributes at offset {offset_bytes} are not valid, or longer than {EXTENSION_MAX_BYTES} bytes"
    )]
    BadExtension {
        /// Where their header is.
        offset_bytes: u64,
    },
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    SymbolicLink,
    /// Another name of an entry that came before.
    HardLink,
    /// A file of which only parts are stored.
    Sparse,
    /// A device, a pipe, or something unknown.
    Other,
}

/// The head of an entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, as it is written.
    pub name: Vec<u8>,
    /// What a link leads to, as it is written; empty for other entries.
    pub link_target: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Size of the content that follows.
    pub size_bytes: u64,
    /// Permissions, as far as they are a number.
    pub mode: Option<u64>,
    /// Owner, as far as it is a number.
    pub uid: Option<u64>,
    /// Group, as far as it is a number.
    pub gid: Option<u64>,
}

/// What tar files are read from.
pub trait TarInput: BufRead {
    /// Goes on by `count` bytes, which may be beyond the end; tells how far it went. Reads them, where nothing better is known.
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let mut skipped = 0;
        while skipped < count {
            let available = self.fill_buf()?.len();
            if available == 0 {
                break;
            }
            let step = usize::try_from(count - skipped).unwrap_or(usize::MAX).min(available);
            self.consume(step);
            skipped += step as u64;
        }
        Ok(skipped)
    }
}

/// Reads from what has a buffer: `Read` of a type that is made for `BufRead`.
pub fn read_buffered(input: &mut impl BufRead, into: &mut [u8]) -> io::Result<usize> {
    let available = input.fill_buf()?;
    let count = available.len().min(into.len());
    into[..count].copy_from_slice(&available[..count]);
    input.consume(count);
    Ok(count)
}

impl TarInput for BufReader<File> {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let size = self.get_ref().metadata()?.len();
        let left = size.saturating_sub(self.stream_position()?);
        let count = count.min(left);
        self.seek_relative(i64::try_from(count).map_err(io::Error::other)?)?;
        Ok(count)
    }
}

/// Goes through a tar file.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Bytes of the tar file that were read or skipped.
    position_bytes: u64,
    /// Content of the present entry that was not read yet.
    left_bytes: u64,
    /// Padding after it.
    padding_bytes: u64,
}

/// What headers before an entry say of it.
#[derive(Debug, Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link_target: Option<Vec<u8>>,
    size_bytes: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    sparse: bool,
}

impl<R: TarInput> TarReader<R> {
    /// A reader at the start of a tar file.
    pub fn new(input: R) -> Self {
        Self { input, position_bytes: 0, left_bytes: 0, padding_bytes: 0 }
    }

    /// Where the content of the present entry goes on.
    pub fn position_bytes(&self) -> u64 {
        self.position_bytes
    }

    /// The input, behind what was read of it.
    pub fn into_input(self) -> R {
        self.input
    }

    /// The next entry, or none at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        let mut extension_bytes = 0;
        loop {
            self.skip(self.left_bytes)?;
            self.skip(self.padding_bytes)?;
            (self.left_bytes, self.padding_bytes) = (0, 0);
            let offset_bytes = self.position_bytes;
            let Some(header) = self.header()? else { return Ok(None) };
            let size =
                number(&header[124..136]).ok_or(TarError::BadNumber { field: "size", offset_bytes })?;
            let kind = header[156];
            if matches!(kind, b'L' | b'K' | b'x' | b'g') {
                extension_bytes += size;
                if extension_bytes > EXTENSION_MAX_BYTES {
                    return Err(TarError::BadExtension { offset_bytes });
                }
                self.begin_content(size, offset_bytes)?;
                let content = self.small_content(size)?;
                let until_nul = || content.split(|&b| b == 0).next().unwrap_or_default().to_vec();
                match kind {
                    b'L' => extensions.name = Some(until_nul()),
                    b'K' => extensions.link_target = Some(until_nul()),
                    b'x' => {
                        read_pax(&content, &mut extensions).ok_or(TarError::BadExtension { offset_bytes })?;
                    }
                    // Attributes of all entries: git writes a comment so. None that matter here are allowed.
                    _ => {}
                }
                continue;
            }
            let size = extensions.size_bytes.unwrap_or(size);
            let name = extensions.name.take().unwrap_or_else(|| header_name(&header));
            let link_target = extensions.link_target.take().unwrap_or_else(|| text(&header[157..257]));
            let kind = match kind {
                _ if extensions.sparse => EntryKind::Sparse,
                b'0' | 0 | b'7' if name.ends_with(b"/") => EntryKind::Directory,
                b'0' | 0 | b'7' => EntryKind::File,
                b'1' => EntryKind::HardLink,
                b'2' => EntryKind::SymbolicLink,
                b'5' => EntryKind::Directory,
                b'S' => EntryKind::Sparse,
                _ => EntryKind::Other,
            };
            // Links and folders have no content, whatever their size says (pax, "Interchange Format").
            let content_bytes = match kind {
                EntryKind::Directory | EntryKind::SymbolicLink | EntryKind::HardLink => 0,
                _ => size,
            };
            self.begin_content(content_bytes, offset_bytes)?;
            return Ok(Some(Entry {
                name,
                link_target,
                kind,
                size_bytes: content_bytes,
                mode: number(&header[100..108]),
                uid: extensions.uid.or_else(|| number(&header[108..116])),
                gid: extensions.gid.or_else(|| number(&header[116..124])),
            }));
        }
    }

    /// Content of the present entry as far as it is in memory; empty at its end.
    pub fn content(&mut self) -> Result<&[u8], TarError> {
        if self.left_bytes == 0 {
            return Ok(&[]);
        }
        let buffer = self.input.fill_buf().map_err(TarError::Io)?;
        if buffer.is_empty() {
            return Err(TarError::Truncated { offset_bytes: self.position_bytes });
        }
        let len = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(buffer.len());
        Ok(&buffer[..len])
    }

    /// Marks the first `len` bytes of [`Self::content`] as read.
    pub fn consume(&mut self, len: usize) {
        self.input.consume(len);
        self.position_bytes += len as u64;
        self.left_bytes = self.left_bytes.saturating_sub(len as u64);
    }

    fn begin_content(&mut self, size: u64, offset_bytes: u64) -> Result<(), TarError> {
        let padded = size
            .checked_next_multiple_of(BLOCK_BYTES)
            .filter(|padded| i64::try_from(*padded).is_ok())
            .ok_or(TarError::BadNumber { field: "size", offset_bytes })?;
        (self.left_bytes, self.padding_bytes) = (size, padded - size);
        Ok(())
    }

    fn small_content(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut content = Vec::new();
        (&mut self.input).take(size).read_to_end(&mut content).map_err(TarError::Io)?;
        self.position_bytes += content.len() as u64;
        self.left_bytes = size - content.len() as u64;
        if self.left_bytes > 0 {
            return Err(TarError::Truncated { offset_bytes: self.position_bytes });
        }
        Ok(content)
    }

    fn skip(&mut self, count: u64) -> Result<(), TarError> {
        let skipped = self.input.skip(count).map_err(TarError::Io)?;
        self.position_bytes += skipped;
        if skipped < count {
            return Err(TarError::Truncated { offset_bytes: self.position_bytes });
        }
        Ok(())
    }

    /// The next header, or none at the end: a block of zeros, or the end of the file between entries.
    fn header(&mut self) -> Result<Option<[u8; 512]>, TarError> {
        let offset_bytes = self.position_bytes;
        let mut header = [0; 512];
        let mut filled = 0;
        while filled < header.len() {
            match self.input.read(&mut header[filled..]) {
                Ok(0) if filled == 0 && offset_bytes > 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated { offset_bytes: offset_bytes + filled as u64 }),
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(TarError::Io(e)),
            }
        }
        self.position_bytes += BLOCK_BYTES;
        if header.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        // The checksum is the sum of all bytes, with its own field as spaces.
        let sum: u64 =
            (0..).zip(&header).map(|(i, &b)| u64::from(if (148..156).contains(&i) { b' ' } else { b })).sum();
        match header {
            _ if number(&header[148..156]) == Some(sum) => Ok(Some(header)),
            [0x1F, 0x8B, ..] | [0x28, 0xB5, 0x2F, 0xFD, ..] if offset_bytes == 0 => Err(TarError::Compressed),
            _ => Err(TarError::BadHeader { offset_bytes }),
        }
    }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> Vec<u8> {
    field.split(|&b| b == 0).next().unwrap_or_default().to_vec()
}

/// Name of an entry; ustar may have its first part in a field of its own.
fn header_name(header: &[u8; 512]) -> Vec<u8> {
    let name = text(&header[0..100]);
    let prefix = text(&header[345..500]);
    // GNU tar has other things in the place of the prefix, and `ustar  ` for `ustar\0`.
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() { [prefix, name].join(&b'/') } else { name }
}

/// A number in octal digits, or in base 256 if the first bit is set (GNU tar). Negative ones are none.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let first = u64::from(field[0] & 0x7F);
        return field[1..].iter().try_fold(first, |n, &b| n.checked_mul(256).map(|n| n | u64::from(b)));
    }
    let digits = field.trim_ascii_start().split(|&b| b == 0 || b == b' ').next().unwrap_or_default();
    digits.iter().try_fold(0_u64, |n, &b| {
        if matches!(b, b'0'..=b'7') { n.checked_mul(8)?.checked_add(u64::from(b - b'0')) } else { None }
    })
}

/// Reads pax records: `LENGTH KEY=VALUE\n`, where the length is that of the whole record.
fn read_pax(mut content: &[u8], extensions: &mut Extensions) -> Option<()> {
    while !content.is_empty() {
        let space = content.iter().position(|&b| b == b' ')?;
        let len: usize = std::str::from_utf8(&content[..space]).ok()?.parse().ok()?;
        let record = content.get(space + 1..len)?.strip_suffix(b"\n")?;
        content = &content[len..];
        let equals = record.iter().position(|&b| b == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" if !value.contains(&0) => extensions.name = Some(value.to_vec()),
            b"linkpath" if !value.contains(&0) => extensions.link_target = Some(value.to_vec()),
            b"path" | b"linkpath" => return None,
            b"size" | b"uid" | b"gid" => {
                let number = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
                match key {
                    b"size" => extensions.size_bytes = number,
                    b"uid" => extensions.uid = number,
                    _ => extensions.gid = number,
                }
            }
            _ if key.starts_with(b"GNU.sparse.") => {
                extensions.sparse = true;
                if key == b"GNU.sparse.name" {
                    extensions.name = Some(value.to_vec());
                }
            }
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"     17 "), Some(0o17));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"0009\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 1, 2]), Some(258));
        assert_eq!(number(&[0xFF; 12]), None, "negative, or too large");
        assert_eq!(number(b"777777777777777777777777"), None);
    }

    #[test]
    fn attributes() {
        let read = |content: &[u8]| {
            let mut extensions = Extensions::default();
            read_pax(content, &mut extensions).map(|()| extensions)
        };
        let found = read(b"14 path=a/b/c\n13 size=1000\n").unwrap_or_default();
        assert_eq!(
            (found.name, found.size_bytes, found.sparse),
            (Some(b"a/b/c".to_vec()), Some(1000), false)
        );
        assert!(read(b"22 GNU.sparse.major=1\n").unwrap_or_default().sparse);
        for bad in [
            &b"x"[..],
            b"5 a=b\n",
            b"99 a=b\n",
            b"6 a=b ",
            b"5 ab\n",
            b"2 \n",
            b"9 size=x\n",
            b"10 path=\0\n",
        ] {
            assert!(read(bad).is_none(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
