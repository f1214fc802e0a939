//! The log after a change of the UUID: mounted, used, stopped in the middle, and recovered by the kernel.

mod edit_support;
mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use edit_support::{apply, assert_check_clean, assert_repair_clean, open, options};
use ocne_xfs::Editor;
use support::{Mount, can_mount, has, mkfs, run, skipped};

const UUID: [u8; 16] = *b"\x11\x11\x11\x11\x22\x22\x33\x33\x44\x44\x55\x55\x55\x55\x55\x55";

fn can_run(name: &str) -> bool {
    let can = can_mount() && has(&["xfs_repair", "xfs_io", "xfs_logprint"]);
    if !can {
        skipped(name, "needs root, loop devices and xfsprogs");
    }
    can
}

fn set_uuid(image: &Path, uuid: [u8; 16]) {
    let volume = open(image);
    let mut editor = Editor::new(&volume, options(3)).unwrap();
    editor.set_uuid(uuid).unwrap();
    apply(image, &editor.finish().unwrap());
}

/// The kernel mounts it, and again after a crash, with what was synced before.
fn assert_log_works(image: &Path, what: &str) {
    let state = run("xfs_logprint", &["-t", image.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&state.stdout).contains("<CLEAN>"), "{what}: {state:?}");
    assert_repair_clean(image, what);
    {
        let mount = Mount::new(image);
        for i in 0..50 {
            fs_err::write(mount.at.join(format!("synced-{i}")), vec![b's'; 9000]).unwrap();
        }
        run("sync", &["-f", mount.at.to_str().unwrap()]);
        fs_err::write(mount.at.join("not-synced"), b"x").unwrap();
        // the log is written, the rest is not
        run("xfs_io", &["-x", "-c", "shutdown -f", mount.at.to_str().unwrap()]);
    }
    assert!(!open(image).check().unwrap().is_clean(), "{what}: the log should be dirty");
    {
        let mount = Mount::new(image);
        for i in 0..50 {
            let content = fs_err::read(mount.at.join(format!("synced-{i}"))).unwrap();
            assert!(content == vec![b's'; 9000], "{what}: synced-{i}");
        }
    }
    assert_repair_clean(image, what);
    assert_check_clean(image, what);
}

/// As `blkid` shows it.
fn shown_uuid(image: &Path) -> String {
    let out = Command::new("blkid").args(["-p", "-o", "value", "-s", "UUID"]).arg(image).output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

#[test]
fn a_changed_uuid_is_mounted_and_recovered() {
    if !can_run("a_changed_uuid_is_mounted_and_recovered") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (i, log) in [&[][..], &["-l", "su=32k"], &["-l", "su=256k"], &["-s", "size=4096"]].iter().enumerate()
    {
        let image = mkfs(dir.path(), &format!("image-{i}"), 320, log);
        let old = open(&image).superblock().uuid;
        set_uuid(&image, UUID);
        assert_eq!(shown_uuid(&image), "11111111-2222-3333-4444-555555555555");
        assert_log_works(&image, &format!("{log:?}"));
        // a second change, and back to what the blocks have
        set_uuid(&image, [7; 16]);
        assert_eq!(open(&image).superblock().meta_uuid, old);
        set_uuid(&image, old);
        assert!(!open(&image).superblock().has_meta_uuid());
        assert_log_works(&image, &format!("{log:?}, first UUID"));
    }
}

/// Makes the log look as if it had been written up to `head` in the cycle 5, the last record being an unmount.
fn move_head(image: &Path, head: u32) {
    let sb = open(image).superblock().clone();
    let start = sb.fsblock_offset_bytes(sb.log_start).unwrap();
    let size = sb.log_blocks * (sb.block_size_bytes / 512);
    let file = fs_err::OpenOptions::new().read(true).write(true).open(image).unwrap();
    let mut record = vec![0; 1024];
    file.file().read_exact_at(&mut record, start).unwrap();
    let mut log = vec![0; size as usize * 512];
    for (i, block) in (0..).zip(log.chunks_exact_mut(512)) {
        block[..4].copy_from_slice(&if i < head { 5u32 } else { 4 }.to_be_bytes());
    }
    let at = head - 2;
    let lsn = u64::from(5u32) << 32 | u64::from(at);
    record[4..8].copy_from_slice(&5u32.to_be_bytes());
    record[16..24].copy_from_slice(&lsn.to_be_bytes());
    record[24..32].copy_from_slice(&lsn.to_be_bytes());
    record[32..36].fill(0);
    record[512..516].copy_from_slice(&5u32.to_be_bytes());
    log[at as usize * 512..][..1024].copy_from_slice(&record);
    file.file().write_all_at(&log, start).unwrap();
}

#[test]
fn the_record_goes_round_the_end_of_the_log() {
    if !can_run("the_record_goes_round_the_end_of_the_log") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for left in [3, 2, 1, 0] {
        let image = mkfs(dir.path(), &format!("image-{left}"), 320, &[]);
        let sb = open(&image).superblock().clone();
        move_head(&image, sb.log_blocks * 8 - left);
        let what = format!("{left} blocks left");
        assert_check_clean(&image, &what);
        set_uuid(&image, UUID);
        assert_check_clean(&image, &what);
        assert_log_works(&image, &what);
    }
}
