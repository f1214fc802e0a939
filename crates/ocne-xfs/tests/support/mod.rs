//! What the tests share: file systems made by `mkfs.xfs` and filled through the kernel, and what `xfs_repair` says.
#![allow(dead_code, reason = "each test uses a part")]

pub mod make_sample;
pub mod sample;

use std::ffi::CString;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

use ocne_disk::{BlockDevice, DeviceError, ReadRequest};
use rustix::fs::{FallocateFlags, FileType as NodeType, Mode, XattrFlags};

/// A device that counts the rounds of reads.
pub struct Counting<D> {
    device: D,
    rounds: AtomicU64,
}

impl<D: BlockDevice> Counting<D> {
    pub fn new(device: D) -> Self {
        Self { device, rounds: AtomicU64::new(0) }
    }

    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

impl<D: BlockDevice> BlockDevice for Counting<D> {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.device.read_batch(requests)
    }
}

/// Says why a test did nothing.
pub fn skipped(name: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}

/// Runs a command that must succeed.
pub fn run(program: &str, args: &[&str]) -> Output {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// Whether programs can be started.
pub fn has(programs: &[&str]) -> bool {
    programs.iter().all(|p| Command::new(p).arg("-V").output().is_ok())
}

/// Whether this process may attach loop devices and mount.
pub fn can_mount() -> bool {
    rustix::process::geteuid().is_root()
        && has(&["mkfs.xfs", "mount", "umount"])
        && Path::new("/dev/loop-control").exists()
}

/// A sparse file with a new file system.
pub fn mkfs(dir: &Path, name: &str, size_mib: u64, options: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let file = fs_err::File::create(&path).unwrap();
    file.set_len(size_mib << 20).unwrap();
    let mut args = vec!["-q", "-f"];
    args.extend(options);
    args.push(path.to_str().unwrap());
    run("mkfs.xfs", &args);
    path
}

/// A mounted file system, unmounted when dropped.
pub struct Mount {
    pub at: PathBuf,
}

impl Mount {
    pub fn new(image: &Path) -> Self {
        let at = image.with_extension("mnt");
        fs_err::create_dir_all(&at).unwrap();
        run("mount", &["-t", "xfs", "-o", "loop,nouuid", image.to_str().unwrap(), at.to_str().unwrap()]);
        Self { at }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

/// A generator of numbers that is the same every time (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let i = usize::try_from(self.below(list.len() as u64)).unwrap();
        &list[i]
    }
}

fn setxattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, CString::new(name).unwrap().as_c_str(), value, XattrFlags::empty()).unwrap();
}

/// Fills a file system with every form that the kernel gives to files, directories, links and attributes.
pub fn populate(top: &Path, reflink: bool) {
    for (dir, files) in [("short", 3), ("block", 20), ("leaf", 400), ("node", 3000)] {
        let dir = top.join(dir);
        fs_err::create_dir(&dir).unwrap();
        for i in 0..files {
            fs_err::write(dir.join(format!("name-{i:05}-{}", "x".repeat(i % 40))), b"").unwrap();
        }
        // stale entries and holes
        for i in (0..files).step_by(7) {
            fs_err::remove_file(dir.join(format!("name-{i:05}-{}", "x".repeat(i % 40)))).unwrap();
        }
    }
    // a node directory that loses whole data blocks
    let shrunk = top.join("shrunk");
    fs_err::create_dir(&shrunk).unwrap();
    for i in 0..2000 {
        fs_err::write(shrunk.join(format!("a-rather-long-name-of-a-file-{i:05}")), b"").unwrap();
    }
    for i in (200..700).chain(1700..2000) {
        fs_err::remove_file(shrunk.join(format!("a-rather-long-name-of-a-file-{i:05}"))).unwrap();
    }
    let files = top.join("files");
    fs_err::create_dir(&files).unwrap();
    fs_err::write(files.join("small"), b"content\n").unwrap();
    fs_err::write(files.join("large"), vec![7; 3 << 20]).unwrap();
    for (name, pieces) in [("list", 5u64), ("tree", 3000)] {
        let f = fs_err::File::create(files.join(name)).unwrap();
        for i in 0..pieces {
            f.file().write_all_at(b"piece", i * 131_072).unwrap();
        }
    }
    let f = fs_err::File::create(files.join("unwritten")).unwrap();
    rustix::fs::fallocate(f.file(), FallocateFlags::empty(), 0, 1 << 20).unwrap();
    f.file().write_all_at(b"middle", 500_000).unwrap();
    drop(f);
    fs_err::hard_link(files.join("small"), files.join("second-name")).unwrap();
    fs_err::os::unix::fs::symlink("small", files.join("link")).unwrap();
    fs_err::os::unix::fs::symlink("x/".repeat(450), files.join("long-link")).unwrap();
    for (name, kind) in
        [("fifo", NodeType::Fifo), ("char", NodeType::CharacterDevice), ("socket", NodeType::Socket)]
    {
        rustix::fs::mknodat(rustix::fs::CWD, files.join(name), kind, Mode::RUSR, rustix::fs::makedev(1, 3))
            .unwrap();
    }
    if reflink {
        let (large, shared) = (files.join("large"), files.join("shared"));
        run("cp", &["--reflink=always", large.to_str().unwrap(), shared.to_str().unwrap()]);
        let f = fs_err::OpenOptions::new().write(true).open(&shared).unwrap();
        f.file().write_all_at(&[9; 8192], 1 << 20).unwrap();
        drop(f);
        let third = files.join("third");
        run("cp", &["--reflink=always", shared.to_str().unwrap(), third.to_str().unwrap()]);
    }
    let attrs = top.join("attrs");
    fs_err::create_dir(&attrs).unwrap();
    for (name, count, len) in [("few", 1, 20), ("leaf", 12, 100), ("many", 400, 60), ("remote", 2, 20_000)] {
        let path = attrs.join(name);
        fs_err::write(&path, b"x").unwrap();
        for i in 0..count {
            setxattr(&path, &format!("user.attribute-{i}"), &vec![b'v'; len + i]);
            setxattr(&path, &format!("trusted.t{i}"), b"t");
        }
    }
    setxattr(&files.join("long-link"), "trusted.on-a-link", b"value");
    setxattr(&top.join("leaf"), "user.on-a-directory", &[1; 700]);
    // used and free inodes in one chunk, and free space in pieces
    let mixed = top.join("mixed");
    fs_err::create_dir(&mixed).unwrap();
    for i in 0..600 {
        fs_err::write(mixed.join(format!("{i}")), vec![1; 5000]).unwrap();
    }
    for i in (0..600).filter(|i| i % 3 != 0) {
        fs_err::remove_file(mixed.join(format!("{i}"))).unwrap();
    }
}

/// What `xfs_repair -n` says: whether it found something, and all of its output.
pub fn repair(image: &Path) -> (bool, String) {
    let out = Command::new("xfs_repair").args(["-n", "-f"]).arg(image).output().expect("xfs_repair");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (!out.status.success(), text)
}
