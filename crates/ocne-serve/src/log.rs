//! What happens, as JSON lines on standard output. A thread writes them: who starts a container may never read what it
//! says, and a pipe that is full is no reason to stop serving. Then lines are lost, and it is said how many.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::body::{Body as _, Incoming};
use hyper::{Request, Response};
use serde_json::{Value, json};

use crate::body::Content;

/// How many lines wait at most, a quarter of a MiB.
const LINES_MAX: usize = 1024;
/// How long the end waits for them.
const END_WAIT: Duration = Duration::from_secs(1);

/// Writes the lines.
#[derive(Debug, Default)]
pub struct Log {
    /// To the thread that writes, once there is one.
    lines: OnceLock<SyncSender<String>>,
    /// How many wait, or are being written.
    waiting: Arc<AtomicU64>,
    lost: AtomicU64,
}

impl Log {
    /// Has a thread write from now on. It has the user that the caller has.
    pub fn start(&self) {
        let (lines, written) = sync_channel::<String>(LINES_MAX);
        let left = Arc::clone(&self.waiting);
        thread::spawn(move || {
            for line in written {
                write(&line);
                left.fetch_sub(1, Ordering::Release);
            }
        });
        let _ = self.lines.set(lines);
    }

    /// Waits until all is written, if somebody reads it.
    pub fn end(&self) {
        let started = Instant::now();
        while self.waiting.load(Ordering::Acquire) > 0 && started.elapsed() < END_WAIT {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Something to know.
    pub fn note(&self, message: &str) {
        self.line("info", &json!({ "message": message }));
    }

    /// Why it ends.
    pub fn error(&self, message: &str) {
        self.line("error", &json!({ "message": message }));
    }

    /// A request and its answer.
    pub fn request(
        &self,
        request: &Request<Incoming>,
        peer: SocketAddr,
        response: &Response<Content>,
        elapsed: Duration,
    ) {
        self.line(
            "info",
            &json!({
                "remote": peer.ip().to_canonical().to_string(),
                "method": request.method().as_str(),
                "path": request.uri().path(),
                "status": response.status().as_u16(),
                "bytes": response.body().size_hint().exact(),
                "microseconds": u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            }),
        );
    }

    fn line(&self, level: &str, fields: &Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line = json!({ "time": now.as_secs(), "level": level });
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if let (Some(line), Some(fields)) = (line.as_object_mut(), fields.as_object()) {
            line.extend(fields.clone());
            if lost > 0 {
                line.insert("lost_lines".to_owned(), json!(lost));
            }
        }
        let line = format!("{line}\n");
        let Some(lines) = self.lines.get() else { return write(&line) };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if lines.try_send(line).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

fn write(line: &str) {
    // Nobody who reads it is no reason to stop serving.
    let _ = std::io::stdout().write_all(line.as_bytes());
}
