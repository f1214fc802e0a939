//! Names of objects: in the layers of encapsulated images, and in archive repositories.

use std::fmt;

use crate::checksum::Checksum;

/// Where the objects are in the layers of an encapsulated image.
const FOLDER: &[u8] = b"sysroot/ostree/repo/objects/";

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Commit,
    CommitMeta,
    DirTree,
    DirMeta,
    /// A file or a symbolic link.
    File,
    /// Extended attributes of files.
    FileXattrs,
    /// Which of them a file has.
    FileXattrsLink,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Commit,
        Self::CommitMeta,
        Self::DirTree,
        Self::DirMeta,
        Self::File,
        Self::FileXattrs,
        Self::FileXattrsLink,
    ];

    /// The extension in a layer.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::CommitMeta => "commitmeta",
            Self::DirTree => "dirtree",
            Self::DirMeta => "dirmeta",
            Self::File => "file",
            Self::FileXattrs => "file-xattrs",
            Self::FileXattrsLink => "file-xattrs-link",
        }
    }

    /// The extension in an archive repository.
    fn archive_extension(self) -> &'static str {
        if self == Self::File { "filez" } else { self.extension() }
    }
}

/// An object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Object {
    pub checksum: Checksum,
    pub kind: Kind,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.checksum, self.kind.extension())
    }
}

impl Object {
    /// Its place below the repository's folder `objects`, in an archive repository.
    pub fn archive_name(&self) -> String {
        let hex = self.checksum.hex();
        format!("{}/{}.{}", &hex[..2], &hex[2..], self.kind.archive_extension())
    }
}

/// What the name of an entry of a layer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Object(Object),
    /// Something below the folder of objects that is none, such as the folders in it.
    NoObject,
    /// Something else; the layers also have the tree itself, as links to the objects.
    Elsewhere,
    /// It leads out of the image.
    Escapes,
}

/// Reads the name of an entry of a layer: `sysroot/ostree/repo/objects/XX/REST.TYPE`.
pub(crate) fn parse_name(name: &[u8]) -> Name {
    if name.starts_with(b"/") || name.split(|&b| b == b'/').any(|part| part == b"..") {
        return Name::Escapes;
    }
    let Some(rest) = name.strip_prefix(FOLDER) else { return Name::Elsewhere };
    object(rest, Kind::extension).map_or(Name::NoObject, Name::Object)
}

/// Reads the name of a file of an archive repository: `objects/XX/REST.TYPE`.
pub(crate) fn parse_archive_name(name: &[u8]) -> Name {
    let Some(rest) = name.strip_prefix(b"objects/") else { return Name::Elsewhere };
    object(rest, Kind::archive_extension).map_or(Name::NoObject, Name::Object)
}

/// Reads `XX/REST.TYPE`.
fn object(name: &[u8], extension_of: fn(Kind) -> &'static str) -> Option<Object> {
    let (folder, rest) = name.split_at_checked(2)?;
    let (hex, extension) = rest.strip_prefix(b"/")?.split_at_checked(62)?;
    let extension = extension.strip_prefix(b".")?;
    let kind = Kind::ALL.into_iter().find(|k| extension_of(*k).as_bytes() == extension)?;
    Some(Object { checksum: Checksum::from_hex(&[folder, hex].concat())?, kind })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_told_apart() {
        let object = Object { checksum: Checksum([0xAB; 32]), kind: Kind::FileXattrsLink };
        let name = format!("sysroot/ostree/repo/objects/ab/{}.file-xattrs-link", &object.checksum.hex()[2..]);
        assert_eq!(parse_name(name.as_bytes()), Name::Object(object));
        for (name, meaning) in [
            ("usr/bin/ls", Name::Elsewhere),
            ("./sysroot/ostree/repo/objects/ab", Name::Elsewhere),
            ("sysroot/ostree/repo/config", Name::Elsewhere),
            ("sysroot/ostree/repo/objects/", Name::NoObject),
            ("sysroot/ostree/repo/objects/ab/", Name::NoObject),
            ("sysroot/ostree/repo/objects/ab/cd.file", Name::NoObject),
            ("/sysroot/ostree/repo/objects/ab/", Name::Escapes),
            ("sysroot/ostree/repo/objects/../x", Name::Escapes),
            (&format!("{name}x"), Name::NoObject),
            (
                &name.to_uppercase().replace("SYSROOT/OSTREE/REPO/OBJECTS", "sysroot/ostree/repo/objects"),
                Name::NoObject,
            ),
        ] {
            assert_eq!(parse_name(name.as_bytes()), meaning, "{name}");
        }
        assert_eq!(
            Object { kind: Kind::File, ..object }.archive_name(),
            format!("ab/{}.filez", "ab".repeat(31))
        );
    }

    proptest! {
        #[test]
        fn any_name_is_read_without_a_panic(tail in prop::collection::vec(any::<u8>(), 0..120)) {
            parse_name(&tail);
            parse_name(&[FOLDER, &tail].concat());
        }
    }
}
