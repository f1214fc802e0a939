//! What a build tells while it runs.

use std::time::Duration;

/// The parts of a build, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Getting the boot image out of a registry, an archive or the cache.
    Fetch,
    /// Changing it, in memory.
    Convert,
    /// Writing the new image, and reading it back.
    Write,
    /// Comparing what was read back, and opening the result.
    Verify,
    /// Making a container image out of another one, in one pass.
    Generate,
    /// Syncing it, and reading it back.
    Save,
    /// Copying a container image to where it shall be.
    Push,
}

impl Stage {
    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Convert => "convert",
            Self::Write => "write",
            Self::Verify => "verify",
            Self::Generate => "generate",
            Self::Save => "save",
            Self::Push => "push",
        }
    }

    /// The name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Fetch => "Getting boot image",
            Self::Convert => "Converting boot image",
            Self::Write => "Writing boot image",
            Self::Verify => "Verifying boot image",
            Self::Generate => "Generating container image",
            Self::Save => "Saving container image",
            Self::Push => "Copying container image",
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
        /// How much it has to do, if that is known.
        total_bytes: Option<u64>,
    },
    /// A stage got on.
    Bytes {
        /// The stage.
        stage: Stage,
        /// How much it has done.
        done_bytes: u64,
    },
    /// A part of a stage got on: the first time with nothing done.
    Part {
        /// The stage.
        stage: Stage,
        /// What tells it from others.
        name: String,
        /// How much of it is done.
        done_bytes: u64,
        /// How much it has to do.
        total_bytes: u64,
        /// It is done.
        is_over: bool,
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
pub type Events<'a> = &'a (dyn Fn(Event) + Sync);
