//! What a killed run leaves for the next one: which upload, which import. A file of a few hundred bytes for each
//! upload, replaced as a whole, and removed when all is done.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use fs_err::File;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::source::{Digests, Identity};

/// The version of the file. One of another version is not read.
const SCHEMA: &str = "ocne.upload.journal/1";
/// Anything larger is no journal.
const MAX_BYTES: u64 = 64 << 10;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    schema: String,
    /// For people who look at it: the file and where it goes.
    pub file: String,
    pub destination: String,
    /// The file, as it was.
    pub identity: Option<Identity>,
    /// Its digests, so that a file that did not change is not read again.
    pub digests: Option<Digests>,
    /// The upload in parts.
    pub upload_id: Option<String>,
    /// Its part size.
    pub part_bytes: Option<u64>,
    /// An upload of this part size was about to begin: one without parts may be it.
    pub is_beginning: bool,
    /// The import.
    pub import: Option<Import>,
}

/// An import that was begun, or was about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Import {
    /// Digest of what was asked for; another wish is another import.
    pub wish: String,
    /// The same token within a day gives the same image again.
    pub retry_token: String,
    /// When it was made, in seconds since 1970.
    pub begun_seconds: u64,
    /// The work request, once the service has answered.
    pub work_request_id: Option<String>,
    /// Identifier of the URL that it reads the object by. Not the URL, which is a secret.
    #[serde(default)]
    pub read_url_id: Option<String>,
}

/// A journal, locked for this run.
#[derive(Debug)]
pub(crate) struct Journal {
    /// None when the state cannot be kept; the service still knows most of it.
    place: Option<Place>,
    pub state: State,
    /// Why the state is not kept, once.
    pub problem: Option<String>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Journal {
    /// Opens the journal of a file and a destination. None when another run holds it.
    pub fn open(state_dir: &Path, file: &Path, destination: &str) -> Option<Self> {
        let fresh = State {
            schema: SCHEMA.to_owned(),
            file: file.display().to_string(),
            destination: destination.to_owned(),
            ..State::default()
        };
        let unkept =
            |e: std::io::Error| Self { place: None, state: fresh.clone(), problem: Some(e.to_string()) };
        let folder = state_dir.join("uploads");
        if let Err(e) = fs_err::create_dir_all(&folder) {
            return Some(unkept(e));
        }
        let mut key = Sha256::new();
        key.update(file.as_os_str().as_encoded_bytes());
        key.update([0]);
        key.update(destination);
        let name = key.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let (path, lock_path) = (folder.join(format!("{name}.json")), folder.join(format!("{name}.lock")));
        let lock = match fs_err::OpenOptions::new().create(true).append(true).open(&lock_path) {
            Ok(lock) => lock,
            Err(e) => return Some(unkept(e)),
        };
        match flock(lock.file(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return None,
            // Some network file systems have no locks; two runs at once are only slower.
            Err(e) => tracing::debug!(error = %e, "the journal is not locked"),
        }
        let state = read(&path).filter(|state| state.schema == SCHEMA).unwrap_or(fresh);
        Some(Self { place: Some(Place { path, lock_path, _lock: lock }), state, problem: None })
    }

    /// Writes the state as a whole. A disk that does not take it is no reason to stop.
    pub fn save(&mut self) {
        let Some(place) = &self.place else { return };
        if let Err(e) = write(&place.path, &self.state) {
            self.problem = Some(e.to_string());
        }
    }

    /// Whether nothing is under way that it would be needed for.
    pub fn is_idle(&self) -> bool {
        self.state.upload_id.is_none() && self.state.import.is_none()
    }

    /// Forgets everything: all is done, or was dropped.
    pub fn remove(self) {
        if let Some(place) = &self.place {
            for path in [&place.path, &place.path.with_extension("new"), &place.lock_path] {
                let _ = fs_err::remove_file(path);
            }
        }
    }
}

fn read(path: &Path) -> Option<State> {
    if fs_err::metadata(path).ok()?.len() > MAX_BYTES {
        return None;
    }
    parse(&fs_err::read(path).ok()?)
}

/// Reads a journal; what is none is as good as absent, for the service knows what it has.
pub(crate) fn parse(bytes: &[u8]) -> Option<State> {
    serde_json::from_slice(bytes).ok()
}

fn write(path: &Path, state: &State) -> std::io::Result<()> {
    // The same name for every run, so that a killed one leaves nothing that has to be searched for; the lock makes it ours.
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec_pretty(state)?)?;
    file.sync_all()?;
    fs_err::rename(new, path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_saved_is_there_for_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Journal::open(dir.path(), Path::new("/a"), "d").unwrap();
        let mut journal = open();
        assert!(Journal::open(dir.path(), Path::new("/a"), "d").is_none(), "another run holds it");
        assert!(Journal::open(dir.path(), Path::new("/a"), "e").is_some(), "another destination");
        journal.state.upload_id = Some("u".to_owned());
        journal.save();
        drop(journal);
        let journal = open();
        assert_eq!(journal.state.upload_id.as_deref(), Some("u"));
        journal.remove();
        assert_eq!(open().state.upload_id, None);
        assert_eq!(fs_err::read_dir(dir.path().join("uploads")).unwrap().count(), 2, "the locks of two runs");
    }

    #[test]
    fn without_a_place_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("uploads"), "a file in the way").unwrap();
        let mut journal = Journal::open(dir.path(), Path::new("/a"), "d").unwrap();
        assert!(journal.problem.is_some());
        journal.save();
        journal.remove();
    }

    #[test]
    fn another_version_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), Path::new("/a"), "d").unwrap();
        journal.state.schema = "ocne.upload.journal/2".to_owned();
        journal.state.upload_id = Some("u".to_owned());
        journal.save();
        drop(journal);
        assert_eq!(Journal::open(dir.path(), Path::new("/a"), "d").unwrap().state.upload_id, None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }
    }
}
