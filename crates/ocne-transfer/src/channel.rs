//! Frames over a pair of streams: numbered, checksummed, compressed where it helps, never more data on the way than
//! the receiver has granted.

use std::fmt;
use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::TransferError;
use crate::frame::{FrameKind, HEADER_BYTES, Header, MAX_PAYLOAD_BYTES, encode};
use crate::messages::{Failure, Hello, PROTOCOL};

/// How many bytes of `Data` payloads may be on their way before the receiver grants more.
pub const WINDOW_BYTES: u64 = 16 << 20;
/// Payloads from this size on are compressed, if that makes them smaller.
const COMPRESS_FROM_BYTES: usize = 4 << 10;
/// Fast enough for any line that is worth compressing for.
const ZSTD_LEVEL: i32 = 1;
/// After a full payload that did not get smaller so many are sent as they are.
const UNPACKED_FRAMES: u32 = 31;
/// How much of a stray greeting is shown.
const STRAY_BYTES: usize = 200;

/// One end of a transfer.
pub struct Channel<R, W> {
    reader: R,
    writer: W,
    next_sent: u16,
    next_received: u16,
    /// How many bytes of data may be sent before more is granted.
    credit_bytes: u64,
    /// How many bytes of data came since the other side was granted some.
    taken_bytes: u64,
    payload: Vec<u8>,
    unpacked: Vec<u8>,
    packed: Vec<u8>,
    /// How many full payloads are sent as they are, because one did not get smaller.
    not_worth_packing: u32,
    /// Nothing can be sent any more.
    is_broken: bool,
    traffic: Traffic,
}

/// Bytes on the wire, with headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent by this side.
    pub sent_bytes: u64,
    /// Received by this side.
    pub received_bytes: u64,
}

impl<R, W> fmt::Debug for Channel<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("traffic", &self.traffic).finish_non_exhaustive()
    }
}

impl<R: Read, W: Write> Channel<R, W> {
    /// An end over two streams.
    pub fn new(reader: R, writer: W) -> Self {
        Self {
            reader,
            writer,
            next_sent: 0,
            next_received: 0,
            credit_bytes: WINDOW_BYTES,
            taken_bytes: 0,
            payload: Vec::new(),
            unpacked: Vec::new(),
            packed: Vec::new(),
            not_worth_packing: 0,
            is_broken: false,
            traffic: Traffic::default(),
        }
    }

    /// What went over the wire so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Sends one frame. The payload is at most [`MAX_PAYLOAD_BYTES`] long.
    ///
    /// # Errors
    /// When the connection is lost, or the payload is too long.
    pub fn send(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), TransferError> {
        let compressed = self.pack(payload);
        self.send_packed(kind, payload, compressed)
    }

    /// Sends a `Data` frame as soon as the other side has granted room for it.
    ///
    /// # Errors
    /// As [`Channel::send`]; also when the other side sends what has no place here.
    pub fn send_data(&mut self, payload: &[u8]) -> Result<(), TransferError> {
        let compressed = self.pack(payload);
        let len = if compressed { self.packed.len() } else { payload.len() } as u64;
        while self.credit_bytes < len {
            let (kind, _) = self.receive_any()?;
            if !matches!(kind, FrameKind::Credit | FrameKind::Ping) {
                return Err(TransferError::protocol(format!("a {kind:?} frame instead of credit for data")));
            }
        }
        self.credit_bytes -= len;
        self.send_packed(FrameKind::Data, payload, compressed)
    }

    /// Sends a message as JSON.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_json(&mut self, kind: FrameKind, message: &impl Serialize) -> Result<(), TransferError> {
        let text = serde_json::to_vec(message).map_err(|e| TransferError::protocol(e.to_string()))?;
        self.send(kind, &text)
    }

    /// Tells the other side why this side gives up. That it cannot be told either is no news then.
    pub fn give_up(&mut self, failure: &Failure) {
        let _ = self.send_json(FrameKind::Error, failure);
    }

    /// The next frame that is not about the channel itself.
    ///
    /// # Errors
    /// When the connection is lost, a frame is damaged, or the other side gives up.
    pub fn receive(&mut self) -> Result<(FrameKind, &[u8]), TransferError> {
        loop {
            let (kind, compressed) = self.receive_any()?;
            if !matches!(kind, FrameKind::Credit | FrameKind::Ping) {
                let payload = if compressed { &self.unpacked } else { &self.payload };
                return Ok((kind, payload));
            }
        }
    }

    /// The next frame, which has to be of this kind.
    ///
    /// # Errors
    /// As [`Channel::receive`]; also when it is of another kind.
    pub fn expect(&mut self, wanted: FrameKind) -> Result<&[u8], TransferError> {
        let (kind, payload) = self.receive()?;
        if kind != wanted {
            return Err(TransferError::protocol(format!("a {kind:?} frame instead of {wanted:?}")));
        }
        Ok(payload)
    }

    /// The next frame as a message.
    ///
    /// # Errors
    /// As [`Channel::expect`]; also when it is not such a message.
    pub fn expect_json<T: DeserializeOwned>(&mut self, wanted: FrameKind) -> Result<T, TransferError> {
        from_json(wanted, self.expect(wanted)?)
    }

    /// Sends a greeting and takes the other side's.
    ///
    /// # Errors
    /// When the other side speaks something else.
    pub fn greet(&mut self, mine: &Hello) -> Result<Hello, TransferError> {
        self.send_json(FrameKind::Hello, mine)?;
        let theirs: Hello = self.expect_json(FrameKind::Hello)?;
        if theirs.protocol != PROTOCOL {
            return Err(TransferError::Version { ours: PROTOCOL, theirs: theirs.protocol });
        }
        Ok(theirs)
    }

    /// Compresses a payload into `self.packed`, if that is worth it.
    fn pack(&mut self, payload: &[u8]) -> bool {
        let full = payload.len() == MAX_PAYLOAD_BYTES;
        if payload.len() < COMPRESS_FROM_BYTES {
            return false;
        }
        if full && self.not_worth_packing > 0 {
            self.not_worth_packing -= 1;
            return false;
        }
        self.packed.resize(payload.len() - 1, 0);
        if let Ok(len) = zstd::bulk::compress_to_buffer(payload, &mut self.packed, ZSTD_LEVEL) {
            self.packed.truncate(len);
            return true;
        }
        // It did not get smaller: a compressed image, of which the rest is like it.
        if full {
            self.not_worth_packing = UNPACKED_FRAMES;
        }
        false
    }

    fn send_packed(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        compressed: bool,
    ) -> Result<(), TransferError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(TransferError::protocol(format!("a {kind:?} frame of {} bytes", payload.len())));
        }
        let payload = if compressed { &self.packed } else { payload };
        let frame = encode(kind, compressed, self.next_sent, payload);
        self.next_sent = self.next_sent.wrapping_add(1);
        self.traffic.sent_bytes += frame.len() as u64;
        if self.is_broken {
            return Err(TransferError::Lost(io::ErrorKind::BrokenPipe.into()));
        }
        let written = self.writer.write_all(&frame).and_then(|()| self.writer.flush());
        written.map_err(|e| {
            self.is_broken = true;
            self.last_words().unwrap_or(TransferError::Lost(e))
        })
    }

    /// Why the other side gave up, if it said so before it went.
    fn last_words(&mut self) -> Option<TransferError> {
        loop {
            match self.receive_any() {
                Ok(_) => {}
                Err(e @ TransferError::Peer { .. }) => return Some(e),
                Err(_) => return None,
            }
        }
    }

    /// Receives one frame of any kind, and does what it says about the channel; the payload is in `self.unpacked` if
    /// it was compressed, else in `self.payload`.
    fn receive_any(&mut self) -> Result<(FrameKind, bool), TransferError> {
        let mut head = [0; HEADER_BYTES];
        self.reader.read_exact(&mut head).map_err(TransferError::Lost)?;
        let first = self.traffic.received_bytes == 0;
        let header = match Header::parse(&head) {
            Ok(header) if !first || header.kind == FrameKind::Hello || header.kind == FrameKind::Error => {
                header
            }
            _ if first => return Err(self.stray(&head)),
            Ok(header) => header,
            Err(e) => return Err(e),
        };
        let len = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        self.payload.resize(len, 0);
        self.reader.read_exact(&mut self.payload).map_err(TransferError::Lost)?;
        header.verify(&self.payload)?;
        self.traffic.received_bytes += (HEADER_BYTES + len) as u64;
        if header.sequence != self.next_received {
            let reason = format!("frame {} instead of {}", header.sequence, self.next_received);
            return Err(TransferError::Damaged { reason });
        }
        self.next_received = self.next_received.wrapping_add(1);
        if header.compressed {
            self.unpacked.resize(MAX_PAYLOAD_BYTES, 0);
            let len = zstd::bulk::decompress_to_buffer(&self.payload, &mut self.unpacked).map_err(|e| {
                TransferError::protocol(format!("a {:?} frame cannot be unpacked: {e}", header.kind))
            })?;
            self.unpacked.truncate(len);
        }
        match header.kind {
            FrameKind::Data => self.grant(header.payload_bytes)?,
            FrameKind::Credit => self.take_credit()?,
            FrameKind::Ping if self.payload == [0] => self.send(FrameKind::Ping, &[1])?,
            FrameKind::Error => {
                let payload = if header.compressed { &self.unpacked } else { &self.payload };
                return Err(from_json::<Failure>(FrameKind::Error, payload)?.into());
            }
            _ => {}
        }
        Ok((header.kind, header.compressed))
    }

    /// Counts data that came, and grants as much again when half of the window is used.
    fn grant(&mut self, len_bytes: u32) -> Result<(), TransferError> {
        self.taken_bytes += u64::from(len_bytes);
        if self.taken_bytes > WINDOW_BYTES {
            return Err(TransferError::protocol("more data than was granted"));
        }
        if self.taken_bytes >= WINDOW_BYTES / 2 {
            let granted = self.taken_bytes.to_le_bytes();
            self.taken_bytes = 0;
            self.send(FrameKind::Credit, &granted)?;
        }
        Ok(())
    }

    fn take_credit(&mut self) -> Result<(), TransferError> {
        let granted = <[u8; 8]>::try_from(self.payload.as_slice()).map(u64::from_le_bytes);
        let total =
            granted.ok().and_then(|g| self.credit_bytes.checked_add(g)).filter(|&t| t <= WINDOW_BYTES);
        self.credit_bytes = total.ok_or_else(|| TransferError::protocol("credit that makes no sense"))?;
        Ok(())
    }

    /// What the other side says instead of a greeting: the words of a shell, most likely.
    fn stray(&mut self, head: &[u8]) -> TransferError {
        let mut more = [0; STRAY_BYTES];
        let count = match self.reader.read(&mut more) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return TransferError::Lost(e),
        };
        let said: Vec<u8> = head.iter().chain(&more[..count]).copied().collect();
        let said = String::from_utf8_lossy(&said).trim().escape_debug().to_string();
        TransferError::NotAPeer { said }
    }
}

fn from_json<T: DeserializeOwned>(kind: FrameKind, payload: &[u8]) -> Result<T, TransferError> {
    serde_json::from_slice(payload)
        .map_err(|e| TransferError::protocol(format!("the JSON of a {kind:?} frame: {e}")))
}
