//! Metadata objects: commits, folders and their attributes, and the extended attributes of files.
//!
//! Source: libostree's `ostree-core.h`, which has the type of each as a GVariant signature. Integers are big-endian.

use crate::checksum::Checksum;
use crate::gvariant::{Array, Malformed, Tuple, lookup, string};

/// Type bits of a mode (inode(7)).
const TYPE_MASK: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;

type Result<T> = std::result::Result<T, Malformed>;

/// What is used of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// When it was made, in seconds since 1970.
    pub timestamp_seconds: u64,
    /// Its first line.
    pub subject: String,
    /// The refs that it may be called by, if it says so.
    pub ref_binding: Option<Vec<String>>,
    /// Its version, if it says so.
    pub version: Option<String>,
    /// The root folder.
    pub root_tree: Checksum,
    /// Owner, mode and extended attributes of the root folder.
    pub root_meta: Checksum,
    /// All of it, which is what signatures are of.
    pub bytes: Box<[u8]>,
}

impl Commit {
    /// Reads a commit: `(a{sv}aya(say)sstayay)`.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Tuple::new(bytes, 6)?;
        let metadata = fields.variable(8)?;
        let parent = fields.variable(1)?;
        if !parent.is_empty() {
            checksum(parent)?;
        }
        for related in Array::new(fields.variable(1)?, 1)? {
            let mut related = Tuple::new(related?, 1)?;
            string(related.variable(1)?)?;
            checksum(related.last(1)?)?;
        }
        let subject = string(fields.variable(1)?)?.to_owned();
        string(fields.variable(1)?)?;
        let timestamp_seconds = u64::from_be_bytes(fields.fixed()?);
        let root_tree = checksum(fields.variable(1)?)?;
        let root_meta = checksum(fields.last(1)?)?;
        let ref_binding = match lookup(metadata, "ostree.ref-binding", "as")? {
            None => None,
            Some(names) => Some(
                Array::new(names, 1)?.map(|n| string(n?).map(str::to_owned)).collect::<Result<Vec<_>>>()?,
            ),
        };
        let version = lookup(metadata, "version", "s")?.map(string).transpose()?.map(str::to_owned);
        Ok(Self {
            timestamp_seconds,
            subject,
            ref_binding,
            version,
            root_tree,
            root_meta,
            bytes: bytes.into(),
        })
    }
}

/// The GPG signatures in what belongs to a commit, `a{sv}`.
///
/// # Errors
/// When it is malformed.
pub fn signatures(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    match lookup(bytes, "ostree.gpgsigs", "aay")? {
        None => Ok(Vec::new()),
        Some(signatures) => Array::new(signatures, 1)?.map(|s| s.map(<[u8]>::to_vec)).collect(),
    }
}

/// Something in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node<'a> {
    /// A file or symbolic link.
    File {
        /// Its name.
        name: &'a str,
        /// The object with its content and attributes.
        content: Checksum,
    },
    /// A folder.
    Folder {
        /// Its name.
        name: &'a str,
        /// The object with what is in it.
        tree: Checksum,
        /// The object with its attributes.
        meta: Checksum,
    },
}

/// Reads a folder, `(a(say)a(sayay))`, and calls `visit` for everything in it.
///
/// # Errors
/// When it is malformed.
pub fn read_dirtree<'a>(bytes: &'a [u8], visit: &mut dyn FnMut(Node<'a>)) -> Result<()> {
    let mut fields = Tuple::new(bytes, 1)?;
    for file in Array::new(fields.variable(1)?, 1)? {
        let mut file = Tuple::new(file?, 1)?;
        let name = file_name(file.variable(1)?)?;
        visit(Node::File { name, content: checksum(file.last(1)?)? });
    }
    for folder in Array::new(fields.last(1)?, 1)? {
        let mut folder = Tuple::new(folder?, 2)?;
        let name = file_name(folder.variable(1)?)?;
        let tree = checksum(folder.variable(1)?)?;
        visit(Node::Folder { name, tree, meta: checksum(folder.last(1)?)? });
    }
    Ok(())
}

/// Checks the attributes of a folder: `(uuua(ayay))`, which are owner, group, mode and extended attributes.
///
/// # Errors
/// When they are malformed.
pub fn check_dirmeta(bytes: &[u8]) -> Result<()> {
    let mut fields = Tuple::new(bytes, 0)?;
    let [_, _, mode] = [fields.fixed()?, fields.fixed()?, fields.fixed()?].map(u32::from_be_bytes);
    if mode & TYPE_MASK != FOLDER || mode & !(TYPE_MASK | 0o7777) != 0 {
        return Err(Malformed("its mode is not that of a folder"));
    }
    check_xattrs(fields.last(1)?)
}

/// Checks extended attributes: `a(ayay)`, each a name that ends in NUL, and a value.
///
/// # Errors
/// When they are malformed.
pub fn check_xattrs(bytes: &[u8]) -> Result<()> {
    for attribute in Array::new(bytes, 1)? {
        let mut attribute = Tuple::new(attribute?, 1)?;
        match attribute.variable(1)?.split_last() {
            Some((0, name)) if !name.is_empty() && !name.contains(&0) => {}
            _ => return Err(Malformed("an extended attribute has no name")),
        }
        attribute.last(1)?;
    }
    Ok(())
}

fn checksum(bytes: &[u8]) -> Result<Checksum> {
    Checksum::from_bytes(bytes).ok_or(Malformed("a checksum does not have 32 bytes"))
}

fn file_name(bytes: &[u8]) -> Result<&str> {
    match string(bytes)? {
        "" | "." | ".." => Err(Malformed("a name is empty, or leads elsewhere")),
        name if name.contains('/') => Err(Malformed("a name contains a slash")),
        name => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_folder_with_a_file_and_a_folder() {
        let entry = |name: &str, sums: usize| {
            let mut bytes = [name.as_bytes(), b"\0"].concat();
            let mut ends = vec![bytes.len()];
            for i in 0..sums {
                bytes.extend_from_slice(&[u8::try_from(i).unwrap() + 1; 32]);
                ends.push(bytes.len());
            }
            ends.pop();
            bytes.extend(ends.iter().rev().map(|&e| u8::try_from(e).unwrap()));
            let len = bytes.len();
            bytes.push(u8::try_from(len).unwrap()); // the array around it
            bytes
        };
        let tree = |file: &str| {
            let files = entry(file, 1);
            let end = u8::try_from(files.len()).unwrap();
            [files, entry("bin", 2), vec![end]].concat()
        };
        let mut found = Vec::new();
        let bytes = tree("a");
        read_dirtree(&bytes, &mut |node| found.push(node)).unwrap();
        let (one, two) = (Checksum([1; 32]), Checksum([2; 32]));
        assert_eq!(
            found,
            [Node::File { name: "a", content: one }, Node::Folder { name: "bin", tree: one, meta: two }]
        );
        for bad in ["", ".", "..", "a/b"] {
            assert!(read_dirtree(&tree(bad), &mut |_| {}).is_err(), "{bad:?}");
        }
        for len in 0..bytes.len() {
            assert!(read_dirtree(&bytes[..len], &mut |_| {}).is_err(), "cut to {len} bytes");
        }
    }

    #[test]
    fn attributes_of_a_folder() {
        let meta = |mode: u32, rest: &[u8]| [&[0; 8], &mode.to_be_bytes()[..], rest].concat();
        check_dirmeta(&meta(0o040_755, b"")).unwrap();
        check_dirmeta(&meta(0o040_755, b"user.a\0v\x07\x09")).unwrap();
        for bad in [
            meta(0o100_644, b""),
            meta(0o755, b""),
            meta(0o040_755, b"\0v\x01\x03"),
            meta(0o040_755, b"x"),
            vec![0; 11],
        ] {
            assert!(check_dirmeta(&bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Commit::parse(&bytes);
            let _ = read_dirtree(&bytes, &mut |_| {});
            let _ = check_dirmeta(&bytes);
        }
    }
}
