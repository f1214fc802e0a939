//! The side that converts: it reads a disk that the client has, and sends what changes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use ocne_disk::{BlockDevice, DeviceError, ReadRequest};
use serde_json::Value;

use crate::channel::Channel;
use crate::error::TransferError;
use crate::frame::{FrameKind, MAX_PAYLOAD_BYTES};
use crate::messages::{ChangesDigest, Done, Hello, Job, MAX_BATCH_BYTES, Pulled, Range, encode_ranges};

/// The most ranges of one request: what fits into a frame.
const MAX_RANGES: usize = MAX_PAYLOAD_BYTES / 12;

/// Greets the client, and takes its job.
///
/// # Errors
/// When the client speaks something else, or the connection is lost.
pub fn accept<R: Read, W: Write>(channel: &mut Channel<R, W>, program: &str) -> Result<Job, TransferError> {
    channel.greet(&Hello::of(program))?;
    channel.expect_json(FrameKind::Job)
}

/// Sends the changes (of the disk), the report and, where the agent has the image file, what the new one is;
/// agrees with the client on the changes.
///
/// # Errors
/// When the connection is lost, or there is no agreement.
pub fn deliver<R: Read, W: Write>(
    channel: &mut Channel<R, W>,
    changes: &BTreeMap<u64, Vec<u8>>,
    report: Value,
    pulled: Option<Pulled>,
) -> Result<(), TransferError> {
    let mut digest = ChangesDigest::default();
    let mut payload = Vec::new();
    for (&start_bytes, bytes) in changes {
        for (i, chunk) in bytes.chunks(MAX_PAYLOAD_BYTES - 8).enumerate() {
            let offset_bytes = start_bytes + (i * (MAX_PAYLOAD_BYTES - 8)) as u64;
            payload.clear();
            payload.extend(offset_bytes.to_le_bytes());
            payload.extend_from_slice(chunk);
            digest.add(offset_bytes, chunk);
            channel.send(FrameKind::Change, &payload)?;
        }
    }
    let (changes, changes_sha256) = digest.finish();
    let done = Done { changes, changes_sha256: changes_sha256.clone(), report, pulled };
    channel.send_json(FrameKind::Result, &done)?;
    if channel.expect(FrameKind::End)? != changes_sha256.as_bytes() {
        return Err(TransferError::protocol("no agreement on the digest of the changes"));
    }
    channel.send(FrameKind::End, changes_sha256.as_bytes())
}

/// A disk at the other end of a channel. Every batch of reads is one question and one answer.
pub struct RemoteDevice<R, W> {
    size_bytes: u64,
    channel: Mutex<Channel<R, W>>,
}

impl<R, W> fmt::Debug for RemoteDevice<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteDevice").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

impl<R: Read, W: Write> RemoteDevice<R, W> {
    /// The disk of a job.
    pub fn new(channel: Channel<R, W>, size_bytes: u64) -> Self {
        Self { size_bytes, channel: Mutex::new(channel) }
    }

    /// Tells the client something.
    pub fn event(&self, event: &Value) {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        // A lost connection is noticed by the next read.
        let _ = channel.send_json(FrameKind::Event, event);
    }

    /// The channel, when nothing more is to be read.
    pub fn into_channel(self) -> Channel<R, W> {
        self.channel.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), TransferError> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let ranges: Vec<Range> = requests
            .iter()
            .map(|r| Range {
                offset_bytes: r.offset_bytes,
                len_bytes: u32::try_from(r.buffer.len()).unwrap_or(u32::MAX),
            })
            .collect();
        channel.send(FrameKind::Read, &encode_ranges(&ranges))?;
        let mut data: &[u8] = &[];
        for r in requests {
            let mut rest: &mut [u8] = r.buffer;
            while !rest.is_empty() {
                if data.is_empty() {
                    data = channel.expect(FrameKind::Data)?;
                    if data.is_empty() {
                        return Err(TransferError::protocol("a Data frame without data"));
                    }
                }
                let count = rest.len().min(data.len());
                let (to, after) = rest.split_at_mut(count);
                to.copy_from_slice(&data[..count]);
                (rest, data) = (after, &data[count..]);
            }
        }
        if data.is_empty() { Ok(()) } else { Err(TransferError::protocol("more data than was asked for")) }
    }
}

impl<R: Read + Send, W: Write + Send> BlockDevice for RemoteDevice<R, W> {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        let size_bytes = self.size_bytes;
        for r in requests.iter() {
            let len_bytes = r.buffer.len() as u64;
            if r.offset_bytes.checked_add(len_bytes).is_none_or(|end| end > size_bytes) {
                let offset_bytes = r.offset_bytes;
                return Err(DeviceError::OutOfRange { offset_bytes, len_bytes, size_bytes });
            }
        }
        // One question for all, unless they are more than one question may ask for.
        let mut pieces: Vec<ReadRequest<'_>> = Vec::with_capacity(requests.len());
        for r in requests.iter_mut() {
            let step = usize::try_from(MAX_BATCH_BYTES).unwrap_or(usize::MAX);
            for (i, buffer) in r.buffer.chunks_mut(step).enumerate() {
                pieces.push(ReadRequest { offset_bytes: r.offset_bytes + (i * step) as u64, buffer });
            }
        }
        let mut rest = pieces.as_mut_slice();
        while let Some(first) = rest.first() {
            let (offset_bytes, len_bytes) = (first.offset_bytes, first.buffer.len() as u64);
            let mut total_bytes = 0;
            let count = rest
                .iter()
                .take(MAX_RANGES)
                .take_while(|r| {
                    total_bytes += r.buffer.len() as u64;
                    total_bytes <= MAX_BATCH_BYTES
                })
                .count();
            let (batch, after) = rest.split_at_mut(count);
            self.ask(batch).map_err(|e| DeviceError::Io {
                offset_bytes,
                len_bytes,
                source: io::Error::other(e),
            })?;
            rest = after;
        }
        Ok(())
    }
}
