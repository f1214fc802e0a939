//! A small image with a boot image in it, as a registry and as an image layout have it.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use ocne_container::Digest;

pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// Everything that a registry would have of one or more images.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// By tag and by digest.
    pub manifests: HashMap<String, (Vec<u8>, &'static str)>,
    /// By digest.
    pub blobs: HashMap<String, Vec<u8>>,
}

/// One image.
#[derive(Debug, Clone)]
pub struct Image {
    pub disk: Vec<u8>,
    pub layer: Digest,
    pub manifest: Digest,
}

/// Bytes that do not compress, different for each seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

impl Content {
    /// Adds an image whose layer has `disk`, under a tag unless that is empty.
    pub fn add(&mut self, disk: Vec<u8>, architecture: &str, tag: &str) -> Image {
        let mut header = tar::Header::new_gnu();
        header.set_size(disk.len() as u64);
        header.set_mode(0o644);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "disk/boot.qcow2", &disk[..]).unwrap();
        let archive = archive.into_inner().unwrap();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&archive).unwrap();
        let layer = encoder.finish().unwrap();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&archive).to_string()] },
        });
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config).to_string(), "size": config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": Digest::of(&layer).to_string(), "size": layer.len() }],
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let image = Image { disk, layer: Digest::of(&layer), manifest: Digest::of(&manifest) };
        self.blobs.insert(Digest::of(&layer).to_string(), layer);
        self.blobs.insert(Digest::of(&config).to_string(), config);
        self.put(manifest, MANIFEST_TYPE, tag);
        image
    }

    /// Adds an index of images for these architectures.
    pub fn add_index(&mut self, images: &[(&Image, &str)], tag: &str) {
        let entries: Vec<_> = images
            .iter()
            .map(|(image, architecture)| {
                let size = self.manifests[&image.manifest.to_string()].0.len();
                serde_json::json!({ "mediaType": MANIFEST_TYPE, "digest": image.manifest.to_string(), "size": size,
                    "platform": { "os": "linux", "architecture": architecture } })
            })
            .collect();
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries });
        self.put(serde_json::to_vec(&index).unwrap(), INDEX_TYPE, tag);
    }

    fn put(&mut self, bytes: Vec<u8>, media_type: &'static str, tag: &str) {
        if !tag.is_empty() {
            self.manifests.insert(tag.to_owned(), (bytes.clone(), media_type));
        }
        self.manifests.insert(Digest::of(&bytes).to_string(), (bytes, media_type));
    }

    /// Writes an image layout with one image, named `ock`.
    pub fn write_layout(&self, image: &Image, folder: &Path) {
        let blobs = folder.join("blobs/sha256");
        fs_err::create_dir_all(&blobs).unwrap();
        let manifest = &self.manifests[&image.manifest.to_string()].0;
        fs_err::write(blobs.join(image.manifest.hex()), manifest).unwrap();
        for (digest, bytes) in &self.blobs {
            fs_err::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
        }
        fs_err::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{ "mediaType": MANIFEST_TYPE,
            "digest": image.manifest.to_string(), "size": manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": "ock" } }] });
        fs_err::write(folder.join("index.json"), index.to_string()).unwrap();
    }
}
