//! What is in a boot image, without verifying all of it.

use ocne_disk::BlockDevice;
use ocne_xfs::{FileType, Superblock, Volume, XfsError};
use serde::Serialize;

use crate::architecture::{Architecture, ArchitectureSign, decide};
use crate::disk::{BOOT, Disk, Located, ROOT};
use crate::efi::{EfiProgram, architecture_signs, programs};
use crate::error::ConvertError;
use crate::kernel_args::last_value;
use crate::loader_entry::{LoaderEntry, PLATFORM_ARGUMENT};
use crate::os_release::OsRelease;
use crate::sysroot::{Deployment, Sysroot};
use crate::tree;
use crate::uuid::Uuid;

/// Where a system says what it is.
const OS_RELEASE: &str = "usr/lib/os-release";
/// Where its kernels are.
const MODULES: &str = "usr/lib/modules";
/// The longest os-release: real ones have less than a kilobyte.
const MAX_OS_RELEASE_BYTES: u64 = 64 << 10;

/// A boot image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootImage {
    /// What it is for.
    pub architecture: Architecture,
    /// What says so, and what says otherwise, by weight.
    pub architecture_signs: Vec<ArchitectureSign>,
    /// The XFS file systems `boot` and `root`.
    pub filesystems: Vec<FilesystemRecord>,
    /// EFI programs; none when there is no EFI system partition.
    pub efi_programs: Vec<EfiProgram>,
    /// Loader entries.
    pub entries: Vec<EntryRecord>,
    /// Deployments.
    pub deployments: Vec<DeploymentRecord>,
}

/// A file system of a boot image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilesystemRecord {
    /// Its label.
    pub label: String,
    /// Number of its partition.
    pub partition: u32,
    /// Its UUID.
    pub uuid: Uuid,
    /// Features that not every XFS file system has, by the names that mkfs.xfs knows.
    pub features: Vec<&'static str>,
}

/// A loader entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryRecord {
    /// Path in `boot`.
    pub path: String,
    /// Its title.
    pub title: Option<String>,
    /// Path of the kernel in `boot`.
    pub kernel: Option<String>,
    /// Paths of the initramfs images in `boot`.
    pub initramfs: Vec<String>,
    /// Kernel command line.
    pub options: String,
    /// Value of `ignition.platform.id`.
    pub ignition_provider: Option<String>,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeploymentRecord {
    /// Path in `root`.
    pub path: String,
    /// Name of the operating system in ostree.
    pub os_name: String,
    /// Checksum of the commit.
    pub commit: String,
    /// Loader entries that boot it.
    pub booted_by: Vec<String>,
    /// What it says about itself.
    pub os_release: OsRelease,
    /// Releases of its kernels.
    pub kernels: Vec<String>,
}

/// Looks into a boot image.
///
/// # Errors
/// When it is none, or cannot be read; see [`ConvertError`].
pub fn inspect(device: &dyn BlockDevice) -> Result<BootImage, ConvertError> {
    let disk = Disk::open(device)?;
    let (boot, root) = (&disk.boot.filesystem, &disk.root.filesystem);
    let sysroot = Sysroot::read(boot, root)?;
    // An EFI partition that cannot be read tells nothing.
    let efi_programs = disk.efi.as_ref().and_then(|efi| programs(&efi.filesystem).ok()).unwrap_or_default();
    let architecture_signs =
        architecture_signs(boot, sysroot.entries.iter().map(|e| &e.entry), &efi_programs)
            .map_err(ConvertError::read(BOOT, "read the kernel"))?;
    let architecture = decide(&architecture_signs).ok_or(ConvertError::UnknownArchitecture)?;
    let deployments = sysroot.deployments.iter().map(|d| deployment_record(root, d));
    Ok(BootImage {
        architecture,
        architecture_signs,
        filesystems: [&disk.boot, &disk.root].into_iter().map(filesystem_record).collect(),
        efi_programs,
        entries: sysroot.entries.iter().map(|e| entry_record(&e.path, &e.entry)).collect(),
        deployments: deployments.collect::<Result<_, _>>()?,
    })
}

fn filesystem_record<D: BlockDevice>(located: &Located<Volume<D>>) -> FilesystemRecord {
    let superblock = located.filesystem.superblock();
    FilesystemRecord {
        label: superblock.label.clone(),
        partition: located.partition.number,
        uuid: Uuid(superblock.uuid),
        features: features(superblock),
    }
}

fn features(superblock: &Superblock) -> Vec<&'static str> {
    let known = [
        ("finobt", superblock.has_finobt()),
        ("rmapbt", superblock.has_rmapbt()),
        ("reflink", superblock.has_reflink()),
        ("inobtcount", superblock.has_inobt_counts()),
        ("sparse", superblock.has_sparse_inodes()),
        ("bigtime", superblock.has_bigtime()),
        ("nrext64", superblock.has_nrext64()),
        ("metauuid", superblock.has_meta_uuid()),
    ];
    known.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

fn entry_record(path: &str, entry: &LoaderEntry) -> EntryRecord {
    let options = entry.options();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    EntryRecord {
        path: path.to_owned(),
        title: entry.value("title"),
        kernel: entry.value("linux"),
        initramfs: entry.values("initrd").into_iter().map(text).collect(),
        ignition_provider: last_value(&options, PLATFORM_ARGUMENT).map(text),
        options: text(&options),
    }
}

fn deployment_record<D: BlockDevice>(
    root: &Volume<D>,
    deployment: &Deployment,
) -> Result<DeploymentRecord, ConvertError> {
    let reading = || ConvertError::read(ROOT, format!("look into `{}`", deployment.path));
    let kernels = match tree::descendant(root, deployment.ino, MODULES).map_err(reading())? {
        Some(dir) => {
            tree::directories(root, dir.ino).map_err(reading())?.into_iter().map(|(name, _)| name).collect()
        }
        None => Vec::new(),
    };
    Ok(DeploymentRecord {
        path: deployment.path.clone(),
        os_name: deployment.os_name.clone(),
        commit: deployment.commit.clone(),
        booted_by: deployment.booted_by.clone(),
        os_release: read_os_release(root, deployment.ino).map_err(reading())?,
        kernels,
    })
}

/// Empty when there is none that could be one.
fn read_os_release<D: BlockDevice>(root: &Volume<D>, deployment: u64) -> Result<OsRelease, XfsError> {
    match tree::descendant(root, deployment, OS_RELEASE)? {
        Some(inode) if inode.file_type() == FileType::Regular && inode.size_bytes <= MAX_OS_RELEASE_BYTES => {
            Ok(OsRelease::parse(&root.read_file(inode.ino, MAX_OS_RELEASE_BYTES)?))
        }
        _ => Ok(OsRelease::default()),
    }
}
