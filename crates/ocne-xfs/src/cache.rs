//! Reads of a device through a bounded cache, with changes in memory on top.
//!
//! Everything that is asked for at once is one round trip to the device, and what was read stays until the
//! budget is used up, so that a check pays for the rounds and whatever comes after it does not.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use ocne_disk::{BlockDevice, DeviceError, ReadRequest};

/// What the cache keeps.
const BUDGET_BYTES: usize = 72 << 20;
/// Bytes of blocks that are asked for in one round: what they are parsed into is much smaller.
pub(crate) const ROUND_BYTES: usize = 24 << 20;
/// Neighbouring ranges are read together up to this length.
const MAX_RUN_BYTES: usize = 1 << 20;

/// A range of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ByteRange {
    pub offset_bytes: u64,
    pub len: usize,
}

impl ByteRange {
    pub(crate) fn end(&self) -> u64 {
        self.offset_bytes.saturating_add(self.len as u64)
    }
}

/// Bytes that were read: a part of a run that the cache may hold as well.
#[derive(Clone)]
pub(crate) struct Bytes {
    run: Arc<Vec<u8>>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// A part of them; empty when it is not inside.
    pub(crate) fn part(&self, start: usize, len: usize) -> Self {
        let inside = start.checked_add(len).is_some_and(|end| end <= self.len);
        Self {
            run: Arc::clone(&self.run),
            start: self.start + if inside { start } else { 0 },
            len: if inside { len } else { 0 },
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.run.get(self.start..self.start + self.len).unwrap_or(&[])
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len)
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { run: Arc::new(bytes), start: 0, len }
    }
}

/// Whether what is read stays in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Metadata: it will be asked for again.
    Yes,
    /// File content.
    No,
}

#[derive(Debug, Default)]
struct Runs {
    by_offset: BTreeMap<u64, Arc<Vec<u8>>>,
    oldest_first: VecDeque<u64>,
    bytes: usize,
}

impl Runs {
    fn find(&self, r: ByteRange) -> Option<Bytes> {
        let (&at, run) = self.by_offset.range(..=r.offset_bytes).next_back()?;
        let start = usize::try_from(r.offset_bytes - at).ok()?;
        (start.checked_add(r.len)? <= run.len()).then(|| Bytes { run: Arc::clone(run), start, len: r.len })
    }

    fn insert(&mut self, at: u64, run: Arc<Vec<u8>>) {
        self.bytes += run.len();
        match self.by_offset.insert(at, run) {
            Some(old) => self.bytes -= old.len(),
            None => self.oldest_first.push_back(at),
        }
        while self.bytes > BUDGET_BYTES {
            let Some(at) = self.oldest_first.pop_front() else { break };
            if let Some(old) = self.by_offset.remove(&at) {
                self.bytes -= old.len();
            }
        }
    }
}

/// The cache of a device. Volumes with different changes on top of one device share it.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    runs: Mutex<Runs>,
}

impl Cache {
    /// Reads all ranges, with at most one batch to the device; without `changes`.
    pub(crate) fn read<D: BlockDevice>(
        &self,
        device: &D,
        ranges: &[ByteRange],
        keep: Keep,
    ) -> Result<Vec<Bytes>, DeviceError> {
        let mut found: Vec<Option<Bytes>> = {
            let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            ranges.iter().map(|&r| runs.find(r)).collect()
        };
        let mut missing: Vec<usize> = (0..ranges.len()).filter(|&i| found[i].is_none()).collect();
        missing.sort_unstable_by_key(|&i| ranges[i]);
        // ranges that touch become one run
        let mut wanted: Vec<(ByteRange, Vec<usize>)> = Vec::new();
        for i in missing {
            let r = ranges[i];
            match wanted.last_mut() {
                Some((run, members))
                    if r.end() <= run.end()
                        || (r.offset_bytes <= run.end() && run.len + r.len <= MAX_RUN_BYTES) =>
                {
                    let end = run.end().max(r.end());
                    run.len = usize::try_from(end - run.offset_bytes).unwrap_or(run.len);
                    members.push(i);
                }
                _ => wanted.push((r, vec![i])),
            }
        }
        if wanted.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
        // nothing is allocated for a range that the device does not have
        for (r, _) in &wanted {
            if r.end() > device.size_bytes() {
                return Err(DeviceError::OutOfRange {
                    offset_bytes: r.offset_bytes,
                    len_bytes: r.len as u64,
                    size_bytes: device.size_bytes(),
                });
            }
        }
        let mut buffers: Vec<Vec<u8>> = wanted.iter().map(|(r, _)| vec![0; r.len]).collect();
        let mut requests: Vec<ReadRequest<'_>> = wanted
            .iter()
            .zip(&mut buffers)
            .map(|((r, _), buffer)| ReadRequest { offset_bytes: r.offset_bytes, buffer })
            .collect();
        device.read_batch(&mut requests)?;
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        for ((range, members), buffer) in wanted.into_iter().zip(buffers) {
            let run = Arc::new(buffer);
            for i in members {
                let start = usize::try_from(ranges[i].offset_bytes - range.offset_bytes).unwrap_or(0);
                found[i] = Some(Bytes { run: Arc::clone(&run), start, len: ranges[i].len });
            }
            if keep == Keep::Yes {
                runs.insert(range.offset_bytes, run);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }
}

/// Changed ranges of a device: ascending and disjoint.
pub(crate) type Changes = BTreeMap<u64, Vec<u8>>;

/// Whether one change has all of a range; then it is not read from below.
pub(crate) fn covered(changes: &Changes, r: ByteRange) -> bool {
    changes.range(..=r.offset_bytes).next_back().is_some_and(|(&at, b)| at + b.len() as u64 >= r.end())
}

/// Puts the changes of a range over its bytes.
pub(crate) fn apply(changes: &Changes, r: ByteRange, bytes: Bytes) -> Bytes {
    let first = changes.range(..=r.offset_bytes).next_back().map_or(r.offset_bytes, |(&at, _)| at);
    let mut patched: Option<Vec<u8>> = None;
    for (&at, change) in changes.range(first..r.end()) {
        let (lo, hi) = (at.max(r.offset_bytes), (at + change.len() as u64).min(r.end()));
        if lo < hi {
            let target = patched.get_or_insert_with(|| bytes.to_vec());
            let [to, from, n] =
                [lo - r.offset_bytes, lo - at, hi - lo].map(|v| usize::try_from(v).unwrap_or(0));
            target[to..to + n].copy_from_slice(&change[from..from + n]);
        }
    }
    patched.map_or(bytes, Bytes::from)
}
