//! A temporary name beside the one that something shall have.
//!
//! It is the same for every run, and a run holds a lock on it while it works: one that finds it unlocked knows that it
//! was left by a run that is no more, and takes it over. So nothing has to be searched for, and two runs cannot write the
//! same target at once.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::File;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::FetchError;
use crate::part_file::try_lock;

/// How often a name is tried that other runs make and remove at the same time.
const ATTEMPTS: u32 = 16;

/// A file or a folder under a temporary name; removed when it is dropped before it got its own.
#[derive(Debug)]
pub(super) struct Claim {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    is_folder: bool,
    done: bool,
}

/// An output that the operating system does not let be written.
pub(super) fn failed(source: io::Error) -> FetchError {
    FetchError::Io { action: "write the image", source }
}

impl Claim {
    /// An empty file that shall once be `target`.
    pub fn file(target: &Path) -> Result<Self, FetchError> {
        Self::new(target, false)
    }

    /// An empty folder that shall once be `target`, or what is in it there.
    pub fn folder(target: &Path) -> Result<Self, FetchError> {
        Self::new(target, true)
    }

    fn new(target: &Path, is_folder: bool) -> Result<Self, FetchError> {
        // What a link points to is replaced, and not the link.
        let target = fs::canonicalize(target).or_else(|_| std::path::absolute(target)).map_err(failed)?;
        let Some(last) = target.file_name() else {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "the path has no last part")));
        };
        let mut name = OsString::from(".");
        name.push(last);
        name.push(if is_folder { ".part.d" } else { ".part" });
        let temporary = target.with_file_name(name);
        for _ in 0..ATTEMPTS {
            let file = open(&temporary, is_folder).map_err(failed)?;
            if !try_lock(&file).map_err(failed)? {
                return Err(FetchError::TargetBusy { target });
            }
            // Whoever had it may have given it its own name, or removed it, before we got the lock.
            let (ours, named) = (file.metadata().map_err(failed)?, fs::symlink_metadata(&temporary));
            if named.is_ok_and(|n| (n.dev(), n.ino()) == (ours.dev(), ours.ino())) {
                let claim = Self { file, temporary, target, is_folder, done: false };
                claim.clear().map_err(failed)?;
                return Ok(claim);
            }
        }
        Err(FetchError::TargetBusy { target })
    }

    /// Removes what is in it.
    fn clear(&self) -> io::Result<()> {
        if !self.is_folder {
            return self.file.set_len(0);
        }
        for entry in fs::read_dir(&self.temporary)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The file, for reading and writing.
    pub fn as_file(&self) -> &File {
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

    /// Gives it its name, in place of a file or folder that had it.
    pub fn persist(mut self) -> io::Result<()> {
        match fs::rename(&self.temporary, &self.target) {
            Err(e) if self.is_folder && e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                // What was there gets the temporary name at the same moment, and is removed when this is dropped.
                renameat_with(CWD, &self.temporary, CWD, &self.target, RenameFlags::EXCHANGE)?;
            }
            Err(e) => return Err(e),
            Ok(()) => self.done = true,
        }
        if let Some(folder) = self.target.parent()
            && let Ok(folder) = File::open(folder)
        {
            folder.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let _ = if self.is_folder {
            fs::remove_dir_all(&self.temporary)
        } else {
            fs::remove_file(&self.temporary)
        };
    }
}

fn open(path: &Path, is_folder: bool) -> io::Result<File> {
    if !is_folder {
        return fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => File::open(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        fs::create_dir(dir.path().join(".a.part.d")).unwrap();
        fs::write(dir.path().join(".a.part.d/x"), "x").unwrap();
        let claim = Claim::folder(&target).unwrap();
        assert!(matches!(Claim::folder(&target), Err(FetchError::TargetBusy { .. })));
        fs::write(claim.temporary().join("y"), "y").unwrap();
        claim.persist().unwrap();
        let names =
            |path: &Path| fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!((names(dir.path()), names(&target)), (vec!["a".into()], vec!["y".into()]));
        // In place of the other one; and nothing when it is given up.
        let claim = Claim::folder(&target).unwrap();
        fs::write(claim.temporary().join("z"), "z").unwrap();
        claim.persist().unwrap();
        assert_eq!((names(dir.path()), names(&target)), (vec!["a".into()], vec!["z".into()]));
        drop(Claim::folder(&target).unwrap());
        drop(Claim::file(&dir.path().join("b")).unwrap());
        assert_eq!(names(dir.path()), ["a"]);
    }
}
