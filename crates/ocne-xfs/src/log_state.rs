//! Finding the head of the log, and whether the log is clean.

use ocne_disk::BlockDevice;

use crate::cache::ByteRange;
use crate::error::{Damage, XfsError, damage};
use crate::log::{self, BASIC_BLOCK, CleanLog, MAX_RECORD_BYTES};
use crate::volume::Volume;

/// Sectors that are probed in one round of the search for the head.
const PROBES: u64 = 64;
/// A crash can leave holes within this distance of the head: eight log buffers of 256 KiB.
const WINDOW_BLOCKS: u64 = (2 << 20) / BASIC_BLOCK as u64;

impl<D: BlockDevice> Volume<D> {
    /// Where the log is clean up to, or why it is not clean.
    pub(crate) fn clean_log(&self) -> Result<Result<CleanLog, Damage>, XfsError> {
        let sb = self.superblock();
        let Some(log_offset) = sb
            .fsblock_offset_bytes(sb.log_start)
            .filter(|_| sb.log_blocks > 0 && sb.is_extent_inside(sb.log_start, u64::from(sb.log_blocks)))
        else {
            return Ok(damage!("{} blocks at {:#x}, outside the file system", sb.log_blocks, sb.log_start));
        };
        let size = u64::from(sb.log_blocks) << (sb.block_log - 9);
        let Ok(size_blocks) = u32::try_from(size) else { return Ok(damage!("{size} blocks of 512 bytes")) };
        let at = |block: u64, blocks: u64| ByteRange {
            offset_bytes: log_offset + block * BASIC_BLOCK as u64,
            len: usize::try_from(blocks).unwrap_or(0) * BASIC_BLOCK,
        };
        let first = log::cycle_of(&self.read(&[at(0, 1), at(size - 1, 1)])?[0]);
        if first == 0 {
            return Ok(damage!("it was never written"));
        }
        // the head is the first block that has another cycle than block 0; `low` has that of block 0
        let (mut low, mut high) = (0, size);
        while high - low > 1 {
            let step = (high - low).div_ceil(PROBES).max(1);
            let probes: Vec<u64> = (1..=PROBES).map(|i| low + i * step).filter(|&b| b < high).collect();
            if probes.is_empty() {
                break;
            }
            let ranges: Vec<ByteRange> = probes.iter().map(|&b| at(b, 1)).collect();
            for (block, bytes) in probes.into_iter().zip(self.read(&ranges)?) {
                if log::cycle_of(&bytes) == first {
                    low = block;
                } else {
                    high = block;
                    break;
                }
            }
        }
        let head = high % size;
        // what is before the head is of one cycle, what is after it of the one before, as far as a crash reaches
        let before = high.saturating_sub(WINDOW_BLOCKS);
        let after = (high + WINDOW_BLOCKS).min(size);
        let read = self.read(&[at(before, high - before), at(high % size.max(1), after - high)])?;
        let cycles =
            |i: usize| read.get(i).map_or(&[][..], |b| b).chunks_exact(BASIC_BLOCK).map(log::cycle_of);
        if let Some(odd) = cycles(0).find(|&c| c != first) {
            return Ok(damage!(
                "it is dirty: a block of cycle {odd} before the head at {high}, in cycle {first}"
            ));
        }
        let previous = first.wrapping_sub(1);
        if let Some(odd) = cycles(1).find(|&c| c != previous && c != 0) {
            return Ok(damage!(
                "it is dirty: a block of cycle {odd} after the head at {high}, in cycle {first}"
            ));
        }
        // the last record starts at the last header before the head
        let window = &read[0];
        let last_header = |bytes: &[u8]| {
            let mut headers =
                bytes.chunks_exact(BASIC_BLOCK).map(|b| crate::bytes::u32_at(b, 0) == log::MAGIC);
            headers.rposition(|is_header| is_header)
        };
        let (block, record) = match last_header(window) {
            Some(i) => (before + i as u64, window[i * BASIC_BLOCK..].to_vec()),
            None if before > 0 => return Ok(damage!("no record before the head at {high}")),
            // it started before the end of the log and went on at its start
            None => {
                let end_blocks = (MAX_RECORD_BYTES / BASIC_BLOCK) as u64;
                let from = size.saturating_sub(end_blocks).max(high);
                let end = self.read(&[at(from, size - from)])?.swap_remove(0);
                match last_header(&end) {
                    Some(i) => (from + i as u64, [&end[i * BASIC_BLOCK..], &window[..]].concat()),
                    None => return Ok(damage!("no record before the head at {high}")),
                }
            }
        };
        let record = &record[..record.len().min(MAX_RECORD_BYTES)];
        let block = u32::try_from(block).unwrap_or(0);
        Ok(log::parse_unmount(record, block, u32::try_from(head).unwrap_or(0), size_blocks))
    }
}
