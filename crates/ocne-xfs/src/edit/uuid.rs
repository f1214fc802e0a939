//! Changing the UUID: in every copy of the superblock, and in the log.
//!
//! Blocks keep the UUID that the file system was made with; the superblock remembers it as `meta_uuid`. The kernel
//! compares the UUID in the last log record with that of the superblock, so an unmount record with the new UUID is
//! appended at the log's head: what a mount and an unmount do, without rewriting the log.

use ocne_disk::BlockDevice;

use crate::bytes::{array, put, put_u8, put_u16, put_u32, put_u64, u32_at};
use crate::cache::ByteRange;
use crate::crc;
use crate::edit::{EditError, Editor};
use crate::log::{BASIC_BLOCK, CleanLog, MAGIC, OP_UNMOUNT, header, lsn};
use crate::superblock::{CRC, INCOMPAT, INCOMPAT_META_UUID, META_UUID, UUID};

/// Log buffers up to this size have a header of one basic block.
const BYTES_PER_HEADER: u32 = 32 << 10;
/// Basic blocks whose cycle numbers fit in one header.
const BLOCKS_PER_HEADER: u32 = BYTES_PER_HEADER / 512;
/// `XLOG_FMT_LINUX_LE`.
const FORMAT_LINUX_LE: u32 = 1;
/// `XFS_LOG`, the client of unmount records.
const CLIENT_LOG: u8 = 0xAA;
/// `XLOG_UNMOUNT_TYPE`, stored in the byte order of the machine that the record's format names.
const UNMOUNT_TYPE: u16 = 0x556E;
/// Transaction number that kernels write in unmount records.
const UNMOUNT_TID: u32 = 0xB0C0_D0D0;

impl<D: BlockDevice> Editor<'_, D> {
    /// Stages the UUID in all superblocks and in the log.
    pub(super) fn store_uuid(&mut self, uuid: [u8; 16]) -> Result<(), EditError> {
        let len = self.sb.sector_size_bytes as usize;
        let ranges: Vec<ByteRange> = (0..self.sb.ag_count)
            .map(|agno| ByteRange { offset_bytes: self.sb.ag_offset_bytes(agno), len })
            .collect();
        for (r, old) in ranges.iter().zip(self.view()?.read(&ranges)?) {
            let mut b = old.to_vec();
            let incompat = u32_at(&b, INCOMPAT);
            // each copy by itself: they differ in more than this on purpose
            if incompat & INCOMPAT_META_UUID == 0 {
                let old_uuid = array::<16>(&b, UUID);
                if old_uuid != uuid {
                    put_u32(&mut b, INCOMPAT, incompat | INCOMPAT_META_UUID);
                    put(&mut b, META_UUID, &old_uuid);
                }
            } else if array::<16>(&b, META_UUID) == uuid {
                put_u32(&mut b, INCOMPAT, incompat & !INCOMPAT_META_UUID);
                put(&mut b, META_UUID, &[0; 16]);
            }
            put(&mut b, UUID, &uuid);
            crc::stamp(&mut b, CRC);
            self.stage(r.offset_bytes, &b)?;
        }
        let log = self.volume.clean_log()?.map_err(|d| d.at("log"))?;
        self.append_unmount_record(&log, uuid)
    }

    /// Stages an unmount record at the head of the log.
    fn append_unmount_record(&mut self, log: &CleanLog, uuid: [u8; 16]) -> Result<(), EditError> {
        let stripe = self.sb.log_stripe_unit_bytes;
        let size_blocks = self.sb.log_blocks << (self.sb.block_log - 9);
        let buffer_bytes = stripe.max(BYTES_PER_HEADER);
        let headers = buffer_bytes.div_ceil(BYTES_PER_HEADER);
        // header and data, up to whole stripe units and whole sectors
        let unit = stripe.max(self.sb.log_sector_bytes()).max(512) / 512;
        let blocks = (headers + 1).next_multiple_of(unit);
        if blocks >= size_blocks || buffer_bytes > 256 << 10 {
            return Err(EditError::TooLarge { what: "the stripe unit of the log" });
        }
        let (head, cycle) = (log.head_block, log.head_cycle);
        let mut record = vec![0; blocks as usize * BASIC_BLOCK];
        let here = lsn(cycle, head);
        put_u32(&mut record, 0, MAGIC);
        put_u32(&mut record, header::CYCLE, cycle);
        put_u32(&mut record, header::VERSION, 2);
        put_u32(&mut record, header::LEN, (blocks - headers) * 512);
        put_u64(&mut record, header::LSN, here);
        put_u64(&mut record, header::TAIL_LSN, here);
        put_u32(&mut record, header::PREV_BLOCK, u32::MAX);
        put_u32(&mut record, header::NUM_LOGOPS, 1);
        // the first word of each block of data, which has the cycle in its place
        put_u32(&mut record, header::CYCLE_DATA, UNMOUNT_TID);
        put_u32(&mut record, header::FORMAT, FORMAT_LINUX_LE);
        put(&mut record, header::FS_UUID, &uuid);
        put_u32(&mut record, header::SIZE, buffer_bytes);
        let data = headers as usize * BASIC_BLOCK;
        put_u32(&mut record, data + 4, 8);
        put_u8(&mut record, data + 8, CLIENT_LOG);
        put_u8(&mut record, data + 9, OP_UNMOUNT);
        put_u16(&mut record, data + 12, UNMOUNT_TYPE.swap_bytes());
        debug_assert!(blocks - headers <= headers * BLOCKS_PER_HEADER);
        let log_start = self.sb.fsblock_offset_bytes(self.sb.log_start).ok_or_else(|| {
            EditError::Inconsistent { what: "the log is outside the file system".to_owned() }
        })?;
        for i in 0..blocks {
            let block = &mut record[i as usize * BASIC_BLOCK..(i as usize + 1) * BASIC_BLOCK];
            // past the end of the log the record goes on at its start, in the next cycle
            let wraps = head + i >= size_blocks;
            if i > 0 {
                put_u32(block, 0, cycle + u32::from(wraps));
            }
            let at = log_start + u64::from((head + i) % size_blocks) * BASIC_BLOCK as u64;
            let block = block.to_vec();
            self.stage(at, &block)?;
        }
        Ok(())
    }
}
