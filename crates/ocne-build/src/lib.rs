//! Plan and run the build of a boot image: source, conversion, output.
//!
//! The source is only read. What changes exists in memory until both file systems were checked with it; then
//! the output is written once, as a copy of the source with the changes on top, under a temporary name, synced,
//! read back, compared, opened, and renamed.

pub mod copy;

mod event;

pub use event::{Event, Events, Stage};

/// The newest Kubernetes version that there is a boot image of.
pub const NEWEST_KUBERNETES_VERSION: &str = "1.33";
