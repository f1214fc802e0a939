//! An image as one file: a tar file of an OCI image layout (OCI image specification, image-layout.md), written once
//! from the start to the end. Only the headers of blobs are written later, when their size and digest are known.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::checksum::Checksum;
use crate::error::OstreeError;

/// Size of a header, and what content is padded to.
pub(crate) const BLOCK_BYTES: usize = 512;
/// How much is written at a time.
const BUFFER_BYTES: usize = 1 << 20;

fn failed(source: io::Error) -> OstreeError {
    OstreeError::Output { action: "write the image", source }
}

/// The header of an entry that belongs to root: nothing of the machine or the moment is in it.
pub(crate) fn header(
    name: &str,
    kind: EntryType,
    mode: u32,
    seconds: u64,
    size_bytes: u64,
) -> Result<Header, OstreeError> {
    let mut header = Header::new_ustar();
    header.set_path(name).map_err(failed)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(seconds);
    header.set_size(size_bytes);
    header.set_cksum();
    Ok(header)
}

/// Zeros behind content of this size.
fn padding(size_bytes: u64) -> &'static [u8] {
    let over = usize::try_from(size_bytes % BLOCK_BYTES as u64).unwrap_or(0);
    &[0; BLOCK_BYTES][..(BLOCK_BYTES - over) % BLOCK_BYTES]
}

/// A blob of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub checksum: Checksum,
    /// Its size.
    pub size_bytes: u64,
}

/// Writes an image into a file.
#[derive(Debug)]
pub(crate) struct ArchiveWriter<'f> {
    file: &'f File,
    at_bytes: u64,
    blobs: BTreeMap<Checksum, u64>,
}

impl<'f> ArchiveWriter<'f> {
    /// Begins an image in an empty file.
    pub fn new(file: &'f File) -> Result<Self, OstreeError> {
        let mut archive = Self { file, at_bytes: 0, blobs: BTreeMap::new() };
        archive.entry("oci-layout", EntryType::Regular, 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.entry("blobs/", EntryType::Directory, 0o755, b"")?;
        archive.entry("blobs/sha256/", EntryType::Directory, 0o755, b"")?;
        Ok(archive)
    }

    fn entry(&mut self, name: &str, kind: EntryType, mode: u32, content: &[u8]) -> Result<(), OstreeError> {
        let size_bytes = content.len() as u64;
        let header = header(name, kind, mode, 0, size_bytes)?;
        self.put(&[header.as_bytes(), content, padding(size_bytes)].concat())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), OstreeError> {
        self.file.write_all_at(bytes, self.at_bytes).map_err(failed)?;
        self.at_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Whether there is a blob already.
    pub fn has(&self, checksum: Checksum) -> bool {
        self.blobs.contains_key(&checksum)
    }

    /// Adds a small blob.
    pub fn small(&mut self, content: &[u8]) -> Result<Blob, OstreeError> {
        let blob = Blob { checksum: Checksum::of(content), size_bytes: content.len() as u64 };
        if !self.has(blob.checksum) {
            self.entry(&blob_name(blob.checksum), EntryType::Regular, 0o644, content)?;
            self.blobs.insert(blob.checksum, blob.size_bytes);
        }
        Ok(blob)
    }

    /// Begins a blob of which nothing is known yet.
    pub fn blob(&mut self) -> BlobWriter<'_, 'f> {
        let start_bytes = self.at_bytes + BLOCK_BYTES as u64;
        BlobWriter {
            archive: self,
            start_bytes,
            flushed_bytes: start_bytes,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            hasher: Sha256::new(),
            held_at_bytes: None,
        }
    }

    /// Ends the image, and returns the size of the file.
    pub fn finish(mut self, index: &[u8]) -> Result<u64, OstreeError> {
        self.entry("index.json", EntryType::Regular, 0o644, index)?;
        self.put(&[0; 2 * BLOCK_BYTES])?;
        self.file.set_len(self.at_bytes).map_err(failed)?;
        Ok(self.at_bytes)
    }
}

/// Where a blob is in an image.
pub(crate) fn blob_name(checksum: Checksum) -> String {
    format!("blobs/sha256/{checksum}")
}

/// Writes one blob, and hashes it.
#[derive(Debug)]
pub(crate) struct BlobWriter<'a, 'f> {
    archive: &'a mut ArchiveWriter<'f>,
    /// Where the blob begins in the file.
    start_bytes: u64,
    /// Up to where it was written.
    flushed_bytes: u64,
    buffer: Vec<u8>,
    /// Of all that was written, up to `held_at_bytes` if that is set.
    hasher: Sha256,
    /// Where a header is to come, once the size of what follows is known.
    held_at_bytes: Option<u64>,
}

impl BlobWriter<'_, '_> {
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), OstreeError> {
        while !bytes.is_empty() {
            let count = bytes.len().min(BUFFER_BYTES - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.buffer.len() == BUFFER_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), OstreeError> {
        if self.held_at_bytes.is_none() {
            self.hasher.update(&self.buffer);
        }
        self.archive.file.write_all_at(&self.buffer, self.flushed_bytes).map_err(failed)?;
        self.flushed_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Adds a whole entry to a blob that is a tar file; the content comes in parts.
    pub fn entry(
        &mut self,
        name: &str,
        kind: EntryType,
        mode: u32,
        parts: &[&[u8]],
    ) -> Result<(), OstreeError> {
        self.entry_at(name, kind, mode, 0, parts)
    }

    /// The same for something that was changed at a time.
    pub fn entry_at(
        &mut self,
        name: &str,
        kind: EntryType,
        mode: u32,
        seconds: u64,
        parts: &[&[u8]],
    ) -> Result<(), OstreeError> {
        let size_bytes = parts.iter().map(|p| p.len() as u64).sum();
        self.write(header(name, kind, mode, seconds, size_bytes)?.as_bytes())?;
        parts.iter().try_for_each(|part| self.write(part))?;
        self.write(padding(size_bytes))
    }

    /// Begins an entry whose size is not known yet.
    pub fn begin_entry(&mut self) -> Result<(), OstreeError> {
        self.flush()?;
        self.held_at_bytes = Some(self.flushed_bytes);
        self.flushed_bytes += BLOCK_BYTES as u64;
        Ok(())
    }

    /// Ends it: its header is written, and what follows the header is read back to be hashed behind it.
    pub fn end_entry(&mut self, name: &str) -> Result<(), OstreeError> {
        self.flush()?;
        let Some(header_at) = self.held_at_bytes.take() else { return Ok(()) };
        let mut at = header_at + BLOCK_BYTES as u64;
        let size_bytes = self.flushed_bytes - at;
        let header = header(name, EntryType::Regular, 0o644, 0, size_bytes)?;
        self.archive.file.write_all_at(header.as_bytes(), header_at).map_err(failed)?;
        self.hasher.update(header.as_bytes());
        self.buffer.resize(BUFFER_BYTES, 0);
        while at < self.flushed_bytes {
            let len = usize::try_from(self.flushed_bytes - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            self.archive.file.read_exact_at(&mut self.buffer[..len], at).map_err(failed)?;
            self.hasher.update(&self.buffer[..len]);
            at += len as u64;
        }
        self.buffer.clear();
        self.write(padding(size_bytes))
    }

    /// Ends a blob that is a tar file.
    pub fn finish_tar(mut self) -> Result<Blob, OstreeError> {
        self.write(&[0; 2 * BLOCK_BYTES])?;
        self.finish()
    }

    /// Ends the blob.
    pub fn finish(mut self) -> Result<Blob, OstreeError> {
        self.flush()?;
        let blob = Blob {
            checksum: Checksum::finish(self.hasher),
            size_bytes: self.flushed_bytes - self.start_bytes,
        };
        let archive = self.archive;
        if archive.has(blob.checksum) {
            // Written for nothing: what comes next takes its place.
            return Ok(blob);
        }
        let header = header(&blob_name(blob.checksum), EntryType::Regular, 0o644, 0, blob.size_bytes)?;
        archive.put(header.as_bytes())?;
        archive.at_bytes = self.flushed_bytes;
        archive.put(padding(blob.size_bytes))?;
        archive.blobs.insert(blob.checksum, blob.size_bytes);
        Ok(blob)
    }
}
