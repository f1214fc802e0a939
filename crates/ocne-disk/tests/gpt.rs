//! Partition tables made by `sgdisk`, and what happens when they are damaged.

mod support;

use std::path::Path;
use std::process::Command;

use ocne_disk::gpt::{self, Guid, TableSource};
use ocne_disk::{BlockDevice as _, MemoryDevice};
use support::{have, path, run};

/// A disk of 64 MiB with three partitions, made by `sgdisk` (sectors of 512 bytes).
fn disk(dir: &Path) -> MemoryDevice {
    let file = dir.join("disk");
    fs_err::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let mut sgdisk = Command::new("sgdisk");
    sgdisk.args(["-o", "-U", "11223344-5566-7788-99AA-BBCCDDEEFF00"]);
    sgdisk.args(["-n", "1:2048:+10M", "-t", "1:ef00", "-c", "1:EFI System"]);
    sgdisk.args(["-n", "2:24576:+20M", "-c", "2:boot", "-n", "3:65536:+30M", "-c", "3:root"]);
    run(sgdisk.arg(path(&file)));
    MemoryDevice { bytes: fs_err::read(file).unwrap() }
}

/// Corrects the checksums of the header at a sector after a change.
fn reseal(disk: &mut MemoryDevice, at: usize) {
    let le = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap());
    let array = usize::try_from(le(&disk.bytes[at + 72..at + 80])).unwrap() * 512;
    let sum = crc32fast::hash(&disk.bytes[array..array + 128 * 128]);
    disk.bytes[at + 88..at + 92].copy_from_slice(&sum.to_le_bytes());
    disk.bytes[at + 16..at + 20].fill(0);
    let sum = crc32fast::hash(&disk.bytes[at..at + 92]);
    disk.bytes[at + 16..at + 20].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_table_of_sgdisk_is_read() {
    if !have("a_table_of_sgdisk_is_read", &["/sbin/sgdisk"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let table = gpt::read(&disk(dir.path())).unwrap();
    assert_eq!(table.problems, Vec::<String>::new());
    assert_eq!((table.source, table.sector_size_bytes), (TableSource::Primary, 512));
    assert_eq!(table.disk_guid.to_string(), "11223344-5566-7788-99aa-bbccddeeff00");
    let seen: Vec<_> =
        table.partitions.iter().map(|p| (p.number, p.name.as_str(), p.start_bytes, p.size_bytes)).collect();
    assert_eq!(
        seen,
        [
            (1, "EFI System", 1 << 20, 10 << 20),
            (2, "boot", 12 << 20, 20 << 20),
            (3, "root", 32 << 20, 30 << 20)
        ]
    );
    assert_eq!(table.partitions[0].type_guid, Guid::EFI_SYSTEM);
}

#[test]
fn the_backup_is_used_and_reported_when_the_primary_is_broken() {
    if !have("the_backup_is_used_and_reported_when_the_primary_is_broken", &["/sbin/sgdisk"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let good = disk(dir.path());
    let expected = gpt::read(&good).unwrap();
    for at in [512, 512 + 16, 512 + 24, 512 + 60, 1024 + 40, 1024 + 128 * 100] {
        let mut bad = good.clone();
        bad.bytes[at] ^= 1;
        let table = gpt::read(&bad).unwrap();
        assert_eq!(table.source, TableSource::Backup, "byte {at}");
        assert_eq!(table.partitions, expected.partitions);
        assert!(table.problems[0].contains("the primary table is broken"), "{:?}", table.problems);
        let last = bad.bytes.len() - 512;
        bad.bytes[last + 17] ^= 1;
        let e = gpt::read(&bad).unwrap_err().to_string();
        assert!(e.contains("primary: ") && e.contains("backup: the checksum"), "{e}");
    }
    let mut bad = good.clone();
    let last = bad.bytes.len() - 512;
    bad.bytes[last + 17] ^= 1;
    let table = gpt::read(&bad).unwrap();
    assert_eq!(table.source, TableSource::Primary);
    assert!(table.problems[0].contains("the backup table is broken"), "{:?}", table.problems);
}

#[test]
fn sizes_and_ranges_that_make_no_sense_are_refused() {
    if !have("sizes_and_ranges_that_make_no_sense_are_refused", &["/sbin/sgdisk"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let good = disk(dir.path());
    // offset in the header or the array, value, a part of the reason
    let cases: &[(usize, u64, &str)] = &[
        (512 + 40, 1, "usable sectors"),
        (512 + 48, u64::MAX, "usable sectors"),
        (512 + 48, 1 << 30, "usable sectors"),
        (1024 + 32, 3, "outside the usable sectors"),
        (1024 + 40, 1 << 40, "outside the usable sectors"),
        (1024 + 40, 24576, "partitions 1 and 2 overlap"),
        (1024 + 128 + 32, 65000 + 2000, "partition 2"),
    ];
    for &(at, value, expected) in cases {
        let mut bad = good.clone();
        bad.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        reseal(&mut bad, 512);
        let table = gpt::read(&bad).unwrap();
        assert_eq!(table.source, TableSource::Backup, "{value} at {at}");
        assert!(table.problems[0].contains(expected), "{value} at {at}: {:?}", table.problems);
    }
    for (at, value, expected) in [
        (512 + 80, u32::MAX, "entries of 128 bytes"),
        (512 + 84, 100, "entries of 100 bytes"),
        (512 + 84, 0, "entries of 0 bytes"),
        (512 + 72, 0, "overlap something else"),
        (512 + 72, 4096, "overlap something else"),
        (512 + 12, 20, "20 bytes"),
        (512 + 8, 7, "revision"),
    ] {
        let mut bad = good.clone();
        bad.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bad.bytes[512 + 16..512 + 20].fill(0);
        let sum = crc32fast::hash(&bad.bytes[512..512 + 92]);
        bad.bytes[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
        let table = gpt::read(&bad).unwrap();
        assert!(table.problems[0].contains(expected), "{value} at {at}: {:?}", table.problems);
    }
}

#[test]
fn the_protective_mbr_is_looked_at() {
    if !have("the_protective_mbr_is_looked_at", &["/sbin/sgdisk"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let good = disk(dir.path());
    let mut bad = good.clone();
    bad.bytes[450] = 0x83;
    assert!(gpt::read(&bad).unwrap().problems[0].contains("does not protect"));
    bad.bytes[510] = 0;
    assert!(gpt::read(&bad).unwrap().problems[0].contains("no protective MBR"));
    let mut hybrid = good;
    hybrid.bytes[466] = 0x83;
    assert!(gpt::read(&hybrid).unwrap().problems[0].contains("hybrid"));
}

#[test]
fn a_grown_disk_and_a_backup_that_differs_are_reported() {
    if !have("a_grown_disk_and_a_backup_that_differs_are_reported", &["/sbin/sgdisk"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let good = disk(dir.path());
    let mut grown = good.clone();
    grown.bytes.resize(65 << 20, 0);
    assert!(gpt::read(&grown).unwrap().problems[0].contains("not at the end of the disk"));
    let mut other = good;
    other.bytes[1024 + 56] = b'X';
    reseal(&mut other, 512);
    let table = gpt::read(&other).unwrap();
    assert_eq!(table.partitions[0].name, "XFI System");
    assert!(table.problems[0].contains("differs"), "{:?}", table.problems);
}

#[test]
fn sectors_of_4096_bytes_are_found() {
    if !have("sectors_of_4096_bytes_are_found", &["/sbin/sgdisk"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // The same table laid out for 4096-byte sectors: header and array move, numbers of sectors stay.
    let small = disk(dir.path());
    let sectors = 64 << 20 >> 9;
    let mut bytes = vec![0; sectors * 4096];
    bytes[..512].copy_from_slice(&small.bytes[..512]);
    bytes[4096..4096 + 512].copy_from_slice(&small.bytes[512..1024]);
    bytes[8192..8192 + 16384].copy_from_slice(&small.bytes[1024..1024 + 16384]);
    let table = gpt::read(&MemoryDevice { bytes }).unwrap();
    assert_eq!((table.source, table.sector_size_bytes), (TableSource::Primary, 4096));
    assert_eq!(table.partitions[0].start_bytes, 2048 * 4096);
    assert!(table.problems[0].contains("backup"), "it was not copied");
}

#[test]
fn disks_without_a_table_say_so() {
    for len in [0, 1, 511, 512, 1024, 4096, 100_000] {
        let device = MemoryDevice { bytes: vec![0; len] };
        assert!(matches!(gpt::read(&device), Err(gpt::GptError::Missing)), "{len} bytes");
        assert_eq!(device.size_bytes(), len as u64);
    }
}
