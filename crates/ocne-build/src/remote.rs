//! A conversion by an agent at the other end of two streams, and what makes it as good as one in this process.

use std::fmt;
use std::io::{Read, Write};
use std::sync::atomic::AtomicBool;

use ocne_bootimage::{Conversion, ConvertError, ConvertOptions, verify_converted};
use ocne_disk::{BlockDevice, BlockWrite as _, DeviceError, Overlay};
use ocne_transfer::client::convert_blocks;
use ocne_transfer::{Channel, Traffic, TransferError};

/// Name and version of this program, for the agent's log.
const PROGRAM: &str = concat!("ocne ", env!("CARGO_PKG_VERSION"));

/// Why an agent's conversion is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The transfer failed, or the agent gave up.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// What the agent says makes no sense.
    #[error("the agent's report makes no sense")]
    Report(#[source] serde_json::Error),
    /// The changes do not fit the disk.
    #[error("the agent's changes cannot be applied")]
    Apply(#[source] DeviceError),
    /// With its changes the image is not what it has to be.
    #[error("the agent's result is not a right conversion")]
    Result(#[source] Box<ConvertError>),
}

impl RemoteError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Transfer(TransferError::Peer { hint, .. }) => hint.clone(),
            Self::Transfer(TransferError::Version { .. }) => {
                Some("take the builder image of the same release, or leave `--builder-image` out".to_owned())
            }
            Self::Transfer(e) if e.is_transient() => Some("run it again".to_owned()),
            _ => None,
        }
    }
}

/// What an agent's conversion took.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteWork {
    /// Name and version of the agent.
    pub agent: String,
    /// Questions that it asked.
    pub rounds: u64,
    /// Bytes on the wire.
    pub traffic: Traffic,
}

impl fmt::Debug for RemoteWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic { sent_bytes, received_bytes } = self.traffic;
        write!(f, "{}: {} rounds, {sent_bytes} bytes out, {received_bytes} in", self.agent, self.rounds)
    }
}

/// Has an agent convert a disk that stays here.
///
/// The result is verified before it is returned: with the changes both file systems are whole, and have the UUIDs that
/// were asked for. So an agent that lies is an error, as is one that breaks.
///
/// # Errors
/// See [`RemoteError`].
pub fn convert_remotely(
    reader: impl Read,
    writer: impl Write,
    device: &dyn BlockDevice,
    options: &ConvertOptions,
    cancel: &AtomicBool,
) -> Result<(Conversion, RemoteWork), RemoteError> {
    let mut channel = Channel::new(reader, writer);
    let job = serde_json::to_value(options).map_err(RemoteError::Report)?;
    let outcome = convert_blocks(&mut channel, device, PROGRAM, job, &|_| {}, cancel)?;
    let mut conversion: Conversion = serde_json::from_value(outcome.report).map_err(RemoteError::Report)?;
    conversion.changes = outcome.changes;
    let mut converted = Overlay::new(device);
    for (&at, bytes) in &conversion.changes {
        converted.write_at(at, bytes).map_err(RemoteError::Apply)?;
    }
    verify_converted(&converted, options).map_err(|e| RemoteError::Result(Box::new(e)))?;
    let (agent, rounds, traffic) = (outcome.agent, outcome.rounds, outcome.traffic);
    Ok((conversion, RemoteWork { agent, rounds, traffic }))
}
