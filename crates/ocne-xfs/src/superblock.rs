//! The superblock: geometry, features, identity, and the arithmetic of addresses that follows from them.
//!
//! Format: "XFS Algorithms & Data Structures", superblocks; kernel `fs/xfs/libxfs/xfs_format.h`, `xfs_dsb`.

use crate::bytes::{array, u8_at, u16_at, u32_at, u64_at};
use crate::crc;
use crate::error::{Damage, XfsError, damage};

/// `XFSB`.
pub(crate) const MAGIC: u32 = 0x5846_5342;
/// Bytes of the superblock that have a meaning; the sector is zero after them.
pub(crate) const LEN: usize = 264;
pub(crate) const UUID: usize = 32;
pub(crate) const ICOUNT: usize = 128;
pub(crate) const IFREE: usize = 136;
pub(crate) const FDBLOCKS: usize = 144;
pub(crate) const INCOMPAT: usize = 216;
pub(crate) const CRC: usize = 224;
pub(crate) const LSN: usize = 240;
pub(crate) const META_UUID: usize = 248;

pub(crate) const RO_COMPAT_FINOBT: u32 = 1;
pub(crate) const RO_COMPAT_RMAPBT: u32 = 2;
pub(crate) const RO_COMPAT_REFLINK: u32 = 4;
pub(crate) const RO_COMPAT_INOBTCNT: u32 = 8;
pub(crate) const INCOMPAT_FTYPE: u32 = 1;
pub(crate) const INCOMPAT_SPINODES: u32 = 2;
pub(crate) const INCOMPAT_META_UUID: u32 = 4;
pub(crate) const INCOMPAT_BIGTIME: u32 = 8;
pub(crate) const INCOMPAT_NEEDSREPAIR: u32 = 16;
pub(crate) const INCOMPAT_NREXT64: u32 = 32;

/// `versionnum` bits.
pub(crate) const VERSION_ATTR: u16 = 0x10;
pub(crate) const VERSION_QUOTA: u16 = 0x40;
pub(crate) const VERSION_ALIGN: u16 = 0x80;
pub(crate) const VERSION_DALIGN: u16 = 0x100;
/// ASCII-only case-insensitive names.
pub(crate) const VERSION_BORG: u16 = 0x4000;

/// `features2` bits.
pub(crate) const FEATURES2_ATTR2: u32 = 0x8;

/// What this crate knows.
const RO_COMPAT_KNOWN: u32 = RO_COMPAT_FINOBT | RO_COMPAT_RMAPBT | RO_COMPAT_REFLINK | RO_COMPAT_INOBTCNT;
const INCOMPAT_KNOWN: u32 = INCOMPAT_FTYPE
    | INCOMPAT_SPINODES
    | INCOMPAT_META_UUID
    | INCOMPAT_BIGTIME
    | INCOMPAT_NEEDSREPAIR
    | INCOMPAT_NREXT64;

/// The largest AG: 1 TiB.
const MAX_AG_BYTES: u64 = 1 << 40;
/// What this crate will look at: each takes memory.
const MAX_AG_COUNT: u32 = 1 << 14;

/// The superblock of a version 5 file system, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// What users see: `blkid`, `root=UUID=`.
    pub uuid: [u8; 16],
    /// What is stamped in every structure: differs from [`Self::uuid`] once the UUID was changed.
    pub meta_uuid: [u8; 16],
    /// The label, without the zeros after it.
    pub label: String,
    /// Block size.
    pub block_size_bytes: u32,
    /// Sector size: each AG header has one sector.
    pub sector_size_bytes: u32,
    /// Size of an inode with its forks.
    pub inode_size_bytes: u32,
    /// Size of a directory block: a power of two of blocks.
    pub dir_block_size_bytes: u32,
    /// Blocks of the file system.
    pub blocks: u64,
    /// Number of allocation groups.
    pub ag_count: u32,
    /// Blocks of each allocation group but the last, which may have fewer.
    pub ag_blocks: u32,
    /// Where the log starts (file system block number); 0 means an external log.
    pub log_start: u64,
    /// Blocks of the log.
    pub log_blocks: u32,
    /// Sector size of the log; 0 means 512.
    pub log_sector_size_bytes: u32,
    /// Stripe unit of the log; 0 and 1 mean none.
    pub log_stripe_unit_bytes: u32,
    /// The root directory's inode number.
    pub root_inode: u64,
    /// Allocated inodes, used or not.
    pub inode_count: u64,
    /// Allocated inodes that are not used.
    pub free_inode_count: u64,
    /// Free blocks.
    pub free_block_count: u64,
    /// Version number with its feature bits.
    pub version: u16,
    /// More feature bits.
    pub features2: u32,
    /// Compatible features.
    pub compat: u32,
    /// Features that allow reading only when they are not known.
    pub ro_compat: u32,
    /// Features that must be known.
    pub incompat: u32,
    /// Features of the log that must be known to replay it.
    pub log_incompat: u32,
    /// Set while mkfs or growfs is at work.
    pub in_progress: bool,
    /// Alignment of inode chunks, in blocks.
    pub inode_align_blocks: u32,
    /// Alignment of sparse inode chunks, in blocks.
    pub sparse_inode_align_blocks: u32,
    /// Blocks of the realtime section; this crate works without one only.
    pub realtime_blocks: u64,
    /// Realtime bitmap, realtime summary, user, group and project quota inodes as stored.
    pub special_inodes: [u64; 5],
    /// Quota flags.
    pub quota_flags: u16,
    /// Bits of the block number inside an AG.
    pub ag_block_log: u32,
    /// log2 of inodes per block.
    pub inodes_per_block_log: u32,
    /// log2 of the block size.
    pub block_log: u32,
    /// The LSN of the last logged change.
    pub lsn: u64,
}

impl Superblock {
    /// Parses and verifies a primary superblock; refuses what this crate does not know, by name.
    ///
    /// `sector` holds at least the first 512 bytes of the file system; the CRC needs the whole sector, so that
    /// a caller reads [`sector_size_hint`] bytes.
    pub(crate) fn parse_primary(sector: &[u8]) -> Result<Self, XfsError> {
        if u32_at(sector, 0) != MAGIC {
            return Err(XfsError::NotXfs { reason: "the first bytes are not `XFSB`".to_owned() });
        }
        let version = u16_at(sector, 100);
        if version & 0xF != 5 {
            return Err(XfsError::Unsupported {
                what: format!("version {} (only version 5, with checksums, is)", version & 0xF),
            });
        }
        let sb = Self::parse(sector).map_err(|d| d.at("superblock"))?;
        if let Some(what) = sb.unsupported() {
            return Err(XfsError::Unsupported { what });
        }
        Ok(sb)
    }

    /// Parses any copy of the superblock: magic, CRC and geometry, not the features.
    pub(crate) fn parse(sector: &[u8]) -> Result<Self, Damage> {
        if sector.len() < 512 {
            return damage!("{} bytes are too few", sector.len());
        }
        if u32_at(sector, 0) != MAGIC {
            return damage!("magic {:#x} instead of `XFSB`", u32_at(sector, 0));
        }
        let sector_size_bytes = u32::from(u16_at(sector, 102));
        match sector.get(..sector_size_bytes as usize) {
            Some(s) if (512..=32768).contains(&sector_size_bytes) => {
                if !crc::verify(s, CRC) {
                    return damage!("wrong checksum");
                }
                if s.get(LEN..).is_some_and(|z| z.iter().any(|&b| b != 0)) {
                    return damage!("the sector is not zero after the superblock");
                }
            }
            _ => return damage!("sector size {sector_size_bytes}"),
        }
        let uuid = array(sector, UUID);
        let incompat = u32_at(sector, INCOMPAT);
        let fname: [u8; 12] = array(sector, 108);
        let label_len = fname.iter().position(|&b| b == 0).unwrap_or(12);
        let dir_log = u32::from(u8_at(sector, 192));
        let block_size_bytes = u32_at(sector, 4);
        let sb = Self {
            uuid,
            meta_uuid: if incompat & INCOMPAT_META_UUID == 0 { uuid } else { array(sector, META_UUID) },
            label: String::from_utf8_lossy(&fname[..label_len]).into_owned(),
            block_size_bytes,
            sector_size_bytes,
            inode_size_bytes: u32::from(u16_at(sector, 104)),
            dir_block_size_bytes: if dir_log < 16 {
                block_size_bytes.checked_shl(dir_log).unwrap_or(0)
            } else {
                0
            },
            blocks: u64_at(sector, 8),
            ag_count: u32_at(sector, 88),
            ag_blocks: u32_at(sector, 84),
            log_start: u64_at(sector, 48),
            log_blocks: u32_at(sector, 96),
            log_sector_size_bytes: u32::from(u16_at(sector, 194)),
            log_stripe_unit_bytes: u32_at(sector, 196),
            root_inode: u64_at(sector, 56),
            inode_count: u64_at(sector, ICOUNT),
            free_inode_count: u64_at(sector, IFREE),
            free_block_count: u64_at(sector, FDBLOCKS),
            version: u16_at(sector, 100),
            features2: u32_at(sector, 200),
            compat: u32_at(sector, 208),
            ro_compat: u32_at(sector, 212),
            incompat,
            log_incompat: u32_at(sector, 220),
            in_progress: u8_at(sector, 126) != 0,
            inode_align_blocks: u32_at(sector, 180),
            sparse_inode_align_blocks: u32_at(sector, 228),
            realtime_blocks: u64_at(sector, 16),
            special_inodes: [64, 72, 160, 168, 232].map(|at| u64_at(sector, at)),
            quota_flags: u16_at(sector, 176),
            ag_block_log: u32::from(u8_at(sector, 124)),
            inodes_per_block_log: u32::from(u8_at(sector, 123)),
            block_log: u32::from(u8_at(sector, 120)),
            lsn: u64_at(sector, LSN),
        };
        let sect_log = u32::from(u8_at(sector, 121));
        let inode_log = u32::from(u8_at(sector, 122));
        if !sb.has_meta_uuid() && array::<16>(sector, META_UUID) != [0; 16] {
            return damage!("a metadata UUID without the feature for it");
        }
        if sb.realtime_blocks == 0
            && (u64_at(sector, 24) != 0 || u32_at(sector, 92) != 0 || u64_at(sector, 152) != 0)
        {
            return damage!("realtime extents without realtime blocks");
        }
        let (unit, width) = (u32_at(sector, 184), u32_at(sector, 188));
        let has_unit = sb.version & VERSION_DALIGN != 0;
        if has_unit != (unit != 0) || has_unit != (width != 0) || (has_unit && width % unit != 0) {
            return damage!("stripe unit {unit} and width {width}");
        }
        if u8_at(sector, 127) > 100 {
            return damage!("{} percent of the space for inodes", u8_at(sector, 127));
        }
        sb.verify_geometry(sect_log, inode_log, u32::from(u16_at(sector, 106)))?;
        Ok(sb)
    }

    fn verify_geometry(&self, sect_log: u32, inode_log: u32, inodes_per_block: u32) -> Result<(), Damage> {
        let is_log = |value: u32, log: u32| 1u32.checked_shl(log) == Some(value);
        if !(1024..=65536).contains(&self.block_size_bytes) || !is_log(self.block_size_bytes, self.block_log)
        {
            return damage!("block size {} with log {}", self.block_size_bytes, self.block_log);
        }
        if !is_log(self.sector_size_bytes, sect_log) || self.sector_size_bytes > self.block_size_bytes {
            return damage!("sector size {} with log {sect_log}", self.sector_size_bytes);
        }
        if !(512..=2048).contains(&self.inode_size_bytes)
            || !is_log(self.inode_size_bytes, inode_log)
            || self.inode_size_bytes * 2 > self.block_size_bytes
        {
            return damage!("inode size {} with log {inode_log}", self.inode_size_bytes);
        }
        if inodes_per_block != self.block_size_bytes / self.inode_size_bytes
            || !is_log(inodes_per_block, self.inodes_per_block_log)
        {
            return damage!("{inodes_per_block} inodes a block with log {}", self.inodes_per_block_log);
        }
        if !(self.block_size_bytes..=65536).contains(&self.dir_block_size_bytes) {
            return damage!("directory block size {}", self.dir_block_size_bytes);
        }
        let ag_bytes = u64::from(self.ag_blocks) << self.block_log;
        if self.ag_blocks < 64 || ag_bytes > MAX_AG_BYTES {
            return damage!("{} blocks an AG", self.ag_blocks);
        }
        if self.ag_block_log > 31
            || self.ag_blocks.checked_next_power_of_two() != Some(1 << self.ag_block_log)
        {
            return damage!("{} blocks an AG with log {}", self.ag_blocks, self.ag_block_log);
        }
        if self.ag_count == 0 || self.ag_count > MAX_AG_COUNT {
            return damage!("{} AGs", self.ag_count);
        }
        let full = u64::from(self.ag_count) * u64::from(self.ag_blocks);
        let but_last = full - u64::from(self.ag_blocks);
        if self.blocks > full || self.blocks <= but_last || self.blocks - but_last < 64 {
            return damage!("{} blocks in {} AGs of {}", self.blocks, self.ag_count, self.ag_blocks);
        }
        Ok(())
    }

    /// A feature or state that this crate does not work on, named.
    fn unsupported(&self) -> Option<String> {
        let unknown_bits = |name: &str, bits: u32, named: &[(u32, &str)]| {
            let bit = (0..32).map(|i| 1u32 << i).find(|b| bits & b != 0)?;
            let known = named.iter().find(|(b, _)| *b == bit);
            Some(known.map_or_else(
                || format!("unknown {name} feature bit {bit:#x}"),
                |(_, n)| format!("{name} feature `{n}` (bit {bit:#x})"),
            ))
        };
        if let Some(w) = unknown_bits(
            "incompatible",
            self.incompat & !INCOMPAT_KNOWN,
            &[(0x40, "exchange"), (0x80, "parent"), (0x100, "metadir"), (0x200, "zoned")],
        ) {
            return Some(w);
        }
        if let Some(w) = unknown_bits("read-only compatible", self.ro_compat & !RO_COMPAT_KNOWN, &[]) {
            return Some(w);
        }
        if let Some(w) = unknown_bits("log", self.log_incompat, &[(1, "larp")]) {
            return Some(w);
        }
        if let Some(w) = unknown_bits("compatible", self.compat, &[]) {
            return Some(w);
        }
        if self.incompat & INCOMPAT_NEEDSREPAIR != 0 {
            return Some("it is marked as needing repair (feature `needsrepair`)".to_owned());
        }
        if self.incompat & INCOMPAT_FTYPE == 0 {
            return Some("no file types in directories (feature `ftype`)".to_owned());
        }
        if self.version & VERSION_BORG != 0 {
            return Some("case-insensitive names (`mkfs.xfs -n version=ci`)".to_owned());
        }
        if self.in_progress {
            return Some("mkfs or growfs did not finish (`sb_inprogress` is set)".to_owned());
        }
        if self.log_start == 0 {
            return Some("an external log".to_owned());
        }
        if self.realtime_blocks != 0 {
            return Some("a realtime section".to_owned());
        }
        None
    }

    /// Whether the free inode btree is there.
    pub fn has_finobt(&self) -> bool {
        self.ro_compat & RO_COMPAT_FINOBT != 0
    }
    /// Whether the reverse mapping btree is there.
    pub fn has_rmapbt(&self) -> bool {
        self.ro_compat & RO_COMPAT_RMAPBT != 0
    }
    /// Whether blocks may be shared, and the reference count btree is there.
    pub fn has_reflink(&self) -> bool {
        self.ro_compat & RO_COMPAT_REFLINK != 0
    }
    /// Whether the AGI counts the blocks of the inode btrees.
    pub fn has_inobt_counts(&self) -> bool {
        self.ro_compat & RO_COMPAT_INOBTCNT != 0
    }
    /// Whether inode chunks may be sparse.
    pub fn has_sparse_inodes(&self) -> bool {
        self.incompat & INCOMPAT_SPINODES != 0
    }
    /// Whether times after 2038 can be stored.
    pub fn has_bigtime(&self) -> bool {
        self.incompat & INCOMPAT_BIGTIME != 0
    }
    /// Whether inodes can have 64-bit extent counts.
    pub fn has_nrext64(&self) -> bool {
        self.incompat & INCOMPAT_NREXT64 != 0
    }
    /// Whether the UUID was changed since the file system was made.
    pub fn has_meta_uuid(&self) -> bool {
        self.incompat & INCOMPAT_META_UUID != 0
    }
    /// Whether the file system may have extended attributes.
    pub fn has_attr(&self) -> bool {
        self.version & VERSION_ATTR != 0
    }

    /// Whether quota is on, or was.
    pub fn has_quota(&self) -> bool {
        self.quota_flags != 0 || self.special_inodes[2..].iter().any(|&i| i != 0 && i != u64::MAX)
    }

    /// Bytes of the file system.
    pub fn size_bytes(&self) -> u64 {
        self.blocks << self.block_log
    }
    /// Inodes per block.
    pub fn inodes_per_block(&self) -> u32 {
        1 << self.inodes_per_block_log
    }
    /// Blocks of a directory block.
    pub fn dir_block_blocks(&self) -> u32 {
        self.dir_block_size_bytes >> self.block_log
    }
    /// Blocks of allocation group `agno`.
    pub fn ag_len_blocks(&self, agno: u32) -> u32 {
        let before = u64::from(agno) * u64::from(self.ag_blocks);
        u32::try_from(self.blocks.saturating_sub(before)).unwrap_or(u32::MAX).min(self.ag_blocks)
    }
    /// First byte of allocation group `agno`.
    pub fn ag_offset_bytes(&self, agno: u32) -> u64 {
        self.agb_offset_bytes(agno, 0)
    }
    /// First byte of block `agbno` of allocation group `agno`.
    pub fn agb_offset_bytes(&self, agno: u32, agbno: u32) -> u64 {
        (u64::from(agno) * u64::from(self.ag_blocks) + u64::from(agbno)) << self.block_log
    }
    /// The 512-byte address that headers hold, of block `agbno` of allocation group `agno`.
    pub fn agb_daddr(&self, agno: u32, agbno: u32) -> u64 {
        self.agb_offset_bytes(agno, agbno) >> 9
    }
    /// The file system block number of block `agbno` of allocation group `agno`.
    pub fn fsblock(&self, agno: u32, agbno: u32) -> u64 {
        u64::from(agno) << self.ag_block_log | u64::from(agbno)
    }
    /// Allocation group and block in it of a file system block number, when it is inside the file system.
    pub fn split_fsblock(&self, fsblock: u64) -> Option<(u32, u32)> {
        let agno = u32::try_from(fsblock >> self.ag_block_log).ok()?;
        let agbno = u32::try_from(fsblock & ((1 << self.ag_block_log) - 1)).ok()?;
        (agno < self.ag_count && agbno < self.ag_len_blocks(agno)).then_some((agno, agbno))
    }
    /// First byte of a file system block, when it is inside the file system.
    pub fn fsblock_offset_bytes(&self, fsblock: u64) -> Option<u64> {
        self.split_fsblock(fsblock).map(|(agno, agbno)| self.agb_offset_bytes(agno, agbno))
    }
    /// Whether `count` blocks from `fsblock` are inside one allocation group.
    pub fn is_extent_inside(&self, fsblock: u64, count: u64) -> bool {
        self.split_fsblock(fsblock).is_some_and(|(agno, agbno)| {
            u64::from(agbno).saturating_add(count) <= u64::from(self.ag_len_blocks(agno))
        })
    }
    /// The inode number of inode `agino` of allocation group `agno`.
    pub fn ino(&self, agno: u32, agino: u32) -> u64 {
        u64::from(agno) << (self.ag_block_log + self.inodes_per_block_log) | u64::from(agino)
    }
    /// Allocation group and number in it of an inode number, when it is inside the file system.
    pub fn split_ino(&self, ino: u64) -> Option<(u32, u32)> {
        let bits = self.ag_block_log + self.inodes_per_block_log;
        let agno = u32::try_from(ino >> bits).ok()?;
        let agino = u32::try_from(ino & ((1 << bits) - 1)).ok()?;
        let agbno = agino >> self.inodes_per_block_log;
        (agno < self.ag_count && agbno < self.ag_len_blocks(agno)).then_some((agno, agino))
    }
    /// The block in its allocation group that holds inode `agino`.
    pub fn agino_agbno(&self, agino: u32) -> u32 {
        agino >> self.inodes_per_block_log
    }
    /// First byte of an inode, when it is inside the file system.
    pub fn ino_offset_bytes(&self, ino: u64) -> Option<u64> {
        let (agno, agino) = self.split_ino(ino)?;
        let slot = agino & (self.inodes_per_block() - 1);
        Some(self.agb_offset_bytes(agno, self.agino_agbno(agino)) + u64::from(slot * self.inode_size_bytes))
    }
    /// Sector size of the log.
    pub fn log_sector_bytes(&self) -> u32 {
        self.log_sector_size_bytes.max(512)
    }
}
