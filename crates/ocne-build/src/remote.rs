//! A conversion by an agent at the other end of two streams, and what makes it as good as one in this process.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::sync::atomic::AtomicBool;

use fs_err::File;
use ocne_bootimage::{Conversion, ConvertError, ConvertOptions, verify_converted};
use ocne_container::{Delegation, FetchError};
use ocne_disk::{BlockDevice, PatchedFile, Qcow2, Qcow2Error};
use ocne_transfer::client::{PullOutcome, Task, convert_blocks, convert_full, pull};
use ocne_transfer::messages::{Pulled, WholeFile};
use ocne_transfer::{Channel, Traffic, TransferError};
use serde_json::Value;

use crate::output::OutputFile;

/// No image that an agent sends is larger.
const PULL_BYTES_MAX: u64 = 256 << 30;
/// Name and version of this program, for the agent's log.
pub(crate) const PROGRAM: &str = concat!("ocne ", env!("CARGO_PKG_VERSION"));

/// Why an agent's conversion is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The transfer failed, or the agent gave up.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The agent was killed: exit code 137.
    #[error("the agent was killed, as happens when it needs more than its {memory_mib} MiB of memory")]
    Killed {
        /// How much it may have.
        memory_mib: u64,
    },
    /// What it is to get does not come.
    #[error(transparent)]
    Fetch(Box<FetchError>),
    /// What the agent says makes no sense.
    #[error("the agent's report makes no sense")]
    Report(#[source] serde_json::Error),
    /// The file that it sent is no image.
    #[error("the agent's image cannot be opened")]
    Image(#[source] Qcow2Error),
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
            Self::Fetch(e) => e.hint(),
            Self::Killed { .. } => Some("raise the limit with `--pod-memory`".to_owned()),
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

/// How an agent gets at an image.
pub enum Way<'a> {
    /// It asks for the blocks of the disk that it needs.
    Blocks,
    /// It gets the whole file.
    Full {
        /// The image file.
        file: &'a File,
        /// Tells it from others.
        key: &'a str,
        /// Hears how much of it is there.
        sent: &'a mut dyn FnMut(u64),
    },
}

impl fmt::Debug for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Blocks) { "Blocks" } else { "Full" })
    }
}

/// Has an agent convert an image that stays here.
///
/// The result is verified before it is returned: only the two file systems are changed, with the changes they are whole,
/// and have the UUIDs that were asked for. So an agent that lies is an error, as is one that breaks.
///
/// # Errors
/// See [`RemoteError`].
pub fn convert_remotely(
    reader: impl Read,
    writer: impl Write,
    device: &dyn BlockDevice,
    options: &ConvertOptions,
    way: Way<'_>,
    cancel: &AtomicBool,
) -> Result<(Conversion, RemoteWork), RemoteError> {
    let mut channel = Channel::new(reader, writer);
    let job = serde_json::to_value(options).map_err(RemoteError::Report)?;
    let task = Task { program: PROGRAM, options: job, events: &|_| {}, cancel };
    let outcome = match way {
        Way::Blocks => convert_blocks(&mut channel, device, task)?,
        Way::Full { file, key, sent } => {
            let size_bytes = file.metadata().map_err(TransferError::File)?.len();
            let nothing = BTreeMap::new();
            let whole = PatchedFile::new(file, &nothing, size_bytes).map_err(TransferError::File)?;
            convert_full(&mut channel, &whole, key, device, task, sent)?
        }
    };
    let mut conversion: Conversion = serde_json::from_value(outcome.report).map_err(RemoteError::Report)?;
    conversion.changes = outcome.changes;
    verify_converted(device, &conversion.changes, options).map_err(|e| RemoteError::Result(Box::new(e)))?;
    let (agent, rounds, traffic) = (outcome.agent, outcome.rounds, outcome.traffic);
    Ok((conversion, RemoteWork { agent, rounds, traffic }))
}

/// What an agent made of an image that it fetched itself.
#[derive(Debug)]
pub struct PulledImage {
    /// What was changed; the changes themselves are in the file.
    pub conversion: Conversion,
    /// What it was made of.
    pub pulled: Pulled,
    /// The new image file.
    pub output: WholeFile,
    /// What it took.
    pub work: RemoteWork,
}

/// Has an agent fetch and convert an image, and receives the new image file into `into`, which has the beginning of it or
/// nothing.
///
/// The file is verified before this returns: it is a whole image with whole file systems, which have the UUIDs that were asked for.
///
/// # Errors
/// See [`RemoteError`].
pub fn pull_remotely(
    mut channel: Channel<impl Read, impl Write>,
    source: &Delegation,
    into: &OutputFile,
    options: &ConvertOptions,
    events: &dyn Fn(Value),
    received: &mut dyn FnMut(u64),
    cancel: &AtomicBool,
) -> Result<PulledImage, RemoteError> {
    let job = serde_json::to_value(options).map_err(RemoteError::Report)?;
    let source = serde_json::to_value(source).map_err(RemoteError::Report)?;
    let task = Task { program: PROGRAM, options: job, events, cancel };
    let mut file = into.file();
    let outcome = pull(&mut channel, source, &mut file, PULL_BYTES_MAX, task, received);
    if matches!(outcome, Err(TransferError::NotAsSent)) {
        into.file().set_len(0).map_err(TransferError::File)?;
    }
    let PullOutcome { report, output, pulled, agent, traffic } = outcome?;
    into.file().sync_all().map_err(TransferError::File)?;
    let conversion: Conversion = serde_json::from_value(report).map_err(RemoteError::Report)?;
    let image = Qcow2::open(into.temporary()).map_err(RemoteError::Image)?;
    verify_converted(&image, &BTreeMap::new(), options).map_err(|e| RemoteError::Result(Box::new(e)))?;
    let work = RemoteWork { agent, rounds: 0, traffic };
    Ok(PulledImage { conversion, pulled, output, work })
}
