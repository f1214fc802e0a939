//! Looking into a boot image: what `image info` shows.

use std::path::Path;

use ocne_bootimage::{BootImage, Uuid};
use ocne_disk::fat::FatError;
use ocne_disk::gpt::{self, GptError, Partition, PartitionTable, TableSource};
use ocne_disk::{Compression, DeviceError, Qcow2, Qcow2Error};
use ocne_xfs::XfsError;
use serde::Serialize;

use crate::files::{FileSystem, Found};

/// The version of the record.
pub const INFO_SCHEMA: &str = "ocne.image.info/1";

/// Why an image cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExamineError {
    /// It is no image that can be read.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// It has no partitions.
    #[error("cannot read the partition table")]
    Gpt(#[from] GptError),
    /// The disk in it could not be read.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An XFS file system in it could not be read.
    #[error(transparent)]
    Xfs(#[from] XfsError),
    /// A FAT file system in it could not be read.
    #[error(transparent)]
    Fat(#[from] FatError),
    /// No partition has the label.
    #[error("no partition has the label `{label}`; there are: {}", present.join(", "))]
    NoPartition {
        /// What was asked for.
        label: String,
        /// The labels that are there.
        present: Vec<String>,
    },
    /// No file system has the path.
    #[error("`{path}` is in none of the file systems")]
    NotFound {
        /// What was asked for.
        path: String,
    },
    /// The path names a device, pipe or socket.
    #[error("`{path}` is neither a file nor a folder")]
    NotReadable {
        /// What was asked for.
        path: String,
    },
    /// A folder holds more than can be listed.
    #[error("`{path}` holds more than {limit} entries")]
    TooMany {
        /// The folder.
        path: String,
        /// The limit.
        limit: usize,
    },
}

/// A boot image that was opened to look into it.
#[derive(Debug)]
pub struct Examination {
    device: Qcow2,
    table: PartitionTable,
}

/// What an image is.
#[derive(Debug, Clone, Serialize)]
pub struct ImageRecord {
    /// Name and version of the schema.
    pub schema: &'static str,
    /// The image, as asked for.
    pub image: String,
    /// Version of the qcow2 format.
    pub qcow2_version: u32,
    /// Compression of its clusters: `zlib` or `zstd`.
    pub compression: &'static str,
    /// Size of a cluster.
    pub cluster_size_bytes: u64,
    /// Size of the file.
    pub file_size_bytes: u64,
    /// Size of the disk in it.
    pub virtual_size_bytes: u64,
    /// Size of a sector of the partition table.
    pub sector_size_bytes: u64,
    /// GUID of the partition table.
    pub disk_guid: String,
    /// `primary` or `backup`.
    pub partition_table: &'static str,
    /// What is wrong with the partition table.
    pub partition_table_problems: Vec<String>,
    /// The partitions.
    pub partitions: Vec<PartitionRecord>,
    /// The system in it, if it is a boot image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<BootImage>,
    /// Why it is no boot image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_a_boot_image: Option<String>,
    /// What a check found, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Vec<CheckRecord>>,
}

/// A partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionRecord {
    /// Number, from 1.
    pub number: u32,
    /// Label in the partition table.
    pub label: String,
    /// Its own GUID.
    pub guid: String,
    /// GUID of its type.
    pub type_guid: String,
    /// Name of the type, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_name: Option<&'static str>,
    /// First byte.
    pub start_bytes: u64,
    /// Size.
    pub size_bytes: u64,
    /// The file system in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemInfo>,
    /// Why the file system cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A file system.
#[derive(Debug, Clone, Serialize)]
pub struct FilesystemInfo {
    /// `xfs` or `vfat`.
    pub kind: &'static str,
    /// Its own label.
    pub label: String,
    /// Its UUID; of FAT, the volume's number.
    pub uuid: String,
    /// Block size; of XFS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size_bytes: Option<u32>,
    /// Size, which may be smaller than the partition; of XFS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Free space; of XFS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
}

/// What a check of one part found.
#[derive(Debug, Clone, Serialize)]
pub struct CheckRecord {
    /// `qcow2`, or the label of a partition.
    pub part: String,
    /// What is wrong.
    pub problems: Vec<String>,
}

impl ExamineError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Qcow2(e) => e.hint(),
            Self::Xfs(e) => e.hint(),
            Self::NotFound { .. } | Self::NoPartition { .. } => {
                Some("`--path / --label LABEL` lists what is there")
            }
            _ => None,
        }
    }
}

impl Examination {
    /// Opens an image, and reads its partition table.
    ///
    /// # Errors
    /// When it is no qcow2 image that can be read, or has no partition table.
    pub fn open(path: &Path) -> Result<Self, ExamineError> {
        let device = Qcow2::open(path)?;
        let table = gpt::read(&device)?;
        Ok(Self { device, table })
    }

    /// The partitions, or the one with a label.
    ///
    /// # Errors
    /// When none has the label.
    pub fn partitions(&self, label: Option<&str>) -> Result<Vec<&Partition>, ExamineError> {
        let all = &self.table.partitions;
        let Some(label) = label else { return Ok(all.iter().collect()) };
        // A label may come twice; the first is as good as any.
        match all
            .iter()
            .find(|p| p.name == label)
            .or_else(|| all.iter().find(|p| p.name.eq_ignore_ascii_case(label)))
        {
            Some(partition) => Ok(vec![partition]),
            None => Err(ExamineError::NoPartition {
                label: label.to_owned(),
                present: all.iter().map(|p| format!("`{}`", p.name)).collect(),
            }),
        }
    }

    /// Reads a path from the first of some partitions that has it: the root file system before the others.
    ///
    /// # Errors
    /// When none has it, or it cannot be read.
    pub fn find(
        &self,
        label: Option<&str>,
        path: &str,
        recursive: bool,
    ) -> Result<(String, Found), ExamineError> {
        let mut partitions = self.partitions(label)?;
        partitions.sort_by_key(|p| p.name != "root");
        let mut first_error = None;
        for partition in partitions {
            let found = match FileSystem::open(&self.device, partition) {
                Ok(Some(fs)) => fs.find(path, recursive),
                Ok(None) => continue,
                Err(e) => Err(e),
            };
            match found {
                Ok(found) => return Ok((partition.name.clone(), found)),
                Err(ExamineError::NotFound { .. } | ExamineError::Xfs(XfsError::NotFound { .. })) => {}
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        Err(first_error.unwrap_or_else(|| ExamineError::NotFound { path: path.to_owned() }))
    }

    /// Everything there is to know, of all partitions or of one; with `check`, the qcow2 layer and the file
    /// systems are verified.
    ///
    /// # Errors
    /// When no partition has the label.
    pub fn record(&self, image: &str, label: Option<&str>, check: bool) -> Result<ImageRecord, ExamineError> {
        let partitions = self.partitions(label)?;
        let info = self.device.info();
        let (system, not_a_boot_image) = match ocne_bootimage::inspect(&self.device) {
            Ok(found) => (Some(found), None),
            Err(e) => (None, Some(e.to_string())),
        };
        Ok(ImageRecord {
            schema: INFO_SCHEMA,
            image: image.to_owned(),
            qcow2_version: info.version,
            compression: match info.compression {
                Compression::Zlib => "zlib",
                Compression::Zstd => "zstd",
            },
            cluster_size_bytes: info.cluster_size_bytes,
            file_size_bytes: info.file_size_bytes,
            virtual_size_bytes: info.virtual_size_bytes,
            sector_size_bytes: self.table.sector_size_bytes,
            disk_guid: self.table.disk_guid.to_string(),
            partition_table: match self.table.source {
                TableSource::Primary => "primary",
                TableSource::Backup => "backup",
            },
            partition_table_problems: self.table.problems.clone(),
            partitions: partitions.iter().map(|p| self.partition(p)).collect(),
            system,
            not_a_boot_image,
            check: check.then(|| self.check(&partitions)),
        })
    }

    fn partition(&self, partition: &Partition) -> PartitionRecord {
        let (filesystem, problem) = match FileSystem::open(&self.device, partition) {
            Ok(fs) => (fs.map(|fs| describe(&fs)), None),
            Err(e) => (None, Some(e.to_string())),
        };
        let type_guid = partition.type_guid.to_string();
        PartitionRecord {
            number: partition.number,
            label: partition.name.clone(),
            guid: partition.unique_guid.to_string(),
            type_name: type_name(&type_guid),
            type_guid,
            start_bytes: partition.start_bytes,
            size_bytes: partition.size_bytes,
            filesystem,
            problem,
        }
    }

    fn check(&self, partitions: &[&Partition]) -> Vec<CheckRecord> {
        let qcow2 = match self.device.check() {
            Ok(found) => found.problems,
            Err(e) => vec![e.to_string()],
        };
        let mut records = vec![CheckRecord { part: "qcow2".to_owned(), problems: qcow2 }];
        for partition in partitions {
            let problems = match FileSystem::open(&self.device, partition) {
                Ok(Some(FileSystem::Xfs(volume))) => match volume.check() {
                    Ok(found) => found.problems.iter().map(ToString::to_string).collect(),
                    Err(e) => vec![e.to_string()],
                },
                Ok(_) => continue,
                Err(e) => vec![e.to_string()],
            };
            records.push(CheckRecord { part: partition.name.clone(), problems });
        }
        records
    }
}

fn describe(fs: &FileSystem<'_>) -> FilesystemInfo {
    match fs {
        FileSystem::Xfs(volume) => {
            let sb = volume.superblock();
            let block = u64::from(sb.block_size_bytes);
            FilesystemInfo {
                kind: fs.kind(),
                label: sb.label.clone(),
                uuid: Uuid(sb.uuid).to_string(),
                block_size_bytes: Some(sb.block_size_bytes),
                size_bytes: Some(sb.size_bytes()),
                free_bytes: Some(sb.free_block_count.saturating_mul(block)),
            }
        }
        FileSystem::Fat(fat) => FilesystemInfo {
            kind: fs.kind(),
            label: fat.label().unwrap_or_default().to_owned(),
            uuid: volume_number(fat.volume_id()),
            block_size_bytes: None,
            size_bytes: None,
            free_bytes: None,
        },
    }
}

/// The number of a FAT volume, as Linux writes it.
fn volume_number(id: u32) -> String {
    format!("{:04X}-{:04X}", id >> 16, id & 0xFFFF)
}

/// Partition types of UEFI 2.10 §5.3.3 and of the Discoverable Partitions Specification.
fn type_name(guid: &str) -> Option<&'static str> {
    Some(match guid.to_ascii_uppercase().as_str() {
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" => "EFI system",
        "0FC63DAF-8483-4772-8E79-3D69D8477DE4" => "Linux file system",
        "BC13C2FF-59E6-4262-A352-B275FD6F7172" => "extended boot loader",
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" => "Linux root (x86-64)",
        "B921B045-1DF0-41C3-AF44-4C6F280D3FAE" => "Linux root (AArch64)",
        "21686148-6449-6E6F-744E-656564454649" => "BIOS boot",
        "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7" => "basic data",
        _ => return None,
    })
}
