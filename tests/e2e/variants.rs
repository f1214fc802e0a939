//! The published variants of the boot image: each is converted as the kernel would have done it, or refused with
//! nothing changed.

use libtest_mimic::{Failed, Trial};

use crate::support::{Bench, assert_refused, fixtures, must, text};

const KERNEL_ARGS: &str = "e2e.karg=1 quiet";

#[derive(Clone)]
pub(crate) struct Variant {
    pub name: String,
    pub refuse: bool,
    pub options: String,
}

/// The published variants.
pub(crate) fn all() -> Vec<Variant> {
    let list = fs_err::read_to_string(fixtures().join("ock-variants.txt")).expect("the list of variants");
    list.lines().filter_map(parse).collect()
}

pub fn trials(bench: &Bench) -> Vec<Trial> {
    all().into_iter().map(|v| bench.trial(format!("variant::{}", v.name), &[], move |b| run(b, &v))).collect()
}

/// `NAME EXPECT OPTIONS`; `BOTH "…"` stands for the options of both file systems.
fn parse(line: &str) -> Option<Variant> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (name, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (expect, options) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let mut options = options.trim().to_owned();
    if let Some((before, after)) = options.clone().split_once("BOTH ") {
        let mut quoted = after.splitn(3, '"');
        let (_, opts, tail) = (quoted.next()?, quoted.next()?, quoted.next()?);
        options = format!("{before}--xfs-boot-opts \"{opts}\" --xfs-root-opts \"{opts}\"{tail}");
    }
    if !options.contains("--payload-mib") {
        options.push_str(" --payload-mib 16");
    }
    // A variant marked `either` is converted: none is refused today, so a refusal is a regression.
    Some(Variant { name: name.to_owned(), refuse: expect == "refuse", options })
}

fn run(bench: &Bench, variant: &Variant) -> Result<(), Failed> {
    let mut case = bench.case(&variant.name)?;
    case.make(&variant.options)?;
    let before = must(std::process::Command::new("sha256sum").arg(&case.boot), "sha256sum")?.stdout;
    let out = case.create(&case.archive, &["--kernel-args", KERNEL_ARGS]).output()?;
    let after = must(std::process::Command::new("sha256sum").arg(&case.boot), "sha256sum")?.stdout;
    if before != after {
        return Err("the source was changed".into());
    }
    if variant.refuse {
        return assert_refused(&case, &out);
    }
    if !out.status.success() {
        return Err(format!("{}: {}", out.status, text(&out.stderr)).into());
    }
    let left = case.left_over()?;
    if !left.is_empty() {
        return Err(format!("left over: {left:?}").into());
    }
    case.check(KERNEL_ARGS)
}
