//! The ways in which an image comes: what each has, read by name or by digest.

mod docker_archive;
mod layout;
mod store;

use fs_err::File;

use crate::digest::Digest;
use crate::error::FetchError;
use crate::manifest::{Descriptor, MANIFEST_MAX_BYTES};
use crate::reference::{ImageReference, LayoutImage};

pub(crate) use docker_archive::{ArchivedImage, find as find_in_docker_archive};
use store::Store;

/// An opened image source.
#[derive(Debug)]
pub(crate) enum Transport {
    /// An OCI image layout, in a folder or an archive.
    Layout { store: Store, image: Option<LayoutImage> },
    /// What `skopeo copy` writes to `dir:`.
    Directory { store: Store },
    /// What `docker save` writes.
    DockerArchive { store: Store, image: Option<String> },
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

/// A part of a local file.
#[derive(Debug)]
pub(crate) struct FilePart {
    pub file: File,
    pub offset_bytes: u64,
    pub size_bytes: u64,
}

impl Transport {
    pub fn open(reference: &ImageReference) -> Result<Self, FetchError> {
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
            ImageReference::Registry(_) => todo!(),
        })
    }

    /// The manifest, the index, or what else describes the image.
    pub async fn root(&self) -> Result<Root, FetchError> {
        match self {
            Self::Layout { store, image } => layout::choose(store, image.as_ref()).map(Root::Choice),
            Self::Directory { store } => {
                let bytes = store.read_small("manifest.json", MANIFEST_MAX_BYTES)?;
                Ok(Root::Document { bytes, media_type: None })
            }
            Self::DockerArchive { store, image } => {
                find_in_docker_archive(store, image.as_deref()).map(Root::Archived)
            }
        }
    }

    /// A manifest, an index or a configuration; it is what the descriptor says.
    pub async fn document(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>, FetchError> {
        let what = format!("{what} {}", descriptor.digest);
        let (size_bytes, limit_bytes) = (descriptor.size, MANIFEST_MAX_BYTES);
        if size_bytes > limit_bytes {
            return Err(FetchError::TooLarge { name: what, size_bytes, limit_bytes });
        }
        let bytes = match self {
            Self::Layout { store, .. } | Self::Directory { store } | Self::DockerArchive { store, .. } => {
                store.read_small(&self.blob_name(&descriptor.digest), limit_bytes)?
            }
        };
        check(&bytes, descriptor, what)?;
        Ok(bytes)
    }

    /// A layer that is in a local file.
    pub fn local_blob(&self, digest: &Digest) -> Result<FilePart, FetchError> {
        match self {
            Self::Layout { store, .. } | Self::Directory { store } | Self::DockerArchive { store, .. } => {
                store.open(&self.blob_name(digest))
            }
        }
    }

    /// A layer of a `docker-archive`, by the name that its `manifest.json` gives it.
    pub fn archived_blob(&self, name: &str) -> Result<FilePart, FetchError> {
        match self {
            Self::Layout { store, .. } | Self::Directory { store } | Self::DockerArchive { store, .. } => {
                store.open(name)
            }
        }
    }

    fn blob_name(&self, digest: &Digest) -> String {
        match self {
            Self::Directory { .. } => digest.hex(),
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
