//! Pushing an image that is here to a registry.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::digest::Digest;
use crate::error::FetchError;
use crate::event::{Events, FetchEvent};
use crate::fetch::{FetchOptions, Fetcher, unless_cancelled};
use crate::manifest::{Descriptor, Document, ManifestError};
use crate::platform::Platform;
use crate::reference::{ImageReference, RegistryReference, Version};
use crate::transport::{Arrived, DocumentKind, FilePart, LayerPlace, Registry, Root, Transport};

/// How many blobs are sent at once.
const PARALLEL: usize = 3;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);
/// How deep an index may be in others.
const INDEX_DEPTH_MAX: u32 = 4;
/// Says where the base of an image is from, in the manifest.
const BASE_NAME: &str = "org.opencontainers.image.base.name";

/// An image that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the manifest.
    pub digest: Digest,
    /// The reference that it has now.
    pub reference: String,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Bytes that were there already, or that the registry took from another of its repositories.
    pub spared_bytes: u64,
}

impl Fetcher {
    /// Pushes an image of a local transport: its blobs and its manifest, byte for byte.
    ///
    /// Of an index, the image for `platform` is taken; without one, there may only be one image.
    ///
    /// # Errors
    /// See [`FetchError`]. Blobs that were pushed by then stay, and are not sent again the next time.
    pub async fn push(
        &self,
        source: &ImageReference,
        platform: Option<&Platform>,
        destination: &RegistryReference,
        events: Events<'_>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Pushed, FetchError> {
        unless_cancelled(cancel, self.push_all(source, platform, destination, events)).await
    }

    async fn push_all(
        &self,
        source: &ImageReference,
        platform: Option<&Platform>,
        destination: &RegistryReference,
        events: Events<'_>,
    ) -> Result<Pushed, FetchError> {
        if matches!(source, ImageReference::Registry(_)) {
            return Err(FetchError::PushSource { reference: source.to_string() });
        }
        let options = self.options();
        let any = Platform::linux("");
        let transport = Transport::open(source, platform.unwrap_or(&any), options, self.cache(), events)?;
        let (bytes, media_type, blobs) = image(&transport, source, platform).await?;
        let digest = Digest::of(&bytes);
        if let Version::Digest(wanted) = &destination.version
            && *wanted != digest
        {
            let what = format!("the manifest of `{source}`");
            return Err(FetchError::DigestMismatch { what, expected: *wanted, found: digest });
        }
        let total_bytes = blobs.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        events(FetchEvent::Resolved { manifest_digest: digest, size_bytes: total_bytes });
        let registry = Registry::for_pushing(destination, options, events)?;
        let mount_from = base_repository(&bytes, destination);
        let counters: Vec<Arc<AtomicU64>> = blobs.iter().map(|_| Arc::default()).collect();
        let done = || counters.iter().map(|c| c.load(Ordering::Relaxed)).sum::<u64>();
        let pushing = stream::iter(blobs.iter().zip(&counters).map(|(blob, counter)| {
            let (transport, registry, mount_from) = (&transport, &registry, mount_from.as_deref());
            async move {
                let part = Arc::new(local_blob(transport, blob)?);
                let arrived = registry.push_blob(&blob.digest, &part, mount_from, counter).await?;
                Ok::<_, FetchError>((arrived, blob.size))
            }
        }))
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<_>>();
        let mut pushing = std::pin::pin!(pushing);
        let arrived = loop {
            if let Ok(result) = tokio::time::timeout(TICK, &mut pushing).await {
                break result?;
            }
            events(FetchEvent::Progress { done_bytes: done(), total_bytes });
        };
        events(FetchEvent::Progress { done_bytes: total_bytes, total_bytes });
        let version = match &destination.version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        };
        registry.push_manifest(&bytes, &media_type, &version).await?;
        let sent = |a: &&(Arrived, u64)| a.0 == Arrived::Sent;
        let sent_bytes = arrived.iter().filter(sent).map(|(_, size)| size).sum();
        Ok(Pushed {
            digest,
            reference: format!("docker://{destination}"),
            sent_bytes,
            spared_bytes: total_bytes - sent_bytes,
        })
    }
}

/// The manifest of the image, its media type, and all that it names.
async fn image(
    transport: &Transport<'_>,
    source: &ImageReference,
    platform: Option<&Platform>,
) -> Result<(Vec<u8>, String, Vec<Descriptor>), FetchError> {
    let refused = |what: &str, source_error| FetchError::Manifest {
        what: what.to_owned(),
        location: source.to_string(),
        source: source_error,
    };
    let (mut bytes, mut media_type) = match transport.root().await? {
        Root::Document { bytes, media_type } => (bytes, media_type.unwrap_or_default()),
        Root::Choice(all) => {
            let chosen = choose(all, source, platform)?;
            (transport.document(&chosen, DocumentKind::Manifest).await?, chosen.media_type)
        }
        Root::Archived(_) => return Err(FetchError::PushSource { reference: source.to_string() }),
    };
    for _ in 0..INDEX_DEPTH_MAX {
        let known = Some(media_type.as_str()).filter(|m| !m.is_empty());
        match Document::parse(&bytes, known).map_err(|e| refused("the manifest", e))? {
            Document::Image(manifest) => {
                let mut seen = BTreeSet::new();
                let all = manifest.layers.into_iter().chain([manifest.config]);
                let blobs = all.filter(|blob| seen.insert(blob.digest)).collect();
                if media_type.is_empty() {
                    media_type = manifest_type(&bytes);
                }
                return Ok((bytes, media_type, blobs));
            }
            Document::Index(all) => {
                let chosen = choose(all, source, platform)?;
                bytes = transport.document(&chosen, DocumentKind::Manifest).await?;
                media_type = chosen.media_type;
            }
        }
    }
    Err(refused("the index", ManifestError::NestedIndexes))
}

/// What a manifest says of itself.
fn manifest_type(bytes: &[u8]) -> String {
    let manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    manifest["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json").to_owned()
}

fn choose(
    mut all: Vec<Descriptor>,
    source: &ImageReference,
    platform: Option<&Platform>,
) -> Result<Descriptor, FetchError> {
    let found: Vec<String> = all.iter().map(Descriptor::describe_platform).collect();
    if let Some(platform) = platform
        && all.len() > 1
    {
        all.retain(|d| d.is_for(platform));
    }
    match (all.len(), platform) {
        (1, _) => Ok(all.remove(0)),
        (0, Some(platform)) => {
            let (reference, wanted) = (source.to_string(), platform.clone());
            Err(FetchError::NoSuchPlatform { reference, wanted, found })
        }
        _ => Err(FetchError::SeveralImages { location: source.to_string(), names: found }),
    }
}

/// The repository of an image's base, if it is in the registry that the image goes to.
fn base_repository(manifest: &[u8], destination: &RegistryReference) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).ok()?;
    let name = manifest["annotations"][BASE_NAME].as_str()?;
    match ImageReference::parse(name).ok()? {
        ImageReference::Registry(base)
            if base.registry == destination.registry && base.repository != destination.repository =>
        {
            Some(base.repository)
        }
        _ => None,
    }
}

/// A blob of a local transport, with the size that its descriptor says.
fn local_blob(transport: &Transport<'_>, blob: &Descriptor) -> Result<FilePart, FetchError> {
    let part = match transport.layer(&blob.digest)? {
        LayerPlace::Local(part) => part,
        LayerPlace::Registry(_) => {
            return Err(FetchError::PushSource { reference: "a registry".to_owned() });
        }
    };
    if part.size_bytes != blob.size {
        return Err(FetchError::SizeMismatch {
            what: format!("the blob {}", blob.digest),
            expected_bytes: blob.size,
            found_bytes: part.size_bytes,
        });
    }
    Ok(part)
}

/// The options of a registry that is written to: an answer may take as long as the request is sent.
pub(crate) fn patient(options: &FetchOptions) -> FetchOptions {
    let mut options = options.clone();
    options.network.stall_timeout = Duration::from_hours(24);
    options
}
