//! Full disks, folders that may not be written, and archives and images with cut ends and flipped bits: a reason,
//! exit status 1, and nothing left behind; never a wrong image.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use libtest_mimic::{Failed, Trial};

use crate::support::{Bench, Case, Random, assert_refused, must, text};

const ROUNDS: u64 = 24;

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial("damage::no_space", &[], no_space),
        bench.trial("damage::folder_not_writable", &[], folder_not_writable),
        bench.trial("damage::archives", &[], archives),
        bench.trial("damage::images", &[], images),
    ]
}

fn prepared(bench: &Bench, name: &str) -> Result<Case, Failed> {
    let mut case = bench.case(name)?;
    case.make("--payload-mib 64")?;
    Ok(case)
}

fn no_space(bench: &Bench) -> Result<(), Failed> {
    let case = prepared(bench, "no_space")?;
    for at in [&case.out, &case.home] {
        must(
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=40m,mode=0777", "tmpfs"]).arg(at),
            "mount",
        )?;
        let out = case.create(&case.archive, &[]).output();
        let big = files_over(at, 1 << 20);
        let judged = out.map_err(Failed::from).and_then(|out| assert_refused(&case, &out));
        must(Command::new("umount").arg(at), "umount")?;
        judged?;
        let big = big?;
        if !big.is_empty() {
            return Err(format!("still in the full folder: {big:?}").into());
        }
    }
    Ok(())
}

fn files_over(dir: &Path, size_bytes: u64) -> Result<Vec<String>, Failed> {
    let (mut todo, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(dir) = todo.pop() {
        for entry in fs_err::read_dir(&dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                todo.push(entry.path());
            } else if meta.len() > size_bytes {
                found.push(entry.path().display().to_string());
            }
        }
    }
    Ok(found)
}

fn folder_not_writable(bench: &Bench) -> Result<(), Failed> {
    let case = prepared(bench, "folder_not_writable")?;
    chown(&case.out, Some(0), Some(0))?;
    fs_err::set_permissions(&case.out, PermissionsExt::from_mode(0o755))?;
    let out = case.create(&case.archive, &[]).output()?;
    assert_refused(&case, &out)
}

fn archives(bench: &Bench) -> Result<(), Failed> {
    let case = prepared(bench, "archives")?;
    let whole = fs_err::read(&case.archive)?;
    let bad_path = case.dir.join("bad.oci-archive");
    let mut random = Random::new(2);
    for round in 0..ROUNDS {
        let mut bad = whole.clone();
        let at = usize::try_from(random.below(whole.len() as u64))?;
        let how = if round % 3 == 0 {
            bad.truncate(at.max(1));
            format!("cut to {at} bytes")
        } else {
            bad[at] ^= 1 << random.below(8);
            format!("a bit flipped at {at}")
        };
        fs_err::write(&bad_path, &bad)?;
        case.fresh()?;
        let out = case.create(&bad_path, &[]).output()?;
        // What is not refused did no harm: padding, times, names that nobody reads.
        let judged = if out.status.success() { case.check("") } else { assert_refused(&case, &out) };
        judged.map_err(|e| format!("{how}: {}", e.message().unwrap_or_default()))?;
    }
    Ok(())
}

fn images(bench: &Bench) -> Result<(), Failed> {
    let case = prepared(bench, "images")?;
    let whole = fs_err::read(&case.boot)?;
    let bad_path = case.dir.join("bad.qcow2");
    let mut random = Random::new(3);
    for round in 0..ROUNDS {
        let mut bad = whole.clone();
        let how = if round % 4 == 0 {
            let at = usize::try_from(random.below(whole.len() as u64))?;
            bad.truncate(at.max(1));
            format!("cut to {at} bytes")
        } else {
            // The header, the refcount table and the L1 and L2 tables are where it hurts.
            let end = [512, 1 << 17, 1 << 19][usize::try_from(round % 3)?].min(whole.len() as u64);
            let at = usize::try_from(random.below(end))?;
            bad[at] = bad[at].wrapping_add(1 + u8::try_from(random.below(255))?);
            format!("byte {at} changed")
        };
        fs_err::write(&bad_path, &bad)?;
        case.fresh()?;
        let out = case.create(&bad_path, &[]).output()?;
        if out.status.success() {
            // A name in the feature table may change without harm, and a bit of data is not ours to know; but what
            // comes out must be sound.
            if how.starts_with("cut") {
                return Err(format!("{how}: converted").into());
            }
            let check = Command::new("qemu-img").args(["check", "-q"]).arg(&bad_path).status()?;
            if check.success() {
                must(Command::new("qemu-img").args(["check", "-q"]).arg(case.result()), &how)?;
            }
        } else {
            assert_refused(&case, &out)
                .map_err(|e| format!("{how}: {}: {}", e.message().unwrap_or_default(), text(&out.stderr)))?;
        }
    }
    Ok(())
}
