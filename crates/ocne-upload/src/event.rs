//! What an upload tells while it runs.

use std::sync::Arc;
use std::time::Duration;

/// The parts of an upload, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reading the file once, for its digest.
    Digest,
    /// Sending it.
    Upload,
    /// Having it made into an image.
    Import,
    /// Having an image made into an object.
    Export,
    /// Fetching that.
    Download,
}

impl Stage {
    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Digest => "digest",
            Self::Upload => "upload",
            Self::Import => "import",
            Self::Export => "export",
            Self::Download => "download",
        }
    }

    /// The name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Digest => "Reading image",
            Self::Upload => "Uploading image to object storage",
            Self::Import => "Importing compute image",
            Self::Export => "Exporting compute image",
            Self::Download => "Downloading image",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A stage begins.
    Begin {
        /// The stage.
        stage: Stage,
        /// How much it has to do, if it is counted in bytes.
        total_bytes: Option<u64>,
    },
    /// A stage got on, or back: what was lost on the way is sent again.
    Bytes {
        /// The stage.
        stage: Stage,
        /// How much it has done.
        done_bytes: u64,
    },
    /// A stage got on that is not counted in bytes.
    Percent {
        /// The stage.
        stage: Stage,
        /// From 0 to 100.
        percent: u8,
    },
    /// A stage is done.
    End {
        /// The stage.
        stage: Stage,
        /// How long it took.
        elapsed: Duration,
        /// How much it did, where that is a figure of interest.
        bytes: Option<u64>,
    },
    /// A line for the log.
    Note(String),
    /// A line for the log that needs attention.
    Warning(String),
}

/// Takes events, from any thread.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;
