//! Finding the file that a request means, below the document root and nowhere else.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use rustix::io::Errno;

/// What a folder has that is served for it.
const INDEX: &[u8] = b"index.html";

/// The folder that is served.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// An opened file.
#[derive(Debug)]
pub struct Found {
    pub file: File,
    pub size_bytes: u64,
    pub modified: SystemTime,
    /// Changes whenever time or size do.
    pub etag: String,
    pub media_type: &'static str,
}

impl Root {
    /// Opens the folder; what the path becomes later is of no matter.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens the file of a request's path; none if there is no such file. Links are not followed, so that nothing in the
    /// folder leads out of it.
    pub fn find(&self, path: &str) -> io::Result<Option<Found>> {
        let Some(parts) = parts(path) else { return Ok(None) };
        match self.walk(&parts) {
            Ok(found) => Ok(found),
            Err(
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::NAMETOOLONG | Errno::NXIO,
            ) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn walk(&self, parts: &[Vec<u8>]) -> Result<Option<Found>, Errno> {
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at: Option<OwnedFd> = None;
        let mut name = INDEX;
        for (i, part) in parts.iter().enumerate() {
            if i + 1 == parts.len() && !part.is_empty() {
                name = part;
                break;
            }
            if !part.is_empty() {
                at = Some(openat(at.as_ref().unwrap_or(&self.0), part.as_slice(), folder, Mode::empty())?);
            }
        }
        // A pipe would keep us waiting for somebody at its other end.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(at.as_ref().unwrap_or(&self.0), name, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        // Times before 1970 are as good as that.
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Ok(Some(Found {
            file: File::from(file),
            size_bytes,
            modified: UNIX_EPOCH + Duration::from_secs(seconds),
            etag: format!("\"{seconds:x}.{nanoseconds:x}-{size_bytes:x}\""),
            media_type: media_type(name),
        }))
    }
}

/// The parts of a path, with `%XX` taken for what it stands for. None if it is no path of a file here.
fn parts(path: &str) -> Option<Vec<Vec<u8>>> {
    let path = path.strip_prefix('/')?;
    let mut parts = Vec::new();
    for part in path.split('/') {
        let part = decode(part)?;
        // A slash or NUL that was hidden in `%XX` is in no name.
        if matches!(part.as_slice(), b"." | b"..") || part.iter().any(|b| matches!(b, b'/' | 0)) {
            return None;
        }
        parts.push(part);
    }
    Some(parts)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            byte => byte,
        });
    }
    Some(out)
}

/// What a file is, by its name: enough for installers and for people who look.
fn media_type(name: &[u8]) -> &'static str {
    let extension = name.rsplit(|&b| b == b'.').next().unwrap_or_default();
    match extension {
        b"html" => "text/html; charset=utf-8",
        b"cfg" | b"conf" | b"ks" | b"txt" => "text/plain; charset=utf-8",
        b"ign" | b"json" => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_files_below_the_folder_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs_err::create_dir_all(root.join("a b")).unwrap();
        fs_err::write(dir.path().join("secret"), "no").unwrap();
        fs_err::write(root.join("a b/c%.ks"), "yes").unwrap();
        fs_err::write(root.join("a b/index.html"), "index").unwrap();
        fs_err::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        fs_err::os::unix::fs::symlink("a b", root.join("folder")).unwrap();
        let opened = Root::open(&root).unwrap();
        let size = |path: &str| opened.find(path).unwrap().map(|f| f.size_bytes);
        assert_eq!(size("/a%20b/c%25.ks"), Some(3));
        assert_eq!(size("/a%20b/"), Some(5));
        assert_eq!(size("//a%20b//c%25.ks"), Some(3));
        for path in [
            "",
            "a",
            "/",
            "/a%20b",
            "/../secret",
            "/a%20b/../../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "/link",
            "/folder/c%25.ks",
            "/a%20b/c%25.ks/",
            "/a%20b/c%25.ks%00",
            "/%",
            "/%4",
            "/%zz",
            "/./a%20b/",
            &format!("/{}", "x".repeat(300)),
        ] {
            assert_eq!(size(path), None, "{path}");
        }
        // The folder itself may be replaced; what was opened is served.
        fs_err::rename(&root, dir.path().join("moved")).unwrap();
        assert_eq!(size("/a%20b/"), Some(5));
    }

    proptest! {
        #[test]
        fn no_path_leads_out(path in "(/|\\.|\\.\\.|%2e|%2f|secret|root|\\\\|a){0,12}") {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            fs_err::create_dir(&root).unwrap();
            fs_err::write(dir.path().join("secret"), "no").unwrap();
            let found = Root::open(&root).unwrap().find(&format!("/{path}")).unwrap();
            prop_assert!(found.is_none(), "{path}");
        }
    }
}
