//! Images in one file: the OCI image layout as a tar file, and what `docker load` takes.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err::File;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::claim::{Claim, failed};
use super::content::{Blob, Content, SingleImage};
use super::folder::{OCI_LAYOUT, index};
use crate::digest::Digest;
use crate::error::FetchError;
use crate::image::LayerReader;
use crate::layer::LayerError;
use crate::manifest::ImageConfig;
use crate::pipeline::{Compression, limit_bytes};
use crate::transport::layout_blob_name;

/// Size of a header, and what content is padded to.
const BLOCK_BYTES: u64 = 512;
/// How much is written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// How much is written before the kernel is asked to bring it to the disk.
const WRITE_BACK_BYTES: u64 = 16 << 20;

/// Which form an archive has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// An OCI image layout, and the name of the image in it.
    Layout(Option<String>),
    /// What `docker save` writes, and the name of the image in it.
    Docker(Option<String>),
}

/// An archive that an image is written into, from its start to its end.
#[derive(Debug)]
pub(super) struct Tarball {
    claim: Claim,
    form: Form,
    at_bytes: u64,
    /// For each layer of the one image what it is, uncompressed.
    layers: Vec<(Digest, Digest)>,
    config: Option<Digest>,
}

impl Tarball {
    /// Begins an image in a file that replaces one that is there.
    pub fn create(path: &Path, form: Form, content: &Content) -> Result<Self, FetchError> {
        let refused =
            |reason: &str| FetchError::TargetForm { target: path.to_owned(), reason: reason.to_owned() };
        if std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
            return Err(refused("it is a folder"));
        }
        let (mut layers, mut config) = (Vec::new(), None);
        if let Form::Docker(_) = &form {
            let single = content.single.as_ref();
            let Some(SingleImage { config: Some(bytes), layers: packed }) = single else {
                return Err(refused("a docker-archive holds one image for each name, and no index"));
            };
            let parsed =
                ImageConfig::parse(bytes).map_err(|e| refused(&format!("the configuration: {e}")))?;
            let plain = parsed.rootfs.diff_ids;
            if plain.len() != packed.len() {
                return Err(refused("the configuration does not describe the layers"));
            }
            layers = packed.iter().copied().zip(plain).collect();
            config = Some(Digest::of(bytes));
        }
        let mut tarball = Self { claim: Claim::file(path)?, form, at_bytes: 0, layers, config };
        if let Form::Layout(_) = tarball.form {
            tarball.entry("oci-layout", OCI_LAYOUT.as_bytes())?;
        }
        Ok(tarball)
    }

    /// Whether it has no manifest.
    pub fn is_docker(&self) -> bool {
        matches!(self.form, Form::Docker(_))
    }

    /// A small file.
    fn entry(&mut self, name: &str, bytes: &[u8]) -> Result<(), FetchError> {
        let file = self.claim.as_file();
        let start_bytes = self.at_bytes;
        file.file().write_all_at(bytes, start_bytes + BLOCK_BYTES).map_err(failed)?;
        self.at_bytes = end_entry(file, name, start_bytes, bytes.len() as u64).map_err(failed)?;
        Ok(())
    }

    /// Where a blob goes, and under which name.
    pub fn begin(&self, blob: &Blob) -> Result<Entry, FetchError> {
        let plain = self.layers.iter().find(|(packed, _)| *packed == blob.digest).map(|(_, plain)| *plain);
        let name = match (&self.form, plain) {
            (Form::Layout(_), _) => layout_blob_name(&blob.digest),
            (Form::Docker(_), Some(plain)) => format!("{}.tar", plain.hex()),
            (Form::Docker(_), None) => format!("{}.json", blob.digest.hex()),
        };
        let file = self.claim.as_file().try_clone().map_err(failed)?;
        Ok(Entry { file, name, plain, packed: blob.clone(), start_bytes: self.at_bytes })
    }

    /// Takes what was written.
    pub fn end(&mut self, end_bytes: u64) {
        self.at_bytes = end_bytes;
    }

    /// Writes what describes the image, and gives the archive its name.
    pub fn finish(mut self, content: &Content) -> Result<Digest, FetchError> {
        let mut digest = content.digest();
        match self.form.clone() {
            Form::Layout(name) => {
                for manifest in &content.manifests {
                    self.entry(&layout_blob_name(&manifest.digest()), &manifest.bytes)?;
                }
                self.entry("index.json", &index(content, name.as_deref(), None)?)?;
            }
            Form::Docker(name) => {
                digest = self.config.unwrap_or(digest);
                let layers: Vec<String> =
                    self.layers.iter().map(|(_, plain)| format!("{}.tar", plain.hex())).collect();
                let config = format!("{}.json", digest.hex());
                let tags: Vec<String> = name.into_iter().collect();
                let image = json!([{ "Config": config, "RepoTags": tags, "Layers": layers }]);
                self.entry("manifest.json", image.to_string().as_bytes())?;
            }
        }
        let file = self.claim.as_file();
        // Two blocks of zeros end it.
        file.set_len(self.at_bytes + 2 * BLOCK_BYTES).and_then(|()| file.sync_all()).map_err(failed)?;
        self.claim.persist().map_err(failed)?;
        Ok(digest)
    }
}

/// A blob that is written into an archive.
#[derive(Debug)]
pub(super) struct Entry {
    file: File,
    name: String,
    /// What it has to be when it is to be unpacked.
    plain: Option<Digest>,
    packed: Blob,
    start_bytes: u64,
}

impl Entry {
    /// Writes it, blocking. Returns where the next entry begins.
    pub fn write(self, reader: LayerReader, counter: &Arc<AtomicU64>) -> Result<u64, FetchError> {
        let mut input: Box<dyn Read> = Box::new(Counted { reader, counter: Arc::clone(counter) });
        let digest = self.packed.digest;
        let refused = |source| FetchError::Layer { digest, source };
        let mut limit = self.packed.size_bytes;
        if self.plain.is_some() {
            let mut packed = BufReader::with_capacity(BUFFER_BYTES, input);
            let start = io::BufRead::fill_buf(&mut packed).map_err(failed)?;
            let compression = Compression::of(start);
            if compression.is_some() {
                limit = limit_bytes(self.packed.size_bytes);
            }
            input = match compression {
                Some(compression) => compression.decoder(packed).map_err(refused)?,
                None => Box::new(packed),
            };
        }
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut size_bytes = 0_u64;
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(refused(LayerError::Compression { format: "layer", source })),
            };
            let at_bytes = self.start_bytes + BLOCK_BYTES + size_bytes;
            self.file.file().write_all_at(&buffer[..count], at_bytes).map_err(failed)?;
            if self.plain.is_some() {
                hasher.update(&buffer[..count]);
            }
            size_bytes += count as u64;
            if size_bytes > limit {
                let compressed_bytes = self.packed.size_bytes;
                return Err(refused(LayerError::Bomb { compressed_bytes, limit_bytes: limit }));
            }
        }
        if let Some(expected) = self.plain {
            let found = Digest::finish(hasher);
            if found != expected {
                let what = format!("the layer {digest}, uncompressed,");
                return Err(FetchError::DigestMismatch { what, expected, found });
            }
        }
        end_entry(&self.file, &self.name, self.start_bytes, size_bytes).map_err(failed)
    }
}

/// Writes the header of an entry whose content is there, and what pads it. Returns where the next entry begins.
fn end_entry(file: &File, name: &str, start_bytes: u64, size_bytes: u64) -> io::Result<u64> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    // Beyond 8 GiB it takes the form of GNU tar.
    header.set_size(size_bytes);
    header.set_cksum();
    file.file().write_all_at(header.as_bytes(), start_bytes)?;
    let content_end = start_bytes + BLOCK_BYTES + size_bytes;
    let end_bytes = content_end.next_multiple_of(BLOCK_BYTES);
    let padding = usize::try_from(end_bytes - content_end).unwrap_or(0);
    file.file().write_all_at(&[0; 512][..padding], content_end)?;
    Ok(end_bytes)
}

/// Counts what is read.
struct Counted {
    reader: LayerReader,
    counter: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(into)?;
        self.counter.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Writes a blob into a file of its own, blocking. It is not synced.
pub(super) fn write_file(
    file: &File,
    mut reader: LayerReader,
    counter: &AtomicU64,
) -> Result<(), FetchError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut file = file;
    let (mut at_bytes, mut begun_bytes) = (0, 0);
    loop {
        match reader.read(&mut buffer).map_err(failed)? {
            0 => return Ok(()),
            count => {
                file.write_all(&buffer[..count]).map_err(failed)?;
                at_bytes += count as u64;
                counter.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
        if at_bytes - begun_bytes >= WRITE_BACK_BYTES {
            // The disk begins with it, so that little is left for the sync at the end.
            let len = std::num::NonZeroU64::new(at_bytes - begun_bytes);
            let _ = rustix::fs::fadvise(file.file(), begun_bytes, len, rustix::fs::Advice::DontNeed);
            begun_bytes = at_bytes;
        }
    }
}
