//! The storage of podman, buildah and CRI-O, which is theirs alone: their own programs read and write it
//! (containers-transports(5), `containers-storage:`).

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::claim::Claim;
use super::content::Content;
use super::folder::{Folder, Form};
use crate::digest::Digest;
use crate::error::FetchError;

/// What is read at most of what a program says.
const SAID_MAX_BYTES: u64 = 16 << 10;
/// How many copies may be under way at once.
const RUNS_MAX: u32 = 100;

/// An image that a program brought out of the storage; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct StoredImage {
    work: Claim,
}

impl StoredImage {
    /// Brings an image out of the storage, as a folder of `dir:`.
    pub async fn export(image: &str, cache_dir: &Path) -> Result<Self, FetchError> {
        let work = work_folder(cache_dir)?;
        let folder = work.temporary().join("image");
        let to = format!("dir:{}", folder.display());
        let from = format!("containers-storage:{image}");
        let skopeo = ["copy", "--quiet", from.as_str(), to.as_str()];
        match run("skopeo", &skopeo, "read the image in containers-storage").await {
            Err(FetchError::NoStorageProgram) => {
                run("podman", &["push", "--quiet", image, &to], "read the image in containers-storage")
                    .await?;
            }
            result => result?,
        }
        Ok(Self { work })
    }

    /// The folder.
    pub fn folder(&self) -> std::path::PathBuf {
        self.work.temporary().join("image")
    }
}

/// An image on its way into the storage.
#[derive(Debug)]
pub(super) struct StorageTarget {
    pub folder: Folder,
    work: Claim,
    image: String,
    is_index: bool,
}

impl StorageTarget {
    pub fn create(image: &str, cache_dir: &Path, content: &Content) -> Result<Self, FetchError> {
        let work = work_folder(cache_dir)?;
        let folder = Folder::create(&work.temporary().join("image"), Form::Directory)?;
        Ok(Self { folder, work, image: image.to_owned(), is_index: content.single.is_none() })
    }

    /// Has a program take the image into the storage.
    pub async fn finish(self, content: &Content) -> Result<Digest, FetchError> {
        let digest = self.folder.finish(content)?;
        let from = format!("dir:{}", self.work.temporary().join("image").display());
        let to = format!("containers-storage:{}", self.image);
        let mut arguments = vec!["copy", "--quiet"];
        if self.is_index {
            arguments.push("--all");
        }
        arguments.extend([from.as_str(), to.as_str()]);
        run("skopeo", &arguments, "write the image into containers-storage").await?;
        Ok(digest)
    }
}

/// A folder that nobody else uses now.
fn work_folder(cache_dir: &Path) -> Result<Claim, FetchError> {
    let mut number = 0;
    loop {
        match Claim::folder(&cache_dir.join(format!("storage-{number}"))) {
            Err(FetchError::TargetBusy { .. }) if number < RUNS_MAX => number += 1,
            result => return result,
        }
    }
}

/// Runs a program to its end.
async fn run(program: &'static str, arguments: &[&str], action: &'static str) -> Result<(), FetchError> {
    let failed = |reason: String| FetchError::Program { program, action, reason };
    let spawned = Command::new(program)
        .args(arguments.iter().map(OsStr::new))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(FetchError::NoStorageProgram),
        other => other.map_err(|e| failed(e.to_string()))?,
    };
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = (&mut stderr).take(SAID_MAX_BYTES).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    }
    let status = child.wait().await.map_err(|e| failed(e.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let last: String = last.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    Err(failed(format!("{status}: {last}")))
}
