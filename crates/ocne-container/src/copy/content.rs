//! What belongs to an image: manifests and blobs.

use std::collections::{BTreeSet, VecDeque};
use std::io::{Read as _, Seek as _, SeekFrom};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::CopyOptions;
use crate::digest::Digest;
use crate::error::FetchError;
use crate::fetch::{feed_layer, feed_part};
use crate::manifest::{Descriptor, Document, ImageConfig, ImageManifest, ManifestError};
use crate::pipeline::{Compression, Feed};
use crate::platform::Platform;
use crate::reference::ImageReference;
use crate::resolve::Layer;
use crate::transport::{ArchivedImage, DocumentKind, FilePart, LayerPlace, Root, Transport};

/// How deep an index may be in others.
const INDEX_DEPTH_MAX: u32 = 4;
/// How many manifests an index may have, in all.
const MANIFESTS_MAX: usize = 1000;
/// What there is no manifest of, and so no manifest that stays as it is.
const NO_MANIFEST: &str = "a docker-archive has no manifest, so that one was made";

/// What podman's storage does to manifests.
const UNPACKED: &str = "containers-storage keeps layers unpacked, so that the manifest is another one";

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A manifest or an index.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub bytes: Vec<u8>,
    pub media_type: String,
}

impl Manifest {
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }
}

/// A configuration or a layer.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub digest: Digest,
    pub size_bytes: u64,
    pub place: BlobPlace,
}

/// Where a blob is.
#[derive(Debug, Clone)]
pub(super) enum BlobPlace {
    /// In the source, by its digest.
    Source,
    /// In a `docker-archive`, by its name.
    Archived(String),
    /// Here.
    Bytes(Vec<u8>),
}

/// An image, or several of them in an index.
#[derive(Debug, Clone)]
pub(super) struct Content {
    /// What names others comes after them; the last is what the image is known by.
    pub manifests: Vec<Manifest>,
    /// Each once.
    pub blobs: Vec<Blob>,
    /// The one image, if it is one.
    pub single: Option<SingleImage>,
    /// Why a manifest is not the source's.
    pub changed: Option<&'static str>,
}

/// One image, for places that know no manifests.
#[derive(Debug, Clone)]
pub(super) struct SingleImage {
    /// The configuration, once it was read.
    pub config: Option<Vec<u8>>,
    pub layers: Vec<Digest>,
}

impl Content {
    /// Reads the manifests.
    pub async fn read(
        transport: &Transport<'_>,
        source: &ImageReference,
        options: &CopyOptions,
        destination: &ImageReference,
    ) -> Result<Self, FetchError> {
        let reading = Reading { transport, source, platform: options.platform.as_ref() };
        let root = match transport.root().await? {
            Root::Document { bytes, media_type } => {
                Manifest { bytes, media_type: media_type.unwrap_or_default() }
            }
            Root::Choice(all) => {
                let chosen = reading.choose(all)?;
                reading.manifest(&chosen).await?
            }
            Root::Archived(image) => return reading.archived(image),
        };
        if options.all && !matches!(transport, Transport::Stored { .. }) {
            return reading.everything(root).await;
        }
        let wants_config = matches!(destination, ImageReference::DockerArchive { .. });
        let mut content = reading.one(root, wants_config).await?;
        if let (Transport::Stored { .. }, [manifest]) = (transport, &mut content.manifests[..]) {
            reading.unpacked(manifest)?;
            content.changed = Some(UNPACKED);
        }
        Ok(content)
    }

    /// The digest that the image is known by.
    pub fn digest(&self) -> Digest {
        self.manifests.last().map_or_else(|| Digest::of(b""), Manifest::digest)
    }

    /// What all blobs have to be transferred for.
    pub fn size_bytes(&self) -> u64 {
        self.blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.size_bytes))
    }
}

impl Blob {
    fn of(descriptor: &Descriptor) -> Self {
        Self { digest: descriptor.digest, size_bytes: descriptor.size, place: BlobPlace::Source }
    }

    pub fn name(&self) -> String {
        format!("the blob {}", self.digest)
    }

    /// Feeds the blob, and sees that it is what its digest says.
    pub async fn feed(&self, transport: &Transport<'_>, mut feed: Feed) -> Result<(), FetchError> {
        let found = match &self.place {
            BlobPlace::Source => {
                let (digest, size_bytes) = (self.digest, self.size_bytes);
                let layer = Layer { digest, size_bytes, media_type: None, archived_name: None };
                return feed_layer(transport, &layer, feed).await;
            }
            BlobPlace::Archived(name) => {
                feed_part(transport.archived_blob(name)?, self.size_bytes, feed, self.name()).await?
            }
            BlobPlace::Bytes(bytes) => {
                feed.push(bytes).await;
                feed.finish().await
            }
        };
        if found != self.digest {
            return Err(FetchError::DigestMismatch { what: self.name(), expected: self.digest, found });
        }
        Ok(())
    }
}

/// What is read from where.
struct Reading<'a> {
    transport: &'a Transport<'a>,
    source: &'a ImageReference,
    platform: Option<&'a Platform>,
}

impl Reading<'_> {
    fn refused(&self, what: &str, source: ManifestError) -> FetchError {
        FetchError::Manifest { what: what.to_owned(), location: self.source.to_string(), source }
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, FetchError> {
        let bytes = self.transport.document(descriptor, DocumentKind::Manifest).await?;
        Ok(Manifest { bytes, media_type: descriptor.media_type.clone() })
    }

    /// What a manifest is; its media type is known afterwards.
    fn parse(&self, manifest: &mut Manifest) -> Result<Document, FetchError> {
        let known = Some(manifest.media_type.as_str()).filter(|m| !m.is_empty());
        let document =
            Document::parse_any(&manifest.bytes, known).map_err(|e| self.refused("the manifest", e))?;
        if !Document::is_known(&manifest.media_type) {
            let usual = match document {
                Document::Image(_) => OCI_MANIFEST,
                Document::Index(_) => OCI_INDEX,
            };
            let said: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
            said["mediaType"].as_str().unwrap_or(usual).clone_into(&mut manifest.media_type);
        }
        Ok(document)
    }

    fn choose(&self, mut all: Vec<Descriptor>) -> Result<Descriptor, FetchError> {
        let found: Vec<String> = all.iter().map(Descriptor::describe_platform).collect();
        if let Some(platform) = self.platform
            && all.len() > 1
        {
            all.retain(|d| d.is_for(platform));
        }
        match (all.len(), self.platform) {
            (1, _) => Ok(all.remove(0)),
            (0, Some(platform)) => Err(self.no_such_platform(platform, found)),
            _ => Err(FetchError::SeveralPlatforms { location: self.source.to_string(), found }),
        }
    }

    fn no_such_platform(&self, wanted: &Platform, found: Vec<String>) -> FetchError {
        FetchError::NoSuchPlatform { reference: self.source.to_string(), wanted: wanted.clone(), found }
    }

    /// An index with all that is in it, or the one image that is there.
    async fn everything(&self, root: Manifest) -> Result<Content, FetchError> {
        let mut seen = BTreeSet::from([root.digest()]);
        let (mut blobs, mut manifests, mut single) = (Vec::new(), Vec::new(), None);
        let mut pending = VecDeque::from([(root, 0)]);
        while let Some((mut manifest, depth)) = pending.pop_front() {
            if depth > INDEX_DEPTH_MAX || manifests.len() >= MANIFESTS_MAX {
                return Err(self.refused("the index", ManifestError::NestedIndexes));
            }
            match self.parse(&mut manifest)? {
                Document::Image(image) => {
                    let all = image.layers.iter().chain([&image.config]);
                    blobs.extend(all.filter(|d| seen.insert(d.digest)).map(Blob::of));
                    if depth == 0 {
                        self.config(&image, false).await?;
                        let layers = image.layers.iter().map(|l| l.digest).collect();
                        single = Some(SingleImage { config: None, layers });
                    }
                }
                Document::Index(all) => {
                    for one in all.iter().filter(|d| seen.insert(d.digest)) {
                        pending.push_back((self.manifest(one).await?, depth + 1));
                    }
                }
            }
            manifests.push(manifest);
        }
        // Level by level from above; what is named has to be there first.
        manifests.reverse();
        Ok(Content { manifests, blobs, single, changed: None })
    }

    /// The image for the platform.
    async fn one(&self, mut manifest: Manifest, wants_config: bool) -> Result<Content, FetchError> {
        for _ in 0..INDEX_DEPTH_MAX {
            match self.parse(&mut manifest)? {
                Document::Image(image) => {
                    let config = self.config(&image, wants_config).await?;
                    let mut seen = BTreeSet::new();
                    let all = image.layers.iter().chain([&image.config]);
                    let blobs = all.filter(|d| seen.insert(d.digest)).map(Blob::of).collect();
                    let layers = image.layers.iter().map(|l| l.digest).collect();
                    let single = Some(SingleImage { config, layers });
                    return Ok(Content { manifests: vec![manifest], blobs, single, changed: None });
                }
                Document::Index(all) => {
                    let chosen = self.choose(all)?;
                    manifest = self.manifest(&chosen).await?;
                }
            }
        }
        Err(self.refused("the index", ManifestError::NestedIndexes))
    }

    /// Has the manifest of an image out of podman's storage say of its layers what they are: skopeo calls them compressed.
    fn unpacked(&self, manifest: &mut Manifest) -> Result<(), FetchError> {
        let mut document: serde_json::Value =
            serde_json::from_slice(&manifest.bytes).map_err(|e| self.refused("the manifest", e.into()))?;
        for layer in document["layers"].as_array_mut().into_iter().flatten() {
            let digest = layer["digest"].as_str().and_then(|d| d.parse().ok());
            let (Some(digest), Some(media_type)) = (digest, layer["mediaType"].as_str()) else { continue };
            if let LayerPlace::Local(mut part) = self.transport.layer(&digest)?
                && compression(&mut part)?.is_none()
            {
                let plain = media_type.trim_end_matches("gzip").trim_end_matches("zstd");
                layer["mediaType"] = plain.trim_end_matches(['.', '+']).into();
            }
        }
        manifest.bytes = document.to_string().into_bytes();
        Ok(())
    }

    /// Reads the configuration if it is wanted, or if it has to be for a certain platform.
    async fn config(&self, image: &ImageManifest, wanted: bool) -> Result<Option<Vec<u8>>, FetchError> {
        let is_image = matches!(image.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG);
        if !wanted && (self.platform.is_none() || !is_image) {
            return Ok(None);
        }
        let bytes = self.transport.document(&image.config, DocumentKind::Configuration).await?;
        self.parse_config(&bytes)?;
        Ok(Some(bytes))
    }

    fn parse_config(&self, bytes: &[u8]) -> Result<ImageConfig, FetchError> {
        let config = ImageConfig::parse(bytes).map_err(|e| self.refused("the configuration", e))?;
        match self.platform {
            Some(platform) if !config.is_for(platform) => {
                let found = format!("{}/{}", config.os, config.architecture);
                Err(self.no_such_platform(platform, vec![found]))
            }
            _ => Ok(config),
        }
    }

    /// An image without a manifest: one is made, and the layers stay as they are.
    fn archived(&self, image: ArchivedImage) -> Result<Content, FetchError> {
        let config = self.parse_config(&image.config)?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            let (expected, found) = (diff_ids.len(), image.layers.len());
            return Err(self.refused("the configuration", ManifestError::LayerCount { expected, found }));
        }
        let (mut layers, mut blobs, mut descriptors) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for (name, diff_id) in image.layers.into_iter().zip(diff_ids) {
            let mut part = self.transport.archived_blob(&name)?;
            let (digest, suffix) = match compression(&mut part)? {
                None => (diff_id, ""),
                Some(Compression::Gzip) => (digest_of(&mut part)?, "+gzip"),
                Some(Compression::Zstd) => (digest_of(&mut part)?, "+zstd"),
            };
            let size_bytes = part.size_bytes;
            let media_type = format!("{OCI_LAYER}{suffix}");
            descriptors.push(json!({ "mediaType": media_type, "digest": digest, "size": size_bytes }));
            layers.push(digest);
            if seen.insert(digest) {
                blobs.push(Blob { digest, size_bytes, place: BlobPlace::Archived(name) });
            }
        }
        let (digest, size_bytes) = (Digest::of(&image.config), image.config.len() as u64);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": { "mediaType": OCI_CONFIG, "digest": digest, "size": size_bytes },
            "layers": descriptors,
        });
        blobs.push(Blob { digest, size_bytes, place: BlobPlace::Bytes(image.config.clone()) });
        let manifest =
            Manifest { bytes: manifest.to_string().into_bytes(), media_type: OCI_MANIFEST.to_owned() };
        let single = Some(SingleImage { config: Some(image.config), layers });
        Ok(Content { manifests: vec![manifest], blobs, single, changed: Some(NO_MANIFEST) })
    }
}

fn failed(source: std::io::Error) -> FetchError {
    FetchError::Io { action: "read a layer", source }
}

fn compression(part: &mut FilePart) -> Result<Option<Compression>, FetchError> {
    let mut start = Vec::new();
    part.file.seek(SeekFrom::Start(part.offset_bytes)).map_err(failed)?;
    let length = part.size_bytes.min(4);
    (&mut part.file).take(length).read_to_end(&mut start).map_err(failed)?;
    Ok(Compression::of(&start))
}

fn digest_of(part: &mut FilePart) -> Result<Digest, FetchError> {
    part.file.seek(SeekFrom::Start(part.offset_bytes)).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut input = (&mut part.file).take(part.size_bytes);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match input.read(&mut buffer).map_err(failed)? {
            0 => return Ok(Digest::finish(hasher)),
            count => hasher.update(&buffer[..count]),
        }
    }
}
