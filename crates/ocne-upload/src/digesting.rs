//! The digests of the whole file, which are found while its parts are on their way already.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::error::UploadError;
use crate::source::{Digests, Source};

type Done = (Digests, Duration);

/// Digests that are known, or are being found.
#[derive(Debug)]
pub(crate) struct Digesting {
    state: Mutex<State>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
enum State {
    Running(JoinHandle<Result<Done, UploadError>>),
    Known(Done),
    Failed,
}

impl Digesting {
    /// Digests that an earlier run has found.
    pub fn known(digests: Digests) -> Self {
        Self { state: Mutex::new(State::Known((digests, Duration::ZERO))), stop: Arc::default() }
    }

    /// Begins to read the file. `progress` is told how much was read.
    pub fn begin(source: &Arc<Source>, progress: impl Fn(u64) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (source, told) = (Arc::clone(source), Arc::clone(&stop));
        let task = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            source.digests(&progress, &told).map(|digests| (digests, started.elapsed()))
        });
        Self { state: Mutex::new(State::Running(task)), stop }
    }

    /// The digests, and how long it took to find them. Waits until they are known.
    pub async fn get(&self) -> Result<Done, UploadError> {
        let mut state = self.state.lock().await;
        if let State::Running(task) = &mut *state {
            let done = task.await.map_err(|_| UploadError::Interrupted).flatten();
            *state = done.as_ref().map_or(State::Failed, |done| State::Known(done.clone()));
            return done;
        }
        match &*state {
            State::Known(done) => Ok(done.clone()),
            _ => Err(UploadError::Interrupted),
        }
    }
}

impl Drop for Digesting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
