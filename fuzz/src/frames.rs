//! A stream of frames that the checksums and numbers of are right, whatever is in them.

use ocne_transfer::frame::{FrameKind, encode};

const KINDS: [FrameKind; 13] = [
    FrameKind::Hello,
    FrameKind::Job,
    FrameKind::Read,
    FrameKind::Data,
    FrameKind::Change,
    FrameKind::Result,
    FrameKind::End,
    FrameKind::Event,
    FrameKind::Error,
    FrameKind::Credit,
    FrameKind::Durable,
    FrameKind::Sent,
    FrameKind::Ping,
];
const HELLO: &str = r#"{"protocol":"ocne-transfer/1","program":"fuzz","modes":["blocks","full"]}"#;

/// A greeting, and what `data` says: kind, compressed or not, length (16 bits) and payload of each frame.
pub fn stream(mut data: &[u8]) -> Vec<u8> {
    let mut stream = encode(FrameKind::Hello, false, 0, HELLO.as_bytes());
    let mut sequence = 1;
    while let Some((&[kind, compressed, l0, l1], rest)) = data.split_first_chunk() {
        let (payload, rest) = rest.split_at(usize::from(u16::from_le_bytes([l0, l1])).min(rest.len()));
        let kind = KINDS[usize::from(kind) % KINDS.len()];
        stream.extend(encode(kind, compressed % 2 == 1, sequence, payload));
        sequence = sequence.wrapping_add(1);
        data = rest;
    }
    stream
}
