//! Whether a client is there: sessions touch a file, the pod's first process looks at its age.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;

use crate::log;

/// The only folder of the pod that can be written to.
const SCRATCH: &str = "/scratch";
/// How often the age of the file is looked at.
const TICK: Duration = Duration::from_millis(250);
/// A session touches the file at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(1);

/// What to do when the scratch volume is full.
pub const SCRATCH_HINT: &str = "give the pod more with `--scratch-size`, or another volume with `--scratch`";

/// The pod's scratch volume.
pub fn scratch_folder() -> PathBuf {
    std::env::var_os("OCNE_AGENT_SCRATCH").unwrap_or_else(|| SCRATCH.into()).into()
}

/// The sign of life that processes of one pod share.
#[derive(Debug)]
pub struct Heartbeat {
    path: PathBuf,
    touched: Option<Instant>,
}

impl Heartbeat {
    /// The pod's.
    pub fn new() -> Self {
        Self { path: scratch_folder().join("heartbeat"), touched: None }
    }

    /// Says that a client was heard.
    pub fn touch(&mut self) {
        if self.touched.is_none_or(|at| at.elapsed() >= TOUCH_EVERY) {
            // Without it the pod ends too early, which the client sees and says.
            let _ = fs::write(&self.path, b"");
            self.touched = Some(Instant::now());
        }
    }

    /// Returns when no client was heard for so long. To be told to end before that is an error: the kubelet forgets that it
    /// evicted a pod whose program ends well.
    pub fn wait(&mut self, idle_timeout: Duration) -> Result<(), String> {
        // The first process of a pod gets only the signals that it asks for.
        let told = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&told))
            .map_err(|e| format!("cannot listen for signals: {e}"))?;
        self.touch();
        log::info(&format!(
            "waiting for a client, for {} s after the last was heard",
            idle_timeout.as_secs()
        ));
        while !told.load(Ordering::Relaxed) {
            thread::sleep(TICK);
            let age = fs::metadata(&self.path)
                .and_then(|m| m.modified())
                .map(|at| SystemTime::now().duration_since(at).unwrap_or_default())
                .map_err(|e| format!("cannot look at the sign of life: {e}"))?;
            if age >= idle_timeout {
                log::info("no client was heard; this pod ends");
                return Ok(());
            }
        }
        Err("this pod was told to end".to_owned())
    }
}
