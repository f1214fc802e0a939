//! Fetches a boot image into a cache: `fetch-disk CACHE REFERENCE [ARCHITECTURE [PATH]]`.

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ocne_container::{FetchEvent, FetchOptions, Fetcher, ImageReference, Platform};

fn main() -> Result<(), Box<dyn Error>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().collect();
    let (Some(cache), Some(reference)) = (arguments.get(1), arguments.get(2)) else {
        return Err("usage: fetch-disk CACHE REFERENCE [ARCHITECTURE [PATH]]".into());
    };
    let architecture = arguments.get(3).map_or("amd64", String::as_str);
    let path = arguments.get(4).map_or("disk/boot.qcow2", String::as_str);
    let options = FetchOptions {
        cache_dir: cache.into(),
        ca_file: std::env::var_os("CA_FILE").map(Into::into),
        ..FetchOptions::default()
    };
    let fetcher = Fetcher::new(options)?;
    let started = Instant::now();
    let tell = |event| {
        if !matches!(event, FetchEvent::Progress { .. }) {
            let _ = writeln!(std::io::stderr(), "{event:?}");
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let disk = runtime.block_on(fetcher.disk(
        &ImageReference::parse(reference)?,
        &Platform::linux(architecture),
        path,
        &tell,
        &Arc::new(AtomicBool::new(false)),
    ))?;
    writeln!(std::io::stdout(), "{disk:#?}\n{:.3} s", started.elapsed().as_secs_f64())?;
    Ok(())
}
