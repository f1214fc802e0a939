//! Symbolic links with blocks, and the links of all inodes: every inode in use is named as often as it says, and
//! every directory leads to the root.

use ocne_disk::BlockDevice;

use super::Checker;
use super::inodes::{Found, verify_target};
use crate::attr::RemoteKind;
use crate::bytes::u64_at;
use crate::cache::ROUND_BYTES;
use crate::error::{Damage, XfsError, damage};
use crate::inode::FileType;
use crate::read::symlink_pieces;

/// Offset of the LSN in a block of a remote symlink or value.
pub(super) const REMOTE_LSN: usize = 48;

impl<D: BlockDevice> Checker<'_, D> {
    pub(super) fn check_symlinks(&mut self, found: &Found) -> Result<(), XfsError> {
        // a target has 1024 bytes at most: two blocks of 1 KiB
        let per_round = (ROUND_BYTES / 2 / self.sb.block_size_bytes as usize).max(1);
        for forks in found.link_forks.chunks(per_round) {
            let mut all = Vec::new();
            let mut counts = Vec::new();
            for f in forks {
                let blocks: u64 = f.extents.iter().map(|e| e.count).sum();
                let wanted = f.size_bytes.div_ceil(crate::attr::remote_bytes_per_block(self.sb) as u64);
                let before = all.len();
                if blocks == wanted {
                    all.extend(symlink_pieces(&f.extents));
                }
                counts.push(all.len() - before);
            }
            let mut blocks = self.volume.read_pieces(all)?;
            for (f, n) in forks.iter().zip(counts) {
                let rest = blocks.split_off(n);
                let mine = std::mem::replace(&mut blocks, rest);
                for b in &mine {
                    self.lsn(u64_at(&b.bytes, REMOTE_LSN));
                }
                let size = usize::try_from(f.size_bytes).unwrap_or(0);
                let target = self.volume.join_remote(RemoteKind::Symlink, f.ino, 0, size, &mine);
                if let Err(d) = target.and_then(|t| verify_target(&t)) {
                    self.problem(format_args!("symbolic link {}", f.ino), d.0);
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_links(&mut self, mut found: Found) {
        for reference in std::mem::take(&mut found.references) {
            if let Err(d) = follow(&mut found, reference) {
                let dir = found.directories.get(reference.from as usize).map_or(0, |d| d.ino);
                self.problem(format_args!("directory {dir}"), d.0);
            }
        }
        // `.` and `..` are links as well, also in the short form, which does not have the first
        for i in 0..found.directories.len() {
            let d = found.directories[i];
            for target in d.parent.into_iter().chain([d.ino]) {
                match found.state(target) {
                    Some(state) => state.found = state.found.saturating_add(1),
                    None => self.problem(format_args!("directory {}", d.ino), format!("no parent {target}")),
                }
            }
        }
        self.check_special_inodes(&mut found);
        let wrong: Vec<(u64, u32, u32)> = found
            .states()
            .filter(|(_, s)| s.ftype != 0 && (s.nlink != s.found || s.nlink == 0))
            .map(|(ino, s)| (ino, s.nlink, s.found))
            .collect();
        for (ino, nlink, links) in wrong {
            self.problem(format_args!("inode {ino}"), format!("{nlink} links counted, {links} found"));
        }
        self.check_tree_of_directories(&found);
    }

    /// The inodes that the superblock names: the root, which must be a directory, and those of the realtime
    /// section, which every file system has.
    fn check_special_inodes(&mut self, found: &mut Found) {
        let root = self.sb.root_inode;
        if found.state(root).is_none_or(|s| s.ftype != FileType::Directory.to_dirent()) {
            self.problem("superblock", format!("the root, inode {root}, is not a directory"));
        }
        for (i, &ino) in self.sb.special_inodes.iter().enumerate() {
            let is_quota = i >= 2;
            if is_quota && (ino == 0 || ino == u64::MAX) {
                continue;
            }
            match found.state(ino) {
                Some(s) if s.ftype == FileType::Regular.to_dirent() => s.found += 1,
                _ => self.problem("superblock", format!("the special inode {ino} is not a file")),
            }
        }
    }

    fn check_tree_of_directories(&mut self, found: &Found) {
        let root = self.sb.root_inode;
        let mut wrong: Vec<(u64, String)> = Vec::new();
        let mut index: Vec<(u64, usize)> =
            found.directories.iter().enumerate().map(|(i, d)| (d.ino, i)).collect();
        index.sort_unstable();
        let find =
            |ino: u64| index.binary_search_by_key(&ino, |e| e.0).ok().and_then(|i| index.get(i)).map(|e| e.1);
        for d in &found.directories {
            let named_by = if d.ino == root { Some(root) } else { d.named_by };
            if d.parent.is_some() && named_by != d.parent {
                wrong.push((d.ino, format!("its parent is {:?}, its name is in {named_by:?}", d.parent)));
            }
        }
        // 0: not seen; 1: on the way that is followed now; 2: leads to the root
        let mut seen = vec![0u8; found.directories.len()];
        let mut way = Vec::new();
        for start in 0..found.directories.len() {
            let mut at = Some(start);
            let mut reaches = false;
            while let Some(i) = at {
                if seen[i] != 0 || found.directories[i].ino == root {
                    reaches = seen[i] == 2 || found.directories[i].ino == root;
                    break;
                }
                seen[i] = 1;
                way.push(i);
                at = found.directories[i].named_by.and_then(find);
            }
            for i in way.drain(..) {
                seen[i] = if reaches { 2 } else { 3 };
                if !reaches {
                    wrong.push((found.directories[i].ino, "it cannot be reached from the root".to_owned()));
                }
            }
        }
        for (ino, what) in wrong {
            self.problem(format_args!("directory {ino}"), what);
        }
    }
}

/// Counts an entry as a link of what it names.
fn follow(found: &mut Found, r: super::inodes::Reference) -> Result<(), Damage> {
    let from = found.directories.get(r.from as usize).map_or(0, |d| d.ino);
    let Some(state) = found.state(r.ino).filter(|s| s.ftype != 0) else {
        return damage!("an entry for inode {}, which is not in use", r.ino);
    };
    if state.ftype != r.ftype {
        return damage!("an entry of type {} for inode {}, which is of type {}", r.ftype, r.ino, state.ftype);
    }
    state.found = state.found.saturating_add(1);
    if state.ftype == FileType::Directory.to_dirent() {
        let i = found.directories.binary_search_by_key(&r.ino, |d| d.ino);
        let Some(d) = i.ok().and_then(|i| found.directories.get_mut(i)) else { return Ok(()) };
        if d.named_by.replace(from).is_some() {
            return damage!("a second entry for directory {}", r.ino);
        }
    }
    Ok(())
}
