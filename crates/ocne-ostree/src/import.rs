//! Taking an encapsulated image apart: every object is verified, and handed on in the form that an archive
//! repository has; at the end the commit is walked, so that nothing is missing and nothing is too much.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use ocne_tar::{Entry, EntryKind, TarError, TarReader};
use sha2::{Digest as _, Sha256};

use crate::checksum::Checksum;
use crate::content::Head;
use crate::deflate::{Deflater, PIECE_BYTES};
use crate::error::{OstreeError, printable};
use crate::gvariant::Malformed;
use crate::image::ImageOptions;
use crate::layer_input::{Bomb, LayerInput};
use crate::metadata::{Commit, check_dirmeta, check_xattrs, signatures};
use crate::object::{Kind, Name, Object, parse_name};
use crate::source::Encapsulated;
use crate::walk;
use crate::workers::{self, Closed, Intake};

/// Larger files are compressed in pieces, each by itself: so that one large file is work for all threads, and needs
/// little memory.
const WHOLE_MAX_BYTES: usize = 8 << 20;
/// How many layers are opened ahead of the one that is read.
const AHEAD: usize = 2;
/// The most files, folders and kinds of attributes that a commit may have.
pub(crate) const OBJECTS_MAX: usize = 1_000_000;
/// The most that all folders of a commit may take, or the extended attributes in one layer.
pub(crate) const METADATA_MAX_BYTES: usize = 32 << 20;
/// More threads than this only wait for the one that reads.
const WORKERS_MAX: usize = 16;

/// Opens the layer of a number, from 0 on, as it was transferred: gzip, zstd or plain.
pub type OpenLayer<'a> = Box<dyn FnMut(usize) -> io::Result<Box<dyn Read + Send + 'a>> + Send + 'a>;

/// The layers of an image.
pub struct Layers<'a> {
    /// Their sizes, as they are transferred.
    pub sizes_bytes: Vec<u64>,
    /// Opens one of them. Each is opened once, in their order; the next ones before the last one was read to its end.
    pub open: OpenLayer<'a>,
}

impl std::fmt::Debug for Layers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layers").field("sizes_bytes", &self.sizes_bytes).finish_non_exhaustive()
    }
}

/// What was found in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The commit's checksum.
    pub checksum: Checksum,
    /// The commit.
    pub commit: Commit,
    /// Its GPG signatures. They are handed on, and not verified here.
    pub signatures: Vec<Vec<u8>>,
    /// How many objects of which kind there are.
    pub objects: ObjectCounts,
    /// Size of the content of all files, uncompressed.
    pub content_bytes: u64,
}

/// Numbers of objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObjectCounts {
    /// Files and symbolic links.
    pub files: usize,
    /// Folders.
    pub dirtrees: usize,
    /// Attributes of folders.
    pub dirmetas: usize,
}

/// What comes of a layer, in its order.
pub(crate) enum Step {
    /// A whole object, in two parts.
    Object(Object, Vec<u8>, Vec<u8>),
    /// An object begins that comes in pieces, with this.
    Begin(Object, Vec<u8>),
    Piece(Vec<u8>),
    End(Object),
    /// Something that was there already, and is as good.
    Again,
    Failed(OstreeError),
    Done(Box<Imported>),
}

/// Work for any thread.
enum Job {
    /// Verify and compress a whole file.
    File { layer: usize, object: Object, head: Head, content: Vec<u8>, keep: bool },
    /// Compress a piece of one.
    Piece { content: Vec<u8>, last: bool },
}

/// Takes an image apart, and gives `consume` every step until one ends it.
pub(crate) fn import(
    source: &Encapsulated,
    layers: Layers<'_>,
    options: &ImageOptions,
    read_bytes: &AtomicU64,
    cancel: &AtomicBool,
    consume: &mut dyn FnMut(Step) -> Result<(), OstreeError>,
) -> Result<Imported, OstreeError> {
    let produce = |intake: &mut Intake<'_, Job, Step>| {
        let mut reader = Reader { intake, found: Found::default(), source, ref_name: &options.ref_name };
        let end = match reader.all(layers, read_bytes) {
            Ok(imported) => Step::Done(Box::new(imported)),
            Err(Stop::Refused(error)) => Step::Failed(error),
            Err(Stop::Closed) => return,
        };
        let _ = reader.intake.result(0, end); // whoever does not want it any more knows why
    };
    let end = workers::run(
        options.workers.clamp(1, WORKERS_MAX),
        cancel,
        produce,
        || {
            let mut deflater = Deflater::new(options.level);
            move |job| work(&mut deflater, job)
        },
        |step| match step {
            Step::Done(imported) => Some(Ok(*imported)),
            Step::Failed(error) => Some(Err(error)),
            step => consume(step).err().map(Err),
        },
    );
    end.unwrap_or(Err(OstreeError::Interrupted))
}

/// Why reading ended early.
enum Stop {
    Refused(OstreeError),
    /// Nobody wants the rest.
    Closed,
}

impl From<OstreeError> for Stop {
    fn from(error: OstreeError) -> Self {
        Self::Refused(error)
    }
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// What was found so far.
#[derive(Default)]
pub(crate) struct Found {
    pub commit: Option<(Checksum, Commit)>,
    /// What belongs to a commit: its name, and the signatures.
    pub commitmeta: Option<(Checksum, Vec<Vec<u8>>)>,
    pub dirtrees: HashMap<Checksum, Box<[u8]>>,
    pub dirmetas: HashSet<Checksum>,
    pub files: HashSet<Checksum>,
    metadata_bytes: usize,
    content_bytes: u64,
}

struct Reader<'r, 'b> {
    intake: &'r mut Intake<'b, Job, Step>,
    found: Found,
    source: &'r Encapsulated,
    ref_name: &'r str,
}

/// What one layer has said of extended attributes.
#[derive(Default)]
struct Xattrs {
    known: HashMap<Checksum, Arc<[u8]>>,
    /// Those of the file that comes next.
    next: Option<(Checksum, Arc<[u8]>)>,
    bytes: usize,
}

impl Reader<'_, '_> {
    fn all(&mut self, mut layers: Layers<'_>, read_bytes: &AtomicU64) -> Result<Imported, Stop> {
        let count = self.source.diff_ids.len();
        if layers.sizes_bytes.len() != count {
            let reason = format!("it describes {count} layers, and there are {}", layers.sizes_bytes.len());
            return Err(OstreeError::Config { image: "the image", reason }.into());
        }
        let mut opened = std::collections::VecDeque::new();
        let mut next = 0;
        for index in 0..count {
            while next < count && opened.len() <= AHEAD {
                let failed = |source| OstreeError::Layer { layer: next + 1, source };
                opened.push_back((layers.open)(next).map_err(failed)?);
                next += 1;
            }
            let Some(input) = opened.pop_front() else { break };
            self.layer(index, input, layers.sizes_bytes[index], read_bytes)?;
        }
        Ok(self.end()?)
    }

    /// One layer; `index` is its number from 0 on.
    fn layer(
        &mut self,
        index: usize,
        input: Box<dyn Read + Send + '_>,
        size_bytes: u64,
        read_bytes: &AtomicU64,
    ) -> Result<(), Stop> {
        let layer = index + 1;
        let input = LayerInput::new(input, size_bytes, read_bytes)
            .map_err(|source| OstreeError::Layer { layer, source })?;
        let mut tar = TarReader::new(input);
        let mut xattrs = Xattrs::default();
        while let Some(entry) = tar.next_entry().map_err(|e| unreadable(layer, e))? {
            match parse_name(&entry.name) {
                Name::Object(object) => self.object(layer, &mut tar, &entry, object, &mut xattrs)?,
                Name::Elsewhere => {}
                Name::NoObject if entry.kind == EntryKind::Directory => {}
                Name::NoObject => {
                    return Err(refused(layer, &entry, "is among the objects and is none").into());
                }
                Name::Escapes => return Err(refused(layer, &entry, "leads out of the image").into()),
            }
        }
        let actual = tar.into_input().finish().map_err(|e| unreadable(layer, TarError::Io(e)))?;
        let expected = &self.source.diff_ids[index];
        if actual.digest() != *expected {
            return Err(OstreeError::DiffId { layer, expected: expected.clone(), actual }.into());
        }
        Ok(())
    }

    fn object(
        &mut self,
        layer: usize,
        tar: &mut TarReader<LayerInput<'_>>,
        entry: &Entry,
        object: Object,
        xattrs: &mut Xattrs,
    ) -> Result<(), Stop> {
        match (object.kind, entry.kind) {
            (Kind::File, EntryKind::File | EntryKind::SymbolicLink) => {
                self.file(layer, tar, entry, object, xattrs)
            }
            (Kind::FileXattrsLink, EntryKind::HardLink) => {
                let target = match parse_name(&entry.link_target) {
                    Name::Object(Object { checksum, kind: Kind::FileXattrs }) => xattrs.known.get(&checksum),
                    _ => None,
                };
                let unknown = || OstreeError::UnknownXattrs {
                    layer,
                    object: object.to_string(),
                    target: printable(&entry.link_target),
                };
                xattrs.next = Some((object.checksum, Arc::clone(target.ok_or_else(unknown)?)));
                Ok(())
            }
            (Kind::FileXattrsLink, EntryKind::File) => {
                let bytes = small(layer, tar, entry, &mut xattrs.bytes)?;
                malformed_if(object, check_xattrs(&bytes))?;
                xattrs.next = Some((object.checksum, bytes.into()));
                Ok(())
            }
            (Kind::FileXattrs, EntryKind::File) => {
                let bytes = small(layer, tar, entry, &mut xattrs.bytes)?;
                verify(layer, object, &bytes)?;
                malformed_if(object, check_xattrs(&bytes))?;
                xattrs.known.insert(object.checksum, bytes.into());
                Ok(())
            }
            (Kind::Commit | Kind::CommitMeta | Kind::DirTree | Kind::DirMeta, EntryKind::File) => {
                let mut bytes_so_far = self.found.metadata_bytes;
                let bytes = small(layer, tar, entry, &mut bytes_so_far)?;
                self.found.metadata_bytes = bytes_so_far;
                self.metadata(layer, object, bytes)
            }
            _ => Err(refused(layer, entry, "is not a file").into()),
        }
    }

    fn metadata(&mut self, layer: usize, object: Object, bytes: Vec<u8>) -> Result<(), Stop> {
        let found = &mut self.found;
        if object.kind == Kind::Commit
            && let Some((first, _)) = found.commit
            && first != object.checksum
        {
            return Err(OstreeError::SeveralCommits { first, second: object.checksum }.into());
        }
        if object.kind != Kind::CommitMeta {
            verify(layer, object, &bytes)?;
        }
        let new = match object.kind {
            Kind::Commit => {
                let commit = Commit::parse(&bytes);
                let commit = commit.map_err(|source| malformed(object, source))?;
                found.commit.replace((object.checksum, commit)).is_none()
            }
            Kind::CommitMeta => {
                let signatures = signatures(&bytes).map_err(|source| malformed(object, source))?;
                match found.commitmeta.replace((object.checksum, signatures)) {
                    Some((other, _)) if other != object.checksum => {
                        let object = object.to_string();
                        return Err(OstreeError::Unreachable { count: 1, object }.into());
                    }
                    other => other.is_none(),
                }
            }
            Kind::DirMeta => {
                malformed_if(object, check_dirmeta(&bytes))?;
                found.dirmetas.insert(object.checksum)
            }
            _ => found.dirtrees.insert(object.checksum, bytes.as_slice().into()).is_none(),
        };
        self.limit()?;
        if new {
            self.intake.result(bytes.len(), Step::Object(object, Vec::new(), bytes))?;
        }
        Ok(())
    }

    fn limit(&self) -> Result<(), OstreeError> {
        let Found { dirtrees, dirmetas, files, .. } = &self.found;
        if dirtrees.len() + dirmetas.len() + files.len() > OBJECTS_MAX {
            return Err(OstreeError::TooMuch { what: "objects", limit: OBJECTS_MAX });
        }
        Ok(())
    }

    fn file(
        &mut self,
        layer: usize,
        tar: &mut TarReader<LayerInput<'_>>,
        entry: &Entry,
        object: Object,
        xattrs: &mut Xattrs,
    ) -> Result<(), Stop> {
        let attributes = match xattrs.next.take() {
            Some((file, attributes)) if file == object.checksum => attributes,
            _ => return Err(OstreeError::NoXattrs { layer, object: object.to_string() }.into()),
        };
        let number = |number: Option<u64>| number.and_then(|n| u32::try_from(n).ok());
        let [Some(uid), Some(gid), Some(mode)] = [entry.uid, entry.gid, entry.mode].map(number) else {
            return Err(refused(layer, entry, "has an owner or mode that no file can have").into());
        };
        let keep = self.found.files.insert(object.checksum);
        self.limit()?;
        if entry.kind == EntryKind::SymbolicLink {
            let head = Head::link(uid, gid, entry.link_target.clone(), attributes);
            verify(layer, object, &head.checksummed())?;
            if keep {
                let archived = head.archived(0);
                self.intake.result(archived.len(), Step::Object(object, archived, Vec::new()))?;
            }
            return Ok(());
        }
        let head = Head::file(uid, gid, mode, attributes);
        let size_bytes = entry.size_bytes;
        if keep {
            self.found.content_bytes = self.found.content_bytes.saturating_add(size_bytes);
        }
        match usize::try_from(size_bytes) {
            Ok(size) if size <= WHOLE_MAX_BYTES => {
                let mut content = Vec::with_capacity(size);
                read_piece(layer, tar, &mut content, size)?;
                self.intake.job(2 * size, Job::File { layer, object, head, content, keep })?;
            }
            _ => self.large_file(layer, tar, size_bytes, object, &head, keep)?,
        }
        Ok(())
    }

    /// A file that is compressed in pieces; it is hashed here.
    fn large_file(
        &mut self,
        layer: usize,
        tar: &mut TarReader<LayerInput<'_>>,
        size_bytes: u64,
        object: Object,
        head: &Head,
        keep: bool,
    ) -> Result<(), Stop> {
        let mut hasher = Sha256::new_with_prefix(head.checksummed());
        if keep {
            let archived = head.archived(size_bytes);
            self.intake.result(archived.len(), Step::Begin(object, archived))?;
        }
        let mut left_bytes = size_bytes;
        while left_bytes > 0 {
            let size = usize::try_from(left_bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let mut content = Vec::with_capacity(size);
            read_piece(layer, tar, &mut content, size)?;
            hasher.update(&content);
            left_bytes -= size as u64;
            if keep {
                self.intake.job(2 * size, Job::Piece { content, last: left_bytes == 0 })?;
            }
        }
        check(layer, object, Checksum::finish(hasher))?;
        let end = if keep { Step::End(object) } else { Step::Again };
        Ok(self.intake.result(0, end)?)
    }

    /// Whether all of it is there, and is what its labels say.
    fn end(&mut self) -> Result<Imported, OstreeError> {
        let found = &mut self.found;
        let (checksum, commit) = found.commit.clone().ok_or(OstreeError::NoCommit)?;
        self.source.check_commit(checksum)?;
        if let Some(names) = &commit.ref_binding
            && !names.iter().any(|n| n == self.ref_name)
        {
            let wanted = self.ref_name.to_owned();
            return Err(OstreeError::RefBinding { wanted, found: names.clone() });
        }
        walk::walk(found, &commit)?;
        if let Some((other, _)) = found.commitmeta.as_ref().filter(|(c, _)| *c != checksum) {
            let object = Object { checksum: *other, kind: Kind::CommitMeta }.to_string();
            return Err(OstreeError::Unreachable { count: 1, object });
        }
        Ok(Imported {
            checksum,
            commit,
            signatures: found.commitmeta.take().map(|(_, signatures)| signatures).unwrap_or_default(),
            objects: ObjectCounts {
                files: found.files.len(),
                dirtrees: found.dirtrees.len(),
                dirmetas: found.dirmetas.len(),
            },
            content_bytes: found.content_bytes,
        })
    }
}

/// Reads a small entry whole; all of its kind are counted in `sum_bytes`.
fn small(
    layer: usize,
    tar: &mut TarReader<LayerInput<'_>>,
    entry: &Entry,
    sum_bytes: &mut usize,
) -> Result<Vec<u8>, OstreeError> {
    let size = usize::try_from(entry.size_bytes).unwrap_or(usize::MAX);
    *sum_bytes = sum_bytes.saturating_add(size);
    if *sum_bytes > METADATA_MAX_BYTES {
        return Err(OstreeError::TooMuch { what: "bytes of metadata", limit: METADATA_MAX_BYTES });
    }
    let mut bytes = Vec::with_capacity(size);
    read_piece(layer, tar, &mut bytes, size)?;
    Ok(bytes)
}

/// Reads `size` more bytes of the present entry.
fn read_piece(
    layer: usize,
    tar: &mut TarReader<LayerInput<'_>>,
    into: &mut Vec<u8>,
    size: usize,
) -> Result<(), OstreeError> {
    while into.len() < size {
        let content = tar.content().map_err(|e| unreadable(layer, e))?;
        let count = content.len().min(size - into.len());
        if count == 0 {
            // An entry has as much content as it says, or the reader says why not.
            return Err(unreadable(layer, TarError::Io(io::ErrorKind::UnexpectedEof.into())));
        }
        into.extend_from_slice(&content[..count]);
        tar.consume(count);
    }
    Ok(())
}

fn unreadable(layer: usize, error: TarError) -> OstreeError {
    match error {
        TarError::Io(source) => match source.get_ref().and_then(|e| e.downcast_ref::<Bomb>()) {
            Some(Bomb(limit_bytes)) => OstreeError::Bomb { layer, limit_bytes: *limit_bytes },
            None => OstreeError::Layer { layer, source },
        },
        source => OstreeError::Tar { layer, source },
    }
}

fn refused(layer: usize, entry: &Entry, reason: &'static str) -> OstreeError {
    OstreeError::Entry { layer, entry: printable(&entry.name), reason }
}

fn malformed(object: Object, source: Malformed) -> OstreeError {
    OstreeError::Malformed { object: object.to_string(), source }
}

fn malformed_if(object: Object, checked: Result<(), Malformed>) -> Result<(), OstreeError> {
    checked.map_err(|source| malformed(object, source))
}

fn verify(layer: usize, object: Object, bytes: &[u8]) -> Result<(), OstreeError> {
    check(layer, object, Checksum::of(bytes))
}

fn check(layer: usize, object: Object, actual: Checksum) -> Result<(), OstreeError> {
    if actual == object.checksum {
        return Ok(());
    }
    let covered = match object.kind {
        Kind::File => "content, with its owner, mode and extended attributes,",
        _ => "content",
    };
    Err(OstreeError::Mismatch { layer, object: object.to_string(), covered, actual })
}

/// What a thread does.
fn work(deflater: &mut Deflater, job: Job) -> Step {
    match job {
        Job::Piece { content, last } => Step::Piece(deflater.piece(&content, last)),
        Job::File { layer, object, head, content, keep } => {
            let mut hasher = Sha256::new_with_prefix(head.checksummed());
            hasher.update(&content);
            if let Err(error) = check(layer, object, Checksum::finish(hasher)) {
                return Step::Failed(error);
            }
            if !keep {
                return Step::Again;
            }
            Step::Object(object, head.archived(content.len() as u64), deflater.whole(&content))
        }
    }
}
