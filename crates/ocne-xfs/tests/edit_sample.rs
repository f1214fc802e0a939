//! Random edits of the sample file system in memory: an ordinary user can run it.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use ocne_disk::{BlockWrite, MemoryDevice};
use ocne_xfs::{EditOptions, Editor, FileType, Label, NewInode, Timestamp, Volume};
use support::{Random, make_sample};

/// A name: its directory and itself.
type Name = (u64, Vec<u8>);

/// All names below a directory, with their inodes and what they are.
fn walk(volume: &Volume<&MemoryDevice>, dir: u64, names: &mut BTreeMap<Name, (u64, FileType)>) {
    for e in volume.read_dir(dir).unwrap() {
        names.insert((dir, e.name), (e.ino, e.file_type));
        if e.file_type == FileType::Directory {
            walk(volume, e.ino, names);
        }
    }
}

#[test]
fn random_edits_of_the_sample_are_clean() {
    let mut device = make_sample::image();
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    for round in 0..12 {
        let changes = {
            let volume = Volume::open(&device).unwrap();
            let mut names = BTreeMap::new();
            let root = volume.superblock().root_inode;
            walk(&volume, root, &mut names);
            let mut contents: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            let now = Timestamp { seconds: 1_800_000_000 + round, nanoseconds: 5 };
            let mut editor = Editor::new(&volume, EditOptions { now, seed: random.next() }).unwrap();
            for _ in 0..25 {
                let list: Vec<(Name, (u64, FileType))> = names.iter().map(|(k, v)| (k.clone(), *v)).collect();
                let mut dirs: Vec<u64> =
                    list.iter().filter(|(_, v)| v.1 == FileType::Directory).map(|(_, v)| v.0).collect();
                dirs.push(root);
                let others: Vec<&(Name, (u64, FileType))> =
                    list.iter().filter(|(_, v)| v.1 != FileType::Directory).collect();
                let len = usize::try_from(random.below(40_000)).unwrap();
                let content = vec![u8::try_from(random.below(256)).unwrap(); len];
                let new =
                    NewInode { mode: 0o600, uid: 1, gid: 2, label: Label::Exact(b"a:b:c:s0\0".to_vec()) };
                let name = format!("{}-{}", random.next(), "x".repeat(len % 180)).into_bytes();
                match random.below(5) {
                    0 | 1 => {
                        let dir = *random.pick(&dirs);
                        let ino = editor.create_file(dir, &name, &content, &new).unwrap();
                        names.insert((dir, name), (ino, FileType::Regular));
                        contents.insert(ino, content);
                    }
                    2 => {
                        let dir = *random.pick(&dirs);
                        let ino = editor.create_dir(dir, &name, &new).unwrap();
                        names.insert((dir, name), (ino, FileType::Directory));
                    }
                    3 if !others.is_empty() => {
                        let ((dir, name), _) = random.pick(&others);
                        editor.unlink(*dir, name).unwrap();
                        names.remove(&(*dir, name.clone()));
                    }
                    _ => {
                        let files: Vec<u64> =
                            others.iter().filter(|o| o.1.1 == FileType::Regular).map(|o| o.1.0).collect();
                        if !files.is_empty() {
                            let ino = *random.pick(&files);
                            editor.replace_file(ino, &content).unwrap();
                            contents.insert(ino, content);
                        }
                    }
                }
            }
            editor.set_uuid(u128::from(random.next()).to_be_bytes()).unwrap();
            let changes = editor.finish().unwrap();
            let after = volume.with_changes(&changes).unwrap();
            let mut found = BTreeSet::new();
            for ((dir, name), (ino, _)) in &names {
                assert!(after.read_dir(*dir).unwrap().iter().any(|e| e.name == *name && e.ino == *ino));
                found.insert(*ino);
            }
            for (ino, content) in contents.iter().filter(|(ino, _)| found.contains(ino)) {
                assert!(after.read_file(*ino, 1 << 20).unwrap() == *content, "content of inode {ino}");
            }
            changes
        };
        for (at, bytes) in changes {
            device.write_at(at, &bytes).unwrap();
        }
    }
    assert!(Volume::open(&device).unwrap().check().unwrap().is_clean());
}

/// The same seed and time give the same bytes.
#[test]
fn edits_are_deterministic() {
    let device = make_sample::image();
    let edit = || {
        let volume = Volume::open(&device).unwrap();
        let now = Timestamp { seconds: 1_800_000_000, nanoseconds: 0 };
        let mut editor = Editor::new(&volume, EditOptions { now, seed: 11 }).unwrap();
        let new = NewInode { mode: 0o600, uid: 0, gid: 0, label: Label::Inherit };
        let root = volume.superblock().root_inode;
        editor.create_file(root, b"new", b"content", &new).unwrap();
        editor.set_uuid([3; 16]).unwrap();
        editor.finish().unwrap()
    };
    assert_eq!(edit(), edit());
}
