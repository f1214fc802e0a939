//! Images that must not be worked on, and the reason that the user reads.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use ocne_disk::{BlockWrite as _, Qcow2, Qcow2Error};
use support::{assert_clean, have, path, qemu_img, run};

const MIB: usize = 1 << 20;

/// A small image with compressed and plain clusters.
fn image(dir: &Path, options: &str) -> PathBuf {
    let (raw, image) = (dir.join("raw"), dir.join("image.qcow2"));
    let text: Vec<u8> = b"some text; ".iter().copied().cycle().take(MIB).collect();
    fs_err::write(&raw, text).unwrap();
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, path(&raw), path(&image)]);
    run(Command::new("qemu-io").args(["-f", "qcow2", "-c", "write -P 7 0 128k"]).arg(&image));
    image
}

fn reason(image: &Path) -> String {
    match Qcow2::open(image) {
        Ok(_) => panic!("was accepted"),
        Err(e) => {
            assert!(e.hint().is_some() || matches!(e, Qcow2Error::Io { .. }), "{e} has no hint");
            e.to_string()
        }
    }
}

#[test]
fn features_that_are_not_supported_are_refused_by_name() {
    if !have("features_that_are_not_supported_are_refused_by_name", &["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (base, other) = (at("base"), at("other"));
    let create = |options: &[&str]| {
        let _ = fs_err::remove_file(&other);
        qemu_img(&[&["create", "-q", "-f", "qcow2"], options, &[path(&other), "1M"]].concat());
    };
    qemu_img(&["create", "-q", "-f", "qcow2", path(&base), "1M"]);

    create(&["-F", "qcow2", "-b", path(&base)]);
    assert!(reason(&other).contains("a backing file"), "{}", reason(&other));
    create(&["-o", &format!("data_file={}", path(&at("data")))]);
    assert!(reason(&other).contains("an external data file"), "{}", reason(&other));
    create(&["-o", "extended_l2=on"]);
    assert!(reason(&other).contains("subclusters"), "{}", reason(&other));
    // The field alone decides; qemu-img's LUKS images take a key derivation that fails on a busy machine.
    create(&[]);
    let mut encrypted = fs_err::read(&other).unwrap();
    encrypted[32..36].copy_from_slice(&2_u32.to_be_bytes());
    fs_err::write(&other, encrypted).unwrap();
    assert!(reason(&other).contains("LUKS"), "{}", reason(&other));
    create(&[]);
    qemu_img(&["snapshot", "-c", "before", path(&other)]);
    assert!(reason(&other).contains("1 internal snapshots"), "{}", reason(&other));

    fs_err::write(&other, vec![0; MIB]).unwrap();
    assert!(reason(&other).contains("magic"), "{}", reason(&other));
    fs_err::write(&other, b"").unwrap();
    assert!(reason(&other).contains("magic"), "{}", reason(&other));
}

#[test]
fn damaged_headers_and_tables_are_refused() {
    if !have("damaged_headers_and_tables_are_refused", &["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "compat=1.1");
    let good = fs_err::read(&image).unwrap();
    Qcow2::open(&image).unwrap();
    let be64 = |at: usize| u64::from_be_bytes(good[at..at + 8].try_into().unwrap());
    let (l1, refcounts) = (usize::try_from(be64(40)).unwrap(), usize::try_from(be64(48)).unwrap());
    let l2 = usize::try_from(be64(l1) & 0x00ff_ffff_ffff_fe00).unwrap();
    let block = usize::try_from(be64(refcounts)).unwrap();
    let feature_table = good.windows(4).position(|w| w == [0x68, 0x03, 0xf8, 0x57]).unwrap();
    // offset, bytes, a part of the reason
    let cases: &[(usize, &[u8], &str)] = &[
        (4, &[0, 0, 0, 4], "version 4"),
        (20, &[0, 0, 0, 8], "cluster size"),
        (20, &[0, 0, 0, 22], "cluster size"),
        (24, &[0xff; 8], "disk size"),
        (24, &[0, 0, 0, 0xff, 0, 0, 0, 0], "too small for a disk"),
        (32, &[0, 0, 0, 1], "AES"),
        (36, &[0xff; 4], "L1 table has"),
        (40, &[0; 8], "L1 table"),
        (40, &[0, 0, 0, 0, 0, 0, 2, 0], "L1 table"),
        (40, &[0, 0, 0, 1, 0, 0, 0, 0], "L1 table"),
        (40, &good[48..56], "overlaps"),
        (48, &[0x7f; 8], "refcount table"),
        (56, &[0, 0, 0, 0], "refcount table"),
        (56, &[0xff; 4], "refcount table"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 1], "dirty"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 2], "corrupt"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 8], "contradict"),
        (72, &[1, 0, 0, 0, 0, 0, 0, 0], "feature bit 56"),
        (96, &[0, 0, 0, 40], "reference counts of 2^40"),
        (100, &[0, 0, 0, 1], "its own length"),
        (104, &[1], "contradict"),
        (104, &[9], "compression type 9"),
        (feature_table + 4, &[0xff, 0xff, 0xff, 0xff], "extension"),
        (l1, &[0xff; 8], "L1 entry"),
        (l1, &[0x80, 0, 0, 0xff, 0, 0, 0, 0], "cut short"),
        (l1, &[0; 2], "contradicts the reference count"),
        (l2, &[0x80, 0, 0, 0xff, 0, 0, 0, 0], "cut short"),
        (l2, &[0x80, 0, 0, 0, 0, 0, 0x12, 0], "not at a cluster"),
        (l2, &good[l2 + 8..l2 + 16], "overlaps"),
        (l2, &[0x81, 0, 0, 0, 0, 0, 0, 0], "reserved"),
        (l2 + 24, &[0x40, 0, 0, 0xff, 0, 0, 0, 0], "beyond the end"),
        (l2 + 8 * 16, &[0x80, 0, 0, 0, 0, 0, 0, 1], "beyond the end of the disk"),
        (refcounts, &[0; 8], "contradicts the reference count 0"),
        (refcounts, &[0, 0, 0, 0, 0, 0, 0, 1], "refcount table entry"),
        (block, &[0, 0], "reference counts do not add up"),
    ];
    for (at, bytes, expected) in cases {
        let mut bad = good.clone();
        bad[*at..at + bytes.len()].copy_from_slice(bytes);
        fs_err::write(&image, bad).unwrap();
        let reason = match Qcow2::open(&image) {
            Ok(_) => panic!("{bytes:x?} at {at} was accepted, expected: {expected}"),
            Err(e) => e.to_string(),
        };
        assert!(reason.contains(expected), "{bytes:x?} at {at}: `{reason}`, expected: {expected}");
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    if !have("a_file_that_is_cut_anywhere_is_refused", &["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for options in ["cluster_size=4096", "cluster_size=65536"] {
        let image = image(dir.path(), options);
        let good = fs_err::read(&image).unwrap();
        let end = good.iter().rposition(|&b| b != 0).unwrap();
        for len in [end - 600, end / 2, end / 4, 65536, 4096, 512, 104, 100, 71, 30, 3] {
            fs_err::write(&image, &good[..len]).unwrap();
            assert!(Qcow2::open(&image).is_err(), "cut to {len} of {} bytes", good.len());
        }
    }
}

#[test]
fn wrong_reference_counts_are_refused_and_leaks_are_reported() {
    if !have("wrong_reference_counts_are_refused_and_leaks_are_reported", &["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "compat=1.1");
    let good = fs_err::read(&image).unwrap();
    let be64 = |at: usize| u64::from_be_bytes(good[at..at + 8].try_into().unwrap());
    let block = usize::try_from(be64(usize::try_from(be64(48)).unwrap())).unwrap();
    // Where the compressed clusters are: the count is above 1.
    let shared = (0..100).map(|i| block + 2 * i).find(|&at| good[at + 1] > 1).unwrap();

    let mut bad = good.clone();
    bad[shared + 1] -= 1;
    fs_err::write(&image, &bad).unwrap();
    assert!(reason(&image).contains("do not add up"), "{}", reason(&image));

    bad[shared + 1] += 2;
    fs_err::write(&image, &bad).unwrap();
    let mut qcow2 = Qcow2::open(&image).unwrap();
    let check = qcow2.check().unwrap();
    assert_eq!((check.leaked_clusters, check.problems.len()), (1, 1), "{check:?}");
    assert!(check.problems[0].contains("leaked"), "{check:?}");
    qcow2.write_at(0, b"x").unwrap();
    qcow2.plan_commit().unwrap();
    qcow2.write_at(512 << 10, b"x").unwrap();
    let refused = qcow2.plan_commit().unwrap_err().to_string();
    assert!(refused.contains("do not add up"), "a write that touches the wrong count: {refused}");
}

#[test]
fn bitmaps_are_read_past_and_not_written_past() {
    if !have("bitmaps_are_read_past_and_not_written_past", &["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "compat=1.1");
    qemu_img(&["bitmap", "--add", path(&image), "since-backup"]);
    let mut qcow2 = Qcow2::open(&image).unwrap();
    assert!(qcow2.plan_commit().unwrap().phases.is_empty(), "nothing to write is no reason to refuse");
    qcow2.write_at(0, b"x").unwrap();
    let refused = qcow2.plan_commit().unwrap_err().to_string();
    assert!(refused.contains("bitmap") && refused.contains("qemu-img bitmap --remove"), "{refused}");
    qemu_img(&["bitmap", "--remove", path(&image), "since-backup"]);
    let mut qcow2 = Qcow2::open(&image).unwrap();
    qcow2.write_at(0, b"x").unwrap();
    qcow2.plan_commit().unwrap();
}

#[test]
fn unknown_autoclear_bits_are_cleared_before_the_first_change() {
    if !have("unknown_autoclear_bits_are_cleared_before_the_first_change", &["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "compat=1.1");
    let mut bytes = fs_err::read(&image).unwrap();
    bytes[88] = 0x40;
    fs_err::write(&image, &bytes).unwrap();
    let mut qcow2 = Qcow2::open(&image).unwrap();
    assert!(qcow2.plan_commit().unwrap().phases.is_empty(), "an image that is only read keeps its bits");
    qcow2.write_at(0, b"x").unwrap();
    let plan = qcow2.plan_commit().unwrap();
    assert_eq!(plan.phases[0][0].offset_bytes, 88);
    plan.apply(&fs_err::OpenOptions::new().write(true).open(&image).unwrap()).unwrap();
    assert_eq!(fs_err::read(&image).unwrap()[88..96], [0; 8]);
    assert_clean(&image);
}

#[test]
fn a_compressed_cluster_that_is_damaged_is_an_error_where_it_is_read() {
    use ocne_disk::BlockDevice as _;
    if !have("a_compressed_cluster_that_is_damaged_is_an_error_where_it_is_read", &["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for options in ["compat=1.1", "compat=1.1,compression_type=zstd"] {
        let image = image(dir.path(), options);
        let mut bytes = fs_err::read(&image).unwrap();
        let be64 = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let l2 = usize::try_from(be64(usize::try_from(be64(40)).unwrap()) & 0x00ff_ffff_ffff_fe00).unwrap();
        let at = usize::try_from(be64(l2 + 8 * 4) & ((1 << 54) - 1)).unwrap();
        bytes[at..at + 8].fill(0xff);
        fs_err::write(&image, &bytes).unwrap();
        let qcow2 = Qcow2::open(&image).unwrap();
        let mut buffer = [0; 16];
        qcow2.read_at(5 << 16, &mut buffer).unwrap();
        let e = qcow2.read_at(4 << 16, &mut buffer).unwrap_err().to_string();
        assert!(e.contains("damaged at device offset 262144"), "{e}");
        let bad = qcow2.check_content().unwrap();
        assert_eq!(bad.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [4 << 16]);
    }
}
