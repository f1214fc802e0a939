//! The ostree layout of a boot image: loader entries in `boot`, deployments in `root`, and which entry boots which.

use ocne_disk::BlockDevice;
use ocne_xfs::{FileType, Volume, XfsError};

use crate::disk::{BOOT, ROOT};
use crate::error::ConvertError;
use crate::kernel_args::last_value;
use crate::loader_entry::LoaderEntry;
use crate::tree;

/// Where the loader entries are in `boot`; `loader` is a symbolic link.
pub const ENTRIES: &str = "/loader/entries";
/// Where the deployments are in `root`.
const DEPLOYMENTS: &str = "/ostree/deploy";

/// The longest loader entry or fstab: real ones have less than a kilobyte.
pub const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Loader entries, and deployments: real images have one or two.
const MAX_ENTRIES: usize = 64;

/// A loader entry in the file system.
#[derive(Debug, Clone)]
pub struct EntryFile {
    /// Path in `boot`.
    pub path: String,
    /// Name in its directory.
    pub name: Vec<u8>,
    /// The directory.
    pub dir_ino: u64,
    /// The file.
    pub ino: u64,
    /// Its text.
    pub entry: LoaderEntry,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Path in `root`, such as `/ostree/deploy/ock/deploy/<commit>.0`.
    pub path: String,
    /// Name of the operating system in ostree.
    pub os_name: String,
    /// Checksum of the commit.
    pub commit: String,
    /// The directory.
    pub ino: u64,
    /// Paths of the loader entries that boot it.
    pub booted_by: Vec<String>,
}

/// Loader entries and deployments.
#[derive(Debug, Clone)]
pub struct Sysroot {
    /// All loader entries, by name.
    pub entries: Vec<EntryFile>,
    /// All deployments, by path.
    pub deployments: Vec<Deployment>,
}

impl Sysroot {
    /// Reads loader entries and deployments.
    ///
    /// # Errors
    /// When they cannot be read, when no entry boots a deployment, or one boots something else.
    pub fn read<B: BlockDevice, R: BlockDevice>(
        boot: &Volume<B>,
        root: &Volume<R>,
    ) -> Result<Self, ConvertError> {
        let entries = read_entries(boot)?;
        let mut deployments = read_deployments(root)?;
        for file in &entries {
            let options = file.entry.options();
            let Some(path) = last_value(&options, "ostree") else { continue };
            let no_deployment = || ConvertError::NoDeployment {
                entry: file.path.clone(),
                path: String::from_utf8_lossy(path).into_owned(),
            };
            let ino = match root.resolve(path) {
                Ok(ino) => ino,
                Err(XfsError::NotFound { .. } | XfsError::NotADirectory { .. }) => {
                    return Err(no_deployment());
                }
                Err(e) => {
                    let action = format!("resolve `{}`", String::from_utf8_lossy(path));
                    return Err(ConvertError::read(ROOT, action)(e));
                }
            };
            let deployment = deployments.iter_mut().find(|d| d.ino == ino).ok_or_else(no_deployment)?;
            deployment.booted_by.push(file.path.clone());
        }
        if deployments.iter().all(|d| d.booted_by.is_empty()) {
            return Err(ConvertError::NoEntries { path: ENTRIES });
        }
        Ok(Self { entries, deployments })
    }
}

fn read_entries<D: BlockDevice>(boot: &Volume<D>) -> Result<Vec<EntryFile>, ConvertError> {
    let listing = || ConvertError::read(BOOT, format!("list `{ENTRIES}`"));
    let dir_ino = match boot.resolve(ENTRIES.as_bytes()) {
        Ok(ino) => ino,
        Err(XfsError::NotFound { .. }) => return Err(ConvertError::NoEntries { path: ENTRIES }),
        Err(e) => return Err(listing()(e)),
    };
    let mut found = boot.read_dir(dir_ino).map_err(listing())?;
    found.retain(|e| e.name.ends_with(b".conf"));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.len() > MAX_ENTRIES {
        return Err(ConvertError::TooMany { filesystem: BOOT, path: ENTRIES.to_owned(), limit: MAX_ENTRIES });
    }
    let mut entries = Vec::with_capacity(found.len());
    for file in found {
        let path = format!("{ENTRIES}/{}", String::from_utf8_lossy(&file.name));
        let reading = || ConvertError::read(BOOT, format!("read `{path}`"));
        if boot.inode(file.ino).map_err(reading())?.file_type() != FileType::Regular {
            return Err(ConvertError::WrongKind { filesystem: BOOT, path, wanted: "a regular file" });
        }
        let entry = LoaderEntry::new(boot.read_file(file.ino, MAX_TEXT_BYTES).map_err(reading())?);
        entries.push(EntryFile { path, name: file.name, dir_ino, ino: file.ino, entry });
    }
    Ok(entries)
}

fn read_deployments<D: BlockDevice>(root: &Volume<D>) -> Result<Vec<Deployment>, ConvertError> {
    let reading = || ConvertError::read(ROOT, format!("list `{DEPLOYMENTS}`"));
    let top = root.superblock().root_inode;
    let mut deployments = Vec::new();
    let Some(base) = tree::descendant(root, top, DEPLOYMENTS).map_err(reading())? else {
        return Ok(deployments);
    };
    for (os_name, os_ino) in tree::directories(root, base.ino).map_err(reading())? {
        let Some(dir) = tree::descendant(root, os_ino, "deploy").map_err(reading())? else { continue };
        let path = format!("{DEPLOYMENTS}/{os_name}/deploy");
        for (name, ino) in tree::directories(root, dir.ino).map_err(reading())? {
            if deployments.len() == MAX_ENTRIES {
                return Err(ConvertError::TooMany { filesystem: ROOT, path, limit: MAX_ENTRIES });
            }
            deployments.push(Deployment {
                path: format!("{path}/{name}"),
                os_name: os_name.clone(),
                commit: name.split('.').next().unwrap_or_default().to_owned(),
                ino,
                booted_by: Vec::new(),
            });
        }
    }
    Ok(deployments)
}
