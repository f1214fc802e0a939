//! Edits of files in one file system, recorded as they are made.

use std::collections::BTreeMap;

use ocne_disk::BlockDevice;
use ocne_xfs::{AttrNamespace, Editor, FileType, Inode, Label, NewInode, Volume, XfsError};

use crate::convert::ConvertOptions;
use crate::disk::ROOT;
use crate::error::ConvertError;
use crate::loader_entry::{LoaderEntry, PLATFORM_ARGUMENT};
use crate::network_files::AddedFile;
use crate::report::{ChangeKind, FileChange, FilesystemChange};
use crate::sysroot::{Deployment, MAX_TEXT_BYTES};
use crate::tree;

/// A directory that is made for added files.
const NEW_DIRECTORY: NewInode = NewInode { mode: 0o755, uid: 0, gid: 0, label: Label::Inherit };

/// A loader entry after the conversion.
pub struct RewrittenEntry {
    pub entry: LoaderEntry,
    /// The entry had no Ignition platform.
    pub added_platform: bool,
}

/// A loader entry, converted.
pub fn rewritten_entry(
    entry: &LoaderEntry,
    options: &ConvertOptions,
    uuids: &[FilesystemChange],
) -> RewrittenEntry {
    let mut entry = entry.clone();
    // The UUIDs first, so that text from the options is never taken for the image's.
    for change in uuids {
        entry.replace_uuid(change.uuid_before, change.uuid_after);
    }
    for (old, new) in options.kind.replaced_arguments() {
        entry.replace_argument(old, new);
    }
    let added_platform = !entry.set_platform(&options.ignition_provider)
        && entry.append_last(&format!("{PLATFORM_ARGUMENT}={}", options.ignition_provider));
    if let Some(text) = options.kernel_args.as_deref().filter(|t| !t.is_empty()) {
        entry.append(text);
    }
    RewrittenEntry { entry, added_platform }
}

/// An editor of one file system that knows what was done.
pub struct FileEditor<'a, D> {
    filesystem: &'static str,
    /// As it was before the edit.
    volume: &'a Volume<D>,
    editor: Editor<'a, D>,
    /// Directories that were made, by parent and name.
    made: BTreeMap<(u64, String), u64>,
    done: Vec<FileChange>,
}

impl<'a, D: BlockDevice> FileEditor<'a, D> {
    pub fn new(filesystem: &'static str, volume: &'a Volume<D>, editor: Editor<'a, D>) -> Self {
        Self { filesystem, volume, editor, made: BTreeMap::new(), done: Vec::new() }
    }

    pub fn filesystem(&self) -> &'static str {
        self.filesystem
    }

    /// The editor, and what was done with it.
    pub fn into_parts(self) -> (Editor<'a, D>, Vec<FileChange>) {
        (self.editor, self.done)
    }

    fn record(&mut self, path: &str, change: ChangeKind, mode: u16) {
        self.done.push(FileChange::new(self.filesystem, path.to_owned(), change, mode));
    }

    /// The content of a regular file.
    pub fn read(&self, path: &str, inode: &Inode, max_bytes: u64) -> Result<Vec<u8>, ConvertError> {
        if inode.file_type() != FileType::Regular {
            let filesystem = self.filesystem;
            return Err(ConvertError::WrongKind {
                filesystem,
                path: path.to_owned(),
                wanted: "a regular file",
            });
        }
        let reading = ConvertError::read(self.filesystem, format!("read `{path}`"));
        self.volume.read_file(inode.ino, max_bytes).map_err(reading)
    }

    /// Gives a file other content. A file with several names gets a copy under this one, as the others may be those of
    /// objects in ostree's repository.
    pub fn rewrite(
        &mut self,
        path: &str,
        (dir_ino, name, ino): (u64, &[u8], u64),
        old: &[u8],
        new: &[u8],
    ) -> Result<(), ConvertError> {
        if old == new {
            return Ok(());
        }
        let reading = || ConvertError::read(self.filesystem, format!("read `{path}`"));
        let inode = self.volume.inode(ino).map_err(reading())?;
        let failed = || ConvertError::edit(self.filesystem, format!("change `{path}`"));
        if inode.nlink == 1 {
            self.editor.replace_file(ino, new).map_err(failed())?;
        } else {
            let label = selinux_label(self.volume, ino).map_err(reading())?;
            let copy = NewInode { mode: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid, label };
            self.editor.unlink(dir_ino, name).map_err(failed())?;
            self.editor.create_file(dir_ino, name, new, &copy).map_err(failed())?;
        }
        self.record(path, ChangeKind::Modified, inode.mode);
        Ok(())
    }

    /// The inode of a directory below a deployment; it and those above it are made if they are missing.
    pub fn directory(&mut self, deployment: &Deployment, path: &str) -> Result<u64, ConvertError> {
        let mut at = deployment.ino;
        let mut shown = deployment.path.clone();
        for name in path.split('/').filter(|n| !n.is_empty()) {
            shown = format!("{shown}/{name}");
            let key = (at, name.to_owned());
            if let Some(&made) = self.made.get(&key) {
                at = made;
                continue;
            }
            // what is in a directory that was just made is in `made`
            let is_new = self.made.values().any(|&ino| ino == at);
            let found = if is_new { Ok(None) } else { tree::child(self.volume, at, name.as_bytes()) };
            at = match found.map_err(ConvertError::read(self.filesystem, format!("look up `{shown}`")))? {
                Some(inode) if inode.file_type() == FileType::Directory => inode.ino,
                Some(_) => {
                    let filesystem = self.filesystem;
                    return Err(ConvertError::WrongKind { filesystem, path: shown, wanted: "a directory" });
                }
                None => {
                    let made = self.editor.create_dir(at, name.as_bytes(), &NEW_DIRECTORY);
                    let ino = made.map_err(ConvertError::edit(self.filesystem, format!("make `{shown}`")))?;
                    self.made.insert(key, ino);
                    ino
                }
            };
        }
        Ok(at)
    }

    /// Adds a file to a deployment, or gives the one that is there its content and mode.
    pub fn add(&mut self, deployment: &Deployment, file: &AddedFile) -> Result<(), ConvertError> {
        let path = format!("{}/{}", deployment.path, file.path);
        let (parent, name) = file.path.rsplit_once('/').unwrap_or(("", file.path));
        let dir_ino = self.directory(deployment, parent)?;
        let is_new = self.made.values().any(|&ino| ino == dir_ino);
        let found = if is_new { Ok(None) } else { tree::child(self.volume, dir_ino, name.as_bytes()) };
        let found = found.map_err(ConvertError::read(self.filesystem, format!("look up `{path}`")))?;
        if let Some(inode) = &found {
            let as_wanted =
                inode.mode & 0o7777 == file.mode && (inode.uid, inode.gid, inode.nlink) == (0, 0, 1);
            if inode.file_type() == FileType::Regular && as_wanted {
                let old = self.read(&path, inode, MAX_TEXT_BYTES)?;
                return self.rewrite(&path, (dir_ino, name.as_bytes(), inode.ino), &old, file.content);
            }
            let replaced = self.editor.unlink(dir_ino, name.as_bytes());
            replaced.map_err(ConvertError::edit(self.filesystem, format!("replace `{path}`")))?;
        }
        let new = NewInode { mode: file.mode, uid: 0, gid: 0, label: Label::Inherit };
        self.editor
            .create_file(dir_ino, name.as_bytes(), file.content, &new)
            .map_err(ConvertError::edit(self.filesystem, format!("add `{path}`")))?;
        let change = if found.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        self.record(&path, change, file.mode);
        Ok(())
    }

    /// Removes `machine-id`, in whatever case, from the `etc` of a deployment, so that every instance makes its own. A
    /// symbolic link goes as well: an instance could not make its own in its place. A directory stays.
    pub fn remove_machine_id(&mut self, deployment: &Deployment) -> Result<(), ConvertError> {
        let etc = format!("{}/etc", deployment.path);
        let reading = || ConvertError::read(ROOT, format!("list `{etc}`"));
        let Some(dir) = tree::child(self.volume, deployment.ino, b"etc").map_err(reading())? else {
            return Ok(());
        };
        let entries = match self.volume.read_dir(dir.ino) {
            Ok(entries) => entries,
            Err(XfsError::NotADirectory { .. }) => return Ok(()),
            Err(e) => return Err(reading()(e)),
        };
        for entry in entries.into_iter().filter(|e| e.name.eq_ignore_ascii_case(b"machine-id")) {
            let inode = self.volume.inode(entry.ino).map_err(reading())?;
            if !matches!(inode.file_type(), FileType::Regular | FileType::Symlink) {
                continue;
            }
            let path = format!("{etc}/{}", String::from_utf8_lossy(&entry.name));
            let removing = ConvertError::edit(self.filesystem, format!("remove `{path}`"));
            self.editor.unlink(dir.ino, &entry.name).map_err(removing)?;
            self.record(&path, ChangeKind::Removed, inode.mode);
        }
        Ok(())
    }
}

/// The SELinux label of a file, as it is stored.
fn selinux_label<D: BlockDevice>(volume: &Volume<D>, ino: u64) -> Result<Label, XfsError> {
    let found = volume.xattrs(ino)?;
    let label = found.into_iter().find(|x| x.namespace == AttrNamespace::Security && x.name == b"selinux");
    Ok(label.map_or(Label::None, |x| Label::Exact(x.value)))
}
