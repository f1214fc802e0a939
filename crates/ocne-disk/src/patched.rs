//! A file as it will be with some writes on top, without writing it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt as _;

use fs_err::File;

/// A file with patches on top, read as the file that they make. Where the file ends before that, and nothing is
/// patched, are zeros.
#[derive(Debug)]
pub struct PatchedFile<'a> {
    file: &'a File,
    file_bytes: u64,
    patches: &'a BTreeMap<u64, Vec<u8>>,
    size_bytes: u64,
}

impl<'a> PatchedFile<'a> {
    /// A file with patches (by offset, disjoint) that is `size_bytes` long then.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub fn new(file: &'a File, patches: &'a BTreeMap<u64, Vec<u8>>, size_bytes: u64) -> io::Result<Self> {
        Ok(Self { file, file_bytes: file.metadata()?.len(), patches, size_bytes })
    }

    /// How long the result is.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Reads some of the result.
    ///
    /// # Errors
    /// When the file cannot be read, or the range is not inside the result.
    pub fn read_exact_at(&self, into: &mut [u8], start_bytes: u64) -> io::Result<()> {
        let end_bytes = start_bytes.checked_add(into.len() as u64).filter(|&end| end <= self.size_bytes);
        let end_bytes = end_bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
        let index = |offset: u64| usize::try_from(offset - start_bytes).unwrap_or(usize::MAX);
        let (of_file, beyond) = into.split_at_mut(index(self.file_bytes.clamp(start_bytes, end_bytes)));
        self.file.file().read_exact_at(of_file, start_bytes)?;
        beyond.fill(0);
        let first = self.patches.range(..=start_bytes).next_back().map_or(start_bytes, |(&at, _)| at);
        for (&at, patch) in self.patches.range(first..end_bytes) {
            let (from, to) = (at.max(start_bytes), at.saturating_add(patch.len() as u64).min(end_bytes));
            if from < to {
                let skip = usize::try_from(from - at).unwrap_or(usize::MAX);
                into[index(from)..index(to)].copy_from_slice(&patch[skip..][..index(to) - index(from)]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_that_of_the_result() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..100).collect();
        fs_err::write(dir.path().join("f"), &content).unwrap();
        let file = File::open(dir.path().join("f")).unwrap();
        let patches = BTreeMap::from([(0, vec![0xA0; 3]), (50, vec![0xB0; 7]), (98, vec![0xC0; 5])]);
        for size in [60, 110] {
            let mut expected = content.clone();
            expected.resize(110, 0);
            for (&at, bytes) in &patches {
                let at = usize::try_from(at).unwrap();
                expected[at..at + bytes.len()].copy_from_slice(bytes);
            }
            expected.truncate(size);
            let result = PatchedFile::new(&file, &patches, size as u64).unwrap();
            for start in 0..=size {
                for end in start..=size {
                    let mut found = vec![0xEE; end - start];
                    result.read_exact_at(&mut found, start as u64).unwrap();
                    assert_eq!(found, expected[start..end], "{start}..{end}");
                }
            }
            assert!(result.read_exact_at(&mut [0; 2], size as u64 - 1).is_err());
            assert!(result.read_exact_at(&mut [0; 2], u64::MAX).is_err());
        }
    }
}
