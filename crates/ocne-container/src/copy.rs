//! Copying images from one place to another: manifests as their bytes are, and blobs that are not there yet.

mod claim;
mod content;
mod folder;
mod storage;
mod tarball;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

pub(crate) use self::storage::StoredImage;

use self::content::{Blob, Content};
use self::target::Target;
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::FetchError;
use crate::event::{Events, FetchEvent};
use crate::fetch::{Fetcher, unless_cancelled};
use crate::platform::Platform;
use crate::reference::{ImageReference, Version};
use crate::transport::{Arrived, Transport};

/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);

/// What is copied of an image, and who asks for it.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// The image that is taken of an index; an image for another platform is refused. Without one, there may only be
    /// one image.
    pub platform: Option<Platform>,
    /// An index with all that it names, and not one of its images.
    pub all: bool,
    /// What proves to the destination's registry who is asking, in place of what files of credentials say.
    pub destination_credentials: Option<Credentials>,
}

/// An image that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Digest of the manifest; of the configuration in a `docker-archive`, which has no manifest.
    pub digest: Digest,
    /// The reference that it has now.
    pub reference: String,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Bytes that were there already, or that the registry took from another of its repositories.
    pub spared_bytes: u64,
    /// Why the manifest is not the source's, where it could not be.
    pub changed: Option<&'static str>,
}

/// Has the threads end that still move bytes when nobody wants them any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Fetcher {
    /// Copies an image: its blobs and its manifest, byte for byte unless the destination has no manifests.
    ///
    /// Nothing has its final name before all of it has arrived and was verified. An image of that name is replaced.
    ///
    /// # Errors
    /// See [`FetchError`]. Blobs that a registry has by then stay there, and are not sent again the next time; nothing is
    /// left of files and folders.
    pub async fn copy(
        &self,
        source: &ImageReference,
        destination: &ImageReference,
        options: &CopyOptions,
        events: Events<'_>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Copied, FetchError> {
        unless_cancelled(cancel, self.copy_all(source, destination, options, events)).await
    }

    async fn copy_all(
        &self,
        source: &ImageReference,
        destination: &ImageReference,
        options: &CopyOptions,
        events: Events<'_>,
    ) -> Result<Copied, FetchError> {
        if source == destination {
            return Err(FetchError::CopyOntoItself { reference: source.to_string() });
        }
        self.cache().prepare()?;
        let any = Platform::linux("");
        let platform = options.platform.as_ref().unwrap_or(&any);
        let transport = Transport::open(source, platform, self.options(), self.cache(), events).await?;
        let content = Content::read(&transport, source, options, destination).await?;
        if let ImageReference::Registry(to) = destination
            && let Version::Digest(expected) = to.version
            && expected != content.digest()
        {
            let what = format!("the manifest of `{source}`");
            return Err(FetchError::DigestMismatch { what, expected, found: content.digest() });
        }
        let stop = StopOnDrop(Arc::default());
        let target = Target::open(destination, source, &content, self.options(), options, events, &stop.0)?;
        let total_bytes = content.size_bytes();
        events(FetchEvent::Resolved { manifest_digest: content.digest(), size_bytes: total_bytes });
        let counters: Vec<Arc<AtomicU64>> = content.blobs.iter().map(|_| Arc::default()).collect();
        let done = || counters.iter().map(|c| c.load(Ordering::Relaxed)).sum::<u64>();
        let arrived = {
            let copying = stream::iter(content.blobs.iter().zip(&counters).map(|(blob, counter)| {
                let (transport, target) = (&transport, &target);
                async move {
                    part(events, blob, 0, false);
                    let arrived = target.put(transport, blob, counter).await?;
                    counter.store(blob.size_bytes, Ordering::Relaxed);
                    part(events, blob, blob.size_bytes, true);
                    Ok::<_, FetchError>((arrived, blob.size_bytes))
                }
            }))
            .buffer_unordered(target.parallel())
            .try_collect::<Vec<_>>();
            let mut copying = std::pin::pin!(copying);
            loop {
                if let Ok(result) = tokio::time::timeout(TICK, &mut copying).await {
                    break result?;
                }
                events(FetchEvent::Progress { done_bytes: done().min(total_bytes), total_bytes });
                for (blob, counter) in content.blobs.iter().zip(&counters) {
                    let done_bytes = counter.load(Ordering::Relaxed);
                    if done_bytes > 0 && done_bytes < blob.size_bytes {
                        part(events, blob, done_bytes, false);
                    }
                }
            }
        };
        events(FetchEvent::Progress { done_bytes: total_bytes, total_bytes });
        let changed = content.changed.or(target.change());
        let digest = target.finish(&content).await?;
        let sent = |a: &&(Arrived, u64)| a.0 == Arrived::Sent;
        let sent_bytes = arrived.iter().filter(sent).map(|(_, size)| size).sum();
        Ok(Copied {
            digest,
            reference: destination.to_string(),
            sent_bytes,
            spared_bytes: total_bytes - sent_bytes,
            changed,
        })
    }
}

fn part(events: Events<'_>, blob: &Blob, done_bytes: u64, is_over: bool) {
    events(FetchEvent::Part { digest: blob.digest, done_bytes, size_bytes: blob.size_bytes, is_over });
}
