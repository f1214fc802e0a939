//! Frames: what goes over the wire, one after the other. Layout and rules: `docs/protocol.md`.

use crate::error::TransferError;

/// Length of what precedes every payload.
pub const HEADER_BYTES: usize = 16;
/// The longest payload, on the wire and unpacked.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// The payload is a zstd frame.
const FLAG_ZSTD: u8 = 1;

/// What a frame means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// JSON: who speaks, and what it can do. The first frame in both directions.
    Hello = 1,
    /// JSON: what the client wants done.
    Job = 2,
    /// Ranges of the disk that the agent wants.
    Read = 3,
    /// Bytes that were asked for.
    Data = 4,
    /// An offset and the bytes that belong there in the result.
    Change = 5,
    /// JSON: what was done, with the digest of all changes.
    Result = 6,
    /// Agreement on the digest.
    End = 7,
    /// JSON: a step, for people.
    Event = 8,
    /// JSON: why this side gives up.
    Error = 9,
    /// The sender may send so many bytes of data more.
    Credit = 10,
    /// So much of the image is durable on the agent's side.
    Durable = 11,
    /// JSON: the image was sent whole; its digest.
    Sent = 12,
    /// Is the other side there? It answers with one of these too, unless it has something else to say.
    Ping = 13,
    /// JSON: the numbers of the files that the agent does not have yet.
    Want = 14,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Job,
            3 => Self::Read,
            4 => Self::Data,
            5 => Self::Change,
            6 => Self::Result,
            7 => Self::End,
            8 => Self::Event,
            9 => Self::Error,
            10 => Self::Credit,
            11 => Self::Durable,
            12 => Self::Sent,
            13 => Self::Ping,
            14 => Self::Want,
            _ => return None,
        })
    }
}

/// What precedes a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame means.
    pub kind: FrameKind,
    /// The payload is compressed.
    pub compressed: bool,
    /// Counts the frames of one direction from 0, and starts again after 65535.
    pub sequence: u16,
    /// Length of the payload on the wire.
    pub payload_bytes: u32,
    /// CRC-32C of the payload.
    payload_crc32c: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is none, was damaged, or announces more than [`MAX_PAYLOAD_BYTES`].
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, TransferError> {
        let &[kind, flags, s0, s1, l0, l1, l2, l3, p0, p1, p2, p3, h0, h1, h2, h3] = bytes;
        let damaged = |reason: String| TransferError::Damaged { reason };
        // Its own checksum: nobody waits for a payload of a length that was not sent.
        if crc32c::crc32c(&bytes[..12]) != u32::from_le_bytes([h0, h1, h2, h3]) {
            return Err(damaged("the checksum of a header is wrong".into()));
        }
        let kind =
            FrameKind::from_byte(kind).ok_or_else(|| damaged(format!("no frame has the type {kind}")))?;
        if flags & !FLAG_ZSTD != 0 {
            return Err(damaged(format!("unknown flags {flags:#04x}")));
        }
        let payload_bytes = u32::from_le_bytes([l0, l1, l2, l3]);
        if usize::try_from(payload_bytes).map_or(true, |n| n > MAX_PAYLOAD_BYTES) {
            return Err(damaged(format!(
                "a payload of {payload_bytes} bytes; {MAX_PAYLOAD_BYTES} are allowed"
            )));
        }
        let (sequence, payload_crc32c) = (u16::from_le_bytes([s0, s1]), u32::from_le_bytes([p0, p1, p2, p3]));
        Ok(Self { kind, compressed: flags & FLAG_ZSTD != 0, sequence, payload_bytes, payload_crc32c })
    }

    /// Whether the payload is what was sent.
    ///
    /// # Errors
    /// When the checksum says that it is not.
    pub fn verify(&self, payload: &[u8]) -> Result<(), TransferError> {
        if crc32c::crc32c(payload) == self.payload_crc32c {
            return Ok(());
        }
        Err(TransferError::Damaged { reason: format!("the checksum of a {:?} frame is wrong", self.kind) })
    }
}

/// Puts a frame together.
///
/// # Panics
/// Never: a payload that is too long is the caller's error, and is sent as it is for the other side to refuse.
pub fn encode(kind: FrameKind, compressed: bool, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend([kind as u8, if compressed { FLAG_ZSTD } else { 0 }]);
    frame.extend(sequence.to_le_bytes());
    frame.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend(crc32c::crc32c(payload).to_le_bytes());
    frame.extend(crc32c::crc32c(&frame).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read() {
        let frame = encode(FrameKind::Data, true, 65_535, b"abc");
        let head: &[u8; HEADER_BYTES] = frame[..HEADER_BYTES].try_into().unwrap();
        let header = Header::parse(head).unwrap();
        assert_eq!((header.kind, header.compressed), (FrameKind::Data, true));
        assert_eq!((header.sequence, header.payload_bytes), (65_535, 3));
        header.verify(&frame[HEADER_BYTES..]).unwrap();
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let frame = encode(FrameKind::Change, false, 7, b"some payload");
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let head: &[u8; HEADER_BYTES] = bad[..HEADER_BYTES].try_into().unwrap();
            let read = Header::parse(head).and_then(|h| h.verify(&bad[HEADER_BYTES..]));
            assert!(read.is_err(), "bit {bit}");
        }
    }
}
