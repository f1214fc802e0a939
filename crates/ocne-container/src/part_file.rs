//! Files that have a temporary name until they are whole.
//!
//! The name ends in `.part`, and its owner holds a lock (flock(2)) on the file. What a process left behind that
//! was killed has no lock any more: so the next one knows that it may be removed.

use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use fs_err::{File, OpenOptions};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// A file with a temporary name; removed when it is dropped before it got its own.
#[derive(Debug)]
pub(crate) struct PartFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl PartFile {
    /// A new file that shall once be `target`.
    pub fn create(target: &Path) -> io::Result<Self> {
        loop {
            let mut random = [0; 8];
            getrandom(&mut random, GetRandomFlags::empty())?;
            let mut name = target.file_name().unwrap_or_default().to_owned();
            name.push(format!(".{:016x}.part", u64::from_le_bytes(random)));
            let path = target.with_file_name(name);
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            // Another process may have taken it for abandoned between these two steps.
            if try_lock(&file)? && is_still(&file, &path) {
                return Ok(Self { file, path, target: target.to_owned() });
            }
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Gives the file its name, in place of one that had it.
    pub fn persist(self) -> io::Result<()> {
        // A name that is gone already is left alone by Drop.
        fs_err::rename(&self.path, &self.target)
    }
}

impl Drop for PartFile {
    /// Removes the file, unless it has its own name by now.
    fn drop(&mut self) {
        let _ = fs_err::remove_file(&self.path);
    }
}

/// Writes a small file whole or not at all.
pub(crate) fn write_whole(target: &Path, content: &[u8]) -> io::Result<()> {
    let mut part = PartFile::create(target)?;
    part.write(content)?;
    part.persist()
}

/// Writes a small file whole or not at all, for its owner alone; the folder is made if it is missing.
pub(crate) fn write_secret(target: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    if let Some(folder) = target.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut part = PartFile::create(target)?;
    fs_err::set_permissions(&part.path, std::fs::Permissions::from_mode(0o600))?;
    part.write(content)?;
    part.file.sync_all()?;
    part.persist()
}

/// A file without a name, on the disk of this folder.
pub(crate) fn unnamed(folder: &Path) -> io::Result<File> {
    PartFile::create(&folder.join("blob"))?.file.try_clone()
}

/// Takes the lock of a file, if nobody has it.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file.file(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn is_still(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs_err::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Removes the temporary files in a folder whose owners are gone.
pub(crate) fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs_err::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "part")
            && let Ok(file) = File::open(&path)
            && try_lock(&file).unwrap_or(false)
        {
            // Whoever else sees it abandoned has the same in mind.
            let _ = fs_err::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abandoned_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = PartFile::create(&dir.path().join("a")).unwrap();
        part.write(b"x").unwrap();
        fs_err::write(dir.path().join("b.0.part"), "y").unwrap();
        remove_abandoned(dir.path());
        let names =
            || fs_err::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(names().len(), 1);
        part.persist().unwrap();
        assert_eq!(names(), ["a"]);
        drop(PartFile::create(&dir.path().join("c")).unwrap());
        write_whole(&dir.path().join("a"), b"z").unwrap();
        assert_eq!(names(), ["a"]);
        assert_eq!(fs_err::read(dir.path().join("a")).unwrap(), b"z");
    }
}
