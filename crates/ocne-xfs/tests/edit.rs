//! Random edits of file systems that the kernel made, against a model and against the kernel.

mod edit_support;
mod support;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use edit_support::{Model, NOW, Node, apply, assert_kernel_agrees, open, options};
use ocne_xfs::{Editor, Label, NewInode};
use rustix::fs::FallocateFlags;
use support::{Mount, Random, can_mount, has, mkfs, populate, skipped};

/// Ways to make a file system, and its size in MiB.
const VARIANTS: &[(u64, &[&str])] = &[
    (320, &[]),
    (320, &["-m", "rmapbt=1"]),
    (320, &["-b", "size=1024", "-m", "rmapbt=1"]),
    (320, &["-n", "size=65536", "-m", "rmapbt=1", "-d", "agcount=9", "--unsupported"]),
    (320, &["-i", "size=2048,nrext64=1", "-s", "size=4096"]),
    (320, &["-m", "finobt=0,inobtcount=0,reflink=0,bigtime=0", "-i", "sparse=0"]),
    (320, &["-b", "size=2048", "-n", "size=8192", "-d", "agcount=20", "--unsupported"]),
    (320, &["-b", "size=1024", "-m", "finobt=0,reflink=0,bigtime=0", "-d", "agcount=2"]),
];

/// Pieces of free space between the blocks of one file.
fn fragment(top: &Path, block: u64, count: u64) {
    let file = fs_err::File::create(top.join("fragments")).unwrap();
    rustix::fs::fallocate(file.file(), FallocateFlags::empty(), 0, 2 * count * block).unwrap();
    for i in 0..count {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file.file(), flags, 2 * i * block, block).unwrap();
    }
}

fn content(random: &mut Random, len: u64) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(len).unwrap()];
    for piece in out.chunks_mut(8) {
        let n = random.next().to_le_bytes();
        piece.copy_from_slice(&n[..piece.len()]);
    }
    out
}

fn length(random: &mut Random) -> u64 {
    let max = *random.pick(&[1, 100, 5000, 5000, 100_000, 3_000_000]);
    random.below(max)
}

/// One random edit, of the file system and of the model.
fn edit(editor: &mut Editor<'_, ocne_disk::RawDevice>, model: &mut Model, random: &mut Random) {
    let is_dir = |model: &Model, ino: &u64| model.nodes[ino].mode & 0o170_000 == 0o040_000;
    let list = |dirs: bool| -> Vec<(PathBuf, u64)> {
        let of_kind = model.paths.iter().filter(|(_, ino)| is_dir(model, ino) == dirs);
        of_kind.map(|(p, &ino)| (p.clone(), ino)).collect()
    };
    let what = random.below(10);
    if what < 5 {
        let (dir, dir_ino) = random.pick(&list(true)).clone();
        let (short, long) = (random.below(12) + 1, random.below(230) + 1);
        let name_len = usize::try_from(*random.pick(&[short, short, long])).unwrap();
        let name = format!("{}{}", random.next(), "n".repeat(name_len));
        let is_new_dir = what == 4;
        let parent = model.nodes[&dir_ino].clone();
        let label = match random.below(3) {
            0 => Label::None,
            1 => Label::Exact(b"system_u:object_r:etc_t:s0\0".to_vec()),
            _ => Label::Inherit,
        };
        let stored = match &label {
            Label::None => Vec::new(),
            Label::Exact(v) => v.clone(),
            Label::Inherit => parent.label,
        };
        let new = NewInode { mode: 0o640, uid: 1000, gid: 70_000, label };
        let bytes = if is_new_dir {
            Vec::new()
        } else {
            let n = length(random);
            content(random, n)
        };
        let ino = if is_new_dir {
            editor.create_dir(dir_ino, name.as_bytes(), &new).unwrap()
        } else {
            editor.create_file(dir_ino, name.as_bytes(), &bytes, &new).unwrap()
        };
        if is_new_dir {
            model.nodes.get_mut(&dir_ino).unwrap().nlink += 1;
        }
        model.touch(dir_ino);
        model.paths.insert(dir.join(name), ino);
        let node = Node {
            mode: 0o640 | if is_new_dir { 0o040_000 } else { 0o100_000 },
            uid: 1000,
            gid: 70_000,
            nlink: if is_new_dir { 2 } else { 1 },
            size: bytes.len() as u64,
            mtime: (NOW.seconds, NOW.nanoseconds.into()),
            sum: crc32c::crc32c(&bytes),
            label: stored,
        };
        assert!(model.nodes.insert(ino, node).is_none(), "inode {ino} is in use");
    } else if what < 8 {
        let files = list(false);
        if files.is_empty() {
            return;
        }
        let (path, ino) = random.pick(&files).clone();
        let dir = model.paths[path.parent().unwrap()];
        editor.unlink(dir, path.file_name().unwrap().as_bytes()).unwrap();
        model.touch(dir);
        model.paths.remove(&path);
        let node = model.nodes.get_mut(&ino).unwrap();
        node.nlink -= 1;
        if node.nlink == 0 {
            model.nodes.remove(&ino);
        }
    } else {
        let regular = |ino: &u64| model.nodes[ino].mode & 0o170_000 == 0o100_000;
        let files: Vec<u64> = list(false).into_iter().map(|(_, ino)| ino).filter(regular).collect();
        if files.is_empty() {
            return;
        }
        let ino = *random.pick(&files);
        let n = length(random);
        let bytes = content(random, n);
        editor.replace_file(ino, &bytes).unwrap();
        model.touch(ino);
        let node = model.nodes.get_mut(&ino).unwrap();
        (node.size, node.sum) = (n, crc32c::crc32c(&bytes));
    }
}

/// A file system of one kind, some rounds of edits, and what the kernel makes of it.
fn random_edits(variant: usize, seed: u64, rounds: u64, edits: u64) {
    let (size_mib, mkfs_options) = VARIANTS[variant];
    let what = format!("variant {variant} {mkfs_options:?} seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let image = mkfs(dir.path(), "image", size_mib, mkfs_options);
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut model = {
        let mount = Mount::new(&image);
        populate(&mount.at, !mkfs_options.iter().any(|o| o.contains("reflink=0")));
        let space = rustix::fs::statvfs(&mount.at).unwrap();
        let pieces = random.below(space.f_bavail / 3).min(12_000);
        fragment(&mount.at, space.f_bsize, pieces);
        rustix::fs::setxattr(
            mount.at.join("block"),
            "security.selinux",
            b"system_u:object_r:usr_t:s0\0",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        Model::scan(&mount.at)
    };
    for round in 0..rounds {
        let changes = {
            let volume = open(&image);
            let mut editor = Editor::new(&volume, options(random.next())).unwrap();
            for _ in 0..edits {
                edit(&mut editor, &mut model, &mut random);
            }
            if round == 1 {
                editor.set_uuid(u128::from(random.next()).to_be_bytes()).unwrap();
            }
            editor.finish().unwrap_or_else(|e| panic!("{what}: {e}"))
        };
        apply(&image, &changes);
        assert_kernel_agrees(&image, &model, &format!("{what} round {round}"));
        // the kernel's use of the file system changed the root directory's times
        let mount = Mount::new(&image);
        model = Model::scan(&mount.at);
    }
}

#[test]
fn random_edits_are_what_the_kernel_sees() {
    if !can_mount() || !has(&["xfs_repair"]) {
        return skipped("random_edits_are_what_the_kernel_sees", "needs root, loop devices and xfsprogs");
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let first = number("XFS_EDIT_SEED").unwrap_or(1);
    let runs = number("XFS_EDIT_RUNS").unwrap_or(2);
    for seed in first..first + runs {
        let variant = usize::try_from(seed).unwrap() % VARIANTS.len();
        random_edits(variant, seed, 2, number("XFS_EDIT_EDITS").unwrap_or(40));
    }
}
