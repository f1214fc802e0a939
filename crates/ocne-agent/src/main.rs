//! The program in the builder pod.
//!
//! `ocne-agent wait` is the pod's first process: it keeps the pod alive as long as a client is heard, and ends it
//! after that. `ocne-agent session` is started by a client through exec, speaks the transfer protocol on standard
//! input and output, and converts. `ocne-agent wake SHA256` is run after the program itself was brought into a pod that has a
//! shell only: it proves its digest, and has the shell start `wait`. Standard error has JSON lines for the client's log.

mod heartbeat;
mod image_file;
mod log;
mod ostree;
mod pull;
mod session;
mod wake;

use std::process::ExitCode;
use std::time::Duration;

use heartbeat::Heartbeat;

/// How long the pod stays without a client, unless told otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);
const USAGE: &str = "usage: ocne-agent wait [--idle-timeout SECONDS] | session | wake SHA256 | version";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["wait"] => Heartbeat::new().wait(IDLE_TIMEOUT),
        ["wait", "--idle-timeout", seconds] => match seconds.parse() {
            Ok(seconds) => Heartbeat::new().wait(Duration::from_secs(seconds)),
            Err(_) => Err(format!("`{seconds}` is no number of seconds")),
        },
        ["session"] => session::run(),
        ["wake", digest] => wake::wake(digest),
        ["version"] => {
            log::info(&format!("ocne-agent {}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        _ => {
            log::error(USAGE);
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            log::error(&message);
            ExitCode::FAILURE
        }
    }
}
