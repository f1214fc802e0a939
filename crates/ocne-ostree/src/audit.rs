//! Reading an image that another machine made: everything in its repository is what its name says, the commit is whole,
//! and nothing else is there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read, Seek as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::{Decompress, FlushDecompress, Status};
use ocne_tar::{Entry, EntryKind, TarError, TarInput, TarReader, read_buffered};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::archive::{Blob, blob_name};
use crate::checksum::Checksum;
use crate::content::read_archived_header;
use crate::error::{OstreeError, printable};
use crate::gvariant::Malformed;
use crate::image::{NGINX_FILES, Written};
use crate::import::{Found, Imported, METADATA_MAX_BYTES, OBJECTS_MAX, ObjectCounts};
use crate::metadata::{Commit, check_dirmeta, signatures};
use crate::object::{Kind, Name, Object, parse_archive_name};
use crate::repository::{CONFIG, DOCUMENT_ROOT};
use crate::source::digest;
use crate::verify::{Place, blobs};
use crate::walk;

/// What is read of the file at a time, and what content is inflated into.
const BUFFER_BYTES: usize = 256 << 10;
/// No document of an image is larger.
const DOCUMENT_MAX_BYTES: u64 = 4 << 20;

type Result<T> = std::result::Result<T, OstreeError>;

/// Reads an image as [`crate::write_image`] makes it, and verifies all that can be verified without the source: the digest of
/// every blob; in the repository the checksum and the header of every object, that the commit is whole, that the ref
/// names it, and that there is nothing else.
///
/// # Errors
/// [`OstreeError::NotAsWritten`] when it is no such image, or `cancel` was set.
pub fn audit_image(mut file: File, ref_name: &str, cancel: &AtomicBool) -> Result<Written> {
    file.rewind().map_err(unreadable)?;
    let places = blobs(file.try_clone().map_err(unreadable)?, cancel)?;
    let file = &file;
    let documents = Documents { file, places: &places };
    let index = documents.read(documents.place("index.json")?)?;
    let (manifest, config, layer) = match index["manifests"].as_array().map(Vec::as_slice) {
        Some([entry]) => {
            let manifest = documents.blob(entry)?;
            let found = documents.read(documents.place(&blob_name(manifest.checksum))?)?;
            let layer = found["layers"].as_array().and_then(|layers| layers.last()).unwrap_or(&Value::Null);
            (manifest, documents.blob(&found["config"])?, documents.blob(layer)?)
        }
        _ => return Err(differs("its index has not just one image".to_owned())),
    };
    let imported = repository(file, documents.place(&blob_name(layer.checksum))?, ref_name, cancel)?;
    let size_bytes = file.metadata().map_err(unreadable)?.len();
    Ok(Written { imported, manifest, config, layer, size_bytes })
}

fn differs(reason: String) -> OstreeError {
    OstreeError::NotAsWritten { reason }
}

fn unreadable(source: io::Error) -> OstreeError {
    OstreeError::Output { action: "read the image back", source }
}

fn of_tar(error: TarError) -> OstreeError {
    match error {
        TarError::Io(source) => unreadable(source),
        e => differs(e.to_string()),
    }
}

/// The small blobs of an image.
struct Documents<'a> {
    file: &'a File,
    places: &'a BTreeMap<String, Place>,
}

impl Documents<'_> {
    fn place(&self, name: &str) -> Result<Place> {
        self.places.get(name).copied().ok_or_else(|| differs(format!("`{name}` is missing")))
    }

    fn read(&self, place: Place) -> Result<Value> {
        if place.size_bytes > DOCUMENT_MAX_BYTES {
            return Err(differs(format!("a document has {} bytes", place.size_bytes)));
        }
        let mut bytes = vec![0; usize::try_from(place.size_bytes).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, place.offset_bytes).map_err(unreadable)?;
        serde_json::from_slice(&bytes).map_err(|e| differs(format!("a document is no JSON: {e}")))
    }

    /// What a descriptor names.
    fn blob(&self, descriptor: &Value) -> Result<Blob> {
        let checksum = descriptor["digest"].as_str().and_then(digest);
        let checksum = checksum.ok_or_else(|| differs("a descriptor has no digest".to_owned()))?;
        let size_bytes = self.place(&blob_name(checksum))?.size_bytes;
        if descriptor["size"].as_u64() != Some(size_bytes) {
            return Err(differs(format!("`{checksum}` is not as large as is said")));
        }
        Ok(Blob { checksum, size_bytes })
    }
}

/// Goes through the layer with the repository.
pub(crate) fn repository(file: &File, place: Place, ref_name: &str, cancel: &AtomicBool) -> Result<Imported> {
    let mut tar = TarReader::new(Section::new(file, place));
    let mut audit = Audit { found: Found::default(), metadata_bytes: 0, content_bytes: 0 };
    let folder = format!("{DOCUMENT_ROOT}/ostree/");
    let ref_path = format!("refs/heads/{ref_name}");
    let (mut config, mut named) = (None, None);
    while let Some(entry) = tar.next_entry().map_err(of_tar)? {
        if cancel.load(Ordering::Relaxed) {
            return Err(OstreeError::Interrupted);
        }
        if entry.kind == EntryKind::Directory {
            continue;
        }
        let unexpected = || differs(format!("the layer has `{}`", printable(&entry.name)));
        if entry.kind != EntryKind::File {
            return Err(unexpected());
        }
        let Some(name) = entry.name.strip_prefix(folder.as_bytes()) else {
            let content = audit.small(&mut tar, &entry)?;
            if NGINX_FILES.iter().any(|(path, bytes)| path.as_bytes() == entry.name && *bytes == content) {
                continue;
            }
            return Err(unexpected());
        };
        match parse_archive_name(name) {
            Name::Object(object) => audit.object(&mut tar, &entry, object, cancel)?,
            _ if name == b"config" => config = Some(audit.small(&mut tar, &entry)?),
            _ if name == ref_path.as_bytes() => named = Some(audit.small(&mut tar, &entry)?),
            _ => return Err(unexpected()),
        }
    }
    let Audit { found, content_bytes, .. } = audit;
    let (checksum, commit) = found.commit.clone().ok_or(OstreeError::NoCommit)?;
    if config.as_deref() != Some(CONFIG) || named.as_deref() != Some(format!("{checksum}\n").as_bytes()) {
        return Err(differs(format!("the ref `{ref_name}` does not name the commit {checksum}")));
    }
    walk::walk(&found, &commit)?;
    if found.commitmeta.as_ref().is_some_and(|(of, _)| *of != checksum) {
        return Err(differs("it has metadata of another commit".to_owned()));
    }
    let objects = ObjectCounts {
        files: found.files.len(),
        dirtrees: found.dirtrees.len(),
        dirmetas: found.dirmetas.len(),
    };
    let signatures = found.commitmeta.map(|(_, signatures)| signatures).unwrap_or_default();
    Ok(Imported { checksum, commit, signatures, objects, content_bytes })
}

/// What was found so far.
struct Audit {
    found: Found,
    metadata_bytes: usize,
    content_bytes: u64,
}

impl Audit {
    /// Reads a small entry whole; all of them are counted.
    fn small(&mut self, tar: &mut TarReader<Section<'_>>, entry: &Entry) -> Result<Vec<u8>> {
        let size = usize::try_from(entry.size_bytes).unwrap_or(usize::MAX);
        self.metadata_bytes = self.metadata_bytes.saturating_add(size);
        if self.metadata_bytes > METADATA_MAX_BYTES {
            return Err(OstreeError::TooMuch { what: "bytes of metadata", limit: METADATA_MAX_BYTES });
        }
        take(tar, size)
    }

    fn object(
        &mut self,
        tar: &mut TarReader<Section<'_>>,
        entry: &Entry,
        object: Object,
        cancel: &AtomicBool,
    ) -> Result<()> {
        let refused = |what: &str| differs(format!("the object {object} {what}"));
        let malformed = |e: Malformed| refused(&e.to_string());
        if object.kind == Kind::File {
            self.content_bytes = self.content_bytes.saturating_add(content(tar, entry, object, cancel)?);
        }
        let bytes = if object.kind == Kind::File { Vec::new() } else { self.small(tar, entry)? };
        let is_checked = !matches!(object.kind, Kind::File | Kind::CommitMeta);
        if is_checked && Checksum::of(&bytes) != object.checksum {
            return Err(refused("is damaged"));
        }
        let found = &mut self.found;
        let is_new = match object.kind {
            Kind::File => found.files.insert(object.checksum),
            Kind::Commit => {
                let commit = Commit::parse(&bytes).map_err(malformed)?;
                found.commit.replace((object.checksum, commit)).is_none()
            }
            Kind::CommitMeta => {
                let signatures = signatures(&bytes).map_err(malformed)?;
                found.commitmeta.replace((object.checksum, signatures)).is_none()
            }
            Kind::DirMeta => {
                check_dirmeta(&bytes).map_err(malformed)?;
                found.dirmetas.insert(object.checksum)
            }
            Kind::DirTree => found.dirtrees.insert(object.checksum, bytes.into()).is_none(),
            Kind::FileXattrs | Kind::FileXattrsLink => false,
        };
        if !is_new {
            return Err(refused("has no place there, or is there twice"));
        }
        if found.files.len() + found.dirtrees.len() + found.dirmetas.len() > OBJECTS_MAX {
            return Err(OstreeError::TooMuch { what: "objects", limit: OBJECTS_MAX });
        }
        Ok(())
    }
}

/// Verifies a file of an archive repository; the size of its content.
fn content(
    tar: &mut TarReader<Section<'_>>,
    entry: &Entry,
    object: Object,
    cancel: &AtomicBool,
) -> Result<u64> {
    let refused = |what: &str| differs(format!("the object {object} {what}"));
    let mut head = take(tar, 8.min(usize::try_from(entry.size_bytes).unwrap_or(8)))?;
    let size = head.first_chunk().map_or(0, |&size| u32::from_be_bytes(size));
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > METADATA_MAX_BYTES || size as u64 + 8 > entry.size_bytes {
        return Err(refused("has a header that is longer than it is"));
    }
    head.extend(take(tar, size)?);
    let read = read_archived_header(&head).map_err(|e| refused(&e.to_string()))?;
    if read.head.archived(read.content_bytes) != head {
        return Err(refused("has a header that nobody writes"));
    }
    let mut hasher = Sha256::new_with_prefix(read.head.checksummed());
    let mut inflater = Decompress::new(false);
    let mut is_over = read.head.is_link();
    let mut buffer = vec![0; if is_over { 0 } else { BUFFER_BYTES }];
    loop {
        let packed = tar.content().map_err(of_tar)?;
        if packed.is_empty() || cancel.load(Ordering::Relaxed) {
            break;
        }
        if is_over {
            return Err(refused("has something behind its end"));
        }
        let (before_in, before_out) = (inflater.total_in(), inflater.total_out());
        let status = inflater.decompress(packed, &mut buffer, FlushDecompress::None);
        let taken = usize::try_from(inflater.total_in() - before_in).unwrap_or(0);
        let made = usize::try_from(inflater.total_out() - before_out).unwrap_or(0);
        hasher.update(&buffer[..made]);
        match status {
            Ok(Status::StreamEnd) => is_over = true,
            Ok(_) if taken + made > 0 && inflater.total_out() <= read.content_bytes => {}
            _ => return Err(refused("cannot be inflated to its size")),
        }
        tar.consume(taken);
    }
    if cancel.load(Ordering::Relaxed) {
        return Err(OstreeError::Interrupted);
    }
    if !is_over || inflater.total_out() != read.content_bytes || Checksum::finish(hasher) != object.checksum {
        return Err(refused("is damaged"));
    }
    Ok(read.content_bytes)
}

/// The next bytes of the present entry.
fn take(tar: &mut TarReader<Section<'_>>, size: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size.min(METADATA_MAX_BYTES));
    while bytes.len() < size {
        let content = tar.content().map_err(of_tar)?;
        let count = content.len().min(size - bytes.len());
        if count == 0 {
            return Err(differs("an entry of the layer is cut off".to_owned()));
        }
        bytes.extend_from_slice(&content[..count]);
        tar.consume(count);
    }
    Ok(bytes)
}

/// A part of a file.
struct Section<'f> {
    file: &'f File,
    at_bytes: u64,
    end_bytes: u64,
    buffer: Vec<u8>,
    filled: Range<usize>,
}

impl<'f> Section<'f> {
    fn new(file: &'f File, place: Place) -> Self {
        let end_bytes = place.offset_bytes.saturating_add(place.size_bytes);
        Self { file, at_bytes: place.offset_bytes, end_bytes, buffer: vec![0; BUFFER_BYTES], filled: 0..0 }
    }
}

impl BufRead for Section<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.filled.is_empty() {
            let left = usize::try_from(self.end_bytes - self.at_bytes).unwrap_or(usize::MAX);
            let len = left.min(self.buffer.len());
            let count = self.file.read_at(&mut self.buffer[..len], self.at_bytes)?;
            self.at_bytes += count as u64;
            self.filled = 0..count;
        }
        Ok(&self.buffer[self.filled.clone()])
    }

    fn consume(&mut self, count: usize) {
        self.filled.start = self.filled.end.min(self.filled.start + count);
    }
}

impl Read for Section<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, into)
    }
}

impl TarInput for Section<'_> {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let here = (self.filled.len() as u64).min(count);
        self.consume(usize::try_from(here).unwrap_or(0));
        let beyond = (count - here).min(self.end_bytes - self.at_bytes);
        self.at_bytes += beyond;
        Ok(here + beyond)
    }
}
