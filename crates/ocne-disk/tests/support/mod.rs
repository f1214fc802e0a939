//! What the tests of this crate share: QEMU's tools as oracle, and reproducible random content.

#![expect(clippy::print_stderr, reason = "what is skipped and which seed is used has to be seen")]
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::path::Path;
use std::process::{Command, Output};

/// Whether a tool is there; says so when a test is skipped for the lack of it.
pub fn have(test: &str, tools: &[&str]) -> bool {
    for tool in tools {
        if Command::new(tool).arg("--version").output().is_err() {
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("SKIPPED {test}: {tool} is not installed\n"),
            );
            return false;
        }
    }
    true
}

pub fn run(command: &mut Command) -> Output {
    let output = command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub fn qemu_img(args: &[&str]) -> Output {
    run(Command::new("qemu-img").args(args))
}

/// `qemu-img check`: neither errors nor leaks.
pub fn assert_clean(image: &Path) {
    qemu_img(&["check", "-q", "-f", "qcow2", path(image)]);
}

/// `qemu-img compare` with a raw file.
pub fn assert_same(raw: &Path, image: &Path) {
    qemu_img(&["compare", "-q", "-f", "raw", "-F", "qcow2", path(raw), path(image)]);
}

pub fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

/// splitmix64: the same numbers for the same seed.
pub struct Random(pub u64);

impl Random {
    /// Seeded by `OCNE_TEST_SEED` or a fixed number; the seed is printed, and shown when a test fails.
    pub fn from_env() -> Self {
        let seed = std::env::var("OCNE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_121);
        eprintln!("OCNE_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    /// Bytes that compress well, badly, hardly at all, or are all the same or zero.
    pub fn content(&mut self, len: usize) -> Vec<u8> {
        let kind = self.below(6);
        let text = format!("line {} of some text; ", self.next());
        (0..len)
            .map(|i| match kind {
                0 => 0,
                1 => 0xa5,
                2 => text.as_bytes()[i % text.len()],
                3 => self.next().to_le_bytes()[0] & 0x0f,
                // nearly incompressible: compressed, it ends close to the end of its cluster
                4 if i % 16 == 0 => 0,
                _ => self.next().to_le_bytes()[0],
            })
            .collect()
    }
}
