//! What happens, as JSON lines on standard output.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::{Body as _, Incoming};
use hyper::{Request, Response};
use serde_json::{Value, json};

use crate::body::Content;

/// Writes the lines.
#[derive(Debug, Default)]
pub struct Log;

impl Log {
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

    #[expect(clippy::unused_self, reason = "who has no log shall not write one")]
    fn line(&self, level: &str, fields: &Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line = json!({ "time": now.as_secs(), "level": level });
        if let (Some(line), Some(fields)) = (line.as_object_mut(), fields.as_object()) {
            line.extend(fields.clone());
        }
        // Nobody who reads it is no reason to stop serving.
        let _ = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
    }
}
