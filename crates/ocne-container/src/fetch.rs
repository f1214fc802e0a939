//! Fetching a disk: resolve, look into the cache, or else take the layers apart.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cache::{
    Cache, CacheEntry, CacheKey, CacheRecord, EntryLock, NewDisk, WrittenDisk, blake3_of_file,
};
use crate::credentials::Credentials;
use crate::delegation::Delegation;
use crate::digest::Digest;
use crate::error::FetchError;
use crate::event::{Events, FetchEvent};
use crate::http::NetworkOptions;
use crate::layer::{Found, LayerError, PathInImage, SearchError};
use crate::pipeline::{self, Feed, Pipeline};
use crate::platform::Platform;
use crate::reference::ImageReference;
use crate::resolve::{Layer, ResolvedImage, Resolver};
use crate::transport::{FilePart, LayerPlace, Transport};

/// How often a fetch looks whether it shall end, and tells how far it is.
const TICK: Duration = Duration::from_millis(50);
/// How often a layer is transferred that arrives changed.
const TRANSFERS_MAX: u32 = 2;
/// How many links may lead to the disk.
const LINKS_MAX: u32 = 8;

/// How images are fetched, and where they are kept.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// Folder of the cache; made if it is missing.
    pub cache_dir: PathBuf,
    /// What proves to every registry who is asking, in place of what files of credentials say.
    pub credentials: Option<Credentials>,
    /// File with credentials, as podman and docker write them. Otherwise the usual ones are looked at.
    pub authfile: Option<PathBuf>,
    /// Certificate authorities to trust besides the system's, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Registries, as `HOST` or `HOST:PORT`, that may be spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// Decided elsewhere: its credentials and authorities, and nothing of this machine.
    pub delegated: Option<Delegation>,
    /// Use no network.
    pub offline: bool,
    /// Proxies, time-outs and attempts.
    pub network: NetworkOptions,
}

/// Fetches disks out of container images.
#[derive(Debug)]
pub struct Fetcher {
    options: FetchOptions,
    cache: Cache,
}

/// A disk as a local file in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedDisk {
    /// The file. It is not to be written to.
    pub path: PathBuf,
    /// What its BLAKE3 has to be, in hexadecimal digits.
    pub disk_blake3: String,
    /// Its size.
    pub size_bytes: u64,
    /// Digest of the manifest; of the configuration for a `docker-archive`, which has no manifest.
    pub manifest_digest: String,
    /// Digest of the layer that has it.
    pub layer_digest: String,
    /// The architecture that the image was chosen for.
    pub architecture: String,
    /// The reference in its full form.
    pub reference: String,
    /// It was in the cache.
    pub from_cache: bool,
    /// Its BLAKE3 was computed while it was written in this run. Otherwise whoever reads it has to compute it, and
    /// to [`Cache::discard`] the disk and fetch it again if it differs.
    pub verified_now: bool,
}

/// What would be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Digest of the manifest; of the configuration for a `docker-archive`, which has no manifest.
    pub manifest_digest: String,
    /// The reference in its full form.
    pub reference: String,
    /// Size of all layers as they are transferred.
    pub size_bytes: u64,
    /// The disk, if it is in the cache.
    pub cached: Option<FetchedDisk>,
}

/// An image with what belongs to it.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub transport: Transport<'a>,
    pub image: ResolvedImage,
    pub reference: String,
}

impl Source<'_> {
    /// The image's disk, as it is in the cache.
    fn disk(&self, entry: CacheEntry, platform: &Platform, from_cache: bool) -> FetchedDisk {
        FetchedDisk {
            path: entry.path,
            disk_blake3: entry.record.disk_blake3,
            size_bytes: entry.record.size_bytes,
            manifest_digest: self.image.manifest_digest.to_string(),
            layer_digest: entry.record.layer_digest.to_string(),
            architecture: platform.architecture.clone(),
            reference: self.reference.clone(),
            from_cache,
            verified_now: !from_cache,
        }
    }
}

impl Fetcher {
    /// Makes ready to fetch. Nothing is read yet.
    ///
    /// # Errors
    /// When a file that the options name cannot be used.
    pub fn new(options: FetchOptions) -> Result<Self, FetchError> {
        let cache = Cache::new(&options.cache_dir);
        Ok(Self { options, cache })
    }

    /// How images are fetched.
    pub(crate) fn options(&self) -> &FetchOptions {
        &self.options
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Fetches the disk at `disk_path` in an image, unless it is in the cache.
    ///
    /// Has to run in a tokio runtime with time and I/O; `events` is called on the thread that polls. `cancel` is
    /// looked at all the time, and nothing is left of a fetch that it ended.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn disk(
        &self,
        reference: &ImageReference,
        platform: &Platform,
        disk_path: &str,
        events: Events<'_>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<FetchedDisk, FetchError> {
        let path = PathInImage::parse(disk_path)?;
        self.cache.prepare()?;
        let source = unless_cancelled(cancel, self.source(reference, platform, events)).await?;
        let key = source.image.cache_key(&path.to_string());
        let hit = |entry: CacheEntry| {
            events(FetchEvent::CacheHit { size_bytes: entry.record.size_bytes });
            source.disk(entry, platform, true)
        };
        if let Some(entry) = self.cache.find(key) {
            return Ok(hit(entry));
        }
        let lock = self.lock(key, events, cancel).await?;
        // Whoever had the lock before may have fetched it.
        if let Some(entry) = self.cache.find(key) {
            return Ok(hit(entry));
        }
        let (disk, layer) = self.unpack(&source, &path, key, events, cancel).await?;
        let manifest = source.image.manifest_digest;
        let record = CacheRecord::new(&disk, layer, manifest, source.reference.clone(), path.to_string());
        Ok(source.disk(self.cache.store(&lock, key, disk, record)?, platform, false))
    }

    /// Finds an image, and reads nothing big.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn locate(
        &self,
        reference: &ImageReference,
        platform: &Platform,
        disk_path: &str,
        events: Events<'_>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Located, FetchError> {
        let path = PathInImage::parse(disk_path)?;
        self.cache.prepare()?;
        let source = unless_cancelled(cancel, self.source(reference, platform, events)).await?;
        let manifest_digest = source.image.manifest_digest.to_string();
        let cached = self.cache.find(source.image.cache_key(&path.to_string()));
        let cached = cached.map(|entry| source.disk(entry, platform, true));
        let size_bytes = source.image.size_bytes();
        Ok(Located { manifest_digest, reference: source.reference, size_bytes, cached })
    }

    /// Reads a disk, and tells whether it still is what was fetched.
    ///
    /// # Errors
    /// When it cannot be read, or `cancel` was set.
    pub fn verify(&self, disk: &FetchedDisk, cancel: &Arc<AtomicBool>) -> Result<bool, FetchError> {
        Ok(blake3_of_file(&disk.path, cancel)? == disk.disk_blake3)
    }

    pub(crate) async fn source<'a>(
        &'a self,
        reference: &ImageReference,
        platform: &Platform,
        events: Events<'a>,
    ) -> Result<Source<'a>, FetchError> {
        let full = reference.to_string();
        events(FetchEvent::Resolving { reference: full.clone() });
        let transport = Transport::open(reference, platform, &self.options, &self.cache, events).await?;
        let keep = matches!(transport, Transport::Registry(_)).then_some(&self.cache);
        let resolver = Resolver { transport: &transport, reference: &full, platform, keep };
        let image = resolver.resolve().await?;
        events(FetchEvent::Resolved {
            manifest_digest: image.manifest_digest,
            size_bytes: image.size_bytes(),
        });
        Ok(Source { transport, image, reference: full })
    }

    async fn lock(
        &self,
        key: CacheKey,
        events: Events<'_>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<EntryLock, FetchError> {
        let mut told = false;
        loop {
            if let Some(lock) = self.cache.try_lock(key)? {
                return Ok(lock);
            }
            if !told {
                events(FetchEvent::Waiting);
                told = true;
            }
            unless_cancelled(cancel, async {
                tokio::time::sleep(TICK).await;
                Ok(())
            })
            .await?;
        }
    }

    /// Takes layers apart, the uppermost first, until one has the disk; follows links.
    async fn unpack(
        &self,
        source: &Source<'_>,
        path: &PathInImage,
        key: CacheKey,
        events: Events<'_>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<(WrittenDisk, Digest), FetchError> {
        let mut wanted = path.clone();
        'links: for _ in 0..=LINKS_MAX {
            for layer in source.image.layers.iter().rev() {
                let sink = || self.cache.new_disk(key);
                match self.layer(source, layer, &wanted, &sink, events, cancel).await? {
                    Found::Disk(disk) => return Ok((disk, layer.digest)),
                    Found::Link(target) => {
                        wanted = target;
                        continue 'links;
                    }
                    Found::Removed => break,
                    Found::Nothing => {}
                }
            }
            let (reference, path) = (source.reference.clone(), wanted.to_string());
            return Err(FetchError::NoDisk { reference, path });
        }
        Err(FetchError::LinkLoop { reference: source.reference.clone(), path: path.to_string() })
    }

    async fn layer(
        &self,
        source: &Source<'_>,
        layer: &Layer,
        wanted: &PathInImage,
        sink: &dyn Fn() -> NewDisk,
        events: Events<'_>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Found<WrittenDisk>, FetchError> {
        events(FetchEvent::LayerStart { digest: layer.digest, size_bytes: layer.size_bytes });
        let mut attempt = 1;
        loop {
            let (feed, pipeline) =
                pipeline::start(layer.size_bytes, wanted.clone(), sink(), layer.archived_name.is_some());
            let feeding = feed_layer(&source.transport, layer, feed);
            match run(pipeline, feeding, layer, events, cancel).await {
                // Something on the way changed it; a second time may go better.
                Err(error @ FetchError::DigestMismatch { .. })
                    if attempt < TRANSFERS_MAX && matches!(source.transport, Transport::Registry(_)) =>
                {
                    attempt += 1;
                    events(FetchEvent::Retry { attempt, wait: Duration::ZERO, reason: error.to_string() });
                }
                result => return result,
            }
        }
    }
}

/// Feeds a whole layer, and sees that it is what the manifest says.
pub(crate) async fn feed_layer(
    transport: &Transport<'_>,
    layer: &Layer,
    mut feed: Feed,
) -> Result<(), FetchError> {
    let what = format!("the layer {}", layer.digest);
    let (expected, expected_bytes) = (layer.digest, layer.size_bytes);
    let part = match &layer.archived_name {
        Some(name) => transport.archived_blob(name)?,
        None => match transport.layer(&layer.digest)? {
            LayerPlace::Local(part) => part,
            LayerPlace::Registry(registry) => {
                registry.blob(&expected, expected_bytes, &mut feed).await?;
                return match feed.finish().await {
                    found if found == expected => Ok(()),
                    found => Err(FetchError::DigestMismatch { what, expected, found }),
                };
            }
        },
    };
    let found = feed_part(part, expected_bytes, feed, what.clone()).await?;
    // What a docker-archive has may be compressed: its digest is known only of the uncompressed layer.
    if found != expected && layer.archived_name.is_none() {
        return Err(FetchError::DigestMismatch { what, expected, found });
    }
    Ok(())
}

/// Feeds a part of a file, and returns its digest.
pub(crate) async fn feed_part(
    part: FilePart,
    expected_bytes: u64,
    feed: Feed,
    what: String,
) -> Result<Digest, FetchError> {
    if part.size_bytes != expected_bytes {
        return Err(FetchError::SizeMismatch { what, expected_bytes, found_bytes: part.size_bytes });
    }
    let reading =
        tokio::task::spawn_blocking(move || feed.file(&part.file, part.offset_bytes, part.size_bytes, &what));
    joined(reading.await)
}

/// Sees a layer through its threads. They have ended when this returns.
async fn run(
    pipeline: Pipeline<WrittenDisk>,
    feeding: impl Future<Output = Result<(), FetchError>>,
    layer: &Layer,
    events: Events<'_>,
    cancel: &Arc<AtomicBool>,
) -> Result<Found<WrittenDisk>, FetchError> {
    let mut feeding = Box::pin(feeding);
    let (stop, done_bytes) = (pipeline.stopper(), Arc::clone(&pipeline.done_bytes));
    let Pipeline { mut inflate, mut unpack, .. } = pipeline;
    let (mut fed, mut inflated, mut unpacked) = (None, None, None);
    let mut tick = tokio::time::interval(TICK);
    let mut told_bytes = 0;
    let mut cancelled = false;
    while fed.is_none() || inflated.is_none() || unpacked.is_none() {
        tokio::select! {
            result = &mut feeding, if fed.is_none() => fed = Some(result),
            result = &mut inflate, if inflated.is_none() => inflated = Some(joined(result)),
            result = &mut unpack, if unpacked.is_none() => unpacked = Some(joined(result)),
            _ = tick.tick() => {
                let bytes = done_bytes.load(Ordering::Relaxed);
                if bytes != told_bytes {
                    told_bytes = bytes;
                    events(FetchEvent::Progress { done_bytes: bytes, total_bytes: layer.size_bytes });
                }
            }
        }
        cancelled = cancel.load(Ordering::Relaxed);
        // Damage is explained best by the digest of all that comes; anything else is reason enough to stop.
        let refused = matches!(inflated, Some(Err(LayerError::Bomb { .. })))
            || matches!(&unpacked, Some(Err(SearchError::Sink(_))))
            || matches!(&unpacked, Some(Err(SearchError::Layer(e))) if !e.is_damage());
        let failed = matches!(fed, Some(Err(_)));
        if cancelled || refused || failed {
            stop.store(true, Ordering::Relaxed);
            break;
        }
    }
    // The threads see that nothing comes any more, and end.
    drop(feeding);
    let inflated = match inflated {
        Some(result) => result,
        None => joined(inflate.await),
    };
    let unpacked = match unpacked {
        Some(result) => result,
        None => joined(unpack.await),
    };
    if cancelled {
        return Err(FetchError::Interrupted);
    }
    let refused = |source| FetchError::Layer { digest: layer.digest, source };
    // What the others say may only follow from this.
    fed.unwrap_or(Ok(()))?;
    if let Err(SearchError::Sink(error)) = unpacked {
        return Err(error);
    }
    inflated.map_err(refused)?;
    let (found, content_digest) = unpacked.map_err(|e| match e {
        SearchError::Layer(error) => refused(error),
        SearchError::Sink(error) => error,
    })?;
    match content_digest {
        Some(found) if found != layer.digest => {
            let what = format!("the layer {}, uncompressed,", layer.digest);
            Err(FetchError::DigestMismatch { what, expected: layer.digest, found })
        }
        _ => {
            events(FetchEvent::Progress { done_bytes: layer.size_bytes, total_bytes: layer.size_bytes });
            Ok(found)
        }
    }
}

/// The result of a thread; its panic is ours.
pub(crate) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("blocking tasks are never cancelled: {error}"),
        },
    }
}

/// Waits for a future, but not longer than nobody wants it to end.
pub(crate) async fn unless_cancelled<T>(
    cancel: &Arc<AtomicBool>,
    future: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    let mut future = pin!(future);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(FetchError::Interrupted);
        }
        if let Ok(result) = tokio::time::timeout(TICK, &mut future).await {
            return result;
        }
    }
}
