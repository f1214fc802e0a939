//! The OCI image layout (OCI image specification, image-layout.md).

use serde::Deserialize;

use super::store::Store;
use crate::digest::Digest;
use crate::error::FetchError;
use crate::manifest::{Descriptor, Document, MANIFEST_MAX_BYTES, ManifestError};
use crate::reference::LayoutImage;

/// `oci-layout`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

/// Where a blob is.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The images of a layout that the reference may mean: one, or several for different platforms.
pub(super) fn choose(store: &Store, image: Option<&LayoutImage>) -> Result<Vec<Descriptor>, FetchError> {
    let location = store.location();
    let refused = |what: &str, source| FetchError::Manifest {
        what: what.to_owned(),
        location: store.location(),
        source,
    };
    let marker = store.read_small("oci-layout", MANIFEST_MAX_BYTES)?;
    let marker: Marker =
        serde_json::from_slice(&marker).map_err(|e| refused("the file `oci-layout`", e.into()))?;
    if !marker.image_layout_version.starts_with("1.") {
        let media_type = format!("image layout {}", marker.image_layout_version);
        return Err(refused("the file `oci-layout`", ManifestError::Unsupported { media_type }));
    }
    let bytes = store.read_small("index.json", MANIFEST_MAX_BYTES)?;
    let all = match Document::parse(&bytes, None).map_err(|e| refused("the file `index.json`", e))? {
        Document::Index(all) => all,
        Document::Image(_) => {
            let media_type = "a manifest".to_owned();
            return Err(refused("the file `index.json`", ManifestError::Unsupported { media_type }));
        }
    };
    let names = |all: &[Descriptor]| -> Vec<String> {
        let mut names: Vec<String> = all
            .iter()
            .map(|d| d.ref_name().map_or_else(|| format!("@{}", d.digest), str::to_owned))
            .collect();
        names.dedup();
        names
    };
    match image {
        Some(LayoutImage::Name(name)) => {
            let found: Vec<Descriptor> = all.iter().filter(|d| d.ref_name() == Some(name)).cloned().collect();
            if found.is_empty() {
                return Err(FetchError::NoSuchImage { location, name: name.clone(), names: names(&all) });
            }
            Ok(found)
        }
        Some(LayoutImage::Digest(digest)) => {
            if let Some(found) = all.iter().find(|d| d.digest == *digest) {
                return Ok(vec![found.clone()]);
            }
            // It may be in an index, or have no name at all.
            match store.open(&blob_name(digest)) {
                Ok(part) => Ok(vec![Descriptor::untyped(*digest, part.size_bytes)]),
                Err(FetchError::Missing { .. }) => {
                    Err(FetchError::NoSuchImage { location, name: digest.to_string(), names: names(&all) })
                }
                Err(e) => Err(e),
            }
        }
        None => {
            let first = all.first().and_then(Descriptor::ref_name);
            if all.iter().any(|d| d.ref_name() != first) {
                return Err(FetchError::SeveralImages { location, names: names(&all) });
            }
            Ok(all)
        }
    }
}
