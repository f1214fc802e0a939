//! Reading the blocks of many forks in order, a bounded number in each round.

use ocne_disk::BlockDevice;

use super::Checker;
use super::inodes::ForkWork;
use crate::cache::ROUND_BYTES;
use crate::error::{Damage, XfsError};
use crate::read::{ForkBlock, Pieces};

/// What is done with the blocks of a fork: one value for each fork, dropped at the first damage.
pub(super) trait ForkCheck<D>: Sized {
    /// What stands before the inode number in a problem.
    const PLACE: &'static str;
    /// One block, in the order of the fork.
    fn visit(&mut self, checker: &mut Checker<'_, D>, block: &ForkBlock) -> Result<(), Damage>;
}

impl<D: BlockDevice> Checker<'_, D> {
    /// Checks forks in pieces of `blocks` blocks; `start` gives the value for a fork, `finished` takes it after
    /// the last block.
    pub(super) fn stream_forks<C: ForkCheck<D>>(
        &mut self,
        forks: &[ForkWork],
        blocks: u32,
        mut start: impl FnMut(&ForkWork) -> C,
        mut finished: impl FnMut(&mut Self, C) -> Result<(), Damage>,
    ) -> Result<(), XfsError> {
        let piece_bytes = blocks as usize * self.sb.block_size_bytes as usize;
        let per_round = (ROUND_BYTES / piece_bytes).max(1);
        let mut pieces = forks
            .iter()
            .enumerate()
            .filter(|(_, f)| !f.extents.is_empty())
            .flat_map(|(i, f)| Pieces::new(&f.extents, blocks).map(move |p| (i, p)))
            .peekable();
        let mut current: Option<(usize, Result<C, Damage>)> = None;
        while pieces.peek().is_some() && !self.is_hopeless() {
            let mut members = Vec::new();
            let mut batch = Vec::new();
            // a fork that is damaged already is not read on
            let failed = current.as_ref().filter(|c| c.1.is_err()).map(|c| c.0);
            for (i, piece) in pieces.by_ref().filter(|(i, _)| Some(*i) != failed).take(per_round) {
                match piece {
                    Ok(p) => {
                        batch.push(p);
                        members.push((i, Ok(())));
                    }
                    Err(d) => members.push((i, Err(d))),
                }
            }
            let mut read = self.volume.read_pieces(batch)?.into_iter();
            for (i, piece) in members {
                let block = if piece.is_ok() { read.next() } else { None };
                if current.as_ref().is_none_or(|c| c.0 != i) {
                    self.finish_fork(forks, current.take(), &mut finished);
                    current = Some((i, Ok(start(&forks[i]))));
                }
                let Some((_, state @ Ok(_))) = &mut current else { continue };
                let visited = match (&mut *state, block) {
                    (Ok(check), Some(block)) => piece.and_then(|()| check.visit(self, &block)),
                    _ => piece,
                };
                if let Err(d) = visited {
                    *state = Err(d);
                }
            }
        }
        self.finish_fork(forks, current, &mut finished);
        Ok(())
    }

    fn finish_fork<C: ForkCheck<D>>(
        &mut self,
        forks: &[ForkWork],
        current: Option<(usize, Result<C, Damage>)>,
        finished: &mut impl FnMut(&mut Self, C) -> Result<(), Damage>,
    ) {
        if let Some((i, state)) = current
            && let Err(d) = state.and_then(|check| finished(self, check))
        {
            self.problem(format_args!("{} {}", C::PLACE, forks[i].ino), d.0);
        }
    }
}
