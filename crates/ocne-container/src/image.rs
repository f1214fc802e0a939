//! Whole images: configuration, and layers as they are transferred, one after the other.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::FetchError;
use crate::event::Events;
use crate::fetch::{Fetcher, Source, feed_layer, unless_cancelled};
use crate::manifest::MANIFEST_MAX_BYTES;
use crate::pipeline::{self, ChannelReader, Feed};
use crate::platform::Platform;
use crate::reference::ImageReference;
use crate::resolve::{Layer, ResolvedImage};
use crate::transport::{Store, Transport};

/// An image for one platform, found, with its configuration read.
#[derive(Debug)]
pub struct Image<'a>(Source<'a>);

/// Where the bytes of a layer go in.
#[derive(Debug)]
pub struct LayerSender(Feed);

/// Where they come out, blocking: an error instead of the end when not all of them came.
#[derive(Debug)]
pub struct LayerReader {
    channel: ChannelReader,
    whole: Arc<AtomicBool>,
}

impl LayerSender {
    pub(crate) fn into_feed(self) -> Feed {
        self.0
    }
}

/// A pipe for one layer, a few MiB long. Both ends give up once `stop` is set.
pub fn layer_pipe(stop: &Arc<AtomicBool>) -> (LayerSender, LayerReader) {
    let (feed, channel) = pipeline::pipe(stop);
    let whole = feed.whole();
    (LayerSender(feed), LayerReader { channel, whole })
}

impl Read for LayerReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.channel.read(into)? {
            0 if !into.is_empty() && !self.whole.load(Ordering::Acquire) => {
                Err(io::Error::new(io::ErrorKind::BrokenPipe, "the rest of it did not arrive"))
            }
            count => Ok(count),
        }
    }
}

impl Fetcher {
    /// Finds an image for a platform. Its layers are not fetched yet.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn image<'a>(
        &'a self,
        reference: &ImageReference,
        platform: &Platform,
        events: Events<'a>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Image<'a>, FetchError> {
        self.cache().prepare()?;
        let source = unless_cancelled(cancel, self.source(reference, platform, events)).await?;
        Ok(Image(source))
    }
}

/// What another machine needs to know of an image whose files it gets from this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentImage {
    /// The reference in its full form.
    pub reference: String,
    /// As [`Image::digest`].
    pub digest: Digest,
    /// The configuration.
    pub config: SentFile,
    /// The layers as they are transferred, the lowest first.
    pub layers: Vec<SentLayer>,
}

/// A file of such an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentFile {
    /// Its digest; that of a layer without a media type is of its uncompressed content.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
}

/// A layer of such an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentLayer {
    /// Digest and size.
    #[serde(flatten)]
    pub file: SentFile,
    /// What it is, if that is described.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

impl SentImage {
    /// The image, with its files in a folder, each called by its digest in hexadecimal digits.
    ///
    /// # Errors
    /// When the configuration cannot be read, or is not what it was.
    pub fn open(self, folder: &Path) -> Result<Image<'static>, FetchError> {
        let store = Store::folder(folder);
        let name = self.config.digest.hex();
        let config = store.read_small(&name, MANIFEST_MAX_BYTES)?;
        let (expected, found) = (self.config.digest, Digest::of(&config));
        if found != expected {
            let what = format!("the configuration {expected}");
            return Err(FetchError::DigestMismatch { what, expected, found });
        }
        let layers = self.layers.into_iter().map(|layer| Layer {
            digest: layer.file.digest,
            size_bytes: layer.file.size_bytes,
            // Only one that is described has the digest of what is transferred.
            archived_name: layer.media_type.is_none().then(|| layer.file.digest.hex()),
            media_type: layer.media_type,
        });
        let image = ResolvedImage { manifest_digest: self.digest, config, layers: layers.collect() };
        let transport = Transport::Directory { store };
        Ok(Image(Source { transport, image, reference: self.reference }))
    }
}

impl Image<'_> {
    /// What another machine needs to know of it.
    pub fn describe(&self) -> SentImage {
        let image = &self.0.image;
        let layer = |layer: &Layer| SentLayer {
            file: SentFile { digest: layer.digest, size_bytes: layer.size_bytes },
            media_type: layer.media_type.clone(),
        };
        SentImage {
            reference: self.0.reference.clone(),
            digest: image.manifest_digest,
            config: SentFile { digest: Digest::of(&image.config), size_bytes: image.config.len() as u64 },
            layers: image.layers.iter().map(layer).collect(),
        }
    }

    /// The reference in its full form.
    pub fn reference(&self) -> &str {
        &self.0.reference
    }

    /// Digest of the manifest; of the configuration for a `docker-archive`, which has no manifest.
    pub fn digest(&self) -> Digest {
        self.0.image.manifest_digest
    }

    /// The configuration, as its bytes are.
    pub fn config(&self) -> &[u8] {
        &self.0.image.config
    }

    /// How many layers it has.
    pub fn layer_count(&self) -> usize {
        self.0.image.layers.len()
    }

    /// Digest, size and media type of a layer, as it is transferred. A layer of a `docker-archive` has no media type,
    /// and its digest is that of its uncompressed content.
    pub fn layer(&self, index: usize) -> Option<(Digest, u64, Option<&str>)> {
        let Layer { digest, size_bytes, media_type, .. } = self.0.image.layers.get(index)?;
        Some((*digest, *size_bytes, media_type.as_deref()))
    }

    /// Sends a layer, and sees that it has its digest; that of a `docker-archive` is for whoever unpacks it to see.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn send(
        &self,
        index: usize,
        to: LayerSender,
        stop: &Arc<AtomicBool>,
    ) -> Result<(), FetchError> {
        if let Transport::Kept { .. } = self.0.transport {
            return Err(FetchError::LayersOffline { reference: self.0.reference.clone() });
        }
        let layer = self.0.image.layers.get(index).ok_or_else(|| FetchError::Missing {
            location: self.0.reference.clone(),
            name: format!("layer {}", index + 1),
        })?;
        unless_cancelled(stop, feed_layer(&self.0.transport, layer, to.0)).await
    }
}
