//! Copying a container image from one place to another.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ocne_container::{Copied, CopyOptions, FetchEvent, FetchOptions, Fetcher, ImageReference};

use crate::error::BuildError;
use crate::event::{Event, Events, Stage};
use crate::ostree::tell;
use crate::source::block_on;

/// Copies an image, byte for byte where the destination allows it.
///
/// # Errors
/// See [`BuildError`]. Blobs that a registry has by then stay there, and are not sent again by the next run; nothing else is
/// left.
pub fn copy_image(
    source: &ImageReference,
    destination: &ImageReference,
    options: &CopyOptions,
    fetch: &FetchOptions,
    events: Events<'_>,
    cancel: &Arc<AtomicBool>,
) -> Result<Copied, BuildError> {
    let started = Instant::now();
    let fetcher = Fetcher::new(fetch.clone())?;
    let stage = Stage::Push;
    let told = |event: FetchEvent| match event {
        FetchEvent::Resolved { size_bytes, .. } => {
            events(Event::Begin { stage, total_bytes: Some(size_bytes) });
        }
        FetchEvent::Progress { done_bytes, .. } => events(Event::Bytes { stage, done_bytes }),
        FetchEvent::Part { digest, done_bytes, size_bytes: total_bytes, is_over } => {
            events(Event::Part { stage, name: digest.to_string(), done_bytes, total_bytes, is_over });
        }
        event => tell(&event, events),
    };
    let copied = block_on(fetcher.copy(source, destination, options, &told, cancel))??;
    events(Event::End { stage, elapsed: started.elapsed(), bytes: Some(copied.sent_bytes) });
    Ok(copied)
}
