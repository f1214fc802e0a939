//! The partitions of a boot image, found by what is in them.
//!
//! Neither the type nor the name of a partition counts: images have the type of Windows data on the EFI partition, and
//! the image itself finds its file systems by their labels.

use ocne_disk::fat::Fat;
use ocne_disk::gpt::{self, Partition};
use ocne_disk::{BlockDevice, DeviceError, ReadRequest, Slice};
use ocne_xfs::Volume;

use crate::error::ConvertError;
use crate::read_ahead::ReadAhead;

/// A part of the image's disk.
pub type Part<'a> = Slice<&'a dyn BlockDevice>;

/// Label of the file system with kernels and loader entries.
pub const BOOT: &str = "boot";
/// Label of the file system with the deployments.
pub const ROOT: &str = "root";

/// Bytes of a partition that tell what is in it.
const PROBE_BYTES: usize = 512;
/// Where the label is in an XFS superblock, and how long it is at most.
const XFS_LABEL: std::ops::Range<usize> = 108..120;

/// A file system, and the partition that it is in.
#[derive(Debug)]
pub struct Located<F> {
    /// The partition.
    pub partition: Partition,
    /// The file system.
    pub filesystem: F,
}

/// The file systems of a boot image.
#[derive(Debug)]
pub struct Disk<'a> {
    /// XFS with the label `boot`.
    pub boot: Located<Volume<Part<'a>>>,
    /// XFS with the label `root`.
    pub root: Located<Volume<Part<'a>>>,
    /// The EFI system partition, if there is one.
    pub efi: Option<Located<Fat<ReadAhead<Part<'a>>>>>,
}

/// What the first bytes of a partition say.
enum Content {
    Xfs(String),
    MaybeFat,
    Other,
}

impl<'a> Disk<'a> {
    /// Finds and opens the file systems.
    ///
    /// # Errors
    /// When there is no partition table, when `boot` or `root` is missing, there twice, or cannot be worked on.
    pub fn open(device: &'a dyn BlockDevice) -> Result<Self, ConvertError> {
        let table = gpt::read(device)?;
        let probes = probe(device, &table.partitions)?;
        let found: Vec<_> = table.partitions.iter().zip(&probes).collect();
        Ok(Self {
            boot: open_xfs(device, &found, BOOT)?,
            root: open_xfs(device, &found, ROOT)?,
            efi: find_efi(device, &found),
        })
    }
}

/// Reads the start of all partitions in one batch.
fn probe(device: &dyn BlockDevice, partitions: &[Partition]) -> Result<Vec<Content>, DeviceError> {
    let mut buffers: Vec<Vec<u8>> = partitions
        .iter()
        .map(|p| vec![0; usize::try_from(p.size_bytes).unwrap_or(PROBE_BYTES).min(PROBE_BYTES)])
        .collect();
    let mut requests: Vec<_> = partitions
        .iter()
        .zip(&mut buffers)
        .map(|(p, buffer)| ReadRequest { offset_bytes: p.start_bytes, buffer })
        .collect();
    device.read_batch(&mut requests)?;
    Ok(buffers.iter().map(|b| content(b)).collect())
}

fn content(start: &[u8]) -> Content {
    match start.get(XFS_LABEL) {
        Some(label) if start.starts_with(b"XFSB") => {
            let end = label.iter().position(|&b| b == 0).unwrap_or(label.len());
            Content::Xfs(String::from_utf8_lossy(&label[..end]).into_owned())
        }
        Some(_) if start.get(510..512) == Some(&[0x55, 0xaa]) => Content::MaybeFat,
        _ => Content::Other,
    }
}

fn open_xfs<'a>(
    device: &'a dyn BlockDevice,
    found: &[(&Partition, &Content)],
    label: &'static str,
) -> Result<Located<Volume<Part<'a>>>, ConvertError> {
    let matching: Vec<_> =
        found.iter().filter(|(_, c)| matches!(c, Content::Xfs(l) if l == label)).map(|(p, _)| *p).collect();
    let partition = match matching[..] {
        [one] => one,
        [] => {
            return Err(ConvertError::MissingFilesystem {
                label,
                found: found.iter().map(describe).collect(),
            });
        }
        _ => {
            let found = matching.iter().map(|p| format!("partition {} (`{}`)", p.number, p.name)).collect();
            return Err(ConvertError::AmbiguousFilesystem { label, found });
        }
    };
    let part = Slice::new(device, partition.start_bytes, partition.size_bytes)?;
    let filesystem = Volume::open(part).map_err(ConvertError::read(label, "read the superblock"))?;
    Ok(Located { partition: partition.clone(), filesystem })
}

fn describe((partition, content): &(&Partition, &Content)) -> String {
    let place = format!("partition {} (`{}`)", partition.number, partition.name);
    match content {
        Content::Xfs(label) => format!("{place} with XFS labelled `{label}`"),
        Content::MaybeFat => format!("{place} with FAT"),
        Content::Other => format!("{place} with neither XFS nor FAT"),
    }
}

/// The first FAT file system with a directory `EFI`.
fn find_efi<'a>(
    device: &'a dyn BlockDevice,
    found: &[(&Partition, &Content)],
) -> Option<Located<Fat<ReadAhead<Part<'a>>>>> {
    found.iter().filter(|(_, c)| matches!(c, Content::MaybeFat)).find_map(|(partition, _)| {
        let part = Slice::new(device, partition.start_bytes, partition.size_bytes).ok()?;
        let filesystem = Fat::open(ReadAhead::new(part)).ok()?;
        let has_efi = filesystem.exists("EFI").ok()?;
        has_efi.then(|| Located { partition: (*partition).clone(), filesystem })
    })
}
