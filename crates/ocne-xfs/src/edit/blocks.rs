//! Blocks for files: taken from any allocation group, and given back.

use ocne_disk::BlockDevice;

use crate::edit::group::{Group, Owner, Reserve};
use crate::edit::{EditError, Editor};
use crate::inode::Extent;

/// A run of blocks: file system block number and length.
pub(super) type Run = (u64, u64);

impl<D: BlockDevice> Editor<'_, D> {
    /// The group `agno`, which is read when it was not before.
    pub(super) fn group(&mut self, agno: u32) -> Result<&mut Group, EditError> {
        if !self.groups.contains_key(&agno) {
            let group = Group::load(self.volume, agno)?;
            self.groups.insert(agno, group);
        }
        self.groups.get_mut(&agno).ok_or(EditError::NoSpace { wanted_blocks: 0 })
    }

    /// All group numbers, `first` first.
    pub(super) fn group_numbers(&self, first: u32) -> impl Iterator<Item = u32> + use<D> {
        let count = self.sb.ag_count;
        (first..count).chain(0..first.min(count))
    }

    /// Takes `count` blocks for one owner: in one run where there is one, from the group `prefer` where it has one, from
    /// the end of the longest free extent; else in as few runs as possible.
    pub(super) fn allocate(&mut self, prefer: u32, count: u64, owner: Owner) -> Result<Vec<Run>, EditError> {
        let mut runs: Vec<Run> = Vec::new();
        let mut left = count;
        let sb = self.sb.clone();
        for reserve in [Reserve::Kernel, Reserve::Edit, Reserve::Nothing] {
            while left > 0 {
                let wanted = u32::try_from(left.min(Extent::MAX_COUNT)).unwrap_or(u32::MAX);
                let mut best: Option<(u32, u32)> = None;
                for agno in self.group_numbers(prefer) {
                    let group = self.group(agno)?;
                    let kept = group.reserve_blocks(&sb, reserve);
                    let usable = group.longest().min(group.agf.free_blocks.saturating_sub(kept)).min(wanted);
                    if usable > best.map_or(0, |b| b.0) {
                        best = Some((usable, agno));
                    }
                    if usable == wanted {
                        break;
                    }
                }
                let Some((blocks, agno)) = best else { break };
                let start = self.group(agno)?.take_from_longest(blocks, owner.after(count - left))?;
                runs.push((self.sb.fsblock(agno, start), blocks.into()));
                left -= u64::from(blocks);
            }
        }
        if left > 0 { Err(EditError::NoSpace { wanted_blocks: left }) } else { Ok(runs) }
    }

    /// Gives back blocks that only `owner` has.
    pub(super) fn free_blocks(&mut self, (fsblock, count): Run, owner: Owner) -> Result<(), EditError> {
        let (agno, start, blocks) = self.split_run((fsblock, count))?;
        self.group(agno)?.free(start, blocks, owner)?;
        self.forget((fsblock, count));
        Ok(())
    }

    /// Gives back blocks of a file's data; those that other files have too stay.
    pub(super) fn free_data_blocks(&mut self, (fsblock, count): Run, owner: Owner) -> Result<(), EditError> {
        let (agno, start, blocks) = self.split_run((fsblock, count))?;
        for (start, count) in self.group(agno)?.free_shareable(start, blocks, owner)? {
            self.forget((self.sb.fsblock(agno, start), count.into()));
        }
        Ok(())
    }

    fn split_run(&self, (fsblock, count): Run) -> Result<(u32, u32, u32), EditError> {
        match (self.sb.split_fsblock(fsblock), u32::try_from(count)) {
            (Some((agno, start)), Ok(count)) if self.sb.is_extent_inside(fsblock, count.into()) => {
                Ok((agno, start, count))
            }
            _ => Err(EditError::Inconsistent {
                what: format!("{count} blocks at {fsblock:#x} are outside the file system"),
            }),
        }
    }

    /// What was to be written to blocks that are free now is not.
    fn forget(&mut self, (fsblock, count): Run) {
        let Some(start) = self.sb.fsblock_offset_bytes(fsblock) else { return };
        let end = start + (count << self.sb.block_log);
        for changes in [&mut self.staged, &mut self.content] {
            let inside: Vec<u64> = changes.range(start..end).map(|(&at, _)| at).collect();
            for at in inside {
                changes.remove(&at);
            }
        }
    }
}
