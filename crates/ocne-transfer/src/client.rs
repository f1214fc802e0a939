//! The side that has the image: it answers what the agent asks, and takes the changes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Seek, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use ocne_disk::{BlockDevice, ReadRequest};
use serde_json::Value;

use crate::channel::{Channel, Traffic};
use crate::error::TransferError;
use crate::frame::{FrameKind, MAX_PAYLOAD_BYTES};
use crate::messages::{
    ChangesDigest, Done, Hello, Job, MAX_CHANGES_BYTES, Mode, Pulled, Range, WholeFile, parse_ranges,
};
use crate::whole::{ReadAt, receive_whole, send_whole};

/// What an agent made.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Bytes of the disk that change, by offset: disjoint and ascending.
    pub changes: BTreeMap<u64, Vec<u8>>,
    /// What the converter says.
    pub report: Value,
    /// What it fetched, if it did.
    pub pulled: Option<Pulled>,
    /// Name and version of the agent.
    pub agent: String,
    /// Batches of reads that it took.
    pub rounds: u64,
    /// What went over the wire.
    pub traffic: Traffic,
}

/// What both ways of a conversion have in common.
pub struct Task<'a> {
    /// Name and version of the client.
    pub program: &'a str,
    /// Options of the converter.
    pub options: Value,
    /// Hears what the agent tells.
    pub events: &'a dyn Fn(Value),
    /// Looked at before everything that is sent.
    pub cancel: &'a AtomicBool,
}

impl fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("program", &self.program).finish_non_exhaustive()
    }
}

/// Has an agent convert a disk that stays here: only the ranges that it asks for are sent.
///
/// # Errors
/// See [`TransferError`]; nothing counts then.
pub fn convert_blocks<R: Read, W: Write>(
    channel: &mut Channel<R, W>,
    device: &dyn BlockDevice,
    task: Task<'_>,
) -> Result<Outcome, TransferError> {
    let agent = greet(channel, task.program, Mode::Blocks)?;
    let size_bytes = device.size_bytes();
    let job = Job { mode: Mode::Blocks, size_bytes, key: None, source: None, options: task.options };
    channel.send_json(FrameKind::Job, &job)?;
    collect(channel, agent, size_bytes, Some(device), task.events, task.cancel)
}

/// Has an agent convert an image file that it gets whole; `key` tells the file from others, and `device` is the disk in it.
/// What a former session with the same agent's folder brought there is not sent again.
///
/// `sent` hears how much of the file is there.
///
/// # Errors
/// See [`TransferError`]; nothing counts then.
pub fn convert_full<R: Read, W: Write>(
    channel: &mut Channel<R, W>,
    file: &dyn ReadAt,
    key: &str,
    device: &dyn BlockDevice,
    task: Task<'_>,
    sent: &mut dyn FnMut(u64),
) -> Result<Outcome, TransferError> {
    let agent = greet(channel, task.program, Mode::Full)?;
    let (size_bytes, key) = (file.size_bytes(), Some(key.to_owned()));
    channel.send_json(
        FrameKind::Job,
        &Job { mode: Mode::Full, size_bytes, key, source: None, options: task.options },
    )?;
    send_whole(channel, file, task.cancel, sent)?;
    collect(channel, agent, device.size_bytes(), None, task.events, task.cancel)
}

/// Has an agent fetch and convert an image, and receives the new image file into `into`, which has the beginning of it or
/// nothing. It may get `max_bytes` long.
///
/// `received` hears how much of the file is there.
///
/// # Errors
/// See [`TransferError`]; after [`TransferError::NotAsSent`] what is in `into` is of no use.
pub fn pull<R: Read, W: Write, F: Read + Write + Seek>(
    channel: &mut Channel<R, W>,
    source: Value,
    into: &mut F,
    max_bytes: u64,
    task: Task<'_>,
    received: &mut dyn FnMut(u64),
) -> Result<PullOutcome, TransferError> {
    let agent = greet(channel, task.program, Mode::Pull)?;
    let (size_bytes, source) = (max_bytes, Some(source));
    let job = Job { mode: Mode::Pull, size_bytes, key: None, source, options: task.options };
    channel.send_json(FrameKind::Job, &job)?;
    drop(job);
    let outcome = collect(channel, agent, 0, None, task.events, task.cancel)?;
    let Some(pulled) = outcome.pulled else {
        return Err(TransferError::protocol("a result that does not say what was fetched"));
    };
    let output = receive_whole(channel, into, max_bytes, task.cancel, received)?;
    let (report, agent, traffic) = (outcome.report, outcome.agent, channel.traffic());
    Ok(PullOutcome { report, output, pulled, agent, traffic })
}

/// What an agent made of an image that it fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct PullOutcome {
    /// What the converter says.
    pub report: Value,
    /// The new image file.
    pub output: WholeFile,
    /// What it was made of.
    pub pulled: Pulled,
    /// Name and version of the agent.
    pub agent: String,
    /// What went over the wire.
    pub traffic: Traffic,
}

/// What an agent is to make a file of.
pub struct Order<'a> {
    /// What it makes, and of what; it may have a secret.
    pub source: Value,
    /// Tells the order from others, so that what is there of another one is not taken for this one's.
    pub key: String,
    /// How many files the agent gets from here, at most.
    pub files: usize,
    /// Opens one of them, from 0 on; each is opened once, in their order.
    pub open: &'a mut dyn FnMut(usize) -> Result<Box<dyn ReadAt + 'a>, TransferError>,
    /// The most that the new file may have.
    pub max_bytes: u64,
}

impl fmt::Debug for Order<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("key", &self.key).field("files", &self.files).finish_non_exhaustive()
    }
}

/// What an agent made of an order.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderOutcome {
    /// What the agent says of it.
    pub report: Value,
    /// The new file.
    pub output: WholeFile,
    /// Name and version of the agent.
    pub agent: String,
    /// What went over the wire.
    pub traffic: Traffic,
}

/// Has an agent make an image that serves an ostree commit, and receives it into `into`, which has the beginning of it or
/// nothing. Files that a former session brought there are not sent again.
///
/// `sent` hears how much of all files was sent, and `received` how much of the new one is there.
///
/// # Errors
/// See [`TransferError`]; after [`TransferError::NotAsSent`] what is in `into` is of no use.
pub fn order_ostree<R: Read, W: Write, F: Read + Write + Seek>(
    channel: &mut Channel<R, W>,
    order: Order<'_>,
    into: &mut F,
    task: Task<'_>,
    sent: &mut dyn FnMut(u64),
    received: &mut dyn FnMut(u64),
) -> Result<OrderOutcome, TransferError> {
    let agent = greet(channel, task.program, Mode::Ostree)?;
    let Order { source, key, files, open, max_bytes } = order;
    let (source, key) = (Some(source), Some(key));
    let job = Job { mode: Mode::Ostree, size_bytes: max_bytes, key, source, options: task.options };
    channel.send_json(FrameKind::Job, &job)?;
    drop(job);
    let wanted: Vec<usize> = channel.expect_json(FrameKind::Want)?;
    if !wanted.is_sorted_by(|a, b| a < b) || wanted.last().is_some_and(|last| *last >= files) {
        return Err(TransferError::protocol("files are wanted that there are not"));
    }
    let mut before_bytes = 0;
    for number in wanted {
        let file = open(number)?;
        send_whole(channel, &*file, task.cancel, &mut |bytes| sent(before_bytes + bytes))?;
        before_bytes += file.size_bytes();
    }
    let outcome = collect(channel, agent, 0, None, task.events, task.cancel)?;
    let output = receive_whole(channel, into, max_bytes, task.cancel, received)?;
    let (report, agent, traffic) = (outcome.report, outcome.agent, channel.traffic());
    Ok(OrderOutcome { report, output, agent, traffic })
}

fn greet<R: Read, W: Write>(
    channel: &mut Channel<R, W>,
    program: &str,
    mode: Mode,
) -> Result<String, TransferError> {
    let agent = channel.greet(&Hello::of(program))?;
    if !agent.modes.iter().any(|name| name == mode.name()) {
        let reason = format!("{} does not know the mode `{}`", agent.program, mode.name());
        return Err(TransferError::protocol(reason));
    }
    Ok(agent.program)
}

/// Answers what the agent asks for, if there is a disk to read, and takes its result.
fn collect<R: Read, W: Write>(
    channel: &mut Channel<R, W>,
    agent: String,
    size_bytes: u64,
    device: Option<&dyn BlockDevice>,
    events: &dyn Fn(Value),
    cancel: &AtomicBool,
) -> Result<Outcome, TransferError> {
    let mut changes = Changes::new(size_bytes);
    let mut rounds = 0;
    let done: Done = loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(TransferError::Interrupted);
        }
        match (channel.receive()?, device) {
            ((FrameKind::Read, payload), Some(device)) => {
                let ranges = parse_ranges(payload, size_bytes)?;
                rounds += 1;
                answer(channel, device, &ranges)?;
            }
            ((FrameKind::Event, payload), _) => {
                if let Ok(event) = serde_json::from_slice(payload) {
                    events(event);
                }
            }
            ((FrameKind::Change, payload), _) => changes.take(payload)?,
            ((FrameKind::Result, payload), _) => {
                break serde_json::from_slice(payload)
                    .map_err(|e| TransferError::protocol(format!("the JSON of a Result frame: {e}")))?;
            }
            ((kind, _), _) => return Err(TransferError::protocol(format!("an unexpected {kind:?} frame"))),
        }
    };
    let (count, sha256) = changes.digest.finish();
    if (done.changes, &done.changes_sha256) != (count, &sha256) {
        return Err(TransferError::Damaged { reason: "the changes are not those that were sent".into() });
    }
    channel.send(FrameKind::End, sha256.as_bytes())?;
    if channel.expect(FrameKind::End)? != sha256.as_bytes() {
        return Err(TransferError::protocol("no agreement on the digest of the changes"));
    }
    Ok(Outcome {
        changes: changes.by_offset,
        report: done.report,
        pulled: done.pulled,
        agent,
        rounds,
        traffic: channel.traffic(),
    })
}

/// Sends the bytes of some ranges, one after the other, in frames of up to [`MAX_PAYLOAD_BYTES`].
fn answer<R: Read, W: Write>(
    channel: &mut Channel<R, W>,
    device: &dyn BlockDevice,
    ranges: &[Range],
) -> Result<(), TransferError> {
    let max = MAX_PAYLOAD_BYTES as u64;
    // Pieces that fill a frame are read in one batch: their clusters are unpacked in parallel.
    let mut frame: Vec<(u64, u64)> = Vec::new();
    let mut filled = 0;
    for r in ranges {
        let (mut at, end) = (r.offset_bytes, r.offset_bytes + u64::from(r.len_bytes));
        while at < end {
            let len = (end - at).min(max - filled);
            frame.push((at, len));
            (at, filled) = (at + len, filled + len);
            if filled == max {
                send_pieces(channel, device, &frame, filled)?;
                frame.clear();
                filled = 0;
            }
        }
    }
    if filled > 0 {
        send_pieces(channel, device, &frame, filled)?;
    }
    Ok(())
}

fn send_pieces<R: Read, W: Write>(
    channel: &mut Channel<R, W>,
    device: &dyn BlockDevice,
    pieces: &[(u64, u64)],
    total_bytes: u64,
) -> Result<(), TransferError> {
    let mut payload = vec![0; usize::try_from(total_bytes).unwrap_or(0)];
    let mut rest = payload.as_mut_slice();
    let mut requests = Vec::with_capacity(pieces.len());
    for &(offset_bytes, len_bytes) in pieces {
        let (buffer, after) = rest.split_at_mut(usize::try_from(len_bytes).unwrap_or(0));
        requests.push(ReadRequest { offset_bytes, buffer });
        rest = after;
    }
    device.read_batch(&mut requests)?;
    drop(requests);
    channel.send_data(&payload)
}

/// Changes as they arrive, ascending and bounded.
struct Changes {
    size_bytes: u64,
    by_offset: BTreeMap<u64, Vec<u8>>,
    digest: ChangesDigest,
    next_bytes: u64,
    total_bytes: u64,
}

impl Changes {
    fn new(size_bytes: u64) -> Self {
        let digest = ChangesDigest::default();
        Self { size_bytes, by_offset: BTreeMap::new(), digest, next_bytes: 0, total_bytes: 0 }
    }

    fn take(&mut self, payload: &[u8]) -> Result<(), TransferError> {
        let refused = |what: &str| Err(TransferError::protocol(format!("a change {what}")));
        let Some((offset, bytes)) = payload.split_first_chunk::<8>() else {
            return refused("without an offset");
        };
        let offset_bytes = u64::from_le_bytes(*offset);
        let len_bytes = bytes.len() as u64;
        let Some(end_bytes) = offset_bytes.checked_add(len_bytes).filter(|&e| e <= self.size_bytes) else {
            return refused("outside the disk");
        };
        if bytes.is_empty() || offset_bytes < self.next_bytes {
            return refused("that is empty, or overlaps the one before");
        }
        self.total_bytes += len_bytes;
        if self.total_bytes > MAX_CHANGES_BYTES {
            return refused("too many: no conversion changes so much");
        }
        self.next_bytes = end_bytes;
        self.digest.add(offset_bytes, bytes);
        self.by_offset.insert(offset_bytes, bytes.to_vec());
        Ok(())
    }
}
