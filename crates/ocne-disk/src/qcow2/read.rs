//! Reading the disk in an image: plain ranges straight from the file, compressed clusters unpacked in parallel.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::Qcow2;
use super::error::Qcow2Error;
use super::tables::Mapping;
use super::unpack::Unpacker;
use crate::device::{BlockDevice, DeviceError, ReadRequest, check_range, is_changed, read_changed};

/// Unpacked clusters that are kept, because metadata is read a few KiB at a time.
const CACHE_BYTES: usize = 16 << 20;
/// A thread is worth starting for so many compressed bytes.
const BYTES_PER_THREAD: u64 = 256 << 10;
const MAX_THREADS: usize = 16;

/// Unpacked clusters by offset and length of their compressed bytes in the file; the oldest goes first.
#[derive(Debug, Default)]
pub(super) struct ClusterCache {
    clusters: HashMap<(u64, u64), Arc<Vec<u8>>>,
    order: VecDeque<(u64, u64)>,
}

impl ClusterCache {
    fn get(&self, at: (u64, u64)) -> Option<Arc<Vec<u8>>> {
        self.clusters.get(&at).cloned()
    }

    fn put(&mut self, at: (u64, u64), content: Vec<u8>) {
        let most = (CACHE_BYTES / content.len().max(1)).max(1);
        while self.order.len() >= most {
            if let Some(old) = self.order.pop_front() {
                self.clusters.remove(&old);
            }
        }
        if self.clusters.insert(at, Arc::new(content)).is_none() {
            self.order.push_back(at);
        }
    }
}

/// Where a part of a cluster is to be put.
struct Piece<'a> {
    within: usize,
    buffer: &'a mut [u8],
}

/// A compressed cluster and everything that is wanted of it.
struct Packed<'a> {
    guest_offset_bytes: u64,
    offset_bytes: u64,
    max_bytes: u64,
    pieces: Vec<Piece<'a>>,
}

impl BlockDevice for Qcow2 {
    fn size_bytes(&self) -> u64 {
        self.header.info.virtual_size_bytes
    }

    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        for r in requests.iter() {
            check_range(r.offset_bytes, r.buffer.len(), self.size_bytes())?;
        }
        read_changed(&self.staged, requests, |below| self.read_stored(below))
    }

    fn known_zeros(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        if is_changed(&self.staged, offset_bytes, len_bytes) {
            return false;
        }
        let g = self.geometry;
        let end = offset_bytes.saturating_add(len_bytes).div_ceil(g.cluster_bytes());
        let mut cluster = offset_bytes >> g.cluster_bits;
        while cluster < end {
            match self.l2_table(cluster / g.l2_entries()) {
                Ok(None) => cluster = (cluster / g.l2_entries() + 1) * g.l2_entries(),
                Ok(Some(_)) => match self.lookup(cluster) {
                    Ok(Mapping::Unallocated | Mapping::Zero { .. }) => cluster += 1,
                    _ => return false,
                },
                Err(_) => return false,
            }
        }
        true
    }
}

impl Qcow2 {
    /// Reads what the file says, without the staged writes.
    pub(super) fn read_stored(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        let cluster_bytes = self.geometry.cluster_bytes();
        let mut packed: BTreeMap<(u64, u64), Packed<'_>> = BTreeMap::new();
        for r in requests {
            let mut at = r.offset_bytes;
            let mut rest: &mut [u8] = r.buffer;
            while !rest.is_empty() {
                let (mapping, len) = self.run(at, rest.len() as u64)?;
                let within = at % cluster_bytes;
                let (piece, after) = rest.split_at_mut(usize::try_from(len).unwrap_or(usize::MAX));
                match mapping {
                    Mapping::Unallocated | Mapping::Zero { .. } => piece.fill(0),
                    Mapping::Plain { host_offset_bytes } => {
                        self.read_file(host_offset_bytes + within, piece, at)?;
                    }
                    Mapping::Compressed { offset_bytes, max_bytes } => {
                        let within = usize::try_from(within).unwrap_or(usize::MAX);
                        packed
                            .entry((offset_bytes, max_bytes))
                            .or_insert_with(|| Packed {
                                guest_offset_bytes: at,
                                offset_bytes,
                                max_bytes,
                                pieces: Vec::new(),
                            })
                            .pieces
                            .push(Piece { within, buffer: piece });
                    }
                }
                at += len;
                rest = after;
            }
        }
        self.unpack_all(packed.into_values().collect())
    }

    /// The mapping at a guest offset, and for how many bytes (at most `max_bytes`) it goes on the same way.
    fn run(&self, at: u64, max_bytes: u64) -> Result<(Mapping, u64), DeviceError> {
        let g = self.geometry;
        let damaged = |e: Qcow2Error| DeviceError::Damaged { offset_bytes: at, reason: e.to_string() };
        let first = self.lookup(at >> g.cluster_bits).map_err(damaged)?;
        let mut len = (g.cluster_bytes() - at % g.cluster_bytes()).min(max_bytes);
        let mut clusters = 1;
        while len < max_bytes {
            let next = self.lookup((at + len) >> g.cluster_bits).map_err(damaged)?;
            let goes_on = match (first, next) {
                (
                    Mapping::Unallocated | Mapping::Zero { .. },
                    Mapping::Unallocated | Mapping::Zero { .. },
                ) => true,
                (Mapping::Plain { host_offset_bytes: a }, Mapping::Plain { host_offset_bytes: b }) => {
                    a + clusters * g.cluster_bytes() == b
                }
                _ => false,
            };
            if !goes_on {
                break;
            }
            clusters += 1;
            len = (len + g.cluster_bytes()).min(max_bytes);
        }
        Ok((first, len))
    }

    fn read_file(&self, offset_bytes: u64, buffer: &mut [u8], guest: u64) -> Result<(), DeviceError> {
        self.file.file().read_exact_at(buffer, offset_bytes).map_err(|source| DeviceError::Io {
            offset_bytes: guest,
            len_bytes: buffer.len() as u64,
            source,
        })
    }

    fn unpack_all(&self, mut packed: Vec<Packed<'_>>) -> Result<(), DeviceError> {
        let total: u64 = packed.iter().map(|p| p.max_bytes).sum();
        let wanted = usize::try_from(total / BYTES_PER_THREAD).unwrap_or(usize::MAX).min(packed.len());
        let threads = match wanted {
            0 | 1 => 1,
            n => n.min(thread::available_parallelism().map_or(1, usize::from)).min(MAX_THREADS),
        };
        if threads == 1 {
            return self.unpack_some(&mut packed);
        }
        let per_thread = packed.len().div_ceil(threads);
        thread::scope(|scope| {
            let workers: Vec<_> = packed
                .chunks_mut(per_thread)
                .map(|share| scope.spawn(move || self.unpack_some(share)))
                .collect();
            workers
                .into_iter()
                .try_for_each(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    fn unpack_some(&self, packed: &mut [Packed<'_>]) -> Result<(), DeviceError> {
        let cluster_bytes = usize::try_from(self.geometry.cluster_bytes()).unwrap_or(0);
        let mut unpacker = Unpacker::new(self.header.info.compression);
        for p in packed {
            if let [Piece { within: 0, buffer }] = p.pieces.as_mut_slice()
                && buffer.len() == cluster_bytes
            {
                // A whole cluster is not kept: whoever reads a disk from end to end does not come back.
                self.unpack(&mut unpacker, p.offset_bytes, p.max_bytes, buffer, p.guest_offset_bytes)?;
                continue;
            }
            let kept = lock(&self.clusters).get((p.offset_bytes, p.max_bytes));
            if let Some(content) = kept {
                copy_pieces(&content, &mut p.pieces);
                continue;
            }
            let mut content = vec![0; cluster_bytes];
            self.unpack(&mut unpacker, p.offset_bytes, p.max_bytes, &mut content, p.guest_offset_bytes)?;
            copy_pieces(&content, &mut p.pieces);
            lock(&self.clusters).put((p.offset_bytes, p.max_bytes), content);
        }
        Ok(())
    }

    /// Reads and unpacks one compressed cluster.
    pub(super) fn unpack(
        &self,
        unpacker: &mut Unpacker,
        offset_bytes: u64,
        max_bytes: u64,
        out: &mut [u8],
        guest: u64,
    ) -> Result<(), DeviceError> {
        let len = max_bytes.min(self.geometry.file_size_bytes.saturating_sub(offset_bytes));
        let packed = unpacker.input(usize::try_from(len).unwrap_or(0));
        self.read_file(offset_bytes, packed, guest)?;
        unpacker.unpack(out).map_err(|reason| DeviceError::Damaged { offset_bytes: guest, reason })
    }
}

fn copy_pieces(content: &[u8], pieces: &mut [Piece<'_>]) {
    for piece in pieces {
        piece.buffer.copy_from_slice(&content[piece.within..piece.within + piece.buffer.len()]);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A cache is right at any time, also when a thread panicked while it had the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
