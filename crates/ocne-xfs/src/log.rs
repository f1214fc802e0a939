//! The log: where its head is, whether it is clean, and the UUID of its last record.
//!
//! A clean log ends with an unmount record; nothing in it is replayed, so this is all that reading needs.
//! Format: kernel `fs/xfs/libxfs/xfs_log_format.h`, `xlog_rec_header`; the rules are proven in the tests.

use crate::bytes::{array, u32_at, u64_at};
use crate::error::{Damage, damage};

/// Addresses in the log are in units of 512 bytes, whatever the sector size.
pub(crate) const BASIC_BLOCK: usize = 512;
/// First word of a record header. Every other sector starts with its cycle number.
pub(crate) const MAGIC: u32 = 0xFEED_BABE;
/// Flag of an unmount record's operation.
pub(crate) const OP_UNMOUNT: u8 = 0x20;

/// Offsets in a record header.
pub(crate) mod header {
    pub(crate) const CYCLE: usize = 4;
    pub(crate) const VERSION: usize = 8;
    pub(crate) const LEN: usize = 12;
    pub(crate) const LSN: usize = 16;
    pub(crate) const TAIL_LSN: usize = 24;
    pub(crate) const PREV_BLOCK: usize = 36;
    pub(crate) const NUM_LOGOPS: usize = 40;
    pub(crate) const CYCLE_DATA: usize = 44;
    pub(crate) const FORMAT: usize = 300;
    pub(crate) const FS_UUID: usize = 304;
    pub(crate) const SIZE: usize = 320;
}

/// The most bytes that a record has: header and data with a log buffer of 256 KiB.
pub(crate) const MAX_RECORD_BYTES: usize = (256 << 10) + 8 * BASIC_BLOCK;

/// What a clean log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CleanLog {
    /// Where the next record goes, in basic blocks.
    pub head_block: u32,
    /// The cycle of the next record.
    pub head_cycle: u32,
    /// File system UUID in the last record.
    pub uuid: [u8; 16],
    /// Where the last record starts.
    pub last_record_block: u32,
    /// `h_size` of the last record.
    pub buffer_size_bytes: u32,
}

/// The cycle number of the basic block whose first bytes are `b`.
pub(crate) fn cycle_of(b: &[u8]) -> u32 {
    if u32_at(b, 0) == MAGIC { u32_at(b, header::CYCLE) } else { u32_at(b, 0) }
}

/// The LSN of a position.
pub(crate) fn lsn(cycle: u32, block: u32) -> u64 {
    u64::from(cycle) << 32 | u64::from(block)
}

/// An LSN as stored in metadata, 0 when it is the one that means none (-1).
pub(crate) fn plain_lsn(lsn: u64) -> u64 {
    if lsn == u64::MAX { 0 } else { lsn }
}

/// Basic blocks of a record's header: more than one when its log buffer is larger than 32 KiB.
pub(crate) fn header_blocks(record: &[u8]) -> u32 {
    const CYCLES_PER_HEADER_BYTES: u32 = 32 << 10;
    if u32_at(record, header::VERSION) & 2 == 0 {
        return 1;
    }
    u32_at(record, header::SIZE).div_ceil(CYCLES_PER_HEADER_BYTES).max(1)
}

/// Verifies that the record in `record` (from its header on) at `block` is an unmount record that ends at the
/// head, `size_blocks` being the log's size. A head cycle of a wrapped log belongs to the caller.
pub(crate) fn parse_unmount(
    record: &[u8],
    block: u32,
    head_block: u32,
    size_blocks: u32,
) -> Result<CleanLog, Damage> {
    if u32_at(record, 0) != MAGIC {
        return damage!("no record header at block {block}");
    }
    let (version, len, ops) =
        (u32_at(record, header::VERSION), u32_at(record, header::LEN), u32_at(record, header::NUM_LOGOPS));
    if version != 1 && version != 2 {
        return damage!("record of version {version} at block {block}");
    }
    let headers = header_blocks(record);
    let data_blocks = len.div_ceil(512);
    let total = u64::from(headers) + u64::from(data_blocks);
    let end = (u64::from(block) + total) % u64::from(size_blocks.max(1));
    if len == 0 || total > (MAX_RECORD_BYTES / BASIC_BLOCK) as u64 || end != u64::from(head_block) {
        return damage!(
            "the record at block {block} has {total} blocks and does not end at the head, {head_block}"
        );
    }
    let data_at = headers as usize * BASIC_BLOCK;
    // operation header: transaction id, length, client, flags
    let flags = crate::bytes::u8_at(record, data_at + 9);
    if ops != 1 || flags & OP_UNMOUNT == 0 {
        return damage!("it is dirty: the last record, at block {block}, is not an unmount record");
    }
    let cycle = u32_at(record, header::CYCLE);
    let wrapped = u64::from(block) + total >= u64::from(size_blocks);
    if u64_at(record, header::LSN) != lsn(cycle, block) {
        return damage!("the record at block {block} says that it is at {:#x}", u64_at(record, header::LSN));
    }
    Ok(CleanLog {
        head_block,
        head_cycle: if wrapped { cycle.wrapping_add(1) } else { cycle },
        uuid: array(record, header::FS_UUID),
        last_record_block: block,
        buffer_size_bytes: u32_at(record, header::SIZE),
    })
}
