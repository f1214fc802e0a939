//! The start of a pod that has a shell only.

use std::fmt::Write as _;
use std::io::Write as _;

use fs_err as fs;
use sha2::{Digest as _, Sha256};

/// Standard input of the pod's first process, a shell that waits for a line.
const FIRST_PROCESS_INPUT: &str = "/proc/1/fd/0";

/// Says on standard output that this program is the one with the digest, if it is, and has the pod's shell start it.
pub fn wake(digest: &str) -> Result<(), String> {
    let program = fs::read("/proc/self/exe").map_err(|e| format!("cannot read this program: {e}"))?;
    let mut found = String::with_capacity(64);
    for byte in Sha256::digest(program) {
        let _ = write!(found, "{byte:02x}");
    }
    if found != digest {
        return Err(format!("this program arrived damaged: its SHA-256 is {found}, not {digest}"));
    }
    fs::OpenOptions::new()
        .write(true)
        .open(FIRST_PROCESS_INPUT)
        .and_then(|mut input| input.write_all(b"\n"))
        .map_err(|e| format!("cannot wake the pod's first process: {e}"))?;
    writeln!(std::io::stdout(), "{found}").map_err(|e| format!("cannot say that it runs: {e}"))
}
