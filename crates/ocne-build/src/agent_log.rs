//! What an agent says on standard error, for the log: lines of JSON, or the words of whatever runs instead of it.

use tracing::debug;

/// No line is longer; the rest of it is dropped.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Bytes as they come, made into lines. Nothing that comes takes more memory than one line.
#[derive(Debug, Default)]
pub struct AgentLog {
    line: Vec<u8>,
}

impl AgentLog {
    /// Takes the next bytes, and logs the lines that they end.
    pub fn take(&mut self, bytes: &[u8]) {
        for message in self.messages(bytes) {
            debug!("in the pod: {message}");
        }
    }

    fn messages(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut messages = Vec::new();
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            let (content, ended) = match part.split_last() {
                Some((b'\n', content)) => (content, true),
                _ => (part, false),
            };
            let room = LINE_BYTES_MAX - self.line.len();
            self.line.extend_from_slice(&content[..content.len().min(room)]);
            if ended {
                messages.push(message(&self.line));
                self.line.clear();
            }
        }
        messages
    }
}

fn message(line: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(line).ok();
    match parsed.as_ref().and_then(|value| value["message"].as_str()) {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(line).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_pieces() {
        let mut log = AgentLog::default();
        assert!(log.messages(b"{\"level\":\"info\",\"mess").is_empty());
        assert_eq!(log.messages("age\":\"\u{fc}ber\"}\nsh: no".as_bytes()), ["\u{fc}ber"]);
        assert_eq!(log.messages(b"t found\n\n"), ["sh: not found", ""]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut log = AgentLog::default();
        // Three bytes a character: no limit falls between two of them everywhere.
        let endless = "\u{20ac}".repeat(10_000);
        for _ in 0..10 {
            assert!(log.messages(endless.as_bytes()).is_empty());
            assert!(log.line.len() <= LINE_BYTES_MAX);
        }
        assert_eq!(log.messages(b"\nnext\n").len(), 2);
    }
}
