//! Verification of a whole file system: every structure by itself, and all of them against each other.
//!
//! What is read depends on what was read before, so the order is by dependence and each step is one round for the
//! whole file system: headers; trees, level by level; inodes; block maps, level by level; then the blocks of
//! directories, attributes and links. After that nothing is read: owners of blocks are compared with the free
//! space, reference counts and reverse mappings, links with the entries of directories, counters with what was
//! found.

mod attrs;
mod dirs;
mod forks;
mod hash_tree;
mod headers;
mod inodes;
mod links;
mod owners;
mod trees;

use std::fmt;

use ocne_disk::BlockDevice;

use crate::ag::{Agf, Agi};
use crate::btree::{FreeRecord, InodeRecord, RefcountRecord, RmapRecord};
use crate::error::XfsError;
use crate::log;
use crate::superblock::Superblock;
use crate::volume::Volume;

/// Problems that are kept; the rest is counted.
const MAX_PROBLEMS: usize = 200;

/// Something that is wrong with a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which structure.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What is wrong, in the order in which it was found; at most 200.
    pub problems: Vec<Problem>,
    /// How many problems there are besides.
    pub more_problems: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Directories among them.
    pub directories: u64,
    /// Blocks that more than one file has.
    pub shared_blocks: u64,
    /// Free blocks, as the free space btrees have them.
    pub free_blocks: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What is known of an allocation group.
#[derive(Debug, Default)]
struct Group {
    agf: Option<Agf>,
    agi: Option<Agi>,
    agfl: Vec<u32>,
    /// Of the bnobt; `None` when that could not be read.
    free: Option<Vec<FreeRecord>>,
    by_length: Option<Vec<FreeRecord>>,
    chunks: Option<Vec<InodeRecord>>,
    free_chunks: Option<Vec<InodeRecord>>,
    refcounts: Option<Vec<RefcountRecord>>,
    rmaps: Option<Vec<RmapRecord>>,
    /// Blocks of bnobt, cntbt and rmapbt, roots not counted.
    free_space_tree_blocks: u32,
    /// Every use of blocks that was found, as reverse mappings.
    owners: Vec<RmapRecord>,
}

/// A check at work.
struct Checker<'a, D> {
    volume: &'a Volume<D>,
    sb: &'a Superblock,
    report: CheckReport,
    groups: Vec<Group>,
    /// The highest LSN of any structure.
    max_lsn: u64,
    /// Something that holds blocks could not be read, so that missing owners mean nothing.
    owners_incomplete: bool,
}

impl<D: BlockDevice> Volume<D> {
    /// Verifies the whole file system. What is wrong is in the report, also a dirty log and unlinked inodes.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn check(&self) -> Result<CheckReport, XfsError> {
        let sb = self.superblock();
        let mut checker = Checker {
            volume: self,
            sb,
            report: CheckReport::default(),
            groups: (0..sb.ag_count).map(|_| Group::default()).collect(),
            max_lsn: sb.lsn,
            owners_incomplete: false,
        };
        checker.run()?;
        Ok(checker.report)
    }
}

impl<D: BlockDevice> Checker<'_, D> {
    fn run(&mut self) -> Result<(), XfsError> {
        self.check_quota();
        self.check_headers()?;
        self.check_trees()?;
        let mut found = self.check_inodes()?;
        self.check_directories(&mut found)?;
        self.check_attributes(&mut found)?;
        self.check_symlinks(&found)?;
        if !self.is_hopeless() {
            self.check_links(found);
            self.check_counters();
            self.check_owners();
        }
        self.check_log()
    }

    /// Whether so much is wrong that nothing more is to be learned: then no more is read, so that a file system made
    /// to be large and wrong costs little.
    fn is_hopeless(&self) -> bool {
        self.report.more_problems > 0
    }

    fn problem(&mut self, place: impl fmt::Display, what: impl Into<String>) {
        if self.report.problems.len() < MAX_PROBLEMS {
            self.report.problems.push(Problem { place: place.to_string(), what: what.into() });
        } else {
            self.report.more_problems += 1;
        }
    }

    /// Remembers the LSN of a structure.
    fn lsn(&mut self, lsn: u64) {
        self.max_lsn = self.max_lsn.max(log::plain_lsn(lsn));
    }

    /// Notes that `count` blocks from `fsblock` belong to `owner`; the range is inside one group.
    fn own(&mut self, fsblock: u64, count: u64, owner: u64, offset: u64) {
        if let (Some((agno, start)), Ok(count)) = (self.sb.split_fsblock(fsblock), u32::try_from(count)) {
            self.own_in_group(agno, start, count, owner, offset);
        }
    }

    fn own_in_group(&mut self, agno: u32, start: u32, count: u32, owner: u64, offset: u64) {
        if let Some(group) = self.groups.get_mut(agno as usize) {
            group.owners.push(RmapRecord { start, count, owner, offset });
        }
    }

    /// Quota is kept by the kernel in files that an edit would have to follow.
    fn check_quota(&mut self) {
        if self.sb.has_quota() {
            self.problem("superblock", "the file system has quota, which is not supported");
        }
    }

    /// The superblock's counters, which the kernel trusts after a clean unmount.
    fn check_counters(&mut self) {
        let sum = |f: &dyn Fn(&Group) -> u64| self.groups.iter().map(f).sum::<u64>();
        let inodes = sum(&|g| g.agi.as_ref().map_or(0, |a| u64::from(a.count)));
        let free_inodes = sum(&|g| g.agi.as_ref().map_or(0, |a| u64::from(a.free_count)));
        let free_blocks = sum(&|g| {
            g.agf
                .as_ref()
                .map_or(0, |a| u64::from(a.free_blocks) + u64::from(a.fl_count) + u64::from(a.btree_blocks))
        });
        self.report.free_blocks = sum(&|g| g.agf.as_ref().map_or(0, |a| u64::from(a.free_blocks)));
        for (name, counted, found) in [
            ("inodes", self.sb.inode_count, inodes),
            ("free inodes", self.sb.free_inode_count, free_inodes),
            ("free blocks", self.sb.free_block_count, free_blocks),
        ] {
            if counted != found {
                self.problem("superblock", format!("{counted} {name} counted, {found} found"));
            }
        }
    }

    fn check_log(&mut self) -> Result<(), XfsError> {
        match self.volume.clean_log()? {
            Err(damage) => self.problem("log", damage.0),
            Ok(clean) => {
                if clean.uuid != self.sb.uuid {
                    self.problem("log", "the last record has the UUID of another file system");
                }
                let head = log::lsn(clean.head_cycle, clean.head_block);
                if self.max_lsn >= head {
                    self.problem(
                        "log",
                        format!("LSN {:#x} of metadata is not before the head, {head:#x}", self.max_lsn),
                    );
                }
            }
        }
        Ok(())
    }
}
