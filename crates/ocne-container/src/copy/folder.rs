//! Images in folders: the OCI image layout, and what `skopeo copy` writes to `dir:`.

use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fs_err as fs;
use fs_err::File;
use serde::Serialize;

use super::claim::{Claim, failed};
use super::content::{Blob, Content};
use crate::digest::Digest;
use crate::error::FetchError;
use crate::manifest::MANIFEST_MAX_BYTES;

/// The file `version` of a `dir:` image.
const DIR_VERSION: &str = "Directory Transport Version: 1.1\n";
/// The file `oci-layout` of an OCI image layout.
pub(super) const OCI_LAYOUT: &str = r#"{"imageLayoutVersion": "1.0.0"}"#;
/// The name of an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// How many files are synced at once.
const SYNCS: usize = 4;

/// Which form a folder has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// An OCI image layout, and the name of the image in it.
    Layout(Option<String>),
    /// One image of `dir:`.
    Directory,
}

/// A folder that an image is written into.
#[derive(Debug)]
pub(super) struct Folder {
    claim: Claim,
    form: Form,
    /// The folder is a layout already, which gets one more image.
    grows: bool,
    /// What was written and is not synced yet.
    written: Mutex<Vec<File>>,
}

impl Folder {
    /// Begins an image. A folder with something else in it is refused.
    pub fn create(path: &Path, form: Form) -> Result<Self, FetchError> {
        let claim = Claim::folder(path)?;
        let target = claim.target();
        let has = |name: &str| fs::symlink_metadata(target.join(name)).is_ok();
        let grows = matches!(form, Form::Layout(_)) && has("oci-layout") && has("index.json");
        let replaces = form == Form::Directory
            && fs::read(target.join("version")).is_ok_and(|v| v.starts_with(b"Directory Transport Version:"));
        if !grows && !replaces {
            match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
                Ok(true) => {}
                Ok(false) => return Err(FetchError::TargetInUse { target: target.to_owned() }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        if matches!(form, Form::Layout(_)) {
            fs::create_dir_all(claim.temporary().join("blobs/sha256")).map_err(failed)?;
        }
        Ok(Self { claim, form, grows, written: Mutex::default() })
    }

    fn name(&self, digest: &Digest) -> PathBuf {
        match self.form {
            Form::Layout(_) => Path::new("blobs/sha256").join(digest.hex()),
            Form::Directory => PathBuf::from(digest.hex()),
        }
    }

    /// Whether a blob is there already, from another image.
    pub fn has(&self, blob: &Blob) -> bool {
        let there = fs::symlink_metadata(self.claim.target().join(self.name(&blob.digest)));
        self.grows && there.is_ok_and(|m| m.is_file() && m.len() == blob.size_bytes)
    }

    /// A new file for a blob.
    pub fn begin(&self, blob: &Blob) -> Result<File, FetchError> {
        let file = File::create(self.claim.temporary().join(self.name(&blob.digest))).map_err(failed)?;
        let again = file.try_clone().map_err(failed)?;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(again);
        Ok(file)
    }

    /// Has the disk have all blobs. Several at once: the disk has most of it already.
    fn sync(&self) -> Result<(), FetchError> {
        let files = std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner));
        let share = files.len().div_ceil(SYNCS).max(1);
        std::thread::scope(|scope| {
            let sync = |files: &[File]| files.iter().try_for_each(File::sync_data);
            let syncing: Vec<_> = files.chunks(share).map(|files| scope.spawn(move || sync(files))).collect();
            syncing.into_iter().try_for_each(|s| s.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
        .map_err(failed)
    }

    fn write(&self, name: &Path, bytes: &[u8]) -> Result<(), FetchError> {
        let path = self.claim.temporary().join(name);
        let file = File::create(&path).map_err(failed)?;
        io::Write::write_all(&mut &file, bytes).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Writes what describes the image, and has all of it appear at once.
    pub fn finish(self, content: &Content) -> Result<Digest, FetchError> {
        let Some((root, others)) = content.manifests.split_last() else { return Ok(content.digest()) };
        self.sync()?;
        match &self.form {
            Form::Directory => {
                for manifest in others {
                    let name = format!("{}.manifest.json", manifest.digest().hex());
                    self.write(Path::new(&name), &manifest.bytes)?;
                }
                self.write(Path::new("manifest.json"), &root.bytes)?;
                self.write(Path::new("version"), DIR_VERSION.as_bytes())?;
            }
            Form::Layout(name) => {
                for manifest in &content.manifests {
                    self.write(&self.name(&manifest.digest()), &manifest.bytes)?;
                }
                let index = index(content, name.as_deref(), self.present_index()?)?;
                self.write(Path::new("index.json"), &index)?;
                self.write(Path::new("oci-layout"), OCI_LAYOUT.as_bytes())?;
            }
        }
        if self.grows {
            return self.grow(root.digest());
        }
        self.claim.persist().map_err(failed)?;
        Ok(root.digest())
    }

    /// The index of the layout that is there.
    fn present_index(&self) -> Result<Option<Vec<u8>>, FetchError> {
        let path = self.claim.target().join("index.json");
        if !self.grows {
            return Ok(None);
        }
        let size_bytes = fs::metadata(&path).map_err(failed)?.len();
        if size_bytes > MANIFEST_MAX_BYTES {
            let (name, limit_bytes) = (path.display().to_string(), MANIFEST_MAX_BYTES);
            return Err(FetchError::TooLarge { name, size_bytes, limit_bytes });
        }
        fs::read(&path).map(Some).map_err(failed)
    }

    /// Moves the blobs into the layout, and then its new index, which makes them count.
    fn grow(self, digest: Digest) -> Result<Digest, FetchError> {
        let (from, to) = (self.claim.temporary(), self.claim.target());
        let blobs = to.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(failed)?;
        for entry in fs::read_dir(from.join("blobs/sha256")).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            fs::rename(entry.path(), blobs.join(entry.file_name())).map_err(failed)?;
        }
        fs::rename(from.join("index.json"), to.join("index.json")).map_err(failed)?;
        Ok(digest)
    }
}

/// An entry of `index.json`, in the order in which skopeo writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    media_type: &'a str,
    digest: Digest,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<serde_json::Value>,
}

/// The `index.json` of a layout: what was in it, and the image. One of the same name, or without one the same image, is replaced.
pub(super) fn index(
    content: &Content,
    name: Option<&str>,
    present: Option<Vec<u8>>,
) -> Result<Vec<u8>, FetchError> {
    let Some(root) = content.manifests.last() else { return Ok(Vec::new()) };
    let digest = root.digest();
    let entry = Entry {
        media_type: &root.media_type,
        digest,
        size: root.bytes.len(),
        annotations: name.map(|name| serde_json::json!({ REF_NAME: name })),
    };
    let entry = serde_json::to_string(&entry).unwrap_or_default();
    let Some(present) = present else {
        return Ok(format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#).into_bytes());
    };
    let damaged = |source: serde_json::Error| FetchError::Manifest {
        what: "the file `index.json`".to_owned(),
        location: "the layout that the image goes to".to_owned(),
        source: source.into(),
    };
    let mut index: serde_json::Value = serde_json::from_slice(&present).map_err(damaged)?;
    let entry: serde_json::Value = serde_json::from_str(&entry).map_err(damaged)?;
    let mut all: Vec<serde_json::Value> =
        serde_json::from_value(index["manifests"].take()).map_err(damaged)?;
    all.retain(|old| match (old["annotations"][REF_NAME].as_str(), name) {
        (None, None) => old["digest"] != entry["digest"],
        (old, new) => old != new,
    });
    all.push(entry);
    index["manifests"] = all.into();
    Ok(index.to_string().into_bytes())
}
