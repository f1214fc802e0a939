//! The file that is uploaded: what it is, what it says about itself, and whether it is still the same.

use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err::File;
use ocne_bootimage::{Architecture, BootImage};
use ocne_disk::Qcow2;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::UploadError;

const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What is read at a time.
const READ_BYTES: usize = 1 << 20;
/// What images say that do not say it: the reference's values.
const USUAL_SYSTEM: (&str, &str) = ("Oracle Linux", "8");

/// What tells a file from others, and from itself after a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub device: u64,
    pub inode: u64,
    pub size_bytes: u64,
    pub modified_ns: i64,
    pub changed_ns: i64,
}

impl Identity {
    fn of(metadata: &std::fs::Metadata) -> Self {
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Qcow2,
    /// An exported image; it is sent as it is.
    Archive,
}

/// Digests of the whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digests {
    /// In hexadecimal.
    pub sha256: String,
    pub crc32: u32,
}

/// A file that is open, and was looked at.
#[derive(Debug)]
pub(crate) struct Source {
    pub file: File,
    /// Absolute, without links.
    pub path: PathBuf,
    pub kind: FileKind,
    pub identity: Identity,
    pub architecture: Architecture,
    /// Nothing but the report of the build tells it.
    pub is_architecture_reported: bool,
    pub operating_system: (String, String),
}

impl Source {
    /// Opens a file and looks into it. A qcow2 layer that the import would refuse is refused here.
    pub fn open(
        path: &Path,
        asked_for: Option<Architecture>,
        reported: Option<Architecture>,
    ) -> Result<Self, UploadError> {
        let io = |action| move |source| UploadError::Io { action, source };
        let mut file = File::open(path).map_err(io("open the image"))?;
        let path = fs_err::canonicalize(path).map_err(io("find the image"))?;
        let metadata = file.metadata().map_err(io("look at the image"))?;
        let mut magic = Vec::new();
        if metadata.is_file() {
            (&mut file).take(4).read_to_end(&mut magic).map_err(io("read the image"))?;
        }
        let kind = if magic == QCOW2_MAGIC {
            FileKind::Qcow2
        } else if magic.starts_with(&GZIP_MAGIC) {
            FileKind::Archive
        } else {
            return Err(UploadError::NotAnImage { path });
        };
        let looked = match kind {
            FileKind::Archive => Err("it is an archive already".to_owned()),
            FileKind::Qcow2 => {
                let device =
                    Qcow2::open(&path).map_err(|source| UploadError::Image { path: path.clone(), source })?;
                ocne_bootimage::inspect(&device).map_err(|e| e.to_string())
            }
        };
        let found = looked.as_ref().ok().map(|image| image.architecture);
        let architecture = match (found, asked_for) {
            (Some(found), Some(asked_for)) if found != asked_for => {
                return Err(UploadError::Architecture { path, found, asked_for });
            }
            (_, Some(asked_for)) => asked_for,
            (Some(found), None) => found,
            (None, None) => {
                let reason = || looked.as_ref().err().cloned().unwrap_or_default();
                reported
                    .ok_or_else(|| UploadError::NoArchitecture { path: path.clone(), reason: reason() })?
            }
        };
        if let Err(reason) = &looked {
            tracing::debug!(reason, "the image was not looked into");
        }
        let operating_system = looked.ok().as_ref().and_then(operating_system);
        let usual = || (USUAL_SYSTEM.0.to_owned(), USUAL_SYSTEM.1.to_owned());
        Ok(Self {
            identity: Identity::of(&metadata),
            operating_system: operating_system.unwrap_or_else(usual),
            is_architecture_reported: found.is_none() && asked_for.is_none(),
            file,
            path,
            kind,
            architecture,
        })
    }

    /// Whether the file is no longer the one that was opened, or was written to.
    pub fn has_changed(&self) -> bool {
        let now = |metadata: io::Result<std::fs::Metadata>| metadata.ok().map(|m| Identity::of(&m));
        let open = now(self.file.metadata());
        // A file that was replaced under its name is still read to its end; only one that was written to is not.
        open.as_ref().map(|i| (i.size_bytes, i.modified_ns))
            != Some((self.identity.size_bytes, self.identity.modified_ns))
    }

    /// Reads the whole file.
    pub fn digests(&self, progress: &dyn Fn(u64), cancel: &AtomicBool) -> Result<Digests, UploadError> {
        let read = |source| UploadError::Io { action: "read the image", source };
        let (mut sha256, mut crc32) = (Sha256::new(), crc32fast::Hasher::new());
        let (mut buffer, mut done) = (vec![0; READ_BYTES], 0);
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(UploadError::Interrupted);
            }
            let count = self.file.file().read_at(&mut buffer, done).map_err(read)?;
            if count == 0 {
                break;
            }
            sha256.update(&buffer[..count]);
            crc32.update(&buffer[..count]);
            done += count as u64;
            progress(done);
        }
        if done != self.identity.size_bytes || self.has_changed() {
            return Err(UploadError::FileChanged { path: self.path.clone() });
        }
        let sha256 = sha256.finalize();
        let sha256 = sha256.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        Ok(Digests { sha256, crc32: crc32.finalize() })
    }
}

/// Name and version as Oracle Cloud writes them for its own images: `Oracle Linux`, `8`.
fn operating_system(image: &BootImage) -> Option<(String, String)> {
    let release = &image.deployments.first()?.os_release;
    let version = release.get("VERSION_ID")?;
    if release.get("ID") == Some("ol") {
        return Some((USUAL_SYSTEM.0.to_owned(), version.split('.').next().unwrap_or(version).to_owned()));
    }
    Some((release.get("NAME")?.to_owned(), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for content in [&b""[..], b"QFI", b"hello world"] {
            fs_err::write(&path, content).unwrap();
            assert!(
                matches!(Source::open(&path, None, None), Err(UploadError::NotAnImage { .. })),
                "{content:?}"
            );
        }
        assert!(matches!(
            Source::open(dir.path(), None, None),
            Err(UploadError::NotAnImage { .. } | UploadError::Io { .. })
        ));
        fs_err::write(&path, b"QFI\xfb\0\0\0\x09").unwrap();
        assert!(matches!(Source::open(&path, None, None), Err(UploadError::Image { .. })));
        fs_err::write(&path, b"\x1f\x8bxx").unwrap();
        assert!(matches!(Source::open(&path, None, None), Err(UploadError::NoArchitecture { .. })));
        assert_eq!(Source::open(&path, None, Some(Architecture::Arm64)).unwrap().kind, FileKind::Archive);
    }

    #[test]
    fn digests_of_the_whole_file_and_its_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs_err::write(&path, b"\x1f\x8bxx").unwrap();
        let source = Source::open(&path, Some(Architecture::Amd64), None).unwrap();
        let digests = source.digests(&|_| {}, &AtomicBool::new(false)).unwrap();
        assert_eq!(digests.crc32, crc32fast::hash(b"\x1f\x8bxx"));
        assert!(digests.sha256.len() == 64 && !source.has_changed());
        assert!(matches!(source.digests(&|_| {}, &AtomicBool::new(true)), Err(UploadError::Interrupted)));
        fs_err::write(&path, b"\x1f\x8bxxx").unwrap();
        assert!(source.has_changed());
        assert!(matches!(
            source.digests(&|_| {}, &AtomicBool::new(false)),
            Err(UploadError::FileChanged { .. })
        ));
    }
}
