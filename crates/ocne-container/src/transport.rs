//! The ways in which an image comes: what each has, read by name or by digest.

mod docker_archive;
mod layout;
mod registry;
mod store;

use fs_err::File;

use crate::cache::Cache;
use crate::copy::StoredImage;
use crate::digest::Digest;
use crate::error::FetchError;
use crate::event::Events;
use crate::fetch::FetchOptions;
use crate::manifest::{Descriptor, MANIFEST_MAX_BYTES};
use crate::platform::Platform;
use crate::reference::{ImageReference, LayoutImage};

pub(crate) use docker_archive::{ArchivedImage, find as find_in_docker_archive};
pub(crate) use layout::blob_name as layout_blob_name;
pub(crate) use registry::{Arrived, Registry};
pub(crate) use store::Store;

/// An opened image source.
#[derive(Debug)]
pub(crate) enum Transport<'a> {
    /// An OCI image layout, in a folder or an archive.
    Layout { store: Store, image: Option<LayoutImage> },
    /// What `skopeo copy` writes to `dir:`.
    Directory { store: Store },
    /// The same, brought out of the storage of podman.
    Stored { store: Store, _image: StoredImage },
    /// What `docker save` writes.
    DockerArchive { store: Store, image: Option<String> },
    /// A registry.
    Registry(Box<Registry<'a>>),
    /// What the cache knows of a registry's image, for work without a network.
    Kept { cache: &'a Cache, manifest: Digest, offline: Offline },
}

/// What is not in the cache when there is no network.
#[derive(Debug, Clone)]
pub(crate) struct Offline {
    reference: String,
    platform: Platform,
}

impl Offline {
    pub fn error(&self) -> FetchError {
        FetchError::Offline { reference: self.reference.clone(), platform: self.platform.clone() }
    }
}

/// Where reading of an image starts.
#[derive(Debug)]
pub(crate) enum Root {
    /// A manifest or an index, and the media type that it came with.
    Document { bytes: Vec<u8>, media_type: Option<String> },
    /// What to choose from.
    Choice(Vec<Descriptor>),
    /// An image without a manifest.
    Archived(ArchivedImage),
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    /// A manifest or an index.
    Manifest,
    Configuration,
}

impl DocumentKind {
    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Configuration => "configuration",
        }
    }
}

/// Where the bytes of a layer are.
#[derive(Debug)]
pub(crate) enum LayerPlace<'t> {
    Local(FilePart),
    Registry(&'t Registry<'t>),
}

/// A part of a local file.
#[derive(Debug)]
pub(crate) struct FilePart {
    pub file: File,
    pub offset_bytes: u64,
    pub size_bytes: u64,
}

impl<'a> Transport<'a> {
    pub async fn open(
        reference: &ImageReference,
        platform: &Platform,
        options: &FetchOptions,
        cache: &'a Cache,
        events: Events<'a>,
    ) -> Result<Self, FetchError> {
        Ok(match reference {
            ImageReference::OciLayout { path, image } => {
                Self::Layout { store: Store::folder(path), image: image.clone() }
            }
            ImageReference::OciArchive { path, image } => {
                Self::Layout { store: Store::archive(path)?, image: image.clone() }
            }
            ImageReference::DockerArchive { path, image } => {
                Self::DockerArchive { store: Store::archive(path)?, image: image.clone() }
            }
            ImageReference::Directory { path } => Self::Directory { store: Store::folder(path) },
            ImageReference::ContainersStorage { image } => {
                let image = StoredImage::export(image, &options.cache_dir).await?;
                Self::Stored { store: Store::folder(&image.folder()), _image: image }
            }
            ImageReference::Registry(_) if options.offline => {
                let offline = Offline { reference: reference.to_string(), platform: platform.clone() };
                let manifest =
                    cache.reference(&offline.reference, platform).ok_or_else(|| offline.error())?;
                Self::Kept { cache, manifest, offline }
            }
            ImageReference::Registry(wanted) => {
                Self::Registry(Box::new(Registry::new(wanted, options, events)?))
            }
        })
    }

    /// The manifest, the index, or what else describes the image.
    pub async fn root(&self) -> Result<Root, FetchError> {
        match self {
            Self::Layout { store, image } => layout::choose(store, image.as_ref()).map(Root::Choice),
            Self::Directory { store } | Self::Stored { store, .. } => {
                let bytes = store.read_small("manifest.json", MANIFEST_MAX_BYTES)?;
                Ok(Root::Document { bytes, media_type: None })
            }
            Self::DockerArchive { store, image } => {
                find_in_docker_archive(store, image.as_deref()).map(Root::Archived)
            }
            Self::Registry(registry) => {
                let (bytes, media_type) = registry.manifest().await?;
                Ok(Root::Document { bytes, media_type })
            }
            Self::Kept { cache, manifest, offline } => {
                let bytes = cache.document(manifest).ok_or_else(|| offline.error())?;
                Ok(Root::Document { bytes, media_type: None })
            }
        }
    }

    /// A manifest, an index or a configuration; it is what the descriptor says.
    pub async fn document(&self, descriptor: &Descriptor, kind: DocumentKind) -> Result<Vec<u8>, FetchError> {
        let what = format!("the {} {}", kind.name(), descriptor.digest);
        let (size_bytes, limit_bytes) = (descriptor.size, MANIFEST_MAX_BYTES);
        if size_bytes > limit_bytes {
            return Err(FetchError::TooLarge { name: what, size_bytes, limit_bytes });
        }
        let bytes = match self {
            Self::Directory { store } | Self::Stored { store, .. } if kind == DocumentKind::Manifest => {
                store.read_small(&format!("{}.manifest.json", descriptor.digest.hex()), limit_bytes)?
            }
            Self::Layout { store, .. }
            | Self::Directory { store }
            | Self::Stored { store, .. }
            | Self::DockerArchive { store, .. } => {
                store.read_small(&self.blob_name(&descriptor.digest), limit_bytes)?
            }
            Self::Registry(registry) => match kind {
                DocumentKind::Manifest => registry.manifest_of(&descriptor.digest).await?,
                DocumentKind::Configuration => registry.small_blob(&descriptor.digest).await?,
            },
            Self::Kept { cache, offline, .. } => {
                cache.document(&descriptor.digest).ok_or_else(|| offline.error())?
            }
        };
        check(&bytes, descriptor, what)?;
        Ok(bytes)
    }

    /// A layer.
    pub fn layer(&self, digest: &Digest) -> Result<LayerPlace<'_>, FetchError> {
        match self {
            Self::Layout { store, .. }
            | Self::Directory { store }
            | Self::Stored { store, .. }
            | Self::DockerArchive { store, .. } => store.open(&self.blob_name(digest)).map(LayerPlace::Local),
            Self::Registry(registry) => Ok(LayerPlace::Registry(registry)),
            Self::Kept { offline, .. } => Err(offline.error()),
        }
    }

    /// A layer of a `docker-archive`, by the name that its `manifest.json` gives it.
    pub fn archived_blob(&self, name: &str) -> Result<FilePart, FetchError> {
        match self {
            Self::Layout { store, .. }
            | Self::Directory { store }
            | Self::Stored { store, .. }
            | Self::DockerArchive { store, .. } => store.open(name),
            // Only an archive gives names.
            Self::Registry(_) | Self::Kept { .. } => {
                Err(FetchError::Missing { location: "the registry".to_owned(), name: name.to_owned() })
            }
        }
    }

    fn blob_name(&self, digest: &Digest) -> String {
        match self {
            Self::Directory { .. } | Self::Stored { .. } => digest.hex(),
            _ => layout::blob_name(digest),
        }
    }
}

/// Whether a document is what its descriptor says.
pub(crate) fn check(bytes: &[u8], descriptor: &Descriptor, what: String) -> Result<(), FetchError> {
    let (found, expected) = (Digest::of(bytes), descriptor.digest);
    if found != expected {
        return Err(FetchError::DigestMismatch { what, expected, found });
    }
    let (found_bytes, expected_bytes) = (bytes.len() as u64, descriptor.size);
    if found_bytes != expected_bytes {
        return Err(FetchError::SizeMismatch { what, expected_bytes, found_bytes });
    }
    Ok(())
}
