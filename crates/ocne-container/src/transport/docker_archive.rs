//! The archive that `docker save` writes (docker image specification 1.2, "Combined Image JSON + Filesystem
//! Changeset Format").
//!
//! It has no manifest, and its layers have names instead of digests: what they have to be, uncompressed, the
//! configuration says.

use super::store::Store;
use crate::error::FetchError;
use crate::manifest::{DockerArchiveImage, MANIFEST_MAX_BYTES, ManifestError};
use crate::reference::ImageReference;

/// An image of an archive.
#[derive(Debug)]
pub(crate) struct ArchivedImage {
    /// The configuration, as it is in the archive.
    pub config: Vec<u8>,
    /// Names of the layers, the lowest first.
    pub layers: Vec<String>,
}

/// Finds the image that the reference means: by a tag, by `@` and its number from 0 on, or the only one.
pub(crate) fn find(store: &Store, image: Option<&str>) -> Result<ArchivedImage, FetchError> {
    let location = store.location();
    let bytes = store.read_small("manifest.json", MANIFEST_MAX_BYTES)?;
    let mut all: Vec<DockerArchiveImage> =
        serde_json::from_slice(&bytes).map_err(|e| FetchError::Manifest {
            what: "the file `manifest.json`".to_owned(),
            location: location.clone(),
            source: e.into(),
        })?;
    let names = |all: &[DockerArchiveImage]| {
        let tag = |(i, image): (usize, &DockerArchiveImage)| {
            image.repo_tags.iter().flatten().next().cloned().unwrap_or_else(|| format!("@{i}"))
        };
        all.iter().enumerate().map(tag).collect::<Vec<_>>()
    };
    let found = match image {
        None if all.len() > 1 => {
            return Err(FetchError::SeveralImages { names: names(&all), location });
        }
        None => Some(0),
        Some(wanted) => match wanted.strip_prefix('@') {
            Some(number) => number.parse().ok(),
            None => all.iter().position(|i| i.repo_tags.iter().flatten().any(|tag| same(tag, wanted))),
        },
    };
    match found {
        Some(index) if index < all.len() => {
            let DockerArchiveImage { config, layers, .. } = all.swap_remove(index);
            let config = store.read_small(&config, MANIFEST_MAX_BYTES)?;
            if layers.is_empty() {
                let what = "the file `manifest.json`".to_owned();
                return Err(FetchError::Manifest { what, location, source: ManifestError::NoLayers });
            }
            Ok(ArchivedImage { config, layers })
        }
        _ => {
            let name = image.unwrap_or("@0").to_owned();
            Err(FetchError::NoSuchImage { names: names(&all), location, name })
        }
    }
}

/// Whether two names mean the same image, once they are complete.
fn same(a: &str, b: &str) -> bool {
    a == b
        || match (
            ImageReference::parse(&format!("docker://{a}")),
            ImageReference::parse(&format!("docker://{b}")),
        ) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        }
}
