//! The disk in a layer: which entry of its tar file is the one that is wanted, and which say that it is
//! somewhere else or no more (OCI image specification, layer.md).

use std::fmt;
use std::io;

use crate::error::FetchError;
use ocne_tar::{Entry, EntryKind, TarError, TarInput, TarReader};

/// A layer that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// It is no tar file.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// It cannot be decompressed.
    #[error("the {format} data is damaged")]
    Compression {
        /// The compression.
        format: &'static str,
        /// What is wrong with it.
        source: io::Error,
    },
    /// It grows beyond reason.
    #[error(
        "it decompresses to more than {limit_bytes} bytes, far more than {compressed_bytes} bytes should"
    )]
    Bomb {
        /// Its size as it was transferred.
        compressed_bytes: u64,
        /// The limit for that size.
        limit_bytes: u64,
    },
    /// An entry's name or link leads out of the tree.
    #[error("the entry `{entry}` leads out of the image")]
    Escapes {
        /// The entry's name, and its target if it is a link.
        entry: String,
    },
    /// A sparse file.
    #[error("the entry `{entry}` is a sparse file, which no image may have")]
    Sparse {
        /// The entry's name.
        entry: String,
    },
    /// Not a regular file.
    #[error("the entry `{entry}` is not a regular file")]
    NotAFile {
        /// The entry's name.
        entry: String,
    },
}

impl LayerError {
    /// Whether it may be that the layer is not what it was when it was made.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Tar(_) | Self::Compression { .. })
    }
}

/// Path of a file in an image, relative to its root, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathInImage(Vec<Vec<u8>>);

impl PathInImage {
    pub fn parse(path: &str) -> Result<Self, FetchError> {
        let refused = |reason| FetchError::DiskPath { path: path.chars().take(300).collect(), reason };
        let (parts, _) = parts(path.as_bytes());
        if path.split('/').any(|part| part == "..") {
            return Err(refused("it contains `..`"));
        }
        if path.contains('\0') || path.len() > 4096 {
            return Err(refused("it contains NUL, or is too long"));
        }
        if parts.is_empty() {
            return Err(refused("it is empty"));
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for PathInImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.join(&b'/')))
    }
}

/// The parts of a name, and whether it is absolute or goes up.
fn parts(name: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut escapes = name.starts_with(b"/");
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
                escapes = true;
            }
            part => parts.push(part.to_vec()),
        }
    }
    (parts, escapes)
}

/// What a layer says of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<D> {
    /// The file is here.
    Disk(D),
    /// It is at another path.
    Link(PathInImage),
    /// It is not in this layer, and whatever layers below have there is gone.
    Removed,
    /// Nothing.
    Nothing,
}

/// Takes the content of a file.
pub(crate) trait DiskSink {
    type Disk;

    /// A file of this size begins; one that came before is forgotten.
    fn begin(&mut self, size_bytes: u64) -> Result<(), FetchError>;
    fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError>;
    fn end(&mut self) -> Result<Self::Disk, FetchError>;
}

/// Why the search ended early.
#[derive(Debug)]
pub(crate) enum SearchError {
    Layer(LayerError),
    Sink(FetchError),
}

impl From<LayerError> for SearchError {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl From<TarError> for SearchError {
    fn from(error: TarError) -> Self {
        Self::Layer(error.into())
    }
}

/// Goes through a whole layer. Of several entries of the same name the last one counts.
pub(crate) fn search<R: TarInput, S: DiskSink>(
    tar: &mut TarReader<R>,
    wanted: &PathInImage,
    sink: &mut S,
) -> Result<Found<S::Disk>, SearchError> {
    let mut found = Found::Nothing;
    let mut hides_lower = false;
    while let Some(entry) = tar.next_entry()? {
        let (path, escapes) = parts(&entry.name);
        let concern = concern(&path, &wanted.0);
        if escapes && concern != Concern::None {
            return Err(LayerError::Escapes { entry: printable(&entry.name) }.into());
        }
        match concern {
            Concern::None => {}
            Concern::Whiteout => hides_lower = true,
            Concern::Above(depth) => match entry.kind {
                EntryKind::Directory => {}
                EntryKind::SymbolicLink => {
                    let mut target = link_target(&entry, &path)?;
                    target.extend_from_slice(&wanted.0[depth..]);
                    found = Found::Link(PathInImage(target));
                }
                // A file in the place of the folder hides what the folder had.
                _ => hides_lower = true,
            },
            Concern::Wanted => match entry.kind {
                EntryKind::File => found = Found::Disk(copy(tar, entry.size_bytes, sink)?),
                EntryKind::SymbolicLink | EntryKind::HardLink => {
                    found = Found::Link(PathInImage(link_target(&entry, &path)?));
                }
                EntryKind::Sparse => {
                    return Err(LayerError::Sparse { entry: printable(&entry.name) }.into());
                }
                EntryKind::Directory | EntryKind::Other => {
                    return Err(LayerError::NotAFile { entry: printable(&entry.name) }.into());
                }
            },
        }
    }
    Ok(match found {
        Found::Nothing if hides_lower => Found::Removed,
        found => found,
    })
}

fn copy<R: TarInput, S: DiskSink>(
    tar: &mut TarReader<R>,
    size_bytes: u64,
    sink: &mut S,
) -> Result<S::Disk, SearchError> {
    sink.begin(size_bytes).map_err(SearchError::Sink)?;
    loop {
        let content = tar.content()?;
        let len = content.len();
        if len == 0 {
            return sink.end().map_err(SearchError::Sink);
        }
        sink.write(content).map_err(SearchError::Sink)?;
        tar.consume(len);
    }
}

/// What an entry has to do with the wanted path.
#[derive(Debug, PartialEq, Eq)]
enum Concern {
    None,
    /// It has this path.
    Wanted,
    /// It is at the place of a folder above it, so many levels deep.
    Above(usize),
    /// It says that the path, or a folder above it, is gone from the layers below.
    Whiteout,
}

fn concern(path: &[Vec<u8>], wanted: &[Vec<u8>]) -> Concern {
    let Some((name, folder)) = path.split_last() else { return Concern::None };
    if let Some(hidden) = name.strip_prefix(b".wh.") {
        let depth = folder.len();
        let concerned = depth < wanted.len()
            && wanted.starts_with(folder)
            && (hidden == b".wh..opq" || wanted[depth] == hidden);
        return if concerned { Concern::Whiteout } else { Concern::None };
    }
    if path == wanted {
        Concern::Wanted
    } else if wanted.starts_with(path) {
        Concern::Above(path.len())
    } else {
        Concern::None
    }
}

/// Where a link leads: a symbolic one from its own folder, a hard one from the root.
fn link_target(entry: &Entry, path: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, LayerError> {
    let escapes = || LayerError::Escapes {
        entry: format!("{} -> {}", printable(&entry.name), printable(&entry.link_target)),
    };
    let hard = entry.kind == EntryKind::HardLink;
    // An absolute target of a symbolic link starts at the root of the image: it stays in the tree.
    let from_root = hard || entry.link_target.starts_with(b"/");
    let mut target = if from_root { Vec::new() } else { path[..path.len().saturating_sub(1)].to_vec() };
    for part in entry.link_target.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                target.pop().ok_or_else(escapes)?;
            }
            part => target.push(part.to_vec()),
        }
    }
    if target.is_empty() || entry.link_target.len() > 4096 || hard && entry.link_target.starts_with(b"/") {
        return Err(escapes());
    }
    Ok(target)
}

/// A name from a layer, for a message.
fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(300).flat_map(char::escape_debug).collect()
}
