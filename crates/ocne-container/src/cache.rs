//! Disks that were fetched before, by what they are made of.
//!
//! `disks/KEY.disk` is a disk, `disks/KEY.json` says what it is and what its BLAKE3 has to be, `disks/KEY.lock`
//! is held by the process that makes them. KEY is a digest of the digests of the layers and the path inside, so
//! that the same image is found again whichever way it comes. `documents/` has manifests and configurations
//! by digest and `references/` which of them a reference stood for; both are for work without a network.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err::{File, OpenOptions};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::FetchError;
use crate::layer::DiskSink;
use crate::manifest::MANIFEST_MAX_BYTES;
use crate::part_file::{PartFile, remove_abandoned, try_lock, write_whole};
use crate::platform::Platform;

/// Version of the records; those of another version are not used.
const RECORD_VERSION: u32 = 2;

/// A folder with fetched disks.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// What is known of a cached disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    version: u32,
    /// BLAKE3 of the disk, in hexadecimal digits. It is for this folder only, and costs a quarter of what SHA-256 does.
    pub disk_blake3: String,
    /// Size of the disk.
    pub size_bytes: u64,
    /// Digest of the layer that has it, as it was transferred.
    pub layer_digest: Digest,
    /// Digest of the image's manifest; of its configuration if it came without a manifest.
    pub manifest_digest: Digest,
    /// The reference that it was fetched as, in its full form.
    pub reference: String,
    /// Path of the disk in the image.
    pub disk_path: String,
    /// When it was fetched, in seconds since 1970.
    pub fetched_seconds: u64,
}

/// A cached disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// The file.
    pub path: PathBuf,
    /// What is known of it.
    pub record: CacheRecord,
    /// When it was fetched or asked for last.
    pub last_used: SystemTime,
}

/// What [`Cache::prune`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The disks that are gone.
    pub removed: Vec<CacheEntry>,
    /// The space that they took.
    pub freed_bytes: u64,
}

/// Which image's disk it is: the place of an entry in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheKey(Digest);

impl CacheKey {
    /// The key of the disk at `path` in an image of these layers.
    pub fn new(layers: impl Iterator<Item = Digest>, path: &str) -> Self {
        let mut text = String::new();
        for layer in layers {
            text.push_str(&layer.to_string());
            text.push('\n');
        }
        text.push_str(path);
        Self(Digest::of(text.as_bytes()))
    }
}

/// The right to make one entry; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct EntryLock {
    _file: File,
}

impl Cache {
    /// The cache in a folder, which need not be there yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn disks(&self) -> PathBuf {
        self.folder.join("disks")
    }

    fn disk_path(&self, key: CacheKey, extension: &str) -> PathBuf {
        self.disks().join(format!("{}.{extension}", key.0.hex()))
    }

    /// Makes the folders, and removes what killed processes left in them.
    pub(crate) fn prepare(&self) -> Result<(), FetchError> {
        for folder in ["disks", "documents", "references"].map(|name| self.folder.join(name)) {
            fs_err::create_dir_all(&folder).map_err(io_error("make the cache"))?;
            remove_abandoned(&folder);
        }
        Ok(())
    }

    /// The entry for a key, if it is whole. Its content is not looked at.
    pub(crate) fn find(&self, key: CacheKey) -> Option<CacheEntry> {
        let entry = Self::entry(&self.disk_path(key, "json"))?;
        // What was used now is pruned last; a cache that cannot be written is still one.
        if let Ok(file) = OpenOptions::new().append(true).open(self.disk_path(key, "json")) {
            let _ = file.file().set_modified(SystemTime::now());
        }
        Some(entry)
    }

    /// The entry with this record, if it is whole.
    fn entry(record_path: &Path) -> Option<CacheEntry> {
        let record: CacheRecord = read_json(record_path)?;
        let last_used = fs_err::metadata(record_path).ok()?.modified().ok()?;
        let path = record_path.with_extension("disk");
        let found = fs_err::metadata(&path).ok()?;
        let whole = record.version == RECORD_VERSION && found.is_file() && found.len() == record.size_bytes;
        whole.then_some(CacheEntry { path, record, last_used })
    }

    /// Takes the lock of an entry, if no other process has it.
    pub(crate) fn try_lock(&self, key: CacheKey) -> Result<Option<EntryLock>, FetchError> {
        let failed = io_error("lock the cache");
        let path = self.disk_path(key, "lock");
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(&failed)?;
        Ok(try_lock(&file).map_err(failed)?.then_some(EntryLock { _file: file }))
    }

    /// A file that may become the disk of an entry.
    pub(crate) fn new_disk(&self, key: CacheKey) -> NewDisk {
        NewDisk { target: self.disk_path(key, "disk"), writing: None }
    }

    /// Puts a disk into the cache.
    pub(crate) fn store(
        &self,
        _lock: &EntryLock,
        key: CacheKey,
        disk: WrittenDisk,
        mut record: CacheRecord,
    ) -> Result<CacheEntry, FetchError> {
        record.version = RECORD_VERSION;
        let record_path = self.disk_path(key, "json");
        disk.part.persist().map_err(io_error("put the disk into the cache"))?;
        write_json(&record_path, &record).map_err(io_error("put the disk into the cache"))?;
        let path = self.disk_path(key, "disk");
        Ok(CacheEntry { path, record, last_used: SystemTime::now() })
    }

    /// Forgets a disk that turned out to be damaged.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn discard(&self, disk: &Path) -> Result<(), FetchError> {
        remove(&disk.with_extension("json"))?;
        remove(disk)
    }

    /// All disks, the one used last first.
    ///
    /// # Errors
    /// When the folder is there, and cannot be read.
    pub fn list(&self) -> Result<Vec<CacheEntry>, FetchError> {
        let mut entries: Vec<CacheEntry> =
            paths(&self.disks())?.iter().filter_map(|path| Self::entry(path)).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.last_used));
        Ok(entries)
    }

    /// Removes all disks, or those that were not used for so long. What another process is about to fetch stays.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn prune(&self, unused_for: Option<Duration>) -> Result<Pruned, FetchError> {
        let mut pruned = Pruned::default();
        let now = SystemTime::now();
        for name in ["disks", "documents", "references"] {
            remove_abandoned(&self.folder.join(name));
        }
        for path in paths(&self.disks())? {
            let stem = path.file_stem().and_then(|s| s.to_str()).and_then(Digest::from_hex);
            let (Some(digest), Some("disk" | "json" | "lock")) =
                (stem, path.extension().and_then(|e| e.to_str()))
            else {
                continue;
            };
            let entry = Self::entry(&path.with_extension("json"));
            let used = entry.as_ref().map(|e| now.duration_since(e.last_used).unwrap_or_default());
            // What is no whole entry is of no use, however old it is.
            if let (Some(limit), Some(used)) = (unused_for, used)
                && used < limit
            {
                continue;
            }
            let Some(_lock) = self.try_lock(CacheKey(digest))? else { continue };
            for extension in ["json", "disk", "lock"] {
                remove(&path.with_extension(extension))?;
            }
            pruned.freed_bytes += entry.as_ref().map_or(0, |e| e.record.size_bytes);
            pruned.removed.extend(entry);
        }
        if unused_for.is_none() {
            for name in ["documents", "references"] {
                for path in paths(&self.folder.join(name))? {
                    remove(&path)?;
                }
            }
        }
        Ok(pruned)
    }

    /// Keeps a manifest or a configuration for work without a network.
    pub(crate) fn keep_document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), FetchError> {
        let path = self.folder.join("documents").join(digest.hex());
        if path.exists() {
            return Ok(());
        }
        write_whole(&path, bytes).map_err(io_error("keep a manifest in the cache"))
    }

    /// A manifest or a configuration that was kept.
    pub(crate) fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        let bytes = read_small(&self.folder.join("documents").join(digest.hex()))?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    fn reference_path(&self, reference: &str, platform: &Platform) -> PathBuf {
        let name = Digest::of(format!("{reference}\n{platform}").as_bytes()).hex();
        self.folder.join("references").join(format!("{name}.json"))
    }

    /// Keeps which manifest a reference stands for.
    pub(crate) fn keep_reference(
        &self,
        reference: &str,
        platform: &Platform,
        manifest: &Digest,
    ) -> Result<(), FetchError> {
        let record = ReferenceRecord {
            version: RECORD_VERSION,
            reference: reference.to_owned(),
            platform: platform.clone(),
            manifest_digest: *manifest,
            seen_seconds: now_seconds(),
        };
        write_json(&self.reference_path(reference, platform), &record)
            .map_err(io_error("keep a reference in the cache"))
    }

    /// The manifest that a reference stood for.
    pub(crate) fn reference(&self, reference: &str, platform: &Platform) -> Option<Digest> {
        let record: ReferenceRecord = read_json(&self.reference_path(reference, platform))?;
        let same =
            record.version == RECORD_VERSION && record.reference == reference && record.platform == *platform;
        same.then_some(record.manifest_digest)
    }
}

#[derive(Serialize, Deserialize)]
struct ReferenceRecord {
    version: u32,
    reference: String,
    platform: Platform,
    manifest_digest: Digest,
    seen_seconds: u64,
}

impl CacheRecord {
    /// What is known of a disk that was fetched now.
    pub(crate) fn new(
        disk: &WrittenDisk,
        layer_digest: Digest,
        manifest_digest: Digest,
        reference: String,
        disk_path: String,
    ) -> Self {
        Self {
            version: RECORD_VERSION,
            disk_blake3: disk.blake3.to_hex().to_string(),
            size_bytes: disk.size_bytes,
            layer_digest,
            manifest_digest,
            reference,
            disk_path,
            fetched_seconds: now_seconds(),
        }
    }
}

/// Writes a disk into the cache's folder, under a temporary name.
#[derive(Debug)]
pub(crate) struct NewDisk {
    target: PathBuf,
    writing: Option<Writing>,
}

#[derive(Debug)]
struct Writing {
    part: PartFile,
    hasher: blake3::Hasher,
    size_bytes: u64,
}

/// A whole disk that has only a temporary name.
#[derive(Debug)]
pub(crate) struct WrittenDisk {
    part: PartFile,
    pub blake3: blake3::Hash,
    pub size_bytes: u64,
}

impl NewDisk {
    fn folder(&self) -> &Path {
        self.target.parent().unwrap_or(&self.target)
    }

    fn failed(&self, needed_bytes: u64, source: io::Error) -> FetchError {
        let full = [Errno::NOSPC, Errno::DQUOT].map(|e| Some(e.raw_os_error()));
        if full.contains(&source.raw_os_error()) || source.kind() == io::ErrorKind::StorageFull {
            let (folder, available_bytes) = (self.folder().to_owned(), available_bytes(self.folder()));
            return FetchError::NoSpace {
                folder,
                needed_bytes,
                available_bytes: available_bytes.unwrap_or(0),
            };
        }
        FetchError::Io { action: "write the disk into the cache", source }
    }
}

impl DiskSink for NewDisk {
    type Disk = WrittenDisk;

    fn begin(&mut self, size_bytes: u64) -> Result<(), FetchError> {
        self.writing = None;
        // Said before a gigabyte is written; where it is not known, writing will tell.
        if let Some(available_bytes) = available_bytes(self.folder())
            && available_bytes < size_bytes
        {
            let folder = self.folder().to_owned();
            return Err(FetchError::NoSpace { folder, needed_bytes: size_bytes, available_bytes });
        }
        let part = PartFile::create(&self.target).map_err(|e| self.failed(size_bytes, e))?;
        self.writing = Some(Writing { part, hasher: blake3::Hasher::new(), size_bytes });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        writing.hasher.update(bytes);
        let size_bytes = writing.size_bytes;
        writing.part.write(bytes).map_err(|e| self.failed(size_bytes, e))
    }

    fn end(&mut self) -> Result<WrittenDisk, FetchError> {
        match self.writing.take() {
            Some(Writing { part, hasher, size_bytes }) => {
                Ok(WrittenDisk { part, blake3: hasher.finalize(), size_bytes })
            }
            None => Err(FetchError::Io {
                action: "write the disk into the cache",
                source: io::ErrorKind::InvalidInput.into(),
            }),
        }
    }
}

/// BLAKE3 of a file in hexadecimal digits.
pub(crate) fn blake3_of_file(path: &Path, cancel: &Arc<AtomicBool>) -> Result<String, FetchError> {
    use std::io::Read as _;
    let failed = io_error("read the cached disk");
    let mut file = File::open(path).map_err(&failed)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(FetchError::Interrupted);
        }
        match file.read(&mut buffer).map_err(&failed)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            count => _ = hasher.update(&buffer[..count]),
        }
    }
}

/// What an ordinary user may write into a folder, if the system tells.
fn available_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn io_error(action: &'static str) -> impl Fn(io::Error) -> FetchError {
    move |source| FetchError::Io { action, source }
}

fn write_json(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    write_whole(path, &text)
}

/// A small file, or nothing if it is missing or not small.
fn read_small(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MANIFEST_MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MANIFEST_MAX_BYTES).then_some(bytes)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    if path.extension().is_none_or(|e| e != "json") {
        return None;
    }
    serde_json::from_slice(&read_small(path)?).ok()
}

/// All that is in a folder; nothing if there is none.
fn paths(folder: &Path) -> Result<Vec<PathBuf>, FetchError> {
    let failed = io_error("read the cache");
    match fs_err::read_dir(folder) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path()).map_err(&failed)).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(e)),
    }
}

fn remove(path: &Path) -> Result<(), FetchError> {
    match fs_err::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove from the cache")(e)),
        _ => Ok(()),
    }
}
