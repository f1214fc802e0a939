//! The headers of all allocation groups, and the copies of the superblock.

use ocne_disk::BlockDevice;

use super::Checker;
use crate::ag::{self, AGF_SECTOR, AGFL_SECTOR, AGI_SECTOR, Agf, Agi, NULL_AGINO, agfl};
use crate::btree::{Tree, owner};
use crate::bytes::{put_u16, put_u32, u16_at, u32_at, u64_at};
use crate::cache::{ByteRange, ROUND_BYTES};
use crate::error::XfsError;
use crate::superblock::{self, Superblock};

impl<D: BlockDevice> Checker<'_, D> {
    pub(super) fn check_headers(&mut self) -> Result<(), XfsError> {
        let sector = self.sb.sector_size_bytes as usize;
        let ranges: Vec<ByteRange> = (0..self.sb.ag_count)
            .map(|agno| ByteRange { offset_bytes: self.sb.ag_offset_bytes(agno), len: 4 * sector })
            .collect();
        let primary = self.volume.read(&ranges[..1])?.swap_remove(0);
        let mut agno = 0;
        for round in ranges.chunks((ROUND_BYTES / (4 * sector)).max(1)) {
            if self.is_hopeless() {
                break;
            }
            for bytes in self.volume.read(round)? {
                self.check_group_headers(agno, &bytes, &primary);
                agno += 1;
            }
        }
        let (log_start, log_blocks) = (self.sb.log_start, u64::from(self.sb.log_blocks));
        if self.sb.is_extent_inside(log_start, log_blocks) {
            self.own(log_start, log_blocks, owner::LOG, 0);
        }
        Ok(())
    }

    fn check_group_headers(&mut self, agno: u32, bytes: &[u8], primary: &[u8]) {
        let sector = self.sb.sector_size_bytes as usize;
        let part = |i: u32| bytes.get(i as usize * sector..(i as usize + 1) * sector).unwrap_or(&[]);
        let header_blocks = (4 * self.sb.sector_size_bytes).div_ceil(self.sb.block_size_bytes);
        self.own_in_group(agno, 0, header_blocks, owner::FS, 0);
        self.check_superblock_copy(agno, part(0), primary);
        match Agf::parse(self.sb, agno, part(AGF_SECTOR)) {
            Ok(header) => self.check_agf(agno, header, part(AGFL_SECTOR)),
            Err(d) => {
                self.owners_incomplete = true;
                self.problem(format_args!("AGF {agno}"), d.0);
            }
        }
        match Agi::parse(self.sb, agno, part(AGI_SECTOR)) {
            Ok(header) => self.check_agi(agno, header),
            Err(d) => {
                self.owners_incomplete = true;
                self.problem(format_args!("AGI {agno}"), d.0);
            }
        }
    }

    fn check_superblock_copy(&mut self, agno: u32, sector: &[u8], primary: &[u8]) {
        let place = format!("superblock of AG {agno}");
        let copy = match Superblock::parse(sector) {
            Ok(copy) => copy,
            Err(d) => return self.problem(place, d.0),
        };
        self.lsn(copy.lsn);
        if agno == 0 {
            return;
        }
        if copy.uuid != self.sb.uuid || copy.meta_uuid != self.sb.meta_uuid {
            return self.problem(place, "its UUID differs from the primary superblock's");
        }
        if copy.has_quota() {
            self.problem(&place, "it has quota, which is not supported");
        }
        let [copy, primary] = [sector, primary].map(comparable);
        if let Some(at) = copy.iter().zip(&primary).position(|(a, b)| a != b) {
            self.problem(place, format!("it differs from the primary superblock at byte {at}"));
        }
    }

    fn check_agf(&mut self, agno: u32, header: Agf, agfl_sector: &[u8]) {
        self.lsn(header.lsn);
        let place = format!("AGF {agno}");
        for tree in [Tree::Bno, Tree::Cnt, Tree::Rmap, Tree::Refcount] {
            let (root, levels) = header.root(tree);
            self.check_root(&place, agno, tree, root, levels);
        }
        match ag::parse_agfl(self.sb, agno, agfl_sector, &header) {
            Ok(blocks) => {
                self.lsn(u64_at(agfl_sector, agfl::LSN));
                for &agbno in &blocks {
                    if agbno >= self.sb.ag_len_blocks(agno) {
                        self.problem(
                            format_args!("AGFL {agno}"),
                            format!("block {agbno}, outside the group"),
                        );
                    } else {
                        self.own_in_group(agno, agbno, 1, owner::AG, 0);
                    }
                }
                self.groups[agno as usize].agfl = blocks;
            }
            Err(d) => {
                self.owners_incomplete = true;
                self.problem(format_args!("AGFL {agno}"), d.0);
            }
        }
        self.groups[agno as usize].agf = Some(header);
    }

    fn check_agi(&mut self, agno: u32, header: Agi) {
        self.lsn(header.lsn);
        let place = format!("AGI {agno}");
        for tree in [Tree::Ino, Tree::Fino] {
            let (root, levels) = header.root(tree);
            self.check_root(&place, agno, tree, root, levels);
        }
        for (i, &agino) in header.unlinked.iter().enumerate() {
            if agino != NULL_AGINO {
                self.problem(&place, format!("inode {agino} in bucket {i} of unlinked inodes"));
            }
        }
        if header.new_ino != NULL_AGINO && self.sb.agino_agbno(header.new_ino) >= self.sb.ag_len_blocks(agno)
        {
            self.problem(&place, format!("newest inode {}, outside the group", header.new_ino));
        }
        self.groups[agno as usize].agi = Some(header);
    }

    fn check_root(&mut self, place: &str, agno: u32, tree: Tree, root: u32, levels: u32) {
        if !tree.is_in(self.sb) {
            return;
        }
        if root >= self.sb.ag_len_blocks(agno) || levels == 0 || levels > crate::btree::MAX_LEVELS {
            self.problem(place, format!("{} at block {root} with {levels} levels", tree.name()));
        }
    }
}

/// The fields that a copy of the superblock shares with the primary: not the counters, what is set while the file
/// system is in use, or what mkfs writes to some of the copies only.
fn comparable(sector: &[u8]) -> Vec<u8> {
    let mut b = sector.get(..superblock::LEN).unwrap_or(&[]).to_vec();
    // root and realtime inodes; label; state and share of inodes; counters and quota; stripe; checksum; quota, LSN
    for range in [56..80, 108..120, 126..180, 184..192, 224..228, 232..248] {
        if let Some(b) = b.get_mut(range) {
            b.fill(0);
        }
    }
    let version = u16_at(&b, 100) & !(superblock::VERSION_ATTR | superblock::VERSION_QUOTA);
    put_u16(&mut b, 100, version);
    // both copies of `features2`
    for at in [200, 204] {
        let features2 = u32_at(&b, at) & !superblock::FEATURES2_ATTR2;
        put_u32(&mut b, at, features2);
    }
    b
}

impl Agf {
    /// Root and number of levels of a tree that the AGF has.
    pub(crate) fn root(&self, tree: Tree) -> (u32, u32) {
        match tree {
            Tree::Bno => (self.bno_root, self.bno_level),
            Tree::Cnt => (self.cnt_root, self.cnt_level),
            Tree::Rmap => (self.rmap_root, self.rmap_level),
            Tree::Refcount => (self.refcount_root, self.refcount_level),
            Tree::Ino | Tree::Fino => (ag::NULL_AGBNO, 0),
        }
    }
}

impl Agi {
    /// Root and number of levels of a tree that the AGI has.
    pub(crate) fn root(&self, tree: Tree) -> (u32, u32) {
        match tree {
            Tree::Ino => (self.root, self.level),
            Tree::Fino => (self.free_root, self.free_level),
            _ => (ag::NULL_AGBNO, 0),
        }
    }
}
