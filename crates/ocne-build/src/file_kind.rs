//! What a local file is, by its content.

use std::io::{self, Read as _, Seek as _};
use std::path::Path;

use fs_err::File;

/// The first bytes of a qcow2 image.
const QCOW2_MAGIC: &[u8; 4] = b"QFI\xfb";
/// The files that tell the kinds of archives apart come among the first or the last; nobody packs more than this.
const MAX_MEMBERS: usize = 10_000;

/// What a local file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A qcow2 image.
    Qcow2,
    /// A tar of an OCI image layout.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
    /// None of these.
    Unknown,
}

/// Looks at the beginning of a file, and at the names in it when it is a tar.
///
/// # Errors
/// When the file cannot be read.
pub fn file_kind(path: &Path) -> io::Result<FileKind> {
    let mut file = File::open(path)?;
    let mut first = Vec::new();
    (&mut file).take(4).read_to_end(&mut first)?;
    if first == QCOW2_MAGIC {
        return Ok(FileKind::Qcow2);
    }
    file.rewind()?;
    let mut kind = FileKind::Unknown;
    let mut archive = tar::Archive::new(file);
    let Ok(members) = archive.entries_with_seek() else { return Ok(kind) };
    for member in members.take(MAX_MEMBERS) {
        // What comes before the damage, or before the end of what is no tar at all, has told what it can.
        let Ok(member) = member else { break };
        let name = member.path_bytes();
        match name.strip_prefix(b"./".as_slice()).unwrap_or(&name) {
            // Newer versions of docker write both.
            b"oci-layout" | b"index.json" => return Ok(FileKind::OciArchive),
            b"manifest.json" => kind = FileKind::DockerArchive,
            _ => {}
        }
    }
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let tar_of = |names: &[&str]| {
            let mut builder = tar::Builder::new(Vec::new());
            for name in names {
                let mut header = tar::Header::new_ustar();
                header.set_size(2);
                header.set_cksum();
                builder.append_data(&mut header, name, &b"{}"[..]).unwrap();
            }
            builder.into_inner().unwrap()
        };
        for (content, kind) in [
            (b"QFI\xfb\0\0\0\x03".to_vec(), FileKind::Qcow2),
            (tar_of(&["blobs/sha256/00", "index.json", "oci-layout"]), FileKind::OciArchive),
            (tar_of(&["./oci-layout"]), FileKind::OciArchive),
            (tar_of(&["a/layer.tar", "manifest.json"]), FileKind::DockerArchive),
            (tar_of(&["manifest.json", "oci-layout"]), FileKind::OciArchive),
            (tar_of(&["etc/passwd"]), FileKind::Unknown),
            (Vec::new(), FileKind::Unknown),
            (vec![7; 5000], FileKind::Unknown),
        ] {
            fs_err::write(&path, content).unwrap();
            assert_eq!(file_kind(&path).unwrap(), kind);
        }
    }
}
