//! File systems made by `mkfs.vfat` and filled by mtools.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use ocne_disk::fat::{Fat, FatEntry, FatError};
use ocne_disk::{MemoryDevice, RawDevice};
use support::{Random, have, path, run};

const TOOLS: &[&str] = &["/sbin/mkfs.vfat", "mcopy", "mmd"];

/// A file system with a few files; the large one is fragmented on purpose.
fn volume(dir: &Path, bits: &str, mib: u64, extra: &[&str]) -> (MemoryDevice, Vec<u8>) {
    let (image, big, small) = (dir.join("fat"), dir.join("big"), dir.join("small"));
    let _ = fs_err::remove_file(&image);
    fs_err::File::create(&image).unwrap().set_len(mib << 20).unwrap();
    run(Command::new("mkfs.vfat")
        .args(["-F", bits, "-n", "EFI-SYSTEM", "-i", "1234ABCD"])
        .args(extra)
        .arg(&image));
    let content: Vec<u8> = {
        let mut random = Random(9);
        (0..300_001).map(|_| random.next().to_le_bytes()[0]).collect()
    };
    fs_err::write(&big, &content).unwrap();
    fs_err::write(&small, b"small file\n").unwrap();
    let i = path(&image);
    let copy = |from: &Path, to: &str| run(Command::new("mcopy").args(["-i", i, path(from), to]));
    for d in ["::/EFI", "::/EFI/BOOT", "::/EFI/a rather long name of a folder"] {
        run(Command::new("mmd").args(["-i", i, d]));
    }
    copy(&small, "::/one");
    copy(&big, "::/hole");
    copy(&small, "::/two");
    run(Command::new("mdel").args(["-i", i, "::/hole"]));
    copy(&small, "::/EFI/BOOT/GRUB.CFG");
    copy(&big, "::/EFI/BOOT/BOOTX64.EFI");
    for n in 0..40 {
        copy(
            &small,
            &format!("::/EFI/a rather long name of a folder/File with a long näme, number {n}.conf"),
        );
    }
    (MemoryDevice { bytes: fs_err::read(&image).unwrap() }, content)
}

#[test]
fn every_width_is_read() {
    if !have("every_width_is_read", TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (bits, mib, extra) in [("12", 3, &[][..]), ("16", 20, &[]), ("32", 40, &["-s", "1"])] {
        let (device, content) = volume(dir.path(), bits, mib, extra);
        let fat = Fat::open(&device).unwrap();
        assert_eq!((fat.label(), fat.volume_id()), (Some("EFI-SYSTEM"), 0x1234_abcd), "FAT{bits}");
        let names: BTreeSet<String> = fat.list("/").unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["EFI", "one", "two"].map(String::from).into(), "FAT{bits}");
        assert!(fat.read("efi/boot/bootx64.efi", 1 << 20).unwrap() == content, "FAT{bits}");
        assert_eq!(fat.read("/EFI/BOOT/grub.cfg", 100).unwrap(), b"small file\n");
        let boot = fat.list("EFI/BOOT").unwrap();
        assert!(boot.contains(&FatEntry { name: "BOOTX64.EFI".into(), is_dir: false, size_bytes: 300_001 }));
        assert_eq!(boot.len(), 2, "without `.` and `..`");
        let long = fat.list("/EFI/A RATHER LONG NAME OF A FOLDER/").unwrap();
        assert_eq!(long.len(), 40);
        let file = "EFI/a rather long name of a folder/FILE WITH A LONG NÄME, NUMBER 17.CONF";
        assert_eq!(fat.read(file, 100).unwrap(), b"small file\n");
        assert!(fat.exists("EFI/BOOT").unwrap() && fat.exists(file).unwrap());
        assert!(!fat.exists("EFI/BOOT/nothing").unwrap() && !fat.exists("one/two").unwrap());
        assert!(matches!(fat.read("EFI", 10), Err(FatError::WrongType { .. })));
        assert!(matches!(fat.list("one"), Err(FatError::WrongType { .. })));
        assert!(matches!(
            fat.read("EFI/BOOT/BOOTX64.EFI", 10),
            Err(FatError::TooLarge { size_bytes: 300_001, .. })
        ));
        assert!(matches!(fat.read("nothing", 10), Err(FatError::NotFound { .. })));
    }
}

/// Geometries that mtools cannot fill: large sectors, and FAT32 with fewer clusters than the specification wants.
#[test]
fn unusual_geometries_are_read() {
    if !have("unusual_geometries_are_read", TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("fat");
    for (bits, mib, extra) in [
        ("12", 8, &["-S", "4096"][..]),
        ("16", 64, &["-S", "4096"]),
        ("32", 300, &["-S", "4096"]),
        ("32", 20, &["-s", "8"]),
    ] {
        fs_err::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run(Command::new("mkfs.vfat").args(["-F", bits, "-n", "EMPTY"]).args(extra).arg(&image));
        let fat = Fat::open(RawDevice::open(&image).unwrap()).unwrap();
        assert_eq!((fat.label(), fat.list("").unwrap()), (Some("EMPTY"), vec![]), "FAT{bits} {extra:?}");
    }
}

#[test]
fn circles_and_broken_chains_are_errors() {
    if !have("circles_and_broken_chains_are_errors", TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (good, _) = volume(dir.path(), "16", 20, &[]);
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([good.bytes[at], good.bytes[at + 1]]));
    let table = u16_at(14) * u16_at(11);
    // Every cluster points at the next one in a circle of the same clusters.
    let mut circle = good.clone();
    for cluster in 2..1000_u16 {
        let at = table + usize::from(cluster) * 2;
        circle.bytes[at..at + 2].copy_from_slice(&(2 + (cluster - 1) % 998).to_le_bytes());
    }
    let fat = Fat::open(&circle).unwrap();
    assert!(matches!(fat.read("EFI/BOOT/BOOTX64.EFI", 1 << 20), Err(FatError::Damaged(_))));
    // Every chain ends at once.
    let mut short = good.clone();
    for cluster in 2..1000 {
        short.bytes[table + cluster * 2..][..2].fill(0xff);
    }
    assert!(matches!(
        Fat::open(&short).unwrap().read("EFI/BOOT/BOOTX64.EFI", 1 << 20),
        Err(FatError::Damaged(_))
    ));
    // Every chain leaves the disk.
    let mut out = good.clone();
    for cluster in 2..1000 {
        out.bytes[table + cluster * 2..][..2].copy_from_slice(&0xffef_u16.to_le_bytes());
    }
    assert!(matches!(Fat::open(&out).unwrap().list("EFI"), Err(FatError::Damaged(_))));
}

#[test]
fn any_single_byte_may_be_wrong() {
    if !have("any_single_byte_may_be_wrong", TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut device, _) = volume(dir.path(), "12", 3, &[]);
    let mut random = Random::from_env();
    for _ in 0..4000 {
        let at = usize::try_from(match random.below(3) {
            0 => random.below(512),
            _ => random.below(60_000),
        })
        .unwrap();
        let old = std::mem::replace(&mut device.bytes[at], random.next().to_le_bytes()[0]);
        if let Ok(fat) = Fat::open(&device) {
            for path in ["", "EFI", "EFI/BOOT", "EFI/a rather long name of a folder"] {
                let _ = fat.list(path);
            }
            let _ = fat.read("EFI/BOOT/BOOTX64.EFI", 1 << 20);
        }
        device.bytes[at] = old;
    }
}

#[test]
fn what_is_not_fat_is_refused() {
    for len in [0, 511, 512, 100_000] {
        assert!(matches!(Fat::open(MemoryDevice { bytes: vec![0; len] }), Err(FatError::NotFat(_))));
        assert!(Fat::open(MemoryDevice { bytes: vec![0xff; len] }).is_err());
        let mut signed = vec![0; len];
        if len >= 512 {
            signed[510] = 0x55;
            signed[511] = 0xaa;
            assert!(matches!(Fat::open(MemoryDevice { bytes: signed }), Err(FatError::NotFat(_))));
        }
    }
}
