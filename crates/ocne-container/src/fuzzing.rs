//! Ways in for `fuzz/`, to what reads bytes from outside.

use std::io::{BufReader, Cursor};

use crate::credentials;
use crate::error::FetchError;
use crate::layer::{DiskSink, Found, PathInImage, search};
use crate::manifest::{DockerArchiveImage, Document, ImageConfig};
use crate::platform::Platform;
use ocne_tar::{TarInput, TarReader};

/// Bytes that are read in small steps, as they come from a decompressor.
struct Bytes(BufReader<Cursor<Vec<u8>>>);

impl std::io::Read for Bytes {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(into)
    }
}

impl std::io::BufRead for Bytes {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

impl TarInput for Bytes {
    fn skip(&mut self, count: u64) -> std::io::Result<u64> {
        std::io::copy(&mut std::io::Read::take(&mut self.0, count), &mut std::io::sink())
    }
}

/// Keeps a disk in memory, and sees that it gets what was announced.
#[derive(Default)]
struct Memory {
    expected_bytes: u64,
    content: Vec<u8>,
}

impl DiskSink for Memory {
    type Disk = Vec<u8>;

    fn begin(&mut self, size_bytes: u64) -> Result<(), FetchError> {
        (self.expected_bytes, self.content) = (size_bytes, Vec::new());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.content.extend_from_slice(bytes);
        assert!(self.content.len() as u64 <= self.expected_bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<Vec<u8>, FetchError> {
        assert_eq!(self.content.len() as u64, self.expected_bytes);
        Ok(std::mem::take(&mut self.content))
    }
}

/// Goes through a layer that is not compressed, following its links; the disk if it has one.
pub fn layer(tar: &[u8], step_bytes: usize) -> Option<Vec<u8>> {
    let mut wanted = PathInImage::parse("disk/boot.qcow2").ok()?;
    for _ in 0..8 {
        let input = BufReader::with_capacity(step_bytes.max(1), Cursor::new(tar.to_vec()));
        let mut reader = TarReader::new(Bytes(input));
        match search(&mut reader, &wanted, &mut Memory::default()).ok()? {
            Found::Disk(disk) => return Some(disk),
            Found::Link(target) => wanted = target,
            Found::Removed | Found::Nothing => return None,
        }
    }
    None
}

/// Reads a manifest, an index, a configuration and a `docker-archive`'s list of images.
pub fn manifest(json: &[u8]) {
    let platform = Platform::linux("arm64");
    if let Ok(Document::Index(all)) = Document::parse(json, None) {
        for descriptor in all {
            let described = descriptor.describe_platform();
            assert!(!descriptor.is_for(&platform) || described.starts_with("linux/arm64"));
        }
    }
    if let Ok(config) = ImageConfig::parse(json) {
        config.is_for(&platform);
    }
    let _ = serde_json::from_slice::<Vec<DockerArchiveImage>>(json);
}

/// Reads the header `WWW-Authenticate`.
pub fn challenges(text: &str) {
    crate::registry_auth::fuzz_challenges(text);
}

/// Reads a file of credentials.
pub fn auth_file(text: &[u8]) {
    credentials::fuzz_auth_file(text);
}
