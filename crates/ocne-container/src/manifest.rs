//! Manifests, indexes and configurations: only what is needed to find the layers of an image.
//!
//! Source: OCI image specification 1.1 (manifest.md, image-index.md, config.md), and Docker's "Image Manifest
//! Version 2, Schema 2". Both forms are read alike; the bytes themselves are what digests are about, so nothing
//! is ever written again from what was parsed.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::platform::Platform;

/// The largest document that is read, as registries have it.
pub(crate) const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// More layers than any registry takes.
const LAYERS_MAX: usize = 4096;

/// What layers are called: a tar file, plain or compressed. Which of them it is, its first bytes say.
const LAYER_TYPES: [&str; 3] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
];

/// Why a manifest, an index or a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is not the JSON that it has to be.
    #[error("it is malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of a kind that is not handled.
    #[error("`{media_type}` is not supported")]
    Unsupported {
        /// What it is.
        media_type: String,
    },
    /// It came as something else than it says it is: another program may read it as another image.
    #[error("it came as `{outer}`, and says of itself that it is `{inner}`")]
    MediaTypes {
        /// The media type that it came with.
        outer: String,
        /// The media type in it.
        inner: String,
    },
    /// A layer of a kind that cannot be unpacked, such as an encrypted one.
    #[error("layer {digest} is of the unsupported type `{media_type}`")]
    LayerType {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// There is nothing in it.
    #[error("it has no layers")]
    NoLayers,
    /// Layers and the digests of their content do not go together.
    #[error("it describes {expected} layers, and the image has {found}")]
    LayerCount {
        /// As the configuration says.
        expected: usize,
        /// As there are.
        found: usize,
    },
    /// Indexes in indexes without an end.
    #[error("indexes are nested too deep")]
    NestedIndexes,
}

/// A document by digest (OCI: descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<DescriptorPlatform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// The platform that an index gives an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct DescriptorPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Descriptor {
    /// A document of which only digest and size are known.
    pub fn untyped(digest: Digest, size: u64) -> Self {
        Self { media_type: String::new(), digest, size, platform: None, annotations: None }
    }

    pub fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }

    /// Whether an index says that the image is for the platform.
    pub fn is_for(&self, platform: &Platform) -> bool {
        self.platform.as_ref().is_some_and(|p| platform.accepts(&p.os, &p.architecture, p.variant.as_deref()))
    }

    /// The platform as it is printed.
    pub fn describe_platform(&self) -> String {
        match &self.platform {
            None => "no platform".to_owned(),
            Some(p) => {
                let variant = p.variant.iter().filter(|v| !v.is_empty());
                variant.fold(format!("{}/{}", p.os, p.architecture), |all, v| format!("{all}/{v}"))
            }
        }
    }

    /// The name that a layout gives the image.
    pub fn ref_name(&self) -> Option<&str> {
        self.annotations.as_ref()?.get("org.opencontainers.image.ref.name").map(String::as_str)
    }
}

fn is_index(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
    )
}

fn is_layer(media_type: &str) -> bool {
    LAYER_TYPES.iter().any(|base| {
        media_type
            .strip_prefix(base)
            .is_some_and(|rest| matches!(rest, "" | "+gzip" | ".gzip" | "+zstd" | ".zstd"))
    })
}

fn is_image(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ImageManifest {
    pub config: Descriptor,
    /// The lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Image(ImageManifest),
    /// Images for several platforms, or indexes of them.
    Index(Vec<Descriptor>),
}

/// Enough to tell what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<serde_json::Value>,
}

impl Document {
    /// Reads a manifest or an index. `media_type` is what it came with, as far as that was said; simple file
    /// servers say `text/plain` of all that they have.
    pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, ManifestError> {
        let document = Self::parse_any(bytes, media_type)?;
        if let Self::Image(manifest) = &document {
            if let Some(l) = manifest.layers.iter().find(|l| !is_layer(&l.media_type)) {
                let media_type = l.media_type.clone();
                return Err(ManifestError::LayerType { digest: l.digest, media_type });
            }
            if manifest.layers.is_empty() {
                return Err(ManifestError::NoLayers);
            }
        }
        Ok(document)
    }

    /// Whether a media type says what a document is.
    pub fn is_known(media_type: &str) -> bool {
        is_index(media_type) || is_image(media_type)
    }

    /// The same for whoever does not look into layers: they may be of any kind, or none.
    pub fn parse_any(bytes: &[u8], media_type: Option<&str>) -> Result<Self, ManifestError> {
        let outline: Outline = serde_json::from_slice(bytes)?;
        let outer = media_type
            .map(|m| m.split(';').next().unwrap_or_default().trim())
            .filter(|m| is_index(m) || is_image(m));
        if let (Some(outer), Some(inner)) = (outer, &outline.media_type)
            && outer != inner
        {
            return Err(ManifestError::MediaTypes { outer: outer.to_owned(), inner: inner.clone() });
        }
        let media_type = outline.media_type.as_deref().or(outer).unwrap_or_default().to_owned();
        if outline.schema_version != 2 {
            let media_type = format!("manifest schema {}", outline.schema_version);
            return Err(ManifestError::Unsupported { media_type });
        }
        // Without a type the fields decide; with both kinds of fields nobody can say what it is.
        match (outline.manifests, outline.config.is_some()) {
            (Some(all), false) if !is_image(&media_type) => Ok(Self::Index(all)),
            (None, true) if !is_index(&media_type) => {
                let manifest: ImageManifest = serde_json::from_slice(bytes)?;
                match manifest.layers.len() {
                    0..=LAYERS_MAX => Ok(Self::Image(manifest)),
                    n => Err(ManifestError::Unsupported { media_type: format!("an image of {n} layers") }),
                }
            }
            _ => Err(ManifestError::Unsupported { media_type }),
        }
    }
}

/// The configuration of an image. Artifacts that hold nothing to run have an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
    #[serde(default)]
    pub rootfs: RootFs,
}

/// What the layers are, uncompressed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Whether the image is for the platform; one that does not say what it is for is for any.
    pub fn is_for(&self, platform: &Platform) -> bool {
        let os = if self.os.is_empty() { &platform.os } else { &self.os };
        self.architecture.is_empty() || platform.accepts(os, &self.architecture, self.variant.as_deref())
    }
}

/// An image in the `manifest.json` of a `docker-archive`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerArchiveImage {
    pub config: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub layers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> String {
        Digest::of(&[n]).to_string()
    }

    #[test]
    fn tells_images_from_indexes_with_and_without_a_media_type() {
        let image = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":1}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","digest":"{}","size":2}}]}}"#,
            digest(1),
            digest(2)
        );
        let Ok(Document::Image(m)) = Document::parse(image.as_bytes(), None) else { panic!("not an image") };
        assert_eq!((m.config.size, m.layers[0].size), (1, 2));
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}]}}"#,
            digest(3)
        );
        let Ok(Document::Index(all)) = Document::parse(index.as_bytes(), None) else {
            panic!("not an index")
        };
        assert!(all[0].is_for(&Platform::linux("arm64")) && !all[0].is_for(&Platform::linux("amd64")));
        assert_eq!(all[0].describe_platform(), "linux/arm64/v8");
        // what one is served as and what it is have to go together
        assert!(
            Document::parse(index.as_bytes(), Some("application/vnd.oci.image.manifest.v1+json")).is_err()
        );
        assert!(Document::parse(image.as_bytes(), Some("application/vnd.oci.image.index.v1+json")).is_err());
    }

    #[test]
    fn refuses_what_cannot_be_told() {
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"config":{{"digest":"{}","size":1}},"layers":[]}}"#,
            digest(1)
        );
        assert!(matches!(Document::parse(both.as_bytes(), None), Err(ManifestError::Unsupported { .. })));
        assert!(matches!(
            Document::parse(br#"{"schemaVersion":1}"#, None),
            Err(ManifestError::Unsupported { .. })
        ));
        let empty =
            format!(r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":1}},"layers":[]}}"#, digest(1));
        assert!(matches!(Document::parse(empty.as_bytes(), None), Err(ManifestError::NoLayers)));
        assert!(matches!(Document::parse(b"[", None), Err(ManifestError::Json(_))));
        let encrypted = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{0}","size":1}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip+encrypted","digest":"{0}","size":2}}]}}"#,
            digest(1)
        );
        assert!(matches!(Document::parse(encrypted.as_bytes(), None), Err(ManifestError::LayerType { .. })));
        let md5 = r#"{"schemaVersion":2,"config":{"digest":"md5:00","size":1},"layers":[]}"#;
        assert!(matches!(Document::parse(md5.as_bytes(), None), Err(ManifestError::Json(_))));
    }
}
