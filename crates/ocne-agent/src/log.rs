//! Lines for the client's log: JSON on standard error.

use std::io::Write as _;

/// Something that went as it should.
pub fn info(message: &str) {
    line("info", message);
}

/// Why this program ends.
pub fn error(message: &str) {
    line("error", message);
}

fn line(level: &str, message: &str) {
    let text = serde_json::json!({ "level": level, "message": message }).to_string();
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "{text}");
}
