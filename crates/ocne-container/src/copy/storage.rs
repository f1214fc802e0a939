//! The storage of podman, buildah and CRI-O, which is theirs alone: their own programs read and write it
//! (containers-transports(5), `containers-storage:`).

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt as _};
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
const READ: &str = "read the image in containers-storage";
const WRITE: &str = "write the image into containers-storage";

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
        match run("skopeo", &skopeo, READ).await {
            Err(FetchError::NoStorageProgram) => {
                let (options, name) = podman_options(image);
                let push = [&options[..], &["push", "--quiet", "--", name, &to]].concat();
                run("podman", &push, READ).await?;
            }
            result => drop(result?),
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
        match run("skopeo", &arguments, WRITE).await {
            // Of an index podman would take one image.
            Err(FetchError::NoStorageProgram) if !self.is_index => {
                let (options, name) = podman_options(&self.image);
                let podman = async |arguments: &[&str]| {
                    run("podman", &[&options[..], arguments].concat(), WRITE).await
                };
                let id = podman(&["pull", "--quiet", &from]).await?;
                podman(&["tag", "--", id.trim(), name]).await?;
            }
            result => drop(result?),
        }
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

/// Which storage an image is in, as options of podman, and its name there: `[DRIVER@ROOT+RUNROOT:OPTION,…]NAME`.
fn podman_options(image: &str) -> (Vec<&str>, &str) {
    let Some((storage, name)) = image.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
        return (Vec::new(), image);
    };
    let (storage, more) = storage.split_once(':').unwrap_or((storage, ""));
    let (driver, folders) = storage.split_once('@').unwrap_or(("", storage));
    let (root, run_root) = folders.split_once('+').unwrap_or((folders, ""));
    let parts = [("--storage-driver", driver), ("--root", root), ("--runroot", run_root)];
    let more = more.split(',').map(|option| ("--storage-opt", option));
    let all = parts.into_iter().chain(more).filter(|(_, value)| !value.is_empty());
    (all.flat_map(|(option, value)| [option, value]).collect(), name)
}

/// Runs a program to its end, and gives what it prints.
async fn run(program: &'static str, arguments: &[&str], action: &'static str) -> Result<String, FetchError> {
    let failed = |reason: String| FetchError::Program { program, action, reason };
    let spawned = Command::new(program)
        .args(arguments.iter().map(OsStr::new))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(FetchError::NoStorageProgram),
        other => other.map_err(|e| failed(e.to_string()))?,
    };
    let (printed, said) = tokio::join!(said(child.stdout.take()), said(child.stderr.take()));
    let status = child.wait().await.map_err(|e| failed(e.to_string()))?;
    if status.success() {
        return Ok(printed);
    }
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let last: String = last.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    Err(failed(format!("{status}: {last}")))
}

/// What a program says, up to a limit; the rest is read as well.
async fn said(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut said = Vec::new();
    if let Some(mut from) = from {
        let _ = (&mut from).take(SAID_MAX_BYTES).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_are_named_to_podman() {
        for (image, options, name) in [
            ("localhost/a:1", "", "localhost/a:1"),
            ("[vfs@/a+/b]c", "--storage-driver vfs --root /a --runroot /b", "c"),
            ("[/a]c:1", "--root /a", "c:1"),
            ("[/a+/b:x=1,y=2]c", "--root /a --runroot /b --storage-opt x=1 --storage-opt y=2", "c"),
            ("[overlay@]c", "--storage-driver overlay", "c"),
        ] {
            assert_eq!(podman_options(image), (options.split_whitespace().collect(), name), "{image}");
        }
    }
}
