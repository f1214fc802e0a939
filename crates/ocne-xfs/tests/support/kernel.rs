//! What the kernel and `xfs_repair` say of a file system after it was edited.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use ocne_disk::RawDevice;
use ocne_xfs::Volume;
use rustix::fs::FallocateFlags;

use super::{Mount, run};

/// What `xfs_repair -n` prints of a file system in order.
const ROUTINE: [&str; 3] = ["Phase ", "        - ", "No modify flag set"];
/// What it says of any image in a file.
const ROUTINE_OF_FILES: [&str; 3] = ["Cannot get host filesystem geometry", "Repair may fail", "the image and the host"];

/// Writes changes to an image.
pub fn apply(image: &Path, changes: &BTreeMap<u64, Vec<u8>>) {
    let file = fs_err::OpenOptions::new().write(true).open(image).unwrap();
    for (&at, bytes) in changes {
        file.file().write_all_at(bytes, at).unwrap();
    }
}

/// Neither our check nor `xfs_repair -n` has anything to say.
pub fn assert_clean(image: &Path, when: &str) {
    let report = Volume::open(RawDevice::open(image).unwrap()).unwrap().check().unwrap();
    assert_eq!(report.problems, [], "{when}");
    let out = Command::new("xfs_repair").args(["-n", "-f", "-o", "force_geometry"]).arg(image).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let odd: Vec<&str> = text
        .lines()
        .filter(|l| !l.is_empty() && !ROUTINE.iter().chain(&ROUTINE_OF_FILES).any(|r| l.starts_with(r)))
        .collect();
    assert!(out.status.success() && odd.is_empty(), "{when}: xfs_repair says\n{}", odd.join("\n"));
}

/// Mounts, does something, unmounts; the kernel must not complain meanwhile.
pub fn while_mounted<T>(image: &Path, when: &str, work: impl FnOnce(&Path) -> T) -> T {
    let log = || String::from_utf8_lossy(&run("dmesg", &[]).stdout).into_owned();
    let last = log().lines().last().unwrap_or_default().to_owned();
    let mount = Mount::new(image);
    let mounts = fs_err::read_to_string("/proc/mounts").unwrap();
    let at = mount.at.to_str().unwrap();
    let device = mounts.lines().find(|l| l.split(' ').nth(1) == Some(at)).and_then(|l| l.split(' ').next()).unwrap();
    let name = format!("({})", device.trim_start_matches("/dev/"));
    let result = work(&mount.at);
    drop(mount);
    let log = log();
    let new = log.lines().skip_while(|l| **l != last).filter(|l| l.contains(&name));
    let routine = ["Mounting V5", "Ending clean mount", "Unmounting", "supports timestamps", "EXPERIMENTAL", "deprecated"];
    let mut odd = String::new();
    for l in new.filter(|l| !routine.iter().any(|r| l.contains(r))) {
        let _ = writeln!(odd, "{l}");
    }
    assert!(odd.is_empty(), "{when}: the kernel says\n{odd}");
    result
}

/// Uses every btree of a mounted file system: directories and inodes, then all free space down to the last block.
pub fn use_hard(top: &Path, dirs: &[std::path::PathBuf]) {
    let name = |i: usize| format!("check-{i:03}-{}", "n".repeat(i % 40));
    for d in dirs {
        for i in 0..120 {
            if fs_err::write(d.join(name(i)), vec![b'x'; i * 37]).is_err() {
                break;
            }
        }
        for i in (0..120).step_by(2) {
            let _ = fs_err::remove_file(d.join(name(i)));
        }
    }
    let fill = top.join("check-fill");
    if fs_err::create_dir(&fill).is_ok() {
        let (mut n, mut size) = (0, 256u64 << 20);
        while size >= 1024 && n < 3000 {
            let path = fill.join(format!("{n}"));
            let Ok(f) = fs_err::File::create(&path) else { break };
            if rustix::fs::fallocate(f.file(), FallocateFlags::empty(), 0, size).is_ok() {
                n += 1;
            } else {
                drop(f);
                fs_err::remove_file(&path).unwrap();
                size /= 2;
            }
        }
        rustix::fs::sync();
        fs_err::remove_dir_all(&fill).unwrap();
    }
    for d in dirs {
        for i in (1..120).step_by(2) {
            let _ = fs_err::remove_file(d.join(name(i)));
        }
    }
}
