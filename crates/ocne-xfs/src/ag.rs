//! The headers of an allocation group: AGF (free space), AGI (inodes), AGFL (blocks kept for the free space
//! btrees). They are in sectors 1, 2 and 3 of the group.

use crate::bytes::{array, u32_at};
use crate::crc;
use crate::error::{Damage, damage};
use crate::superblock::Superblock;

/// A pointer to no block.
pub(crate) const NULL_AGBNO: u32 = u32::MAX;
/// No inode in an unlinked bucket.
pub(crate) const NULL_AGINO: u32 = u32::MAX;
/// Chains of unlinked inodes in the AGI.
pub(crate) const UNLINKED_BUCKETS: usize = 64;

/// Offsets in the AGF.
pub(crate) mod agf {
    pub(crate) const MAGIC: u32 = 0x5841_4746;
    pub(crate) const SEQNO: usize = 8;
    pub(crate) const LENGTH: usize = 12;
    pub(crate) const BNO_ROOT: usize = 16;
    pub(crate) const CNT_ROOT: usize = 20;
    pub(crate) const RMAP_ROOT: usize = 24;
    pub(crate) const BNO_LEVEL: usize = 28;
    pub(crate) const CNT_LEVEL: usize = 32;
    pub(crate) const RMAP_LEVEL: usize = 36;
    pub(crate) const FLFIRST: usize = 40;
    pub(crate) const FLLAST: usize = 44;
    pub(crate) const FLCOUNT: usize = 48;
    pub(crate) const FREEBLKS: usize = 52;
    pub(crate) const LONGEST: usize = 56;
    pub(crate) const BTREEBLKS: usize = 60;
    pub(crate) const UUID: usize = 64;
    pub(crate) const RMAP_BLOCKS: usize = 80;
    pub(crate) const REFCOUNT_BLOCKS: usize = 84;
    pub(crate) const REFCOUNT_ROOT: usize = 88;
    pub(crate) const REFCOUNT_LEVEL: usize = 92;
    pub(crate) const LSN: usize = 208;
    pub(crate) const CRC: usize = 216;
}

/// Offsets in the AGI.
pub(crate) mod agi {
    pub(crate) const MAGIC: u32 = 0x5841_4749;
    pub(crate) const SEQNO: usize = 8;
    pub(crate) const LENGTH: usize = 12;
    pub(crate) const COUNT: usize = 16;
    pub(crate) const ROOT: usize = 20;
    pub(crate) const LEVEL: usize = 24;
    pub(crate) const FREECOUNT: usize = 28;
    pub(crate) const NEWINO: usize = 32;
    pub(crate) const UNLINKED: usize = 40;
    pub(crate) const UUID: usize = 296;
    pub(crate) const CRC: usize = 312;
    pub(crate) const LSN: usize = 320;
    pub(crate) const FREE_ROOT: usize = 328;
    pub(crate) const FREE_LEVEL: usize = 332;
    pub(crate) const IBLOCKS: usize = 336;
    pub(crate) const FBLOCKS: usize = 340;
}

/// Offsets in the AGFL.
pub(crate) mod agfl {
    pub(crate) const MAGIC: u32 = 0x5841_464C;
    pub(crate) const SEQNO: usize = 4;
    pub(crate) const UUID: usize = 8;
    pub(crate) const LSN: usize = 24;
    pub(crate) const CRC: usize = 32;
    pub(crate) const BNO: usize = 36;
}

/// Sectors of the headers in their allocation group.
pub(crate) const AGF_SECTOR: u32 = 1;
pub(crate) const AGI_SECTOR: u32 = 2;
pub(crate) const AGFL_SECTOR: u32 = 3;

/// Free space of an allocation group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agf {
    pub length: u32,
    pub bno_root: u32,
    pub cnt_root: u32,
    pub rmap_root: u32,
    pub bno_level: u32,
    pub cnt_level: u32,
    pub rmap_level: u32,
    pub fl_first: u32,
    pub fl_last: u32,
    pub fl_count: u32,
    pub free_blocks: u32,
    pub longest: u32,
    /// Blocks of the two free space btrees and of the rmapbt, their three roots not counted.
    pub btree_blocks: u32,
    /// Blocks of the rmapbt, its root counted.
    pub rmap_blocks: u32,
    /// Blocks of the refcountbt, its root counted.
    pub refcount_blocks: u32,
    pub refcount_root: u32,
    pub refcount_level: u32,
    pub lsn: u64,
}

impl Agf {
    /// Parses and verifies the sector: magic, checksum, identity; not the values.
    pub(crate) fn parse(sb: &Superblock, agno: u32, sector: &[u8]) -> Result<Self, Damage> {
        header(sb, sector, agf::MAGIC, agf::UUID, agf::CRC)?;
        identity(sb, agno, sector, agf::SEQNO)?;
        let g = |at| u32_at(sector, at);
        Ok(Self {
            length: g(agf::LENGTH),
            bno_root: g(agf::BNO_ROOT),
            cnt_root: g(agf::CNT_ROOT),
            rmap_root: g(agf::RMAP_ROOT),
            bno_level: g(agf::BNO_LEVEL),
            cnt_level: g(agf::CNT_LEVEL),
            rmap_level: g(agf::RMAP_LEVEL),
            fl_first: g(agf::FLFIRST),
            fl_last: g(agf::FLLAST),
            fl_count: g(agf::FLCOUNT),
            free_blocks: g(agf::FREEBLKS),
            longest: g(agf::LONGEST),
            btree_blocks: g(agf::BTREEBLKS),
            rmap_blocks: g(agf::RMAP_BLOCKS),
            refcount_blocks: g(agf::REFCOUNT_BLOCKS),
            refcount_root: g(agf::REFCOUNT_ROOT),
            refcount_level: g(agf::REFCOUNT_LEVEL),
            lsn: crate::bytes::u64_at(sector, agf::LSN),
        })
    }
}

/// Inodes of an allocation group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agi {
    pub length: u32,
    /// Allocated inodes, used or not.
    pub count: u32,
    pub root: u32,
    pub level: u32,
    pub free_count: u32,
    pub new_ino: u32,
    pub unlinked: [u32; UNLINKED_BUCKETS],
    pub free_root: u32,
    pub free_level: u32,
    /// Blocks of the inobt, root counted.
    pub inobt_blocks: u32,
    /// Blocks of the finobt, root counted.
    pub finobt_blocks: u32,
    pub lsn: u64,
}

impl Agi {
    /// Parses and verifies the sector: magic, checksum, identity; not the values.
    pub(crate) fn parse(sb: &Superblock, agno: u32, sector: &[u8]) -> Result<Self, Damage> {
        header(sb, sector, agi::MAGIC, agi::UUID, agi::CRC)?;
        identity(sb, agno, sector, agi::SEQNO)?;
        let g = |at| u32_at(sector, at);
        let mut unlinked = [0; UNLINKED_BUCKETS];
        for (i, u) in unlinked.iter_mut().enumerate() {
            *u = g(agi::UNLINKED + 4 * i);
        }
        Ok(Self {
            length: g(agi::LENGTH),
            count: g(agi::COUNT),
            root: g(agi::ROOT),
            level: g(agi::LEVEL),
            free_count: g(agi::FREECOUNT),
            new_ino: g(agi::NEWINO),
            unlinked,
            free_root: g(agi::FREE_ROOT),
            free_level: g(agi::FREE_LEVEL),
            inobt_blocks: g(agi::IBLOCKS),
            finobt_blocks: g(agi::FBLOCKS),
            lsn: crate::bytes::u64_at(sector, agi::LSN),
        })
    }
}

/// How many blocks the AGFL can list.
pub(crate) fn agfl_capacity(sb: &Superblock) -> u32 {
    // the header has 36 bytes; sectors have at most 32 KiB
    (sb.sector_size_bytes - 36) / 4
}

/// Parses and verifies the AGFL; returns the listed blocks from `fl_first` on, in order.
pub(crate) fn parse_agfl(sb: &Superblock, agno: u32, sector: &[u8], agf: &Agf) -> Result<Vec<u32>, Damage> {
    header(sb, sector, agfl::MAGIC, agfl::UUID, agfl::CRC)?;
    let seqno = u32_at(sector, agfl::SEQNO);
    if seqno != agno {
        return damage!("sequence number {seqno} in AG {agno}");
    }
    let capacity = agfl_capacity(sb);
    if agf.fl_first >= capacity || agf.fl_last >= capacity || agf.fl_count > capacity {
        return damage!("first {}, last {}, count {} of {capacity}", agf.fl_first, agf.fl_last, agf.fl_count);
    }
    let active = match agf.fl_count {
        0 => 0,
        _ if agf.fl_first <= agf.fl_last => agf.fl_last - agf.fl_first + 1,
        _ => capacity - agf.fl_first + agf.fl_last + 1,
    };
    if active != agf.fl_count {
        return damage!("first {}, last {}, count {}", agf.fl_first, agf.fl_last, agf.fl_count);
    }
    Ok((0..active)
        .map(|i| u32_at(sector, agfl::BNO + 4 * ((agf.fl_first + i) % capacity) as usize))
        .collect())
}

fn header(sb: &Superblock, sector: &[u8], magic: u32, uuid_at: usize, crc_at: usize) -> Result<(), Damage> {
    if sector.len() != sb.sector_size_bytes as usize {
        return damage!("{} bytes", sector.len());
    }
    if u32_at(sector, 0) != magic {
        return damage!("magic {:#x} instead of {magic:#x}", u32_at(sector, 0));
    }
    if !crc::verify(sector, crc_at) {
        return damage!("wrong checksum");
    }
    if array::<16>(sector, uuid_at) != sb.meta_uuid {
        return damage!("UUID of another file system");
    }
    Ok(())
}

/// What AGF and AGI have at the same place: version, sequence number, length.
fn identity(sb: &Superblock, agno: u32, sector: &[u8], seqno_at: usize) -> Result<(), Damage> {
    let (version, seqno, length) = (u32_at(sector, 4), u32_at(sector, seqno_at), u32_at(sector, 12));
    if version != 1 {
        return damage!("version {version}");
    }
    if seqno != agno {
        return damage!("sequence number {seqno} in AG {agno}");
    }
    if length != sb.ag_len_blocks(agno) {
        return damage!("length {length} instead of {}", sb.ag_len_blocks(agno));
    }
    Ok(())
}
