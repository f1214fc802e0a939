//! The program in a home of its own.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

#[path = "../../../../tests/schema.rs"]
mod schema;

/// An empty home folder.
pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The program with nothing of this machine's environment that it would look at.
    pub fn ocne(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ocne"));
        command.args(arguments).env_clear().env("HOME", self.path()).current_dir(self.path());
        command.env("XDG_RUNTIME_DIR", self.path().join("run"));
        command.stdin(Stdio::null());
        command
    }

    /// Runs the program.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.ocne(arguments))
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        Self::from(command.output().unwrap())
    }

    /// The run's standard output; it has to have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The run's standard error; it has to have ended with this status and without output.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }
}

impl From<Output> for Ran {
    fn from(out: Output) -> Self {
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Self { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The committed boot image, an oci-archive of 1 MB.
pub fn small_image() -> String {
    format!("oci-archive:{}", repository().join("tests/fixtures/ock-small.oci-archive").display())
}

/// Checks a value against `docs/schemas/NAME`.
#[track_caller]
pub fn assert_schema(name: &str, value: &Value) {
    let wrong = schema::wrong_in(name, value);
    assert!(wrong.is_empty(), "{name}: {wrong:#?}\n{value:#}");
}
