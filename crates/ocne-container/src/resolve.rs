//! From a reference to the layers of one image: indexes, platforms, configurations.

use crate::cache::{Cache, CacheKey};
use crate::digest::Digest;
use crate::error::FetchError;
use crate::manifest::{Descriptor, Document, ImageConfig, ImageManifest, ManifestError};
use crate::platform::Platform;
use crate::transport::{ArchivedImage, DocumentKind, Root, Transport};

/// How deep an index may be in others.
const INDEX_DEPTH_MAX: u32 = 4;
/// How many documents are read to find an image.
const DOCUMENTS_MAX: u32 = 32;

/// An image for the platform that was asked for.
#[derive(Debug)]
pub(crate) struct ResolvedImage {
    /// Digest of the manifest; of the configuration if there is no manifest.
    pub manifest_digest: Digest,
    /// The configuration, as its bytes are.
    pub config: Vec<u8>,
    /// The lowest first.
    pub layers: Vec<Layer>,
}

/// A layer of an image.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// Digest as it is transferred; of the uncompressed layer in a `docker-archive`.
    pub digest: Digest,
    pub size_bytes: u64,
    /// What it is, if it is described.
    pub media_type: Option<String>,
    /// Name in a `docker-archive`.
    pub archived_name: Option<String>,
}

impl ResolvedImage {
    /// What all layers have to be transferred for.
    pub fn size_bytes(&self) -> u64 {
        self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size_bytes))
    }

    /// Where the disk at this path is in the cache. It depends on the layers as they are transferred: those are
    /// verified anyhow, and to hash their content as well takes a second for each GiB.
    pub fn cache_key(&self, path: &str) -> CacheKey {
        CacheKey::new(self.layers.iter().map(|layer| layer.digest), path)
    }
}

/// Reads what describes an image, and keeps it in the cache if that may spare a network later.
pub(crate) struct Resolver<'a> {
    pub transport: &'a Transport<'a>,
    /// The reference, in its full form.
    pub reference: &'a str,
    pub platform: &'a Platform,
    /// Where documents of a registry are kept.
    pub keep: Option<&'a Cache>,
}

impl Resolver<'_> {
    /// Finds the image for the platform.
    pub async fn resolve(&self) -> Result<ResolvedImage, FetchError> {
        match self.transport.root().await? {
            Root::Archived(image) => self.archived(image),
            Root::Choice(descriptors) => self.search(descriptors).await,
            Root::Document { bytes, media_type } => {
                match Document::parse(&bytes, media_type.as_deref())
                    .map_err(|e| self.refused("the manifest".to_owned(), e))?
                {
                    Document::Image(manifest) => self.image(&bytes, manifest).await,
                    Document::Index(descriptors) => self.search(descriptors).await,
                }
            }
        }
    }

    fn refused(&self, what: String, source: ManifestError) -> FetchError {
        FetchError::Manifest { what, location: self.reference.to_owned(), source }
    }

    /// Looks through an index and those in it, in their order, for the platform.
    async fn search(&self, descriptors: Vec<Descriptor>) -> Result<ResolvedImage, FetchError> {
        let mut found = Vec::new();
        let mut documents = 0;
        // Only one image, and nothing said about it: its configuration tells.
        let only = descriptors.len() == 1;
        let mut pending: Vec<(Descriptor, u32)> = descriptors.into_iter().rev().map(|d| (d, 1)).collect();
        while let Some((descriptor, depth)) = pending.pop() {
            let unsaid = descriptor.platform.is_none() && (only || descriptor.is_index());
            if !unsaid && !descriptor.is_for(self.platform) {
                found.push(descriptor.describe_platform());
                continue;
            }
            documents += 1;
            if depth > INDEX_DEPTH_MAX || documents > DOCUMENTS_MAX {
                let what = format!("the index {}", descriptor.digest);
                return Err(self.refused(what, ManifestError::NestedIndexes));
            }
            let bytes = self.transport.document(&descriptor, DocumentKind::Manifest).await?;
            let media_type = Some(descriptor.media_type.as_str()).filter(|m| !m.is_empty());
            let document = Document::parse(&bytes, media_type)
                .map_err(|e| self.refused(format!("the manifest {}", descriptor.digest), e))?;
            match document {
                Document::Image(manifest) => return self.image(&bytes, manifest).await,
                Document::Index(nested) => {
                    pending.extend(nested.into_iter().rev().map(|d| (d, depth + 1)));
                }
            }
        }
        Err(self.no_such_platform(found))
    }

    fn no_such_platform(&self, mut found: Vec<String>) -> FetchError {
        found.sort();
        found.dedup();
        // Attestations are listed as images for an unknown platform.
        found.retain(|f| f != "unknown/unknown");
        found.truncate(50);
        let (reference, wanted) = (self.reference.to_owned(), self.platform.clone());
        FetchError::NoSuchPlatform { reference, wanted, found }
    }

    async fn image(&self, bytes: &[u8], manifest: ImageManifest) -> Result<ResolvedImage, FetchError> {
        let manifest_digest = Digest::of(bytes);
        let config_digest = manifest.config.digest;
        let config_bytes = match self.keep.and_then(|cache| cache.document(&config_digest)) {
            Some(bytes) => bytes,
            None => self.transport.document(&manifest.config, DocumentKind::Configuration).await?,
        };
        self.config(&config_bytes)?;
        if let Some(cache) = self.keep {
            cache.keep_document(&config_digest, &config_bytes)?;
            cache.keep_document(&manifest_digest, bytes)?;
            cache.keep_reference(self.reference, self.platform, &manifest_digest)?;
        }
        let layers = manifest.layers.iter().map(|layer| Layer {
            digest: layer.digest,
            size_bytes: layer.size,
            media_type: Some(layer.media_type.clone()),
            archived_name: None,
        });
        Ok(ResolvedImage { manifest_digest, config: config_bytes, layers: layers.collect() })
    }

    /// The configuration, if it is for the platform.
    fn config(&self, bytes: &[u8]) -> Result<ImageConfig, FetchError> {
        let config =
            ImageConfig::parse(bytes).map_err(|e| self.refused("the configuration".to_owned(), e))?;
        if config.is_for(self.platform) {
            return Ok(config);
        }
        let variant = config.variant.iter().filter(|v| !v.is_empty());
        let found = variant.fold(format!("{}/{}", config.os, config.architecture), |a, v| format!("{a}/{v}"));
        Err(self.no_such_platform(vec![found]))
    }

    fn archived(&self, image: ArchivedImage) -> Result<ResolvedImage, FetchError> {
        let config = self.config(&image.config)?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            let (expected, found) = (diff_ids.len(), image.layers.len());
            return Err(
                self.refused("the configuration".to_owned(), ManifestError::LayerCount { expected, found })
            );
        }
        let layers = image.layers.into_iter().zip(diff_ids).map(|(name, diff_id)| {
            let size_bytes = self.transport.archived_blob(&name)?.size_bytes;
            Ok(Layer { digest: diff_id, size_bytes, media_type: None, archived_name: Some(name) })
        });
        let layers = layers.collect::<Result<_, FetchError>>()?;
        Ok(ResolvedImage { manifest_digest: Digest::of(&image.config), config: image.config, layers })
    }
}
