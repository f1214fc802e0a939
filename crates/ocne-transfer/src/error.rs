//! Why a transfer failed.

use std::io;

use ocne_disk::DeviceError;

/// Why a transfer failed. Nothing that was received counts then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The stream ended or failed. A new session may succeed.
    #[error("the connection to the other side was lost")]
    Lost(#[source] io::Error),
    /// What came first is no greeting of this protocol.
    #[error("the other side does not speak the transfer protocol; it said: {said}")]
    NotAPeer {
        /// The beginning of what came, printable.
        said: String,
    },
    /// The peers have no protocol version in common.
    #[error("the other side speaks {theirs}, this side {ours}")]
    Version {
        /// What this side speaks.
        ours: &'static str,
        /// What the other side says it speaks.
        theirs: String,
    },
    /// A frame arrived changed.
    #[error("a frame arrived damaged: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// The other side breaks the rules of the protocol.
    #[error("the other side breaks the protocol: {reason}")]
    Protocol {
        /// Which rule.
        reason: String,
    },
    /// The other side gave up and said why.
    #[error("{message}")]
    Peer {
        /// What kind of failure, for programs.
        code: String,
        /// Why, for people.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The disk that is served cannot be read.
    #[error("cannot read the disk that the other side asks for")]
    Device(#[from] DeviceError),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl TransferError {
    /// Whether the same transfer may succeed over a new connection.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Damaged { .. })
    }

    pub(crate) fn protocol(reason: impl Into<String>) -> Self {
        Self::Protocol { reason: reason.into() }
    }
}
