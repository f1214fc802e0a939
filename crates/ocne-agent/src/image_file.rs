//! The image file that a client sends whole, kept in the scratch folder from one session to the next.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fs_err as fs;
use ocne_transfer::CODE_AGAIN;
use ocne_transfer::messages::Failure;

/// How long a session waits for one whose connection was lost, and that has not noticed yet.
const PATIENCE: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(100);

/// The image file, or as much of it as is there. No other session has it open.
#[derive(Debug)]
pub struct ImageFile {
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading and writing.
    pub file: fs::File,
    _lock: fs::File,
}

impl ImageFile {
    /// Opens the file that has this key in the scratch folder. One with another key is forgotten.
    pub fn open(scratch: &Path, key: &str) -> Result<Self, Failure> {
        let io = unusable;
        let path_of = |name| scratch.join(name);
        let lock = lock(scratch)?;
        let path = path_of("image.qcow2");
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        if fs::read_to_string(path_of("image.key")).ok().as_deref() != Some(key) {
            // In this order: a part of one image never gets the key of another.
            file.set_len(0).map_err(io)?;
            fs::write(path_of("image.key"), key).map_err(io)?;
        }
        Ok(Self { path, file, _lock: lock })
    }
}

/// Waits until no other session uses what is kept in the scratch folder.
pub fn lock(scratch: &Path) -> Result<fs::File, Failure> {
    let lock = fs::File::create(scratch.join("image.lock")).map_err(unusable)?;
    let begun = Instant::now();
    while let Err(e) = lock.file().try_lock() {
        match e {
            TryLockError::WouldBlock if begun.elapsed() < PATIENCE => thread::sleep(TICK),
            TryLockError::WouldBlock => {
                return Err(failure(CODE_AGAIN, "another session has the image open".to_owned()));
            }
            TryLockError::Error(e) => return Err(unusable(e)),
        }
    }
    Ok(lock)
}

/// Why nothing can be kept.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub fn unusable(error: std::io::Error) -> Failure {
    failure("scratch", format!("cannot use the scratch folder: {error}"))
}

fn failure(code: &str, message: String) -> Failure {
    Failure { code: code.to_owned(), message, hint: None }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn a_part_is_kept_for_its_own_image_only() {
        let dir = tempfile::tempdir().unwrap();
        let open = |key| ImageFile::open(dir.path(), key).unwrap();
        open("a").file.write_all(b"part").unwrap();
        let mut again = open("a");
        let mut content = Vec::new();
        again.file.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"part");
        drop(again);
        assert_eq!(open("b").file.seek(std::io::SeekFrom::End(0)).unwrap(), 0);
    }
}
