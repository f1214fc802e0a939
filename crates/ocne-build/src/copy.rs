//! Copying an image while parts of it change, and proving that the copy is right.
//!
//! The kernel copies what stays ([`patched_copy`]); on file systems that can, it shares the blocks instead. The
//! bytes never pass through this process for the copy. They pass through it twice for the proof: a [`Digester`]
//! reads the source, another reads the output back, both leave a checksum of every chunk, and
//! [`first_difference`] compares them. The reading of the source runs beside the conversion, the reading of
//! the output runs behind the copy.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err::File;
use ocne_disk::PatchedFile;
use rustix::fs::{Advice, copy_file_range, fadvise};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Unit of checksums, and of what is copied by hand because something in it changes.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// The most that the kernel copies before the run looks whether it was interrupted.
const RUN_BYTES: u64 = 16 << 20;

/// How far behind the reading memory is given back.
const FORGET_LAG_BYTES: u64 = 64 << 20;

/// The bytes of a chunk as they have to be in the output, or the source's.
pub type ChunkChecksums = BTreeMap<u64, u32>;

/// A copy did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The caller asked for it.
    #[error("interrupted")]
    Interrupted,
    /// A file could not be read.
    #[error("cannot read")]
    Read(#[source] io::Error),
    /// A file could not be written.
    #[error("cannot write")]
    Write(#[source] io::Error),
}

/// Reads a file once, in order, for its digests.
#[derive(Debug)]
pub struct Digester<'a> {
    file: &'a File,
    cancel: &'a AtomicBool,
    sha256: Option<Sha256>,
    blake3: Option<blake3::Hasher>,
    checksums: Vec<u32>,
    at_bytes: u64,
    buffer: Vec<u8>,
}

/// What a [`Digester`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// Hexadecimal SHA-256 of the whole file, if it was asked for.
    pub sha256: Option<String>,
    /// Hexadecimal BLAKE3 of the whole file, if it was asked for.
    pub blake3: Option<String>,
    /// CRC-32C of every chunk.
    pub checksums: Vec<u32>,
}

impl<'a> Digester<'a> {
    /// Begins at the start of a file.
    pub fn new(file: &'a File, sha256: bool, cancel: &'a AtomicBool) -> Self {
        Self {
            file,
            cancel,
            sha256: sha256.then(Sha256::new),
            blake3: None,
            checksums: Vec::new(),
            at_bytes: 0,
            buffer: vec![0; usize::try_from(CHUNK_BYTES).unwrap_or(0)],
        }
    }

    /// Computes the file's BLAKE3, too.
    pub fn with_blake3(mut self) -> Self {
        self.blake3 = Some(blake3::Hasher::new());
        self
    }

    /// Reads on to `end_bytes`, which is the end of a chunk or of the file.
    ///
    /// # Errors
    /// When the file cannot be read that far, or the run was interrupted.
    pub fn advance(&mut self, end_bytes: u64) -> Result<(), CopyError> {
        while self.at_bytes < end_bytes {
            look(self.cancel)?;
            let len_bytes = CHUNK_BYTES.min(end_bytes - self.at_bytes);
            let chunk = &mut self.buffer[..usize::try_from(len_bytes).unwrap_or(0)];
            self.file.file().read_exact_at(chunk, self.at_bytes).map_err(CopyError::Read)?;
            self.checksums.push(crc32c::crc32c(chunk));
            if let Some(sha256) = &mut self.sha256 {
                sha256.update(&*chunk);
            }
            if let Some(blake3) = &mut self.blake3 {
                blake3.update(chunk);
            }
            self.at_bytes += len_bytes;
        }
        Ok(())
    }

    /// The digests of what was read.
    pub fn finish(self) -> FileDigest {
        FileDigest {
            sha256: self.sha256.map(|s| hex(&s.finalize())),
            blake3: self.blake3.map(|b| b.finalize().to_hex().to_string()),
            checksums: self.checksums,
        }
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// Copies from the start of `source` on to the same place in `output`, until all is there or it `is_enough`; how many
/// bytes those are.
///
/// # Errors
/// As [`patched_copy`].
pub fn copy_ahead(source: &File, output: &File, is_enough: impl Fn() -> bool) -> Result<u64, CopyError> {
    let source_bytes = source.metadata().map_err(CopyError::Read)?.len();
    let mut at_bytes = 0;
    while at_bytes < source_bytes && !is_enough() {
        let end_bytes = (at_bytes + RUN_BYTES).min(source_bytes);
        copy_range(source, output, at_bytes, end_bytes)?;
        start_write_back(output, at_bytes, end_bytes);
        at_bytes = end_bytes;
    }
    Ok(at_bytes)
}

/// Makes `output`, which has the first `ahead_bytes` of `source` already, what `source` is with `patches` (by offset,
/// disjoint) on top, `size_bytes` long. Where the source ends before that, and nothing is patched, are zeros.
///
/// `done` hears how many bytes from the start on are written. The checksums of the chunks that were changed
/// are returned; all others have the source's.
///
/// # Errors
/// When a file cannot be read or written, or the run was interrupted.
pub fn patched_copy(
    source: &File,
    output: &File,
    patches: &BTreeMap<u64, Vec<u8>>,
    size_bytes: u64,
    ahead_bytes: u64,
    cancel: &AtomicBool,
    mut done: impl FnMut(u64),
) -> Result<ChunkChecksums, CopyError> {
    let source_bytes = source.metadata().map_err(CopyError::Read)?.len();
    output.set_len(size_bytes).map_err(CopyError::Write)?;
    let result = PatchedFile::new(source, patches, size_bytes).map_err(CopyError::Read)?;
    let changed = changed_chunks(patches, source_bytes, size_bytes);
    let mut checksums = ChunkChecksums::new();
    let mut at_bytes = 0;
    while at_bytes < size_bytes {
        look(cancel)?;
        let chunk = at_bytes / CHUNK_BYTES;
        let end_bytes = if changed.contains(&chunk) {
            let end_bytes = (at_bytes + CHUNK_BYTES).min(size_bytes);
            let mut bytes = vec![0; usize::try_from(end_bytes - at_bytes).unwrap_or(0)];
            result.read_exact_at(&mut bytes, at_bytes).map_err(CopyError::Read)?;
            output.file().write_all_at(&bytes, at_bytes).map_err(CopyError::Write)?;
            checksums.insert(chunk, crc32c::crc32c(&bytes));
            start_write_back(output, at_bytes, end_bytes);
            end_bytes
        } else {
            let stop = changed.range(chunk..).next().map_or(u64::MAX, |c| c * CHUNK_BYTES);
            let end_bytes = (at_bytes + RUN_BYTES).min(stop).min(size_bytes);
            if end_bytes > ahead_bytes {
                copy_range(source, output, at_bytes, end_bytes)?;
                start_write_back(output, at_bytes, end_bytes);
            }
            end_bytes
        };
        at_bytes = end_bytes;
        done(at_bytes);
    }
    Ok(checksums)
}

/// The first chunk of which the output's checksum is not what it has to be.
pub fn first_difference(source: &[u32], changed: &ChunkChecksums, output: &[u32]) -> Option<u64> {
    (0..)
        .zip(output)
        .find(|(chunk, actual)| {
            let unchanged = usize::try_from(*chunk).ok().and_then(|c| source.get(c));
            changed.get(chunk).or(unchanged) != Some(actual)
        })
        .map(|(chunk, _)| chunk)
}

fn look(cancel: &AtomicBool) -> Result<(), CopyError> {
    if cancel.load(Ordering::Relaxed) { Err(CopyError::Interrupted) } else { Ok(()) }
}

/// The chunks that the output does not have as the source has them: patched ones, and all from the one on in
/// which the shorter of the two files ends.
fn changed_chunks(
    patches: &BTreeMap<u64, Vec<u8>>,
    source_bytes: u64,
    size_bytes: u64,
) -> std::collections::BTreeSet<u64> {
    let mut changed: std::collections::BTreeSet<u64> = patches
        .iter()
        .filter(|(_, bytes)| !bytes.is_empty())
        .flat_map(|(&at, bytes)| at / CHUNK_BYTES..=(at + bytes.len() as u64 - 1) / CHUNK_BYTES)
        .collect();
    if source_bytes != size_bytes {
        let first = source_bytes.min(size_bytes) / CHUNK_BYTES;
        changed.extend(first..size_bytes.div_ceil(CHUNK_BYTES));
    }
    changed
}

/// Copies a range to the same place, in the kernel where it can.
fn copy_range(source: &File, output: &File, start_bytes: u64, end_bytes: u64) -> Result<(), CopyError> {
    let (mut from, mut to) = (start_bytes, start_bytes);
    while from < end_bytes {
        let len = usize::try_from(end_bytes - from).unwrap_or(usize::MAX);
        match copy_file_range(source.file(), Some(&mut from), output.file(), Some(&mut to), len) {
            Ok(0) => return Err(CopyError::Read(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) | Err(Errno::INTR) => {}
            // Between some file systems, or in some sandboxes, the kernel does not do it.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::BADF) => {
                return copy_by_hand(source, output, from, end_bytes);
            }
            Err(e) => return Err(CopyError::Write(e.into())),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, output: &File, start_bytes: u64, end_bytes: u64) -> Result<(), CopyError> {
    let mut buffer = vec![0; usize::try_from(CHUNK_BYTES.min(end_bytes - start_bytes)).unwrap_or(0)];
    let mut at_bytes = start_bytes;
    while at_bytes < end_bytes {
        let len = usize::try_from(end_bytes - at_bytes).unwrap_or(usize::MAX).min(buffer.len());
        source.file().read_exact_at(&mut buffer[..len], at_bytes).map_err(CopyError::Read)?;
        output.file().write_all_at(&buffer[..len], at_bytes).map_err(CopyError::Write)?;
        at_bytes += len as u64;
    }
    Ok(())
}

/// Has the kernel begin to write a range to the disk, so that little is left for the sync at the end; where it was
/// written already, has it give the memory back. That is what this advice does on Linux, without waiting.
pub fn start_write_back(output: &File, start_bytes: u64, end_bytes: u64) {
    let len = std::num::NonZeroU64::new(end_bytes.saturating_sub(start_bytes));
    if len.is_some() {
        let _ = fadvise(output.file(), start_bytes, len, Advice::DontNeed);
    }
}

/// Gives back the memory of what was read back for the last time, a little later than that because writing it to the
/// disk takes a moment. A copy then takes its pages from those that it had before: on a virtual machine, where fresh
/// pages are dear, that alone is a third of a cold create, and anywhere it leaves the page cache to others.
#[derive(Debug)]
pub struct Forget<'a> {
    file: &'a File,
    forgotten_bytes: u64,
}

impl<'a> Forget<'a> {
    /// Begins at the start of a file.
    pub fn new(file: &'a File) -> Self {
        Self { file, forgotten_bytes: 0 }
    }

    /// Hears how far the file was read back.
    pub fn behind(&mut self, end_bytes: u64) {
        let end_bytes = end_bytes.saturating_sub(FORGET_LAG_BYTES);
        start_write_back(self.file, self.forgotten_bytes, end_bytes);
        self.forgotten_bytes = self.forgotten_bytes.max(end_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of `sizes` with a pattern, and the result of patching the first into the second.
    fn check(source_bytes: usize, size_bytes: usize, patches: &[(u64, usize)]) {
        for rounds in 0..3 {
            check_ahead(source_bytes, size_bytes, patches, rounds);
        }
    }

    /// The same, with so much of the copy made before the patches are known.
    fn check_ahead(source_bytes: usize, size_bytes: usize, patches: &[(u64, usize)], rounds: u32) {
        let dir = tempfile::tempdir().unwrap();
        let pattern: Vec<u8> = (0..source_bytes).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        fs_err::write(dir.path().join("a"), &pattern).unwrap();
        let source = File::open(dir.path().join("a")).unwrap();
        let output = fs_err::OpenOptions::new();
        let mut output = output;
        let output = output.read(true).write(true).create(true).truncate(true);
        let output = output.open(dir.path().join("b")).unwrap();
        let patches: BTreeMap<u64, Vec<u8>> =
            patches.iter().map(|&(at, len)| (at, vec![0xEE; len])).collect();
        let mut expected = pattern;
        expected.resize(size_bytes, 0);
        for (&at, bytes) in &patches {
            let at = usize::try_from(at).unwrap();
            expected[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let cancel = AtomicBool::new(false);
        let size = size_bytes as u64;
        let mut last = 0;
        let rounds = std::cell::Cell::new(rounds);
        let ahead = copy_ahead(&source, &output, || rounds.replace(rounds.get().saturating_sub(1)) == 0);
        let ahead = ahead.unwrap();
        let changed = patched_copy(&source, &output, &patches, size, ahead, &cancel, |at| last = at).unwrap();
        assert_eq!(last, size);
        assert!(fs_err::read(dir.path().join("b")).unwrap() == expected);
        let digest = |file: &File, end: u64| {
            let mut digester = Digester::new(file, true, &cancel);
            digester.advance(end).unwrap();
            digester.finish()
        };
        let (before, mut after) = (digest(&source, source_bytes as u64), digest(&output, size));
        assert_eq!(after.sha256.as_deref(), Some(hex(&Sha256::digest(&expected)).as_str()));
        assert_eq!(first_difference(&before.checksums, &changed, &after.checksums), None);
        for chunk in 0..after.checksums.len() {
            after.checksums[chunk] ^= 1;
            let found = first_difference(&before.checksums, &changed, &after.checksums);
            assert_eq!(found, Some(chunk as u64));
            after.checksums[chunk] ^= 1;
        }
    }

    #[test]
    fn copies_are_exact() {
        let mib = 1 << 20;
        check(3 * mib, 3 * mib, &[]);
        check(0, 0, &[]);
        check(20 * mib + 5, 20 * mib + 5, &[(0, 1), (3 * 1_048_576 - 1, 2), (20 * 1_048_576, 5)]);
        check(2 * mib + 5, 5 * mib + 7, &[(4 * 1_048_576, 17)]);
        check(2 * mib, 2 * mib + 4096, &[(2 * 1_048_576, 4096)]);
        check(3 * mib, mib + 1, &[]);
        check(3 * mib, 3 * mib, &[(100, 2 * mib)]);
    }

    #[test]
    fn an_interrupted_copy_stops() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("a"), "x").unwrap();
        let source = File::open(dir.path().join("a")).unwrap();
        let output = File::create(dir.path().join("b")).unwrap();
        let cancel = AtomicBool::new(true);
        let result = patched_copy(&source, &output, &BTreeMap::new(), 1, 0, &cancel, |_| {});
        assert!(matches!(result, Err(CopyError::Interrupted)));
    }
}
