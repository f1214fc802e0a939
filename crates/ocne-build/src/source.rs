//! The boot image that a build starts from, as a local file.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use fs_err::File;
use ocne_container::{Delegation, FetchError, FetchEvent, Fetcher, Located, Platform};
use tracing::debug;

use crate::error::BuildError;
use crate::event::{Event, Events, Stage};
use crate::request::Source;

/// A boot image as a local file, open for reading.
#[derive(Debug)]
pub(crate) struct BootSource {
    pub path: PathBuf,
    pub file: File,
    /// As asked for.
    pub reference: String,
    /// Digest of the container image.
    pub manifest_digest: Option<String>,
    /// What the file's BLAKE3 has to be, where that is known.
    pub blake3: Option<String>,
    /// The BLAKE3 was computed in this run.
    pub verified_now: bool,
}

/// What changes when somebody writes to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub size_bytes: u64,
    device: u64,
    inode: u64,
    modified: Option<SystemTime>,
}

impl BootSource {
    /// Size, place and time of the file.
    pub fn identity(&self) -> Result<Identity, BuildError> {
        let found =
            self.file.metadata().map_err(|source| BuildError::Io { action: "look at the source", source })?;
        Ok(Identity {
            size_bytes: found.len(),
            device: found.dev(),
            inode: found.ino(),
            modified: found.modified().ok(),
        })
    }

    /// Tells the file from others.
    pub fn key(&self) -> Result<String, BuildError> {
        if let Some(blake3) = &self.blake3 {
            return Ok(blake3.clone());
        }
        let Identity { size_bytes, device, inode, modified } = self.identity()?;
        let since = modified.and_then(|m| m.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
        Ok(format!("{device}-{inode}-{size_bytes}-{}", since.as_nanos()))
    }

    /// Whether the file still has to prove that it is what was fetched.
    pub fn unverified(&self) -> bool {
        self.blake3.is_some() && !self.verified_now
    }
}

/// A boot image that is there as a local file.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Where it is.
    pub path: PathBuf,
    /// What it was asked for as.
    pub reference: String,
}

/// Gets the boot image of a source, unless it is there already.
///
/// # Errors
/// When it cannot be fetched, or `cancel` was set.
pub fn fetch(source: &Source, events: Events<'_>, cancel: &Arc<AtomicBool>) -> Result<Fetched, BuildError> {
    let started = Instant::now();
    events(Event::Begin { stage: Stage::Fetch, total_bytes: None });
    let found = obtain(source, events, cancel)?;
    events(Event::End { stage: Stage::Fetch, elapsed: started.elapsed(), bytes: None });
    Ok(Fetched { path: found.path, reference: found.reference })
}

/// Opens a source; a container image is fetched before, unless it was already.
pub(crate) fn obtain(
    source: &Source,
    events: Events<'_>,
    cancel: &Arc<AtomicBool>,
) -> Result<BootSource, BuildError> {
    let open =
        |path: &Path| File::open(path).map_err(|source| BuildError::Io { action: "open the source", source });
    match source {
        Source::File { path, .. } => Ok(BootSource {
            path: path.clone(),
            file: open(path)?,
            reference: path.display().to_string(),
            manifest_digest: None,
            blake3: None,
            verified_now: false,
        }),
        Source::Image { reference, architecture, disk_path, fetch } => {
            let fetcher = Fetcher::new((**fetch).clone())?;
            let platform = Platform::linux(architecture.name());
            let disk = block_on(fetcher.disk(
                reference,
                &platform,
                disk_path,
                &|event| tell(&event, events),
                cancel,
            ))??;
            Ok(BootSource {
                file: open(&disk.path)?,
                path: disk.path,
                reference: disk.reference,
                manifest_digest: Some(disk.manifest_digest),
                blake3: Some(disk.disk_blake3),
                verified_now: disk.verified_now,
            })
        }
    }
}

/// Forgets a cached image that turned out to be damaged.
pub(crate) fn discard(source: &Source, path: &Path) -> Result<(), BuildError> {
    if let Source::Image { fetch, .. } = source {
        Fetcher::new((**fetch).clone())?.cache().discard(path)?;
    }
    Ok(())
}

/// What a pod needs to fetch a container image in place of this machine.
pub(crate) fn delegate(source: &Source) -> Result<Delegation, BuildError> {
    match source {
        Source::File { path, .. } => {
            Err(FetchError::NotInARegistry { reference: path.display().to_string() }.into())
        }
        Source::Image { reference, architecture, disk_path, fetch } => {
            let fetcher = Fetcher::new((**fetch).clone())?;
            let platform = Platform::linux(architecture.name());
            Ok(block_on(fetcher.delegation(reference, &platform, disk_path))??)
        }
    }
}

/// Finds out what fetching a container image would do; only its manifest is read.
pub(crate) fn look_up(source: &Source) -> Result<Option<Located>, BuildError> {
    let Source::Image { reference, architecture, disk_path, fetch } = source else { return Ok(None) };
    let fetcher = Fetcher::new((**fetch).clone())?;
    let platform = Platform::linux(architecture.name());
    let cancel = Arc::default();
    Ok(Some(block_on(fetcher.locate(reference, &platform, disk_path, &|_| {}, &cancel))??))
}

/// Runs what waits for the network. All that computes has threads of its own.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output, BuildError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| BuildError::Io { action: "start the network", source })?;
    Ok(runtime.block_on(future))
}

fn tell(event: &FetchEvent, events: Events<'_>) {
    let stage = Stage::Fetch;
    match event {
        FetchEvent::LayerStart { size_bytes, .. } => {
            events(Event::Begin { stage, total_bytes: Some(*size_bytes) });
        }
        FetchEvent::Progress { done_bytes, .. } => events(Event::Bytes { stage, done_bytes: *done_bytes }),
        FetchEvent::Waiting => {
            events(Event::Note("Another run is fetching the same image; waiting for it".to_owned()));
        }
        FetchEvent::CacheHit { .. } => events(Event::Note("The image is in the cache".to_owned())),
        FetchEvent::Retry { attempt, wait, reason } => events(Event::Warning(format!(
            "{reason}; trying again in {:.1} s (attempt {attempt})",
            wait.as_secs_f64()
        ))),
        event => debug!(?event, "fetching"),
    }
}
