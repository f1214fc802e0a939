//! Converts a qcow2 boot image: `convert-qcow2 IN OUT [--kernel-args TEXT] [--arch NAME] [--olvm]`.
//!
//! A copy is changed in place; the record of the conversion goes to the standard output.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for trying out the library")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use ocne_bootimage::{Architecture, ConvertOptions, ImageKind, Uuid, convert};
use ocne_disk::{BlockWrite, Qcow2};
use ocne_xfs::Timestamp;
use serde_json::json;

fn main() {
    if let Err(e) = run() {
        let mut text = e.to_string();
        let mut source = e.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        eprintln!("{text}");
        std::process::exit(1);
    }
}

/// From the kernel.
fn random_uuid() -> Result<[u8; 16], Box<dyn Error>> {
    let text = fs_err::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(Uuid::parse(text.trim().as_bytes()).ok_or("no UUID")?.0)
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(input), Some(output)) = (arguments.next(), arguments.next()) else {
        return Err("usage: convert-qcow2 IN OUT [--kernel-args TEXT] [--arch NAME] [--olvm]".into());
    };
    let mut options = ConvertOptions {
        kind: ImageKind::Oci,
        ignition_provider: ImageKind::Oci.default_ignition_provider().to_owned(),
        kernel_args: None,
        boot_uuid: random_uuid()?,
        root_uuid: random_uuid()?,
        now: Timestamp { seconds: 1_800_000_000, nanoseconds: 0 },
        seed: 1,
        architecture: None,
        preflight: true,
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--kernel-args" => options.kernel_args = arguments.next(),
            "--arch" => {
                let name = arguments.next().unwrap_or_default();
                options.architecture = Architecture::ALL.into_iter().find(|a| a.name() == name);
            }
            "--olvm" => {
                options.kind = ImageKind::Olvm;
                ImageKind::Olvm.default_ignition_provider().clone_into(&mut options.ignition_provider);
            }
            other => return Err(format!("unknown argument `{other}`").into()),
        }
    }
    let started = Instant::now();
    let mut qcow2 = Qcow2::open(Path::new(&input))?;
    let conversion =
        convert(&qcow2, &options, &|event| eprintln!("{:7.3} s {event:?}", started.elapsed().as_secs_f64()))?;
    for (&at, bytes) in &conversion.changes {
        qcow2.write_at(at, bytes)?;
    }
    let plan = qcow2.plan_commit()?;
    eprintln!("{:7.3} s planned", started.elapsed().as_secs_f64());
    fs_err::copy(&input, &output)?;
    let file = fs_err::OpenOptions::new().read(true).write(true).open(&output)?;
    plan.apply(&file)?;
    let changed_bytes: usize = conversion.changes.values().map(Vec::len).sum();
    let record = json!({
        "architecture": conversion.architecture,
        "filesystems": conversion.filesystems,
        "entries": conversion.entries,
        "files": conversion.files,
        "findings": conversion.findings,
        "changed_bytes": changed_bytes,
    });
    println!("{}", serde_json::to_string_pretty(&record)?);
    Ok(())
}
