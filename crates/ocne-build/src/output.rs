//! A file that gets its name when it is whole.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::{FlockOperation, OFlags, flock, statvfs};
use rustix::process::geteuid;

use crate::error::BuildError;

/// How often a name is tried that other runs create and remove at the same time.
const ATTEMPTS: u32 = 16;

/// A file under a temporary name, `.NAME.part`, in the folder of its target.
///
/// The name is the same for every run, and a run holds a lock on the file while it works: one that finds the
/// file unlocked knows that it was left by a run that is no more, and takes it over. So nothing has to be
/// searched for and removed, and two runs cannot write the same target at once.
///
/// Dropping it removes the temporary file, unless it was committed.
#[derive(Debug)]
pub struct OutputFile {
    file: fs_err::File,
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl OutputFile {
    /// Opens the temporary file of a target, empty.
    ///
    /// A target that is a symbolic link stays one: what it points to is replaced.
    ///
    /// # Errors
    /// When the target is no regular file, its folder cannot be written, or another run writes it.
    pub fn create(target: &Path) -> Result<Self, BuildError> {
        let target = resolve(target)?;
        let folder = folder_of(&target).to_owned();
        let refused = |source: io::Error| BuildError::OutputFolder { folder: folder.clone(), source };
        let mut name = OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(".part");
        let temporary = folder.join(name);
        for _ in 0..ATTEMPTS {
            let file = fs_err::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false) // until the lock says that nobody uses it
                .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0))
                .open(&temporary)
                .map_err(refused)?;
            match flock(file.file(), FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(BuildError::OutputBusy { target }),
                Err(e) => return Err(refused(e.into())),
            }
            if take_over(&file, &temporary).map_err(refused)? {
                return Ok(Self { file, temporary, target, committed: false });
            }
        }
        Err(BuildError::OutputBusy { target })
    }

    /// The file, for reading and writing.
    pub fn file(&self) -> &fs_err::File {
        &self.file
    }

    /// Its present name.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// The name it will get.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Checks that the folder has room for a file of `needed_bytes`.
    ///
    /// # Errors
    /// When it has not.
    pub fn check_space(&self, needed_bytes: u64) -> Result<(), BuildError> {
        let folder = folder_of(&self.target);
        match available_bytes(folder) {
            Ok(available_bytes) if available_bytes < needed_bytes => {
                Err(BuildError::NoSpace { folder: folder.to_owned(), needed_bytes, available_bytes })
            }
            // A file system that does not say how full it is may still take the file.
            _ => Ok(()),
        }
    }

    /// The error of a write that failed: with the space that is left, when that is the reason.
    pub fn write_error(&self, needed_bytes: u64, source: io::Error) -> BuildError {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            let folder = folder_of(&self.target).to_owned();
            let written_bytes = self.file.metadata().map_or(0, |m| m.blocks().saturating_mul(512));
            let available_bytes = available_bytes(&folder).unwrap_or(0).saturating_add(written_bytes);
            return BuildError::NoSpace { folder, needed_bytes, available_bytes };
        }
        BuildError::Io { action: "write the output", source }
    }

    /// Writes all of a small file, and syncs it.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&self, content: &[u8]) -> Result<(), BuildError> {
        let written = self.file.file().write_all_at(content, 0).and_then(|()| self.file.sync_all());
        written.map_err(|e| self.write_error(content.len() as u64, e))
    }

    /// Gives the file, which was synced before, its name; an older file of the name is replaced.
    ///
    /// # Errors
    /// When the folder does not take the name.
    pub fn commit(mut self) -> Result<PathBuf, BuildError> {
        let folder = folder_of(&self.target).to_owned();
        let refused = |source: io::Error| BuildError::OutputFolder { folder: folder.clone(), source };
        fs_err::rename(&self.temporary, &self.target).map_err(refused)?;
        self.committed = true;
        // The new name has to be on the disk too; a folder that cannot be opened for that is no reason to fail.
        if let Ok(opened) = fs_err::File::open(&folder) {
            opened.sync_all().map_err(refused)?;
        }
        Ok(std::mem::take(&mut self.target))
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs_err::remove_file(&self.temporary);
        }
    }
}

/// Whether the locked file is the one that has the temporary name, and is ours alone. If it is, it is emptied.
fn take_over(file: &fs_err::File, temporary: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs_err::symlink_metadata(temporary) {
        // The run that had it gave it its final name, or removed it, before we got the lock.
        Ok(named) if (named.dev(), named.ino()) != (ours.dev(), ours.ino()) => return Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
        Ok(_) => {}
    }
    // A file with a second name, or of somebody else, was not made here, and is not emptied.
    if !ours.is_file() || ours.nlink() != 1 || ours.uid() != geteuid().as_raw() {
        fs_err::remove_file(temporary)?;
        return Ok(false);
    }
    file.set_len(0)?;
    Ok(true)
}

/// The file that a path names, which need not exist.
fn resolve(target: &Path) -> Result<PathBuf, BuildError> {
    match fs_err::metadata(target) {
        Ok(found) if !found.is_file() => Err(BuildError::OutputNotAFile { target: target.to_owned() }),
        Ok(_) if target.is_symlink() => fs_err::canonicalize(target)
            .map_err(|source| BuildError::Io { action: "follow the link that is the output", source }),
        _ => Ok(target.to_owned()),
    }
}

/// The folder of a file; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// What an ordinary user may still write in a folder.
pub(crate) fn available_bytes(folder: &Path) -> io::Result<u64> {
    let fs = statvfs(folder)?;
    Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("boot.oci");
        fs_err::write(&target, "old").unwrap();
        let output = OutputFile::create(&target).unwrap();
        output.file().file().write_all(b"new").unwrap();
        assert_eq!(fs_err::read(&target).unwrap(), b"old");
        drop(output);
        assert_eq!(fs_err::read(&target).unwrap(), b"old");
        let output = OutputFile::create(&target).unwrap();
        output.file().file().write_all(b"new").unwrap();
        assert_eq!(output.commit().unwrap(), target);
        assert_eq!(fs_err::read(&target).unwrap(), b"new");
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_run_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join(".boot.oci.part"), "half").unwrap();
        let output = OutputFile::create(&dir.path().join("boot.oci")).unwrap();
        assert_eq!(output.file().metadata().unwrap().len(), 0);
        output.commit().unwrap();
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_runs_do_not_write_the_same_output() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("boot.oci");
        let first = OutputFile::create(&target).unwrap();
        assert!(matches!(OutputFile::create(&target), Err(BuildError::OutputBusy { .. })));
        first.commit().unwrap();
        drop(OutputFile::create(&target).unwrap());
    }

    #[test]
    fn somebody_elses_file_is_not_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs_err::write(&precious, "keep").unwrap();
        fs_err::hard_link(&precious, dir.path().join(".boot.oci.part")).unwrap();
        drop(OutputFile::create(&dir.path().join("boot.oci")).unwrap());
        assert_eq!(fs_err::read(&precious).unwrap(), b"keep");
        fs_err::os::unix::fs::symlink(&precious, dir.path().join(".boot.oci.part")).unwrap();
        assert!(OutputFile::create(&dir.path().join("boot.oci")).is_err());
        assert_eq!(fs_err::read(&precious).unwrap(), b"keep");
    }

    #[test]
    fn a_link_stays_and_a_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs_err::write(&real, "old").unwrap();
        fs_err::os::unix::fs::symlink(&real, &link).unwrap();
        let output = OutputFile::create(&link).unwrap();
        output.file().file().write_all(b"new").unwrap();
        output.commit().unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs_err::read(&real).unwrap(), b"new");
        assert!(matches!(OutputFile::create(dir.path()), Err(BuildError::OutputNotAFile { .. })));
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = OutputFile::create(Path::new("/nowhere/at/all/boot.oci")).unwrap_err();
        assert_eq!(error.to_string(), "cannot write into the folder `/nowhere/at/all`");
    }

    #[test]
    fn more_than_there_is_does_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let output = OutputFile::create(&dir.path().join("boot.oci")).unwrap();
        output.check_space(1).unwrap();
        assert!(matches!(output.check_space(u64::MAX), Err(BuildError::NoSpace { .. })));
    }
}
