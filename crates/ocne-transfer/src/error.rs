//! Why a transfer failed.

use std::error::Error;
use std::io;

use ocne_disk::DeviceError;

/// The code of a failure that may pass: the same over a new connection may succeed.
pub const CODE_AGAIN: &str = "again";

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
    /// A whole file arrived, but not as it was sent.
    #[error("the file that arrived is not the one that was sent")]
    NotAsSent,
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
    /// The file that is sent or received cannot be read or written here.
    #[error("cannot read or write the file that is transferred")]
    File(#[source] io::Error),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl TransferError {
    /// Whether the same transfer may succeed over a new connection.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Lost(_) | Self::Damaged { .. } | Self::NotAsSent => true,
            Self::Peer { code, .. } => code == CODE_AGAIN,
            _ => false,
        }
    }

    pub(crate) fn protocol(reason: impl Into<String>) -> Self {
        Self::Protocol { reason: reason.into() }
    }
}

/// An error with everything that led to it, in one line: for the other side, and for logs.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let line = e.to_string();
        // Some errors have their cause in their own words.
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = e.source();
    }
    text
}
