//! The committed sample, a file system of 32 MiB that has every kind of structure: it is clean, and no damage to it
//! makes reading or the check panic or run on.

mod support;

use ocne_disk::BlockDevice;
use ocne_xfs::{FileType, Volume};
use support::{Counting, Random, make_sample, sample};

#[test]
fn is_clean_and_costs_few_rounds() {
    let image = make_sample::image();
    let device = Counting::new(&image);
    let volume = Volume::open(&device).unwrap();
    let report = volume.check().unwrap();
    assert_eq!(report.problems, []);
    assert!(report.inodes > 80 && report.directories > 4 && report.shared_blocks > 0, "{report:?}");
    let rounds = device.rounds();
    assert!(rounds < 20, "{rounds} rounds");
    // everything is in the cache now: a walk and a second check cost nothing but the window of the log
    walk(&volume);
    let second = volume.with_changes(&std::collections::BTreeMap::new()).unwrap();
    assert!(second.check().unwrap().is_clean());
    let more = device.rounds() - rounds;
    assert!(more <= 1 + content_rounds(), "{more} more rounds");
}

/// The files with content are read one by one, and content is not kept.
fn content_rounds() -> u64 {
    let image = make_sample::image();
    let volume = Volume::open(&image).unwrap();
    walk(&volume)
}

/// Reads everything below the root; returns how many files have content in blocks.
fn walk<D: BlockDevice>(volume: &Volume<D>) -> u64 {
    let mut files = 0;
    let mut todo = vec![volume.superblock().root_inode];
    for _ in 0..1000 {
        let Some(dir) = todo.pop() else { break };
        for e in volume.read_dir(dir).unwrap_or_default() {
            let _ = volume.xattrs(e.ino);
            match volume.inode(e.ino).map(|i| i.file_type()) {
                Ok(FileType::Directory) => todo.push(e.ino),
                Ok(FileType::Symlink) => drop(volume.read_link(e.ino)),
                Ok(FileType::Regular) => {
                    files += 1;
                    let _ = volume.read_file(e.ino, 8 << 20);
                }
                _ => {}
            }
        }
    }
    files
}

#[test]
fn paths_are_resolved() {
    let image = make_sample::image();
    let volume = Volume::open(&image).unwrap();
    let file = volume.resolve(b"/files/small").unwrap();
    assert_eq!(volume.read_file(file, 100).unwrap(), b"content\n");
    assert_eq!(volume.resolve(b"files/link").unwrap(), file);
    assert_eq!(volume.resolve(b"/files/../../files/./absolute").unwrap(), file);
    assert_ne!(volume.resolve_link(b"/files/link").unwrap(), file);
    for (path, wanted) in [
        (&b"/files/none"[..], "does not exist"),
        (b"/files/small/x", "not a directory"),
        (b"/files/loop", "40 symbolic links"),
    ] {
        let error = volume.resolve(path).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    assert!(volume.read_file(file, 7).is_err());
    assert!(volume.inode(u64::MAX).is_err());
}

#[test]
fn damage_never_panics() {
    let clean = make_sample::image();
    let places = sample::structures(&clean.bytes);
    let mut random = Random(42);
    let mut image = clean.clone();
    let mut found = 0;
    for _ in 0..600 {
        let mut undo = Vec::new();
        for _ in 0..=random.below(3) {
            let s = *random.pick(&places);
            let range = s.offset..s.offset + s.len;
            let original = image.bytes[range.clone()].to_vec();
            sample::damage(&mut image.bytes[range.clone()], s.crc_at, random.next(), random.next());
            undo.push((range, original));
        }
        if let Ok(volume) = Volume::open(&image) {
            found += u64::from(!volume.check().unwrap().is_clean());
            walk(&volume);
        }
        for (range, original) in undo.into_iter().rev() {
            image.bytes[range].copy_from_slice(&original);
        }
    }
    assert!(found > 200, "found only {found}");
}

/// Makes the sample: `cargo test -p ocne-xfs --test sample -- --ignored make`, as root.
#[test]
#[ignore = "writes tests/fixtures/sample.xfs-sparse.gz"]
fn make() {
    let dir = tempfile::tempdir().unwrap();
    let options = [
        "--unsupported",
        "-b",
        "size=1024",
        "-m",
        "rmapbt=1",
        "-l",
        "size=6m",
        "-d",
        "agcount=2",
        "-L",
        "sample",
    ];
    let image = support::mkfs(dir.path(), "sample.img", 32, &options);
    let mount = support::Mount::new(&image);
    make_sample::populate(&mount.at);
    drop(mount);
    let (finds, said) = support::repair(&image);
    assert!(!finds, "{said}");
    fs_err::write(make_sample::PATH, make_sample::pack(&fs_err::read(&image).unwrap())).unwrap();
}
