//! Edits of a file system that is not mounted: everything happens in memory, and the result is the bytes to change.
//!
//! Blocks that change are staged whole; allocation groups that are touched are held with all their btrees. A
//! structure that changes keeps its log sequence number, a new one has 0: with a clean log nothing is replayed over
//! the edit, and both are accepted by the kernel.

mod blocks;
mod directory;
mod error;
mod file;
mod fork;
mod group;
mod inodes;
mod layout;
mod raw_inode;
mod tree;
mod uuid;

use std::collections::BTreeMap;
use std::fmt;

use ocne_disk::BlockDevice;

pub use error::EditError;
pub use raw_inode::{Label, NewInode};

use crate::bytes::{put_u64, u64_at};
use crate::cache::{ByteRange, Changes};
use crate::crc;
use crate::edit::group::Group;
use crate::inode::Timestamp;
use crate::superblock::{self, Superblock};
use crate::volume::Volume;

/// What all edits have in common.
#[derive(Debug, Clone, Copy)]
pub struct EditOptions {
    /// The time that changed inodes get.
    pub now: Timestamp,
    /// Where generation numbers of new inodes come from: equal seeds give equal results.
    pub seed: u64,
}

/// An editor of a file system. Nothing is written: [`Editor::finish`] gives the bytes to change.
pub struct Editor<'a, D> {
    volume: &'a Volume<D>,
    sb: Superblock,
    options: EditOptions,
    random_state: u64,
    groups: BTreeMap<u32, Group>,
    /// Changed metadata by byte offset, whole blocks.
    staged: Changes,
    /// New content of files by byte offset.
    content: Changes,
    new_uuid: Option<[u8; 16]>,
    failed: bool,
}

impl<D> fmt::Debug for Editor<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Editor").field("staged", &self.staged.len()).finish_non_exhaustive()
    }
}

impl<'a, D: BlockDevice> Editor<'a, D> {
    /// Starts an edit of a file system that is clean.
    ///
    /// # Errors
    /// When it is not clean (a check of all metadata finds something), or cannot be read.
    pub fn new(volume: &'a Volume<D>, options: EditOptions) -> Result<Self, EditError> {
        let report = volume.check()?;
        if !report.is_clean() {
            return Err(EditError::NotClean { report });
        }
        Ok(Self {
            volume,
            sb: volume.superblock().clone(),
            options,
            random_state: options.seed,
            groups: BTreeMap::new(),
            staged: Changes::new(),
            content: Changes::new(),
            new_uuid: None,
            failed: false,
        })
    }

    /// Gives the file system another UUID. The log stays, with a record that has the new UUID.
    ///
    /// # Errors
    /// When an edit failed before.
    pub fn set_uuid(&mut self, uuid: [u8; 16]) -> Result<(), EditError> {
        self.attempt(|e| {
            e.new_uuid = Some(uuid);
            Ok(())
        })
    }

    /// The bytes to change, by byte offset in the file system: disjoint and ascending. With them on top, a check of the
    /// whole file system found it clean.
    ///
    /// # Errors
    /// When an edit failed, when there is no room for the btrees, or when the result would not be clean.
    pub fn finish(mut self) -> Result<BTreeMap<u64, Vec<u8>>, EditError> {
        if self.failed {
            return Err(EditError::FailedBefore);
        }
        self.store_groups()?;
        if let Some(uuid) = self.new_uuid {
            self.store_uuid(uuid)?;
        }
        let changes = self.changed_ranges()?;
        let report = self.volume.with_changes(&changes)?.check()?;
        if report.is_clean() { Ok(changes) } else { Err(EditError::NotCleanAfter { report }) }
    }

    /// Runs one edit; after one that failed there is none.
    fn attempt<T>(&mut self, edit: impl FnOnce(&mut Self) -> Result<T, EditError>) -> Result<T, EditError> {
        if self.failed {
            return Err(EditError::FailedBefore);
        }
        self.failed = true;
        let done = edit(self)?;
        self.failed = false;
        Ok(done)
    }

    /// The file system with the edits so far, except what is held in the groups and the content of files.
    fn view(&self) -> Result<Volume<&'a D>, EditError> {
        Ok(self.volume.with_changes(&self.staged)?)
    }

    /// The next random number (SplitMix64).
    fn random(&mut self) -> u64 {
        self.random_state = self.random_state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random_state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn block_len(&self) -> u64 {
        u64::from(self.sb.block_size_bytes)
    }

    /// The block that starts at a byte offset, with the edits so far.
    fn block(&self, offset_bytes: u64) -> Result<Vec<u8>, EditError> {
        if let Some(b) = self.staged.get(&offset_bytes) {
            return Ok(b.clone());
        }
        let range = ByteRange { offset_bytes, len: self.sb.block_size_bytes as usize };
        Ok(self.volume.read(&[range])?[0].to_vec())
    }

    /// Stages metadata at any offset.
    fn stage(&mut self, offset_bytes: u64, bytes: &[u8]) -> Result<(), EditError> {
        let block_len = self.block_len();
        let mut done = 0;
        while done < bytes.len() {
            let at = offset_bytes + done as u64;
            let start = at - at % block_len;
            let inside = usize::try_from(at - start).unwrap_or(0);
            let len = (self.sb.block_size_bytes as usize - inside).min(bytes.len() - done);
            let piece = &bytes[done..done + len];
            if len as u64 == block_len {
                self.staged.insert(start, piece.to_vec());
            } else {
                let mut block = self.block(start)?;
                block[inside..inside + len].copy_from_slice(piece);
                self.staged.insert(start, block);
            }
            done += len;
        }
        Ok(())
    }

    /// Stages metadata of a block that is new: what was in it is not read.
    fn stage_new(&mut self, offset_bytes: u64, bytes: &[u8]) -> Result<(), EditError> {
        let start = offset_bytes - offset_bytes % self.block_len();
        let len = self.sb.block_size_bytes as usize;
        self.staged.entry(start).or_insert_with(|| vec![0; len]);
        self.stage(offset_bytes, bytes)
    }

    /// Gives the btrees their blocks, and stages the groups and the counters.
    fn store_groups(&mut self) -> Result<(), EditError> {
        let mut deltas = [0i64; 3];
        let mut writes = Vec::new();
        for group in self.groups.values_mut() {
            let agno = group.agno;
            group.settle()?;
            group.store(self.volume, |at, bytes| writes.push((at, bytes)))?;
            let before = Group::load_headers(self.volume, agno)?;
            let all_free = |f: &crate::ag::Agf| {
                i64::from(f.free_blocks) + i64::from(f.fl_count) + i64::from(f.btree_blocks)
            };
            deltas[0] += i64::from(group.agi.count) - i64::from(before.1.count);
            deltas[1] += i64::from(group.agi.free_count) - i64::from(before.1.free_count);
            deltas[2] += all_free(&group.agf) - all_free(&before.0);
        }
        for (at, bytes) in writes {
            self.stage(at, &bytes)?;
        }
        if deltas == [0; 3] {
            return Ok(());
        }
        let range = ByteRange { offset_bytes: 0, len: self.sb.sector_size_bytes as usize };
        let mut sector = self.volume.read(&[range])?[0].to_vec();
        for (at, delta) in
            [superblock::ICOUNT, superblock::IFREE, superblock::FDBLOCKS].into_iter().zip(deltas)
        {
            let value = u64_at(&sector, at).wrapping_add_signed(delta);
            put_u64(&mut sector, at, value);
        }
        crc::stamp(&mut sector, superblock::CRC);
        self.stage(0, &sector)
    }

    /// What was staged and differs from what is there; ranges that touch are one.
    fn changed_ranges(&self) -> Result<Changes, EditError> {
        let mut all: BTreeMap<u64, &Vec<u8>> = self.content.iter().map(|(&at, b)| (at, b)).collect();
        let ranges: Vec<ByteRange> =
            self.staged.iter().map(|(&offset_bytes, b)| ByteRange { offset_bytes, len: b.len() }).collect();
        for ((&at, bytes), old) in self.staged.iter().zip(self.volume.read_content(&ranges)?) {
            if old[..] != bytes[..] {
                all.insert(at, bytes);
            }
        }
        let mut out = Changes::new();
        for (at, bytes) in all {
            match out.last_entry() {
                Some(mut last) if last.key() + last.get().len() as u64 == at => last.get_mut().extend(bytes),
                _ => {
                    out.insert(at, bytes.clone());
                }
            }
        }
        Ok(out)
    }
}
