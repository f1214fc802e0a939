//! Content objects: files and symbolic links with their attributes.
//!
//! The checksum of such an object covers a header and the content, uncompressed. In an archive repository, a longer
//! header and the content, as a raw deflate stream, make the file `.filez`. (libostree's `ostree-core.c`)

use std::sync::Arc;

use crate::gvariant::{Malformed, Tuple, offset_width, string};
use crate::metadata::check_xattrs;

/// Type bits of a mode (inode(7)).
const REGULAR: u32 = 0o100_000;
const SYMBOLIC_LINK: u32 = 0o120_000;

/// What an object is beside its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    uid: u32,
    gid: u32,
    mode: u32,
    target: Vec<u8>,
    /// As they are serialised; without any there are no bytes.
    xattrs: Arc<[u8]>,
}

impl Head {
    /// A regular file; `mode` has permissions only.
    pub fn file(uid: u32, gid: u32, mode: u32, xattrs: Arc<[u8]>) -> Self {
        Self { uid, gid, mode: mode & 0o7777 | REGULAR, target: Vec::new(), xattrs }
    }

    /// A symbolic link. All of them have the same mode, whatever a tar file says.
    pub fn link(uid: u32, gid: u32, target: Vec<u8>, xattrs: Arc<[u8]>) -> Self {
        Self { uid, gid, mode: SYMBOLIC_LINK | 0o777, target, xattrs }
    }

    /// Whether it is a symbolic link, which has no content.
    pub fn is_link(&self) -> bool {
        self.mode & 0o170_000 == SYMBOLIC_LINK
    }

    /// What is hashed ahead of the content: `(uuuusa(ayay))`, behind its size.
    pub fn checksummed(&self) -> Vec<u8> {
        self.serialise(&[])
    }

    /// What is ahead of the content in a `.filez`: `(tuuuusa(ayay))`, behind its size.
    pub fn archived(&self, size_bytes: u64) -> Vec<u8> {
        self.serialise(&size_bytes.to_be_bytes())
    }

    fn serialise(&self, size: &[u8]) -> Vec<u8> {
        let device = 0_u32;
        // The size of the variant and four bytes of padding come first; the size is known last.
        let mut bytes = vec![0; 8];
        bytes.extend_from_slice(size);
        for number in [self.uid, self.gid, self.mode, device] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.target);
        bytes.push(0);
        let target_end = bytes.len() - 8;
        bytes.extend_from_slice(&self.xattrs);
        let body = bytes.len() - 8;
        // The offset of the only field of variable size ahead of the last one; its width counts itself.
        let width = [1, 2, 4].into_iter().find(|w| offset_width(body + w) == *w).unwrap_or(8);
        bytes.extend_from_slice(&target_end.to_le_bytes()[..width]);
        let variant = u32::try_from(body + width).unwrap_or(u32::MAX); // attributes have 32 MiB at most
        bytes[..4].copy_from_slice(&variant.to_be_bytes());
        bytes
    }
}

/// The header of a `.filez`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArchivedHeader {
    pub head: Head,
    /// Size of the content, uncompressed.
    pub content_bytes: u64,
    /// Size of the header itself.
    pub header_bytes: usize,
}

/// Reads the header of a `.filez`.
pub(crate) fn read_archived_header(bytes: &[u8]) -> Result<ArchivedHeader, Malformed> {
    let (prefix, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed("the header is cut off"))?;
    let [a, b, c, d, 0, 0, 0, 0] = *prefix else { return Err(Malformed("padding is not zero")) };
    let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let variant = rest.get(..size).ok_or(Malformed("the header is cut off"))?;
    let mut fields = Tuple::new(variant, 1)?;
    let content_bytes = u64::from_be_bytes(fields.fixed()?);
    let numbers = [fields.fixed()?, fields.fixed()?, fields.fixed()?, fields.fixed()?];
    let [uid, gid, mode, device] = numbers.map(u32::from_be_bytes);
    if device != 0 || !matches!(mode & 0o170_000, REGULAR | SYMBOLIC_LINK) {
        return Err(Malformed("it is neither a file nor a symbolic link"));
    }
    let target = string(fields.variable(1)?)?.as_bytes().to_vec();
    let xattrs = fields.last(1)?;
    check_xattrs(xattrs)?;
    let head = Head { uid, gid, mode, target, xattrs: xattrs.into() };
    Ok(ArchivedHeader { head, content_bytes, header_bytes: size + 8 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_has_its_size_ahead_and_an_offset_behind() {
        let bytes = Head::file(1, 2, 0o644, Arc::default()).checksummed();
        let numbers = [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0o201, 0o244, 0, 0, 0, 0];
        assert_eq!(bytes, [&[0, 0, 0, 18, 0, 0, 0, 0], &numbers[..], b"\0\x11"].concat());
    }

    #[test]
    fn the_offset_widens_with_the_whole() {
        for (xattrs, width) in [(0, 1), (237, 1), (238, 2), (65516, 2), (65517, 4)] {
            let head = Head::file(1, 2, 0, vec![b'x'; xattrs].into());
            assert_eq!(head.checksummed().len(), 8 + 17 + xattrs + width, "{xattrs} bytes of attributes");
        }
    }

    proptest! {
        #[test]
        fn headers_come_back(size in any::<u64>(), target in "[a-z/.]{0,300}", value in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut xattrs = [b"user.a\0".to_vec(), value].concat();
            let inner = if xattrs.len() < 255 { 1 } else { 2 };
            xattrs.extend_from_slice(&7_usize.to_le_bytes()[..inner]);
            let outer = if xattrs.len() < 255 { 1 } else { 2 };
            let end = xattrs.len();
            xattrs.extend_from_slice(&end.to_le_bytes()[..outer]);
            let head = Head::link(0, 0, target.into_bytes(), xattrs.into());
            let bytes = head.archived(size);
            let whole = ArchivedHeader { head, content_bytes: size, header_bytes: bytes.len() };
            prop_assert_eq!(read_archived_header(&bytes), Ok(whole));
            for len in [0, 7, 8, bytes.len() - 1] {
                prop_assert!(read_archived_header(&bytes[..len]).is_err());
            }
        }
    }
}
