//! A model of a file system's tree, to compare what an edit should have made with what the kernel sees.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use ocne_disk::RawDevice;
use ocne_xfs::{EditOptions, Timestamp, Volume};

use crate::support::{Mount, repair, run};

/// The time of all edits.
pub const NOW: Timestamp = Timestamp { seconds: 1_800_000_000, nanoseconds: 123_456_789 };

pub fn options(seed: u64) -> EditOptions {
    EditOptions { now: NOW, seed }
}

pub fn open(image: &Path) -> Volume<RawDevice> {
    Volume::open(RawDevice::open(image).unwrap()).unwrap()
}

/// Writes changed ranges to an image.
pub fn apply(image: &Path, changes: &BTreeMap<u64, Vec<u8>>) {
    let file = fs_err::OpenOptions::new().write(true).open(image).unwrap();
    for (&at, bytes) in changes {
        file.file().write_all_at(bytes, at).unwrap();
    }
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub size: u64,
    pub mtime: (i64, i64),
    /// Checksum of the content of a file, or hash of a link's target.
    pub sum: u32,
    /// Value of `security.selinux`.
    pub label: Vec<u8>,
}

/// Paths with inode numbers, and the inodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub paths: BTreeMap<PathBuf, u64>,
    pub nodes: BTreeMap<u64, Node>,
}

impl Model {
    /// What is in a mounted tree.
    pub fn scan(top: &Path) -> Self {
        let mut model = Self::default();
        model.scan_dir(top, top);
        model
    }

    fn scan_dir(&mut self, top: &Path, dir: &Path) {
        for entry in std::iter::once(dir.to_path_buf())
            .filter(|d| d == top)
            .chain(fs_err::read_dir(dir).unwrap().map(|e| e.unwrap().path()))
        {
            let meta = fs_err::symlink_metadata(&entry).unwrap();
            let ino = meta.ino();
            let relative = entry.strip_prefix(top).unwrap().to_path_buf();
            self.paths.insert(relative, ino);
            if meta.is_dir() && entry != top {
                self.scan_dir(top, &entry);
            }
            self.nodes.entry(ino).or_insert_with(|| {
                let content = if meta.is_file() {
                    fs_err::read(&entry).unwrap()
                } else if meta.is_symlink() {
                    fs_err::read_link(&entry).unwrap().as_os_str().as_bytes().to_vec()
                } else {
                    Vec::new()
                };
                let mut label = vec![0; 4096];
                let len = rustix::fs::lgetxattr(&entry, "security.selinux", &mut label).unwrap_or(0);
                label.truncate(len);
                Node {
                    mode: meta.mode(),
                    uid: meta.uid(),
                    gid: meta.gid(),
                    nlink: meta.nlink(),
                    size: if meta.is_dir() { 0 } else { meta.size() },
                    mtime: (meta.mtime(), meta.mtime_nsec()),
                    sum: crc32c::crc32c(&content),
                    label,
                }
            });
        }
    }

    pub fn touch(&mut self, ino: u64) {
        if let Some(n) = self.nodes.get_mut(&ino) {
            n.mtime = (NOW.seconds, NOW.nanoseconds.into());
        }
    }

    /// Fails with the first difference.
    pub fn assert_same(&self, seen: &Self, what: &str) {
        for (path, ino) in &self.paths {
            let found = seen.paths.get(path);
            assert_eq!(found, Some(ino), "{what}: inode of {}", path.display());
            assert_eq!(self.nodes.get(ino), seen.nodes.get(ino), "{what}: {}", path.display());
        }
        for path in seen.paths.keys() {
            assert!(self.paths.contains_key(path), "{what}: {} should not be there", path.display());
        }
    }
}

/// Lines of `xfs_repair -n` that are there when nothing is wrong.
const ROUTINE: [&str; 6] =
    ["Phase", "        - ", "No modify", "Cannot get host", "Repair may fail", "the image and the host"];

/// `xfs_repair -n` finds nothing and says nothing odd.
pub fn assert_repair_clean(image: &Path, what: &str) {
    let (found, text) = repair(image);
    let odd: Vec<&str> = text.lines().filter(|l| !ROUTINE.iter().any(|r| l.starts_with(r))).collect();
    assert!(!found && odd.is_empty(), "{what}: xfs_repair: {odd:#?}");
}

/// The check of this crate finds nothing.
pub fn assert_check_clean(image: &Path, what: &str) {
    let report = open(image).check().unwrap();
    assert!(report.is_clean(), "{what}: {:#?}", report.problems);
}

/// Uses all space and all room for inodes of a mounted file system, then frees it again: the kernel walks and changes
/// all btrees.
pub fn fill_and_empty(top: &Path) {
    let dir = top.join("fill");
    fs_err::create_dir(&dir).unwrap();
    let mut n = 0;
    for shift in (12..=28).rev() {
        loop {
            let path = dir.join(format!("space-{n}"));
            n += 1;
            let file = fs_err::File::create(&path);
            let Ok(file) = file else { break };
            if rustix::fs::fallocate(file.file(), rustix::fs::FallocateFlags::empty(), 0, 1 << shift).is_err()
            {
                break;
            }
        }
    }
    // the last extents are too small for blocks of files that were tried
    while fs_err::write(dir.join(format!("small-{n}")), b"x").is_ok() && n < 20_000 {
        n += 1;
    }
    fs_err::remove_dir_all(&dir).unwrap();
}

/// Mounts, compares with the model, fills and empties, unmounts, and checks again.
pub fn assert_kernel_agrees(image: &Path, model: &Model, what: &str) {
    assert_check_clean(image, what);
    assert_repair_clean(image, what);
    {
        let mount = Mount::new(image);
        model.assert_same(&Model::scan(&mount.at), what);
        fill_and_empty(&mount.at);
        run("sync", &["-f", mount.at.to_str().unwrap()]);
    }
    assert_repair_clean(image, &format!("{what}, used by the kernel"));
    assert_check_clean(image, &format!("{what}, used by the kernel"));
}
