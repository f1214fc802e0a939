//! Copying images between all transports, judged by skopeo, podman and Debian's docker-registry.

#[path = "../docker_registry/mod.rs"]
mod docker_registry;
mod faults;
#[path = "../image/mod.rs"]
mod image;
mod podman;
mod push;
mod tokens;
mod transports;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use ocne_container::{
    Copied, CopyOptions, FetchError, FetchEvent, FetchOptions, Fetcher, ImageReference, NetworkOptions,
};

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/ostree/sample-encapsulated.ociarchive")
}

/// Copies an image; what was told is given as well.
fn copy(
    folder: &Path,
    source: &str,
    to: &str,
    options: &CopyOptions,
    fetch: FetchOptions,
) -> (Result<Copied, FetchError>, Vec<FetchEvent>) {
    let network = NetworkOptions { first_wait: Duration::from_millis(5), ..NetworkOptions::default() };
    let fetcher = Fetcher::new(FetchOptions { cache_dir: folder.join("cache"), network, ..fetch }).unwrap();
    let destination = ImageReference::parse(to).unwrap();
    let source = ImageReference::parse(source).unwrap();
    let events = Mutex::new(Vec::new());
    let told = |event| events.lock().unwrap().push(event);
    let copied =
        image::block_on(fetcher.copy(&source, &destination, options, &told, &std::sync::Arc::default()));
    (copied, events.into_inner().unwrap())
}
