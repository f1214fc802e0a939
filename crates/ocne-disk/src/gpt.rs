//! GUID partition tables: primary and backup, verified.
//!
//! Source: UEFI Specification 2.10, chapter 5, "GUID Partition Table (GPT) Disk Layout".

use std::fmt;

use crate::bytes::{le16, le32, le64};
use crate::device::{BlockDevice, DeviceError, ReadRequest};

const SIGNATURE: &[u8] = b"EFI PART";
const REVISION_1: u32 = 0x0001_0000;
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
/// Largest array of entries that is read; the usual one is 16 KiB.
const MAX_ARRAY_BYTES: u64 = 1 << 20;
/// What is read at both ends of the disk in the first round: both headers and arrays of the usual size.
const END_BYTES: u64 = 64 << 10;
const MBR_PROTECTIVE: u8 = 0xee;

/// Why there is no usable partition table.
#[derive(Debug, thiserror::Error)]
pub enum GptError {
    /// Neither the primary nor the backup header has the signature.
    #[error("there is no GUID partition table")]
    Missing,
    /// There is a table, and both copies are damaged.
    #[error("the partition table is damaged: primary: {primary}; backup: {backup}")]
    Damaged {
        /// What is wrong with the primary table.
        primary: String,
        /// What is wrong with the backup table.
        backup: String,
    },
    /// The disk cannot be read.
    #[error("cannot read the partition table: {0}")]
    Device(#[from] DeviceError),
}

/// A globally unique identifier as it is on disk: the first three fields are little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// Type of an EFI system partition.
    pub const EFI_SYSTEM: Self = Self([
        0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
    ]);
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, at) in [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].into_iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[at])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Which copy of the table was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableSource {
    /// The one at the start of the disk.
    Primary,
    /// The one at its end, because the primary is broken.
    Backup,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1, as in `/dev/sda1`.
    pub number: u32,
    /// Name.
    pub name: String,
    /// What it is for.
    pub type_guid: Guid,
    /// Its own identifier.
    pub unique_guid: Guid,
    /// Start on the disk.
    pub start_bytes: u64,
    /// Size.
    pub size_bytes: u64,
}

/// A verified partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTable {
    /// Identifier of the disk.
    pub disk_guid: Guid,
    /// Size of a sector: 512 or 4096 bytes.
    pub sector_size_bytes: u64,
    /// Which copy this is.
    pub source: TableSource,
    /// What is wrong with the other copy or the protective MBR; the table itself is right.
    pub problems: Vec<String>,
    /// Partitions in the order of their numbers. They are inside the disk and do not overlap.
    pub partitions: Vec<Partition>,
}

/// Reads and verifies the partition table of a disk. Sectors of 512 and of 4096 bytes are tried.
///
/// # Errors
/// When there is none, when both copies are damaged, or when the disk cannot be read.
pub fn read(device: &dyn BlockDevice) -> Result<PartitionTable, GptError> {
    let disk = Disk::read_ends(device)?;
    let mut failed = None;
    for sector in [512, 4096] {
        let primary = disk.table(sector, 1);
        let backup_lba = match &primary {
            Ok(table) => table.other_lba,
            Err(_) => (device.size_bytes() / sector).saturating_sub(1),
        };
        let backup = disk.table(sector, backup_lba);
        let (table, source, mut problems) = match (primary, backup) {
            (Ok(primary), backup) => {
                let problems = match backup {
                    Ok(backup) => primary.differences(&backup, device.size_bytes() / sector),
                    Err(Invalid::Device(e)) => return Err(e.into()),
                    Err(e) => vec![format!("the backup table is broken: {e}")],
                };
                (primary, TableSource::Primary, problems)
            }
            (Err(Invalid::Device(e)), _) | (_, Err(Invalid::Device(e))) => return Err(e.into()),
            (Err(primary), Ok(backup)) => {
                (backup, TableSource::Backup, vec![format!("the primary table is broken: {primary}")])
            }
            (Err(Invalid::NoSignature), Err(Invalid::NoSignature)) => continue,
            (Err(primary), Err(backup)) => {
                failed.get_or_insert((primary.to_string(), backup.to_string()));
                continue;
            }
        };
        problems.extend(disk.mbr_problem());
        return Ok(PartitionTable {
            disk_guid: table.disk_guid,
            sector_size_bytes: sector,
            source,
            problems,
            partitions: table.partitions,
        });
    }
    match failed {
        Some((primary, backup)) => Err(GptError::Damaged { primary, backup }),
        None => Err(GptError::Missing),
    }
}

/// Why one copy is not usable.
#[derive(Debug, thiserror::Error)]
enum Invalid {
    #[error("it has no signature")]
    NoSignature,
    #[error("{0}")]
    Wrong(String),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

fn wrong(what: impl Into<String>) -> Invalid {
    Invalid::Wrong(what.into())
}

/// One verified copy.
struct Table {
    disk_guid: Guid,
    other_lba: u64,
    first_usable: u64,
    last_usable: u64,
    partitions: Vec<Partition>,
}

impl Table {
    fn differences(&self, backup: &Self, sectors: u64) -> Vec<String> {
        let mut problems = Vec::new();
        if self.other_lba != sectors - 1 {
            problems.push(format!(
                "the backup table is at sector {}, not at the end of the disk of {sectors} sectors",
                self.other_lba
            ));
        }
        let same = self.disk_guid == backup.disk_guid
            && self.partitions == backup.partitions
            && (self.first_usable, self.last_usable) == (backup.first_usable, backup.last_usable);
        if !same {
            problems.push("the backup table differs from the primary one".into());
        }
        problems
    }
}

/// A disk and the bytes at its ends.
struct Disk<'a> {
    device: &'a dyn BlockDevice,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl<'a> Disk<'a> {
    fn read_ends(device: &'a dyn BlockDevice) -> Result<Self, DeviceError> {
        let size = device.size_bytes();
        let len = usize::try_from(END_BYTES.min(size)).unwrap_or(0);
        let (mut head, mut tail) = (vec![0; len], vec![0; len]);
        device.read_batch(&mut [
            ReadRequest { offset_bytes: 0, buffer: &mut head },
            ReadRequest { offset_bytes: size - len as u64, buffer: &mut tail },
        ])?;
        Ok(Self { device, head, tail })
    }

    fn read(&self, start: u64, len: u64) -> Result<Vec<u8>, Invalid> {
        let outside = || wrong(format!("{len} bytes at offset {start} are outside the disk"));
        let end = start.checked_add(len).filter(|e| *e <= self.device.size_bytes()).ok_or_else(outside)?;
        let tail_start = self.device.size_bytes() - self.tail.len() as u64;
        let part = |from: &[u8], at: u64| {
            let at = usize::try_from(at).ok()?;
            Some(from.get(at..at.checked_add(usize::try_from(len).ok()?)?)?.to_vec())
        };
        if end <= self.head.len() as u64 {
            return part(&self.head, start).ok_or_else(outside);
        }
        if start >= tail_start {
            return part(&self.tail, start - tail_start).ok_or_else(outside);
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| outside())?];
        self.device.read_at(start, &mut bytes)?;
        Ok(bytes)
    }

    /// Verifies the copy whose header is at a sector.
    fn table(&self, sector: u64, lba: u64) -> Result<Table, Invalid> {
        let sectors = self.device.size_bytes() / sector;
        if lba >= sectors {
            return Err(if lba <= 1 {
                Invalid::NoSignature
            } else {
                wrong("its header is outside the disk")
            });
        }
        let header = self.read(lba * sector, sector)?;
        if !header.starts_with(SIGNATURE) {
            return Err(Invalid::NoSignature);
        }
        let short = || wrong("its header is cut short");
        let u32_at = |at| le32(&header, at).ok_or_else(short);
        let u64_at = |at| le64(&header, at).ok_or_else(short);
        if u32_at(8)? != REVISION_1 {
            return Err(wrong(format!("its revision is {:#x}", u32_at(8)?)));
        }
        let header_bytes = usize::try_from(u32_at(12)?).unwrap_or(usize::MAX);
        if header_bytes < HEADER_BYTES || header_bytes > header.len() {
            return Err(wrong(format!("its header has {header_bytes} bytes")));
        }
        let mut sum = header[..header_bytes].to_vec();
        sum[16..20].fill(0);
        if crc32fast::hash(&sum) != u32_at(16)? {
            return Err(wrong("the checksum of its header is wrong"));
        }
        if u64_at(24)? != lba {
            return Err(wrong(format!("its header says that it is at sector {}, not {lba}", u64_at(24)?)));
        }
        let (first_usable, last_usable) = (u64_at(40)?, u64_at(48)?);
        if first_usable > last_usable || last_usable >= sectors || first_usable < 2 {
            return Err(wrong(format!(
                "its usable sectors {first_usable} to {last_usable} do not fit the disk of {sectors} sectors"
            )));
        }
        let entries = self.entries(&header, sector, first_usable, last_usable)?;
        let mut guid = [0; 16];
        guid.copy_from_slice(&header[56..72]);
        let partitions = partitions(&entries, sector, first_usable, last_usable)?;
        Ok(Table { disk_guid: Guid(guid), other_lba: u64_at(32)?, first_usable, last_usable, partitions })
    }

    /// The array of entries, cut into entries.
    fn entries(&self, header: &[u8], sector: u64, first: u64, last: u64) -> Result<Vec<Vec<u8>>, Invalid> {
        let short = || wrong("its header is cut short");
        let array_lba = le64(header, 72).ok_or_else(short)?;
        let count = u64::from(le32(header, 80).ok_or_else(short)?);
        let entry_bytes = u64::from(le32(header, 84).ok_or_else(short)?);
        let array_bytes = count.saturating_mul(entry_bytes);
        if entry_bytes < ENTRY_BYTES as u64
            || !entry_bytes.is_power_of_two()
            || count == 0
            || array_bytes > MAX_ARRAY_BYTES
        {
            return Err(wrong(format!("it has {count} entries of {entry_bytes} bytes")));
        }
        let array_end = array_lba.saturating_add(array_bytes.div_ceil(sector));
        if array_lba < 2 || (array_lba <= last && array_end > first) {
            return Err(wrong(format!(
                "its entries are at sector {array_lba}, where they overlap something else"
            )));
        }
        let start = array_lba.checked_mul(sector).ok_or_else(|| wrong("its entries are outside the disk"))?;
        let array = self.read(start, array_bytes)?;
        if crc32fast::hash(&array) != le32(header, 88).ok_or_else(short)? {
            return Err(wrong("the checksum of its entries is wrong"));
        }
        Ok(array.chunks(usize::try_from(entry_bytes).unwrap_or(usize::MAX)).map(<[u8]>::to_vec).collect())
    }

    fn mbr_problem(&self) -> Option<String> {
        let mbr = self.head.get(..512)?;
        if le16(mbr, 510) != Some(0xaa55) {
            return Some("there is no protective MBR".into());
        }
        let types: Vec<u8> = (0..4).map(|i| mbr[446 + 16 * i + 4]).filter(|t| *t != 0).collect();
        if !types.contains(&MBR_PROTECTIVE) {
            return Some("the MBR does not protect the partition table".into());
        }
        (types.len() > 1).then(|| "the MBR has partitions of its own (a hybrid MBR)".into())
    }
}

/// Entries that are in use, inside the usable sectors and apart from each other.
fn partitions(entries: &[Vec<u8>], sector: u64, first: u64, last: u64) -> Result<Vec<Partition>, Invalid> {
    let mut partitions = Vec::new();
    for (number, entry) in (1_u32..).zip(entries) {
        let (Some(type_guid), Some(unique_guid)) =
            (entry.first_chunk::<16>(), entry[16..].first_chunk::<16>())
        else {
            continue;
        };
        if *type_guid == [0; 16] {
            continue;
        }
        let (start, end) = (le64(entry, 32).unwrap_or(0), le64(entry, 40).unwrap_or(0));
        if start > end || start < first || end > last {
            return Err(wrong(format!(
                "partition {number} (sectors {start} to {end}) is outside the usable sectors {first} to {last}"
            )));
        }
        let units: Vec<u16> =
            (56..ENTRY_BYTES).step_by(2).map_while(|at| le16(entry, at).filter(|u| *u != 0)).collect();
        partitions.push(Partition {
            number,
            name: String::from_utf16_lossy(&units),
            type_guid: Guid(*type_guid),
            unique_guid: Guid(*unique_guid),
            start_bytes: start * sector,
            size_bytes: (end - start + 1) * sector,
        });
    }
    let mut by_start: Vec<&Partition> = partitions.iter().collect();
    by_start.sort_by_key(|p| p.start_bytes);
    for pair in by_start.windows(2) {
        if pair[0].start_bytes + pair[0].size_bytes > pair[1].start_bytes {
            return Err(wrong(format!("partitions {} and {} overlap", pair[0].number, pair[1].number)));
        }
    }
    Ok(partitions)
}
