//! The protocol between the program and its agent in a builder pod, over any pair of streams: `docs/protocol.md`.
//!
//! The client has a verified image; the [`agent`] converts it. With [`client::convert_blocks`] the agent asks for the few
//! hundred ranges of the disk that a conversion reads, and sends the few dozen that it changes; with
//! [`client::convert_full`] it gets the whole image file first. Everything is in numbered, checksummed frames, both sides agree on the digest of the changes, and nothing else counts as success:
//! neither the end of a stream nor anybody's exit status.

pub mod agent;
mod channel;
pub mod client;
mod error;
pub mod frame;
pub mod messages;
mod whole;

pub use channel::{Channel, Traffic, WINDOW_BYTES};
pub use error::{CODE_AGAIN, TransferError, with_causes};
pub use whole::{InOrder, ReadAt, receive_whole, send_whole, sha256_of};
