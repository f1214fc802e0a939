//! What is read is what the kernel shows, and what the kernel made is clean, for many ways to make a file system.

mod support;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ocne_disk::{BlockDevice, RawDevice};
use ocne_xfs::{FileType, Volume};

/// What is known of a file: mode, owner, links, size, modification time, content or target, attributes.
type Facts = (u16, u32, u32, u32, u64, (i64, i64), Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>);

/// Content that is compared: the files are larger in sparse form.
const MAX_BYTES: u64 = 4 << 20;

fn kernel_attrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let n = rustix::fs::llistxattr(path, &mut names).unwrap();
    names[..n]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65536];
            let n = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(n);
            (name.to_vec(), value)
        })
        .collect()
}

/// Everything below a mounted directory.
fn kernel_tree(top: &Path, dir: &Path, out: &mut BTreeMap<Vec<u8>, Facts>) {
    for e in fs_err::read_dir(dir).unwrap() {
        let path = e.unwrap().path();
        let m = fs_err::symlink_metadata(&path).unwrap();
        let content = if m.is_symlink() {
            fs_err::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else if m.is_file() && m.size() <= MAX_BYTES {
            fs_err::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let size = if m.is_dir() { 0 } else { m.size() };
        let nlink = u32::try_from(m.nlink()).unwrap();
        let mode = u16::try_from(m.mode()).unwrap();
        let name = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
        let time = (m.mtime(), m.mtime_nsec());
        out.insert(name, (mode, m.uid(), m.gid(), nlink, size, time, content, kernel_attrs(&path)));
        if m.is_dir() {
            kernel_tree(top, &path, out);
        }
    }
}

/// The same, read from the image.
fn our_tree<D: BlockDevice>(volume: &Volume<D>) -> BTreeMap<Vec<u8>, Facts> {
    let mut out = BTreeMap::new();
    let mut todo = vec![(Vec::new(), volume.superblock().root_inode)];
    while let Some((dir, ino)) = todo.pop() {
        for e in volume.read_dir(ino).unwrap() {
            let mut path: Vec<u8> = dir.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(&e.name);
            let i = volume.inode(e.ino).unwrap();
            assert_eq!(i.file_type(), e.file_type);
            let content = match e.file_type {
                FileType::Symlink => volume.read_link(e.ino).unwrap(),
                FileType::Regular if i.size_bytes <= MAX_BYTES => volume.read_file(e.ino, MAX_BYTES).unwrap(),
                _ => Vec::new(),
            };
            let attrs = volume
                .xattrs(e.ino)
                .unwrap()
                .into_iter()
                .map(|a| ([a.namespace.prefix().as_bytes(), &a.name].concat(), a.value))
                .collect();
            let size = if e.file_type == FileType::Directory { 0 } else { i.size_bytes };
            let time = (i.mtime.seconds, i64::from(i.mtime.nanoseconds));
            if e.file_type == FileType::Directory {
                todo.push((path.clone(), e.ino));
            }
            out.insert(path, (i.mode, i.uid, i.gid, i.nlink, size, time, content, attrs));
        }
    }
    out
}

#[test]
fn is_what_the_kernel_shows() {
    if !support::can_mount() {
        return support::skipped("is_what_the_kernel_shows", "needs root, loop devices and mkfs.xfs");
    }
    let dir = tempfile::tempdir().unwrap();
    for options in [
        &["-m", "bigtime=0,inobtcount=0"][..],
        &["-m", "rmapbt=1", "-i", "nrext64=1"],
        &["-b", "size=1024", "-n", "size=8192"],
        &["-s", "size=4096", "-i", "size=2048"],
        &["-n", "size=65536", "-m", "finobt=0,inobtcount=0,reflink=0", "-i", "sparse=0"],
        &["-l", "su=32k", "-d", "agcount=2"],
    ] {
        let image = support::mkfs(dir.path(), "image", 320, options);
        let mount = support::Mount::new(&image);
        support::populate(&mount.at, !options.iter().any(|o| o.contains("reflink=0")));
        drop(mount);
        let mount = support::Mount::new(&image);
        let mut wanted = BTreeMap::new();
        kernel_tree(&mount.at, &mount.at, &mut wanted);
        drop(mount);
        let device = RawDevice::open(&image).unwrap();
        let counting = support::Counting::new(&device);
        let volume = Volume::open(&counting).unwrap();
        let report = volume.check().unwrap();
        assert_eq!(report.problems, [], "{options:?}");
        let rounds = counting.rounds();
        assert!(rounds < 20, "{rounds} rounds with {options:?}");
        let found = our_tree(&volume);
        assert_eq!(found.len(), wanted.len());
        for (path, facts) in &wanted {
            assert!(
                found.get(path) == Some(facts),
                "`{}` differs, {options:?}",
                String::from_utf8_lossy(path)
            );
        }
    }
}
