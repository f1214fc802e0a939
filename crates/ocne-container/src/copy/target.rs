//! Where an image goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fs_err::File;
use tokio::sync::Mutex;

use super::CopyOptions;
use super::content::{Blob, BlobPlace, Content};
use super::folder::{self, Folder};
use super::storage::StorageTarget;
use super::tarball::{self, Tarball, write_file};
use crate::digest::Digest;
use crate::error::FetchError;
use crate::event::{Events, FetchEvent};
use crate::fetch::{FetchOptions, joined};
use crate::image::{LayerReader, layer_pipe};
use crate::part_file::unnamed;
use crate::reference::{ImageReference, LayoutImage, RegistryReference, Version};
use crate::transport::{Arrived, FilePart, LayerPlace, Registry, Transport};

/// How many blobs are copied at once.
const PARALLEL: usize = 6;
/// How often a blob is transferred that arrives changed.
const TRANSFERS_MAX: u32 = 2;
/// Says where the base of an image is from, in the manifest.
const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// What a place does to manifests.
const DOCKER_ARCHIVE: &str = "a docker-archive has no manifest, and its layers are not compressed";

/// An opened destination.
pub(super) struct Target<'a> {
    place: Place<'a>,
    options: &'a FetchOptions,
    events: Events<'a>,
    stop: Arc<AtomicBool>,
}

enum Place<'a> {
    Registry(Box<RegistryTarget<'a>>),
    Folder(Folder),
    Tarball(Mutex<Tarball>),
    Storage(StorageTarget),
}

struct RegistryTarget<'a> {
    registry: Registry<'a>,
    reference: RegistryReference,
    /// Another repository of the registry that may have blobs of the image.
    mount_from: Option<String>,
}

impl<'a> Target<'a> {
    pub fn open(
        destination: &ImageReference,
        source: &ImageReference,
        content: &Content,
        options: &'a FetchOptions,
        copy: &CopyOptions,
        events: Events<'a>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, FetchError> {
        let name = |image: &Option<LayoutImage>| match image {
            Some(LayoutImage::Digest(digest)) if *digest != content.digest() => {
                let what = format!("the manifest of `{source}`");
                Err(FetchError::DigestMismatch { what, expected: *digest, found: content.digest() })
            }
            Some(LayoutImage::Name(name)) => Ok(Some(name.clone())),
            _ => Ok(None),
        };
        let place = match destination {
            ImageReference::Registry(reference) => {
                let mut options = options.clone();
                options.delegated = None;
                options.credentials.clone_from(&copy.destination_credentials);
                let registry = Registry::for_pushing(reference, &options, events)?;
                let mount_from = mount_from(source, content, reference);
                let reference = reference.clone();
                Place::Registry(Box::new(RegistryTarget { registry, reference, mount_from }))
            }
            ImageReference::OciLayout { path, image } => {
                Place::Folder(Folder::create(path, folder::Form::Layout(name(image)?))?)
            }
            ImageReference::Directory { path } => {
                Place::Folder(Folder::create(path, folder::Form::Directory)?)
            }
            ImageReference::OciArchive { path, image } => {
                let form = tarball::Form::Layout(name(image)?);
                Place::Tarball(Mutex::new(Tarball::create(path, form, content)?))
            }
            ImageReference::DockerArchive { path, image } => {
                let refused =
                    |reason: &str| FetchError::TargetForm { target: path.clone(), reason: reason.to_owned() };
                let tag = match image.as_deref().map(|name| (name, docker_name(name))) {
                    None => None,
                    Some((_, Some(tag))) => Some(tag),
                    Some((name, None)) => return Err(refused(&format!("`{name}` is no name with a tag"))),
                };
                Place::Tarball(Mutex::new(Tarball::create(path, tarball::Form::Docker(tag), content)?))
            }
            ImageReference::ContainersStorage { image } => {
                Place::Storage(StorageTarget::create(image, &options.cache_dir, content)?)
            }
        };
        Ok(Self { place, options, events, stop: Arc::clone(stop) })
    }

    /// How many blobs can be on their way at once.
    pub fn parallel(&self) -> usize {
        match self.place {
            Place::Tarball(_) => 1,
            _ => PARALLEL,
        }
    }

    /// What becomes of the manifest, if it cannot stay as it is.
    pub fn change(&self) -> Option<&'static str> {
        match &self.place {
            Place::Tarball(tarball) => {
                tarball.try_lock().is_ok_and(|t| t.is_docker()).then_some(DOCKER_ARCHIVE)
            }
            _ => None,
        }
    }

    /// Brings a blob there.
    pub async fn put(
        &self,
        transport: &Transport<'_>,
        blob: &Blob,
        counter: &Arc<AtomicU64>,
    ) -> Result<Arrived, FetchError> {
        match &self.place {
            Place::Registry(to) => {
                let part = async || self.part(transport, blob).await.map(Arc::new);
                let mount_from = to.mount_from.as_deref();
                to.registry.push_blob(&blob.digest, blob.size_bytes, part, mount_from, counter).await
            }
            Place::Folder(folder) | Place::Storage(StorageTarget { folder, .. }) => {
                if folder.has(blob) {
                    return Ok(Arrived::Before);
                }
                self.again(|| async {
                    counter.store(0, Ordering::Relaxed);
                    self.to_file(transport, blob, folder.begin(blob)?, counter).await
                })
                .await?;
                Ok(Arrived::Sent)
            }
            Place::Tarball(tarball) => {
                let mut tarball = tarball.lock().await;
                let end_bytes = self
                    .again(|| async {
                        counter.store(0, Ordering::Relaxed);
                        let (entry, counter) = (tarball.begin(blob)?, Arc::clone(counter));
                        self.stream(transport, blob, move |reader| entry.write(reader, &counter)).await
                    })
                    .await?;
                tarball.end(end_bytes);
                Ok(Arrived::Sent)
            }
        }
    }

    /// Has the image appear. Returns the digest that it is known by there.
    pub async fn finish(self, content: &Content) -> Result<Digest, FetchError> {
        match self.place {
            Place::Registry(to) => {
                let Some((root, others)) = content.manifests.split_last() else {
                    return Ok(content.digest());
                };
                for manifest in others {
                    let version = manifest.digest().to_string();
                    to.registry.push_manifest(&manifest.bytes, &manifest.media_type, &version).await?;
                }
                let version = match &to.reference.version {
                    Version::Tag(tag) => tag.clone(),
                    Version::Digest(digest) => digest.to_string(),
                };
                to.registry.push_manifest(&root.bytes, &root.media_type, &version).await?;
                Ok(root.digest())
            }
            Place::Folder(folder) => folder.finish(content),
            Place::Tarball(tarball) => tarball.into_inner().finish(content),
            Place::Storage(storage) => storage.finish(content).await,
        }
    }

    /// A blob as a file that can be read at any place: it is one, or it becomes one that has no name.
    async fn part(&self, transport: &Transport<'_>, blob: &Blob) -> Result<FilePart, FetchError> {
        let part = match &blob.place {
            BlobPlace::Archived(name) => Some(transport.archived_blob(name)?),
            BlobPlace::Bytes(_) => None,
            BlobPlace::Source => match transport.layer(&blob.digest)? {
                LayerPlace::Local(part) => Some(part),
                LayerPlace::Registry(_) => None,
            },
        };
        let (expected_bytes, what) = (blob.size_bytes, blob.name());
        match part {
            Some(part) if part.size_bytes != expected_bytes => {
                Err(FetchError::SizeMismatch { what, expected_bytes, found_bytes: part.size_bytes })
            }
            Some(part) => Ok(part),
            None => {
                let failed = |source| FetchError::Io { action: "keep a layer for a moment", source };
                let new = || unnamed(&self.options.cache_dir).map_err(failed);
                let file = self
                    .again(|| async {
                        let file = new()?;
                        let copy = file.try_clone().map_err(failed)?;
                        self.to_file(transport, blob, copy, &Arc::default()).await?;
                        Ok(file)
                    })
                    .await?;
                Ok(FilePart { file, offset_bytes: 0, size_bytes: expected_bytes })
            }
        }
    }

    async fn to_file(
        &self,
        transport: &Transport<'_>,
        blob: &Blob,
        file: File,
        counter: &Arc<AtomicU64>,
    ) -> Result<(), FetchError> {
        let counter = Arc::clone(counter);
        self.stream(transport, blob, move |reader| write_file(&file, reader, &counter)).await
    }

    /// Does something once more if what came was changed on the way.
    async fn again<T>(&self, action: impl AsyncFn() -> Result<T, FetchError>) -> Result<T, FetchError> {
        let mut attempt = 1;
        loop {
            match action().await {
                Err(error @ FetchError::DigestMismatch { .. }) if attempt < TRANSFERS_MAX => {
                    attempt += 1;
                    let (wait, reason) = (Duration::ZERO, error.to_string());
                    (self.events)(FetchEvent::Retry { attempt, wait, reason });
                }
                result => return result,
            }
        }
    }

    /// Moves a blob through a pipe to whoever takes it, on a thread of its own. Both have ended when this returns.
    async fn stream<T: Send + 'static>(
        &self,
        transport: &Transport<'_>,
        blob: &Blob,
        take: impl FnOnce(LayerReader) -> Result<T, FetchError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let (sender, reader) = layer_pipe(&self.stop);
        let mut taking = tokio::task::spawn_blocking(move || take(reader));
        let mut feeding = Box::pin(blob.feed(transport, sender.into_feed()));
        let (mut fed, mut taken) = (None, None);
        while fed.is_none() || taken.is_none() {
            tokio::select! {
                result = &mut feeding, if fed.is_none() => fed = Some(result),
                result = &mut taking, if taken.is_none() => {
                    let result = joined(result);
                    // Damage is explained best by the digest of all that comes; anything else is reason enough to stop.
                    if matches!(result, Err(FetchError::Io { .. })) && fed.is_none() {
                        return result;
                    }
                    taken = Some(result);
                }
            }
        }
        fed.unwrap_or(Ok(()))?;
        taken.unwrap_or(Err(FetchError::Interrupted))
    }
}

/// A name with a tag, in full, as archives of docker have it.
fn docker_name(name: &str) -> Option<String> {
    match ImageReference::parse(&format!("docker://{name}")).ok()? {
        ImageReference::Registry(reference) if matches!(reference.version, Version::Tag(_)) => {
            Some(reference.to_string())
        }
        _ => None,
    }
}

/// A repository of the registry that the image goes to, and that may have blobs of it: the source, or the image's base.
fn mount_from(source: &ImageReference, content: &Content, to: &RegistryReference) -> Option<String> {
    let other = |from: RegistryReference| {
        (from.registry == to.registry && from.repository != to.repository).then_some(from.repository)
    };
    if let ImageReference::Registry(from) = source {
        return other(from.clone());
    }
    let manifest: serde_json::Value = serde_json::from_slice(&content.manifests.last()?.bytes).ok()?;
    match ImageReference::parse(manifest["annotations"][BASE_NAME].as_str()?).ok()? {
        ImageReference::Registry(base) => other(base),
        _ => None,
    }
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Target")
    }
}
