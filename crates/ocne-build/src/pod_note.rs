//! The note of a build's pod, for the next run of the build if this one is killed.
//!
//! It lies beside the output's temporary file, whose lock says that no other run uses either: so who finds a note knows
//! that its run is no more. The pod in it is gone on with when it is of use, and removed when it is not.

use std::fmt::Debug;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::OFlags;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::copy::hex;
use crate::output::OutputFile;

/// Version of the note's form.
const VERSION: u32 = 1;
/// A note is smaller than that.
const NOTE_BYTES_MAX: u64 = 4 << 10;

/// Where the pod of a former run is, and what it was for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotedPod {
    version: u32,
    /// The API server.
    pub server: String,
    /// Its namespace.
    pub namespace: String,
    /// The Job it belongs to.
    pub job: String,
    /// Digest of what the pod is for: see [`PodNote::purpose`].
    pub purpose: String,
}

/// The note of one output. It stays until [`PodNote::remove`].
#[derive(Debug, Clone)]
pub(crate) struct PodNote {
    path: PathBuf,
}

impl PodNote {
    /// The note that belongs to an output.
    pub fn of(output: &OutputFile) -> Self {
        Self { path: output.temporary().with_extension("pod") }
    }

    /// Digest of all that makes a pod of use to another run.
    pub fn purpose(parts: &impl Debug) -> String {
        hex(&Sha256::digest(format!("{} {parts:?}", env!("CARGO_PKG_VERSION"))))
    }

    /// The pod of a former run, if there is a note of one. A file of somebody else is no note.
    pub fn read(&self) -> Option<NotedPod> {
        let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let file = fs_err::OpenOptions::new().read(true).custom_flags(nofollow).open(&self.path).ok()?;
        let found = file.metadata().ok()?;
        if !found.is_file() || found.uid() != geteuid().as_raw() {
            return None;
        }
        let mut text = Vec::new();
        file.take(NOTE_BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok().filter(|pod: &NotedPod| pod.version == VERSION)
    }

    /// Notes a pod.
    ///
    /// # Errors
    /// When the folder does not take it.
    pub fn write(&self, server: &str, namespace: &str, job: &str, purpose: &str) -> io::Result<()> {
        let [server, namespace, job, purpose] = [server, namespace, job, purpose].map(ToOwned::to_owned);
        let pod = NotedPod { version: VERSION, server, namespace, job, purpose };
        // Nobody else has the output's lock. Half a note is none.
        self.remove();
        fs_err::File::create_new(&self.path)?.write_all(&serde_json::to_vec(&pod)?)
    }

    /// Forgets the pod.
    pub fn remove(&self) {
        let _ = fs_err::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_noted_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let output = OutputFile::create(&dir.path().join("a.oci")).unwrap();
        let note = PodNote::of(&output);
        assert_eq!(note.read(), None);
        let purpose = PodNote::purpose(&("image", 5));
        note.write("https://here", "ns", "job", &purpose).unwrap();
        let noted = note.read().unwrap();
        assert_eq!((noted.server.as_str(), noted.job.as_str()), ("https://here", "job"));
        assert!(noted.purpose == purpose && purpose != PodNote::purpose(&("image", 6)));
        // What is not as it was written is no note.
        fs_err::write(&note.path, "{").unwrap();
        assert_eq!(note.read(), None);
        note.write("https://here", "ns", "job", &purpose).unwrap();
        fs_err::rename(&note.path, dir.path().join("other")).unwrap();
        std::os::unix::fs::symlink("other", &note.path).unwrap();
        assert_eq!(note.read(), None);
        note.remove();
        assert!(!note.path.is_symlink());
        // Nothing of ours is left when the output goes.
        fs_err::remove_file(dir.path().join("other")).unwrap();
        drop(output);
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 0);
    }
}
