//! What a fetch tells while it runs.

use std::time::Duration;

use crate::digest::Digest;

/// Something that happened in a fetch. New kinds may come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchEvent {
    /// The manifest of a reference is looked for.
    Resolving {
        /// The reference, in its full form.
        reference: String,
    },
    /// The manifest was found.
    Resolved {
        /// Digest of the manifest of the platform's image.
        manifest_digest: Digest,
        /// Size of its layers, as they are transferred.
        size_bytes: u64,
    },
    /// Another process fetches the same image; this one waits for it.
    Waiting,
    /// The disk is in the cache.
    CacheHit {
        /// Size of the disk.
        size_bytes: u64,
    },
    /// The transfer of a layer begins.
    LayerStart {
        /// Digest of the layer.
        digest: Digest,
        /// Size of the layer as it is transferred.
        size_bytes: u64,
    },
    /// Bytes of the layer that arrived.
    Progress {
        /// Bytes of the layer that were read so far.
        done_bytes: u64,
        /// All bytes of the layer.
        total_bytes: u64,
    },
    /// A part of a copy got on: the first time with nothing done.
    Part {
        /// Digest of the blob.
        digest: Digest,
        /// Bytes of it that were moved so far.
        done_bytes: u64,
        /// Its size.
        size_bytes: u64,
        /// It is there.
        is_over: bool,
    },
    /// Something failed that may succeed when it is tried again.
    Retry {
        /// Number of the coming attempt; the first attempt is 1.
        attempt: u32,
        /// Time until then.
        wait: Duration,
        /// What failed.
        reason: String,
    },
}

/// Receives events; called only on the thread that runs the fetch.
pub type Events<'a> = &'a dyn Fn(FetchEvent);
