//! Copying an image that is here to a registry.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ocne_bootimage::Architecture;
use ocne_container::{
    FetchEvent, FetchOptions, Fetcher, ImageReference, Platform, Pushed, RegistryReference,
};

use crate::error::BuildError;
use crate::event::{Event, Events, Stage};
use crate::ostree::tell;
use crate::source::block_on;

/// Copies an image of a local transport to a registry, byte for byte. Of an index, the image for the architecture is taken.
///
/// # Errors
/// See [`BuildError`]. Blobs that arrived stay, and are not sent again by the next run.
pub fn push_image(
    source: &ImageReference,
    architecture: Option<Architecture>,
    destination: &RegistryReference,
    fetch: &FetchOptions,
    events: Events<'_>,
    cancel: &Arc<AtomicBool>,
) -> Result<Pushed, BuildError> {
    let started = Instant::now();
    let fetcher = Fetcher::new(fetch.clone())?;
    let platform = architecture.map(|a| Platform::linux(a.name()));
    let stage = Stage::Push;
    let told = |event: FetchEvent| match event {
        FetchEvent::Resolved { size_bytes, .. } => {
            events(Event::Begin { stage, total_bytes: Some(size_bytes) });
        }
        FetchEvent::Progress { done_bytes, .. } => events(Event::Bytes { stage, done_bytes }),
        event => tell(&event, events),
    };
    let pushed = block_on(fetcher.push(source, platform.as_ref(), destination, &told, cancel))??;
    events(Event::End { stage, elapsed: started.elapsed(), bytes: Some(pushed.sent_bytes) });
    Ok(pushed)
}
