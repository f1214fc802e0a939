//! An archive repository as a layer of an image: what `ostree --mode=archive` has in its folder, as files of a web
//! server (libostree, "repository layout").

use tar::EntryType;

use crate::archive::{Blob, BlobWriter};
use crate::checksum::Checksum;
use crate::error::OstreeError;
use crate::object::Object;

/// The folder that is served, as nginx has it; people put kickstart files there.
pub(crate) const DOCUMENT_ROOT: &str = "usr/share/nginx/html";
/// The repository's own configuration. Old clients know `archive-z2`, and new ones still do.
pub(crate) const CONFIG: &[u8] = b"[core]\nrepo_version=1\nmode=archive-z2\n";
/// Folders that are there even when they are empty.
const FOLDERS: [&str; 9] = [
    "extensions",
    "objects",
    "refs",
    "refs/heads",
    "refs/mirrors",
    "refs/remotes",
    "state",
    "tmp",
    "tmp/cache",
];

/// Writes a repository into a layer.
#[derive(Debug)]
pub(crate) struct RepositoryWriter<'a, 'f> {
    layer: BlobWriter<'a, 'f>,
    /// Which of the folders `objects/XX` there are.
    folders: [bool; 256],
}

impl<'a, 'f> RepositoryWriter<'a, 'f> {
    /// Begins a repository; `files` are others of the same layer, by path.
    pub fn new(mut layer: BlobWriter<'a, 'f>, files: &[(&str, &[u8])]) -> Result<Self, OstreeError> {
        let mut folders: Vec<&str> = Vec::new();
        let root = format!("{DOCUMENT_ROOT}/ostree");
        for path in files.iter().map(|(path, _)| *path).chain([root.as_str()]) {
            // All folders above it; who unpacks a layer may give those that it has to make up other permissions.
            for (end, _) in path.match_indices('/') {
                if !folders.contains(&&path[..end]) {
                    folders.push(&path[..end]);
                }
            }
        }
        folders.push(&root);
        for folder in folders {
            layer.entry(&format!("{folder}/"), EntryType::Directory, 0o755, &[])?;
        }
        for (path, content) in files {
            layer.entry(path, EntryType::Regular, 0o644, &[content])?;
        }
        let mut repository = Self { layer, folders: [false; 256] };
        repository.file("config", CONFIG)?;
        for folder in FOLDERS {
            repository.folder(folder)?;
        }
        Ok(repository)
    }

    fn folder(&mut self, name: &str) -> Result<(), OstreeError> {
        self.layer.entry(&format!("{DOCUMENT_ROOT}/ostree/{name}/"), EntryType::Directory, 0o755, &[])
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Result<(), OstreeError> {
        self.layer.entry(&format!("{DOCUMENT_ROOT}/ostree/{name}"), EntryType::Regular, 0o644, &[content])
    }

    /// Makes the folder of an object, and returns the object's path.
    fn place(&mut self, object: &Object) -> Result<String, OstreeError> {
        let first = usize::from(object.checksum.0[0]);
        if !std::mem::replace(&mut self.folders[first], true) {
            self.folder(&format!("objects/{first:02x}"))?;
        }
        Ok(format!("{DOCUMENT_ROOT}/ostree/objects/{}", object.archive_name()))
    }

    /// Adds an object that comes in parts.
    pub fn object(&mut self, object: &Object, parts: &[&[u8]]) -> Result<(), OstreeError> {
        let path = self.place(object)?;
        self.layer.entry(&path, EntryType::Regular, 0o644, parts)
    }

    /// Begins an object of unknown size.
    pub fn begin(&mut self, object: &Object) -> Result<(), OstreeError> {
        self.place(object)?;
        self.layer.begin_entry()
    }

    /// Adds to it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), OstreeError> {
        self.layer.write(bytes)
    }

    /// Ends it.
    pub fn end(&mut self, object: &Object) -> Result<(), OstreeError> {
        let path = self.place(object)?;
        self.layer.end_entry(&path)
    }

    /// Adds the ref, and ends the layer.
    pub fn finish(mut self, ref_name: &str, commit: Checksum, seconds: u64) -> Result<Blob, OstreeError> {
        // A ref such as `a/b` is a file in a folder.
        for (end, _) in ref_name.match_indices('/') {
            self.folder(&format!("refs/heads/{}", &ref_name[..end]))?;
        }
        // All refs are of one size: only by its time can caches tell this one from that of another commit.
        self.layer.entry_at(
            &format!("{DOCUMENT_ROOT}/ostree/refs/heads/{ref_name}"),
            EntryType::Regular,
            0o644,
            seconds.min(u64::from(u32::MAX)),
            &[format!("{commit}\n").as_bytes()],
        )?;
        self.layer.finish_tar()
    }
}
