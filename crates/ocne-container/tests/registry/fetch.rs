//! Fetching with little around it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ocne_container::{
    FetchError, FetchEvent, FetchOptions, FetchedDisk, Fetcher, ImageReference, NetworkOptions, Platform,
};

/// A cache of its own, and options that do not keep tests waiting.
pub struct Client {
    pub folder: tempfile::TempDir,
    pub options: FetchOptions,
}

impl Client {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // A file without credentials, so that nobody's own are used.
        let authfile = folder.path().join("auth.json");
        fs_err::write(&authfile, "{}").unwrap();
        let options = FetchOptions {
            cache_dir: folder.path().join("images"),
            authfile: Some(authfile),
            network: NetworkOptions {
                connect_timeout: Duration::from_secs(5),
                stall_timeout: Duration::from_millis(600),
                attempts: 4,
                first_wait: Duration::from_millis(5),
                longest_wait: Duration::from_secs(2),
                ..NetworkOptions::default()
            },
            ..FetchOptions::default()
        };
        Self { folder, options }
    }

    /// The same with credentials.
    pub fn with_auth(text: &str) -> Self {
        let client = Self::new();
        fs_err::write(client.options.authfile.as_ref().unwrap(), text).unwrap();
        client
    }

    pub fn fetch(&self, reference: &str) -> Result<FetchedDisk, FetchError> {
        self.fetch_for(reference, "amd64", &Arc::default(), &|_| {})
    }

    /// The same on another machine, which gets all that it needs over a line.
    pub fn fetch_elsewhere(&self, reference: &str) -> Result<FetchedDisk, FetchError> {
        let fetcher = Fetcher::new(self.options.clone()).unwrap();
        let reference = ImageReference::parse(reference).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let platform = Platform::linux("amd64");
        let delegation = runtime.block_on(fetcher.delegation(&reference, &platform, "disk/boot.qcow2"))?;
        assert!(!format!("{delegation:?}").contains("sesame"));
        let line = serde_json::to_vec(&delegation).unwrap();
        let delegation: ocne_container::Delegation = serde_json::from_slice(&line).unwrap();
        let disk_path = delegation.disk_path.clone();
        let (fetcher, reference, platform) = delegation.fetcher(self.folder.path().join("elsewhere"))?;
        runtime.block_on(fetcher.disk(&reference, &platform, &disk_path, &|_| {}, &Arc::default()))
    }

    /// What was fetched, with what was told meanwhile.
    pub fn fetch_told(&self, reference: &str) -> (Result<FetchedDisk, FetchError>, Vec<FetchEvent>) {
        let told = RefCell::new(Vec::new());
        let result =
            self.fetch_for(reference, "amd64", &Arc::default(), &|event| told.borrow_mut().push(event));
        (result, told.into_inner())
    }

    pub fn fetch_for(
        &self,
        reference: &str,
        architecture: &str,
        cancel: &Arc<AtomicBool>,
        events: &dyn Fn(FetchEvent),
    ) -> Result<FetchedDisk, FetchError> {
        let fetcher = Fetcher::new(self.options.clone()).unwrap();
        let platform = Platform { os: "linux".to_owned(), architecture: architecture.to_owned() };
        let reference = ImageReference::parse(reference).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(fetcher.disk(&reference, &platform, "disk/boot.qcow2", events, cancel))
    }

    /// Names of files that are there only while something is written.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        visit(&self.options.cache_dir, &mut |path| {
            let name = path.file_name().unwrap().to_string_lossy();
            if name.contains(".part") || name.contains(".tmp") {
                found.push(path.to_owned());
            }
        });
        found
    }
}

fn visit(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in fs_err::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() { visit(&path, each) } else { each(&path) }
    }
}

pub fn retries(events: &[FetchEvent]) -> usize {
    events.iter().filter(|event| matches!(event, FetchEvent::Retry { .. })).count()
}
