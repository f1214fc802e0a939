//! Named files in a folder, or in a tar file that is not unpacked.

use std::collections::HashMap;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err::File;

use super::FilePart;
use crate::error::FetchError;
use ocne_tar::{EntryKind, TarError, TarReader};

/// The most files that an archive of one or a few images may have.
const ENTRIES_MAX: u64 = 100_000;
/// How many links may lead to a file.
const LINKS_MAX: usize = 8;

/// Files by name.
#[derive(Debug)]
pub(crate) enum Store {
    Folder(PathBuf),
    Archive { path: PathBuf, entries: HashMap<Vec<u8>, Place> },
}

/// Where the content of an entry is.
#[derive(Debug)]
pub(crate) enum Place {
    At { offset_bytes: u64, size_bytes: u64 },
    Link(Vec<u8>),
}

impl Store {
    pub fn folder(path: &Path) -> Self {
        Self::Folder(path.to_owned())
    }

    /// Goes over the headers of a tar file.
    pub fn archive(path: &Path) -> Result<Self, FetchError> {
        let file =
            File::open(path).map_err(|source| FetchError::Io { action: "open the archive", source })?;
        let damaged = |source| FetchError::Archive { path: path.to_owned(), source };
        let mut tar = TarReader::new(BufReader::with_capacity(4096, file));
        let mut entries = HashMap::new();
        let mut count = 0;
        while let Some(entry) = tar.next_entry().map_err(damaged)? {
            count += 1;
            if count > ENTRIES_MAX {
                let name = format!("the list of files in `{}`", path.display());
                return Err(FetchError::TooLarge { name, size_bytes: count, limit_bytes: ENTRIES_MAX });
            }
            let name = clean(&entry.name);
            let place = match entry.kind {
                EntryKind::File => {
                    Place::At { offset_bytes: tar.position_bytes(), size_bytes: entry.size_bytes }
                }
                // Old versions of docker link to a layer that is in the archive already.
                EntryKind::HardLink => Place::Link(clean(&entry.link_target)),
                EntryKind::SymbolicLink => {
                    let end = name.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
                    let mut target = name[..end].to_vec();
                    target.extend_from_slice(&entry.link_target);
                    Place::Link(clean(&target))
                }
                EntryKind::Directory | EntryKind::Sparse | EntryKind::Other => continue,
            };
            entries.insert(name, place);
        }
        Ok(Self::Archive { path: path.to_owned(), entries })
    }

    /// The folder or archive, for a message.
    pub fn location(&self) -> String {
        match self {
            Self::Folder(path) | Self::Archive { path, .. } => path.display().to_string(),
        }
    }

    fn missing(&self, name: &str) -> FetchError {
        FetchError::Missing { location: self.location(), name: name.chars().take(300).collect() }
    }

    /// Opens a file by its name.
    pub fn open(&self, name: &str) -> Result<FilePart, FetchError> {
        let failed = |source| FetchError::Io { action: "read the image", source };
        match self {
            Self::Folder(folder) => {
                let file = match File::open(folder.join(name)) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.missing(name)),
                    other => other.map_err(failed)?,
                };
                let found = file.metadata().map_err(failed)?;
                if !found.is_file() {
                    return Err(self.missing(name));
                }
                Ok(FilePart { size_bytes: found.len(), file, offset_bytes: 0 })
            }
            Self::Archive { path, entries } => {
                let mut wanted = clean(name.as_bytes());
                for _ in 0..LINKS_MAX {
                    match entries.get(&wanted) {
                        Some(Place::Link(target)) => wanted.clone_from(target),
                        Some(Place::At { offset_bytes, size_bytes }) => {
                            let file = File::open(path).map_err(failed)?;
                            let (offset_bytes, size_bytes) = (*offset_bytes, *size_bytes);
                            return Ok(FilePart { file, offset_bytes, size_bytes });
                        }
                        None => break,
                    }
                }
                Err(self.missing(name))
            }
        }
    }

    /// Reads a small file whole.
    pub fn read_small(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
        let FilePart { mut file, offset_bytes, size_bytes } = self.open(name)?;
        if size_bytes > limit_bytes {
            let name = format!("{name} in {}", self.location());
            return Err(FetchError::TooLarge { name, size_bytes, limit_bytes });
        }
        let failed = |source| FetchError::Io { action: "read the image", source };
        file.seek(SeekFrom::Start(offset_bytes)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(size_bytes).read_to_end(&mut bytes).map_err(failed)?;
        match self {
            Self::Archive { path, .. } if (bytes.len() as u64) < size_bytes => {
                let offset_bytes = offset_bytes.saturating_add(bytes.len() as u64);
                Err(FetchError::Archive { path: path.clone(), source: TarError::Truncated { offset_bytes } })
            }
            _ => Ok(bytes),
        }
    }
}

/// A name without `.`, `..`, and double or leading slashes. It is only a key: nothing is opened by it.
fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}
