//! Container images made by hand, and what tests of fetching share.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ocne_container::{
    Digest, FetchError, FetchEvent, FetchOptions, FetchedDisk, Fetcher, ImageReference, Platform,
};
use serde_json::{Value, json};

pub const DISK: &str = "disk/boot.qcow2";

/// What a tar entry is.
#[derive(Debug, Clone)]
pub enum Item<'a> {
    File(&'a str, &'a [u8]),
    Folder(&'a str),
    Link(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Special(&'a str, u8),
}

/// A tar file; names go in as they are, whatever they are.
pub fn tar_file(items: &[Item<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        let (name, kind, target, content): (&str, u8, &str, &[u8]) = match *item {
            Item::File(name, content) => (name, b'0', "", content),
            Item::Folder(name) => (name, b'5', "", b""),
            Item::Link(name, target) => (name, b'2', target, b""),
            Item::HardLink(name, target) => (name, b'1', target, b""),
            Item::Special(name, kind) => (name, kind, "", b""),
        };
        if name.len() > 100 {
            let mut long = name.as_bytes().to_vec();
            long.push(0);
            entry(&mut out, "././@LongLink", b'L', "", &long);
        }
        entry(&mut out, &name[..name.len().min(100)], kind, target, content);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// One header with its content.
pub fn entry(out: &mut Vec<u8>, name: &str, kind: u8, target: &str, content: &[u8]) {
    let mut header = [0_u8; 512];
    let mut field = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    field(0, name.as_bytes());
    field(100, b"0000644\0");
    field(124, format!("{:011o}", content.len()).as_bytes());
    field(136, b"00000000000");
    field(148, b"        ");
    field(156, &[kind]);
    field(157, target.as_bytes());
    field(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(4));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A disk that compresses badly, and that another seed makes another of.
pub fn disk(size_bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..size_bytes.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(size_bytes);
    bytes
}

/// A layer: as it is transferred, uncompressed, and its media type.
#[derive(Debug, Clone)]
pub struct LayerFile {
    pub blob: Vec<u8>,
    pub plain: Vec<u8>,
    pub media_type: &'static str,
}

impl LayerFile {
    pub fn gzip(items: &[Item<'_>]) -> Self {
        let plain = tar_file(items);
        Self { blob: gzip(&plain), plain, media_type: "application/vnd.oci.image.layer.v1.tar+gzip" }
    }

    pub fn plain(items: &[Item<'_>]) -> Self {
        let plain = tar_file(items);
        Self { blob: plain.clone(), plain, media_type: "application/vnd.oci.image.layer.v1.tar" }
    }

    pub fn zstd(items: &[Item<'_>]) -> Self {
        let plain = tar_file(items);
        let blob = zstd::encode_all(&plain[..], 3).unwrap();
        Self { blob, plain, media_type: "application/vnd.oci.image.layer.v1.tar+zstd" }
    }

    /// The usual one.
    pub fn with_disk(content: &[u8]) -> Self {
        Self::gzip(&[Item::Folder("disk/"), Item::File(DISK, content)])
    }
}

/// A folder in the OCI layout.
#[derive(Debug)]
pub struct Layout {
    pub path: PathBuf,
    pub index: Vec<Value>,
}

impl Layout {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        fs_err::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs_err::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { path, index: Vec::new() }
    }

    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Puts a blob, and gives its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs_err::write(self.blob_path(&digest.to_string()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    }

    /// Puts an image, and gives the descriptor of its manifest.
    pub fn image(&self, architecture: &str, layers: &[LayerFile]) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(&l.plain).to_string()).collect();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "rootfs": { "type": "layers", "diff_ids": diff_ids }
        });
        let config =
            self.blob("application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config).unwrap());
        let layers: Vec<Value> = layers.iter().map(|l| self.blob(l.media_type, &l.blob)).collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        self.blob(media_type, &serde_json::to_vec(&manifest).unwrap())
    }

    /// Puts an index of these, and gives its descriptor.
    pub fn nested_index(&self, manifests: &[Value]) -> Value {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        self.blob(media_type, &serde_json::to_vec(&index).unwrap())
    }

    /// Lists an image under a name.
    pub fn list(&mut self, mut descriptor: Value, name: Option<&str>) {
        if let Some(name) = name {
            descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        self.index.push(descriptor);
        let index = json!({ "schemaVersion": 2, "manifests": self.index });
        fs_err::write(self.path.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    }

    /// A folder with one image.
    pub fn single(path: impl Into<PathBuf>, layers: &[LayerFile]) -> Self {
        let mut layout = Self::new(path);
        let image = layout.image("amd64", layers);
        layout.list(image, None);
        layout
    }

    pub fn reference(&self) -> String {
        format!("oci:{}", self.path.display())
    }

    /// The same as an archive, with the index before or behind the blobs.
    pub fn archive(&self, path: &Path, index_first: bool) {
        let mut names: Vec<PathBuf> = fs_err::read_dir(self.path.join("blobs/sha256"))
            .unwrap()
            .map(|e| Path::new("blobs/sha256").join(e.unwrap().file_name()))
            .collect();
        names.sort();
        for name in ["oci-layout", "index.json"] {
            names.insert(if index_first { 0 } else { names.len() }, name.into());
        }
        let files: Vec<(String, Vec<u8>)> = names
            .iter()
            .map(|n| (n.display().to_string(), fs_err::read(self.path.join(n)).unwrap()))
            .collect();
        let items: Vec<Item<'_>> = files.iter().map(|(n, c)| Item::File(n, c)).collect();
        fs_err::write(path, tar_file(&items)).unwrap();
    }
}

/// The platform that an index says an image is for.
pub fn with_platform(mut descriptor: Value, architecture: &str, variant: Option<&str>) -> Value {
    descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
    if let Some(variant) = variant {
        descriptor["platform"]["variant"] = json!(variant);
    }
    descriptor
}

/// Runs a future on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub fn fetch_with(
    options: FetchOptions,
    reference: &str,
    architecture: &str,
    events: &dyn Fn(FetchEvent),
    cancel: &Arc<AtomicBool>,
) -> Result<FetchedDisk, FetchError> {
    let fetcher = Fetcher::new(options)?;
    let reference = ImageReference::parse(reference)?;
    block_on(fetcher.disk(&reference, &Platform::linux(architecture), DISK, events, cancel))
}

/// Fetches into a cache, and looks that nothing temporary is left there.
pub fn fetch(cache: &Path, reference: &str, architecture: &str) -> Result<FetchedDisk, FetchError> {
    let options = FetchOptions { cache_dir: cache.to_owned(), ..FetchOptions::default() };
    let result = fetch_with(options, reference, architecture, &|_| {}, &Arc::default());
    assert_eq!(leftovers(cache), Vec::<PathBuf>::new());
    result
}

/// Temporary files in a folder.
pub fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir(folder) else { return Vec::new() };
    entries
        .flat_map(|e| {
            let path = e.unwrap().path();
            if path.is_dir() { leftovers(&path) } else { vec![path] }
        })
        .filter(|p| p.extension().is_some_and(|e| e == "part"))
        .collect()
}

/// Whether a program is there; says so if a test is left out.
pub fn has(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: `{program}` is not installed");
    }
    found
}

/// Copies an image with skopeo.
pub fn skopeo(arguments: &[&str]) {
    let out = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().unwrap();
    assert!(out.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}
