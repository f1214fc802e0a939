//! A tree of files as the kernel shows it, or as edits should make it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ocne_disk::BlockDevice;
use ocne_xfs::{EditError, Editor, Label, NewInode, Timestamp};

use super::Random;

/// What a file is and what it holds. Times are kept where an edit sets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    /// Length and checksum of a file's content or a link's target; directories have none.
    pub content: (u64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub mtime: (i64, i64),
    pub ctime: (i64, i64),
}

impl Node {
    pub fn is_dir(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
    pub fn is_file(&self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }
}

/// Names and inodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// Inode number of each path below the top, which itself is the empty path.
    pub names: BTreeMap<Vec<u8>, u64>,
    pub inodes: BTreeMap<u64, Node>,
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let n = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut out = BTreeMap::new();
    for name in names[..n].split(|&b| b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 65_536];
        let n = rustix::fs::lgetxattr(path, CString::new(name).unwrap().as_c_str(), &mut value).unwrap();
        value.truncate(n);
        out.insert(name.to_vec(), value);
    }
    out
}

/// The content of a model's node.
pub fn content(bytes: &[u8]) -> (u64, u32) {
    (bytes.len() as u64, crc32c::crc32c(bytes))
}

impl Model {
    /// Everything below a mounted directory.
    pub fn scan(top: &Path) -> Self {
        let mut out = Self::default();
        let mut todo = vec![(Vec::new(), top.to_owned())];
        while let Some((name, path)) = todo.pop() {
            let m = fs_err::symlink_metadata(&path).unwrap();
            if m.is_dir() {
                for e in fs_err::read_dir(&path).unwrap() {
                    let e = e.unwrap();
                    let mut below = name.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend(e.file_name().as_bytes());
                    todo.push((below, e.path()));
                }
            }
            out.names.insert(name, m.ino());
            out.inodes.entry(m.ino()).or_insert_with(|| Node {
                mode: m.mode(),
                uid: m.uid(),
                gid: m.gid(),
                nlink: m.nlink(),
                content: match () {
                    () if m.is_file() => content(&fs_err::read(&path).unwrap()),
                    () if m.is_symlink() => content(fs_err::read_link(&path).unwrap().as_os_str().as_bytes()),
                    () => (0, 0),
                },
                xattrs: xattrs(&path),
                mtime: (m.mtime(), m.mtime_nsec()),
                ctime: (m.ctime(), m.ctime_nsec()),
            });
        }
        out
    }

    /// What differs from another, at most ten lines.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut out = Vec::new();
        for path in self.names.keys().chain(other.names.keys().filter(|p| !self.names.contains_key(*p))) {
            let [a, b] = [self, other].map(|m| m.names.get(path).map(|i| (i, m.inodes.get(i))));
            if a != b {
                out.push(format!("{}:\n  {a:?}\n  {b:?}", String::from_utf8_lossy(path)));
            }
        }
        out.truncate(10);
        out
    }

    fn paths(&self, keep: impl Fn(&Node) -> bool) -> Vec<&Vec<u8>> {
        self.names.iter().filter(|(_, i)| keep(&self.inodes[i])).map(|(p, _)| p).collect()
    }

    fn touch(&mut self, ino: u64, now: Timestamp, content: bool) {
        let node = self.inodes.get_mut(&ino).unwrap();
        let now = (now.seconds, i64::from(now.nanoseconds));
        node.ctime = now;
        if content {
            node.mtime = now;
        }
    }

    /// One random edit, made by the editor and in the model. Says what it was; `false` when there was no room.
    pub fn edit<D: BlockDevice>(
        &mut self,
        editor: &mut Editor<'_, D>,
        now: Timestamp,
        random: &mut Random,
        kinds: &[Kind],
    ) -> (String, Result<(), EditError>) {
        let dirs: Vec<Vec<u8>> = self.paths(Node::is_dir).into_iter().cloned().collect();
        // few directories get most of the edits, so that they grow and shrink
        let dir =
            if random.below(3) == 0 { random.pick(&dirs) } else { random.pick(&dirs[..dirs.len().min(4)]) };
        let dir_ino = self.names[dir];
        match *random.pick(kinds) {
            kind @ (Kind::CreateFile | Kind::CreateDir) => {
                let name = random_name(random);
                let path = if dir.is_empty() { name.clone() } else { [dir, &b"/"[..], &name].concat() };
                if self.names.contains_key(&path) {
                    return ("nothing".to_owned(), Ok(()));
                }
                let label = match random.below(4) {
                    0 => Label::None,
                    1 => Label::Exact(b"system_u:object_r:etc_t:s0\0".to_vec()),
                    _ => Label::Inherit,
                };
                let mode = u16::try_from(random.below(0o1000)).unwrap();
                let new = NewInode { mode, uid: 7, gid: 8, label: label.clone() };
                let bytes = if kind == Kind::CreateFile { random_content(random) } else { Vec::new() };
                let what = format!(
                    "{kind:?} {} ({} bytes) in {dir_ino}",
                    String::from_utf8_lossy(&path),
                    bytes.len()
                );
                let made = match kind {
                    Kind::CreateFile => editor.create_file(dir_ino, &name, &bytes, &new),
                    _ => editor.create_dir(dir_ino, &name, &new),
                };
                let ino = match made {
                    Ok(ino) => ino,
                    Err(e) => return (what, Err(e)),
                };
                let parent = &self.inodes[&dir_ino];
                let mut xattrs = BTreeMap::new();
                let inherited = parent.xattrs.get(&b"security.selinux"[..]).cloned();
                let value = match label {
                    Label::None => None,
                    Label::Inherit => inherited,
                    Label::Exact(v) => Some(v),
                };
                xattrs.extend(value.map(|v| (b"security.selinux".to_vec(), v)));
                let setgid = parent.mode & 0o2000;
                let is_dir = kind == Kind::CreateDir;
                let time = (now.seconds, i64::from(now.nanoseconds));
                let node = Node {
                    mode: if is_dir { 0o040_000 | setgid } else { 0o100_000 } | u32::from(mode),
                    uid: 7,
                    gid: if setgid == 0 { 8 } else { parent.gid },
                    nlink: if is_dir { 2 } else { 1 },
                    content: if is_dir { (0, 0) } else { content(&bytes) },
                    xattrs,
                    mtime: time,
                    ctime: time,
                };
                self.inodes.insert(ino, node);
                self.names.insert(path, ino);
                self.inodes.get_mut(&dir_ino).unwrap().nlink += u64::from(is_dir);
                self.touch(dir_ino, now, true);
                (what, Ok(()))
            }
            Kind::Replace => {
                let files = self.paths(Node::is_file);
                if files.is_empty() {
                    return ("nothing".to_owned(), Ok(()));
                }
                let path = (*random.pick(&files)).clone();
                let ino = self.names[&path];
                let bytes = random_content(random);
                let what =
                    format!("replace {} {ino} ({} bytes)", String::from_utf8_lossy(&path), bytes.len());
                if let Err(e) = editor.replace_file(ino, &bytes) {
                    return (what, Err(e));
                }
                self.inodes.get_mut(&ino).unwrap().content = content(&bytes);
                self.touch(ino, now, true);
                (what, Ok(()))
            }
            Kind::Unlink => {
                let mut names: Vec<Vec<u8>> = self.paths(|n| !n.is_dir()).into_iter().cloned().collect();
                if random.below(3) != 0 {
                    let inside: Vec<Vec<u8>> =
                        names.iter().filter(|p| parent_of(p) == &dir[..]).cloned().collect();
                    if !inside.is_empty() {
                        names = inside;
                    }
                }
                if names.is_empty() {
                    return ("nothing".to_owned(), Ok(()));
                }
                let path = random.pick(&names).clone();
                let dir = parent_of(&path);
                let name =
                    path[path.len() - (path.len() - dir.len()) + usize::from(!dir.is_empty())..].to_vec();
                let (dir_ino, ino) = (self.names[dir], self.names[&path]);
                let what = format!("unlink {} {ino}", String::from_utf8_lossy(&path));
                if let Err(e) = editor.unlink(dir_ino, &name) {
                    return (what, Err(e));
                }
                self.names.remove(&path);
                self.touch(dir_ino, now, true);
                let node = self.inodes.get_mut(&ino).unwrap();
                node.nlink -= 1;
                if node.nlink == 0 {
                    self.inodes.remove(&ino);
                } else {
                    self.touch(ino, now, false);
                }
                (what, Ok(()))
            }
        }
    }
}

/// Kinds of edits, as often as they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    CreateFile,
    CreateDir,
    Replace,
    Unlink,
}

fn parent_of(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&b| b == b'/').unwrap_or(0)]
}

fn random_name(random: &mut Random) -> Vec<u8> {
    let len = match random.below(8) {
        0 => 200 + random.below(56),
        1 => 1 + random.below(3),
        _ => 4 + random.below(30),
    };
    (0..len).map(|_| *random.pick(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789-_")).collect()
}

fn random_content(random: &mut Random) -> Vec<u8> {
    let len = match random.below(12) {
        0 => 0,
        1 => 1 << (9 + random.below(8)),
        2 => random.below(3 << 20),
        3..6 => random.below(100_000),
        _ => random.below(5_000),
    };
    let start = random.next();
    (0..len).map(|i| (start.wrapping_add(i * 167) >> 3).to_le_bytes()[0]).collect()
}
