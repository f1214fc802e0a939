//! Edits where the structures must change their shape: btrees that split and join, inodes that must be made, directories
//! and files in pieces, shared blocks; and what is refused.

mod edit_support;
mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;

use edit_support::{Model, NOW, Node, apply, assert_kernel_agrees, open, options};
use ocne_disk::RawDevice;
use ocne_xfs::{EditError, Editor, Label, NewInode, Volume, XfsError};
use rustix::fs::FallocateFlags;
use support::{Counting, Mount, can_mount, has, mkfs, run, skipped};

fn can_run(name: &str) -> bool {
    let can = can_mount() && has(&["xfs_repair"]);
    if !can {
        skipped(name, "needs root, loop devices and xfsprogs");
    }
    can
}

const PLAIN: NewInode = NewInode { mode: 0o644, uid: 0, gid: 0, label: Label::None };

fn punch(path: &Path, block: u64, holes: impl Iterator<Item = (u64, u64)>) {
    let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
    for (first, blocks) in holes {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file.file(), flags, first * block, blocks * block).unwrap();
    }
}

/// Leaves free space in pieces of `piece` blocks only.
fn fill_but_pieces(top: &Path, block: u64, piece: u64, count: u64) {
    let all = fs_err::File::create(top.join("all")).unwrap();
    let mut len = 0;
    for shift in (0..30).rev() {
        while rustix::fs::fallocate(all.file(), FallocateFlags::empty(), len, block << shift).is_ok() {
            len += block << shift;
        }
    }
    drop(all);
    punch(&top.join("all"), block, (0..count).map(|i| (8 + 2 * i * piece, piece)));
}

/// Edits an image, with the model; then the kernel looks at it.
fn check_edit(
    image: &Path,
    model: &mut Model,
    what: &str,
    edit: impl FnOnce(&mut Editor<'_, RawDevice>, &mut Model),
) {
    let changes = {
        let volume = open(image);
        let mut editor = Editor::new(&volume, options(7)).unwrap();
        edit(&mut editor, model);
        editor.finish().unwrap_or_else(|e| panic!("{what}: {e}"))
    };
    apply(image, &changes);
    assert_kernel_agrees(image, model, what);
    // the kernel's use of the file system changed the root directory's times
    *model = Model::scan(&Mount::new(image).at);
}

fn create(editor: &mut Editor<'_, RawDevice>, model: &mut Model, dir: &str, name: &str, content: &[u8]) {
    let dir_ino = model.paths[Path::new(dir)];
    let ino = editor.create_file(dir_ino, name.as_bytes(), content, &PLAIN).unwrap();
    model.touch(dir_ino);
    model.paths.insert(Path::new(dir).join(name), ino);
    let node = Node {
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: content.len() as u64,
        mtime: (NOW.seconds, NOW.nanoseconds.into()),
        sum: crc32c::crc32c(content),
        label: Vec::new(),
    };
    assert!(model.nodes.insert(ino, node).is_none(), "inode {ino} is in use");
}

fn unlink(editor: &mut Editor<'_, RawDevice>, model: &mut Model, name: &str) {
    let root = model.paths[Path::new("")];
    editor.unlink(root, name.as_bytes()).unwrap();
    model.touch(root);
    let ino = model.paths.remove(Path::new(name)).unwrap();
    model.nodes.remove(&ino);
}

fn replace(editor: &mut Editor<'_, RawDevice>, model: &mut Model, name: &str, content: &[u8]) {
    let ino = model.paths[Path::new(name)];
    editor.replace_file(ino, content).unwrap();
    model.touch(ino);
    let node = model.nodes.get_mut(&ino).unwrap();
    (node.size, node.sum) = (content.len() as u64, crc32c::crc32c(content));
}

#[test]
fn shared_blocks_in_many_pieces() {
    if !can_run("shared_blocks_in_many_pieces") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (i, (block, mkfs_options)) in [
        (4096, &["-m", "rmapbt=1"][..]),
        (1024, &["-b", "size=1024"]),
        (1024, &["-b", "size=1024", "-m", "rmapbt=1"]),
    ]
    .into_iter()
    .enumerate()
    {
        let image = mkfs(dir.path(), &format!("image-{i}"), 320, mkfs_options);
        let blocks = 6000;
        let mut model = {
            let mount = Mount::new(&image);
            let path = |name: &str| mount.at.join(name).to_str().unwrap().to_owned();
            fs_err::write(path("first"), vec![5; usize::try_from(blocks * block).unwrap()]).unwrap();
            for name in ["second", "third", "fourth"] {
                run("cp", &["--reflink=always", &path("first"), &path(name)]);
            }
            punch(path("second").as_ref(), block, (0..blocks / 3).map(|i| (3 * i, 1)));
            punch(path("third").as_ref(), block, (0..blocks / 5).map(|i| (5 * i, 2)));
            Model::scan(&mount.at)
        };
        let what = format!("{mkfs_options:?}");
        check_edit(&image, &mut model, &what, |e, m| replace(e, m, "second", b"second"));
        check_edit(&image, &mut model, &what, |e, m| {
            unlink(e, m, "first");
            replace(e, m, "fourth", &[4; 10_000]);
        });
        check_edit(&image, &mut model, &what, |e, m| unlink(e, m, "third"));
        assert_eq!(open(&image).check().unwrap().shared_blocks, 0);
    }
}

#[test]
fn no_free_inode_and_space_in_pieces() {
    if !can_run("no_free_inode_and_space_in_pieces") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cases: [(u64, u64, &[&str]); 4] = [
        // parts of chunks need four blocks; only single blocks are free besides
        (4096, 4, &["-m", "rmapbt=1"]),
        (4096, 12, &["-i", "sparse=0"]),
        (1024, 40, &["-b", "size=1024", "-m", "finobt=0,inobtcount=0"]),
        (4096, 4, &["-n", "size=65536"]),
    ];
    for (i, (block, piece, mkfs_options)) in cases.into_iter().enumerate() {
        let what = format!("{mkfs_options:?}");
        let image = mkfs(dir.path(), &format!("image-{i}"), 320, mkfs_options);
        let free = open(&image).superblock().free_inode_count;
        let mut model = {
            let mount = Mount::new(&image);
            // the directory's size changes nothing here: all free inodes are used, or nearly all
            for i in 0..free.saturating_sub(1) {
                fs_err::write(mount.at.join(format!("inode-{i}")), b"").unwrap();
            }
            fill_but_pieces(&mount.at, block, piece, 400);
            Model::scan(&mount.at)
        };
        check_edit(&image, &mut model, &what, |e, m| {
            for i in 0..80 {
                let len = if i % 20 == 3 { 60 * usize::try_from(block).unwrap() } else { 10 };
                create(e, m, "", &format!("new-{i}-{}", "x".repeat(150)), &vec![6; len]);
            }
        });
    }
}

#[test]
fn directories_of_every_form() {
    if !can_run("directories_of_every_form") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cases: [(u64, usize, &[&str]); 3] = [
        // a hash index of three levels, two blocks of the free index
        (1024, 16_000, &["-b", "size=1024", "-n", "size=4096"]),
        (4096, 3000, &["-n", "size=65536"]),
        (1024, 0, &["-b", "size=1024", "-m", "rmapbt=1"]),
    ];
    for (i, (block, names, mkfs_options)) in cases.into_iter().enumerate() {
        let what = format!("{mkfs_options:?}");
        let image = mkfs(dir.path(), &format!("image-{i}"), 320, mkfs_options);
        let mut model = {
            let mount = Mount::new(&image);
            fs_err::create_dir(mount.at.join("d")).unwrap();
            for n in 0..names {
                let name = mount.at.join("d").join(format!("{n:06}"));
                if n == 0 {
                    fs_err::write(&name, b"").unwrap();
                } else {
                    fs_err::os::unix::fs::symlink("t", &name).unwrap();
                }
            }
            if names == 0 {
                fill_but_pieces(&mount.at, block, 1, 3000);
            }
            Model::scan(&mount.at)
        };
        check_edit(&image, &mut model, &what, |e, m| {
            // one by one through short form, block, leaf and node where it starts empty
            let count = if names == 0 { 400 } else { 3 };
            for n in 0..count {
                create(e, m, "d", &format!("{n}-{}", "n".repeat(n % 240)), b"");
            }
        });
        if names == 0 {
            check_edit(&image, &mut model, &what, |e, m| {
                // and back
                let dir_ino = m.paths[Path::new("d")];
                for n in 0..398 {
                    let name = format!("{n}-{}", "n".repeat(n % 240));
                    e.unlink(dir_ino, name.as_bytes()).unwrap();
                    let ino = m.paths.remove(&Path::new("d").join(name)).unwrap();
                    m.nodes.remove(&ino);
                    m.touch(dir_ino);
                }
            });
        }
    }
}

#[test]
fn an_edit_needs_few_rounds() {
    if !can_run("an_edit_needs_few_rounds") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = mkfs(dir.path(), "image", 320, &["-m", "rmapbt=1"]);
    support::populate(&Mount::new(&image).at, true);
    let device = Counting::new(RawDevice::open(&image).unwrap());
    let volume = Volume::open(&device).unwrap();
    let rounds = || device.rounds();
    let mut editor = Editor::new(&volume, options(1)).unwrap();
    let after_check = rounds();
    for path in ["files/small", "files/large", "files/tree", "attrs/many"] {
        editor.replace_file(volume.resolve(path.as_bytes()).unwrap(), &[1; 10_000]).unwrap();
    }
    for path in ["short", "block", "leaf", "node", "attrs"] {
        let dir_ino = volume.resolve(path.as_bytes()).unwrap();
        editor.create_file(dir_ino, b"new", b"content", &PLAIN).unwrap();
        editor.create_dir(dir_ino, b"new-directory", &PLAIN).unwrap();
    }
    let files = volume.resolve(b"files").unwrap();
    for name in ["list", "unwritten", "third", "long-link"] {
        editor.unlink(files, name.as_bytes()).unwrap();
    }
    editor.set_uuid([9; 16]).unwrap();
    editor.finish().unwrap();
    assert!(rounds() <= 40, "{after_check} rounds for the first check, {} in all", rounds());
}

#[test]
fn what_a_directory_gives_to_new_files() {
    if !can_run("what_a_directory_gives_to_new_files") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = mkfs(dir.path(), "image", 320, &[]);
    {
        let mount = Mount::new(&image);
        let set_gid = mount.at.join("set-gid");
        fs_err::create_dir(&set_gid).unwrap();
        fs_err::os::unix::fs::chown(&set_gid, Some(1), Some(4321)).unwrap();
        run("chmod", &["2755", set_gid.to_str().unwrap()]);
        let acl = mount.at.join("default-acl");
        fs_err::create_dir(&acl).unwrap();
        // a default ACL of user::rwx, group::r-x, other::r-x as `system.posix_acl_default` has it
        let mut value = vec![2, 0, 0, 0];
        for (tag, permissions) in [(1u16, 7u16), (4, 5), (32, 5)] {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(u32::MAX.to_le_bytes());
        }
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&acl, "system.posix_acl_default", &value, flags).unwrap();
        fs_err::os::unix::fs::symlink("x", mount.at.join("link")).unwrap();
    }
    let volume = open(&image);
    let mut editor = Editor::new(&volume, options(1)).unwrap();
    let set_gid = volume.resolve(b"/set-gid").unwrap();
    let made = editor.create_dir(set_gid, b"dir", &NewInode { mode: 0o755, ..PLAIN }).unwrap();
    editor.create_file(made, b"file", b"x", &PLAIN).unwrap();
    apply(&image, &editor.finish().unwrap());
    {
        use std::os::unix::fs::MetadataExt;
        let mount = Mount::new(&image);
        let meta = |name: &str| fs_err::metadata(mount.at.join("set-gid").join(name)).unwrap();
        assert_eq!((meta("dir").mode(), meta("dir").gid()), (0o042_755, 4321));
        assert_eq!((meta("dir/file").mode(), meta("dir/file").gid()), (0o100_644, 4321));
        assert_eq!(meta("").nlink(), 3);
    }

    let volume = open(&image);
    let root = volume.superblock().root_inode;
    let fails = |edit: &dyn Fn(&mut Editor<'_, RawDevice>) -> EditError| {
        let mut editor = Editor::new(&volume, options(1)).unwrap();
        let error = edit(&mut editor);
        assert!(matches!(editor.finish(), Err(EditError::FailedBefore)));
        error
    };
    let acl = volume.resolve(b"/default-acl").unwrap();
    let error = fails(&|e| e.create_file(acl, b"file", b"", &PLAIN).unwrap_err());
    assert!(matches!(error, EditError::Unsupported { .. }), "{error}");
    let error = fails(&|e| e.create_file(root, b"link", b"", &PLAIN).unwrap_err());
    assert!(matches!(error, EditError::Exists { .. }), "{error}");
    for name in [&b""[..], b".", b"..", b"a/b", b"nul\0", &[b'n'; 256]] {
        let error = fails(&|e| e.create_file(root, name, b"", &PLAIN).unwrap_err());
        assert!(matches!(error, EditError::InvalidName { .. }), "{error}");
    }
    let error = fails(&|e| e.unlink(root, b"missing").unwrap_err());
    assert!(matches!(error, EditError::Xfs(XfsError::NotFound { .. })), "{error}");
    let error = fails(&|e| e.unlink(root, b"set-gid").unwrap_err());
    assert!(matches!(error, EditError::Xfs(XfsError::WrongKind { .. })), "{error}");
    let link = volume.resolve_link(b"/link").unwrap();
    let error = fails(&|e| e.replace_file(link, b"").unwrap_err());
    assert!(matches!(error, EditError::Xfs(XfsError::WrongKind { .. })), "{error}");
    let error = fails(&|e| e.replace_file(set_gid, b"").unwrap_err());
    assert!(matches!(error, EditError::Xfs(XfsError::WrongKind { .. })), "{error}");
    let file = volume.resolve(b"/set-gid/dir/file").unwrap();
    let error = fails(&|e| e.replace_file(file, &vec![0; 400 << 20]).unwrap_err());
    assert!(matches!(error, EditError::NoSpace { .. }), "{error}");
    let label = NewInode { label: Label::Exact(vec![b'l'; 300]), ..PLAIN };
    let error = fails(&|e| e.create_file(root, b"label", b"", &label).unwrap_err());
    assert!(matches!(error, EditError::TooLarge { .. }), "{error}");

    // damage is refused before anything else
    let bytes = fs_err::read(&image).unwrap();
    let sector = volume.superblock().sector_size_bytes as usize;
    let file = fs_err::OpenOptions::new().write(true).open(&image).unwrap();
    file.file().write_all_at(&[bytes[sector + 55] ^ 1], sector as u64 + 55).unwrap();
    let volume = open(&image);
    assert!(matches!(Editor::new(&volume, options(1)), Err(EditError::NotClean { .. })));
}
