//! FAT12, FAT16 and FAT32, read only: enough for an EFI system partition.
//!
//! Source: Microsoft, "FAT32 File System Specification" 1.03; the variant is chosen as Linux does it.

mod directory;

use std::fmt;

use crate::bytes::{le16, le32};
use crate::device::{BlockDevice, DeviceError, ReadRequest};
use directory::Entry;

/// Largest allocation table that is read: 4 million clusters of FAT32.
const MAX_TABLE_BYTES: u64 = 16 << 20;
/// Largest directory of the format: 65536 entries.
const MAX_DIRECTORY_BYTES: u64 = 65536 * 32;

/// Why a file system or a file in it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// The boot sector is not that of a FAT file system.
    #[error("it is not a FAT file system: {0}")]
    NotFat(String),
    /// The file system contradicts itself.
    #[error("the FAT file system is damaged: {0}")]
    Damaged(String),
    /// There is no such file or directory.
    #[error("`{path}` does not exist")]
    NotFound {
        /// The path that was asked for.
        path: String,
    },
    /// A directory where a file was asked for, or the other way round.
    #[error("`{path}` is not a {expected}")]
    WrongType {
        /// The path that was asked for.
        path: String,
        /// `file` or `directory`.
        expected: &'static str,
    },
    /// The file is larger than the caller takes.
    #[error("`{path}` has {size_bytes} bytes, more than the {max_bytes} that are accepted")]
    TooLarge {
        /// The path that was asked for.
        path: String,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The device below failed.
    #[error("cannot read the FAT file system: {0}")]
    Device(#[from] DeviceError),
}

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatEntry {
    /// Its long name, or else its short one.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Size of a file; 0 for a directory.
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// Where a directory's entries are.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// The root directory of FAT12 and FAT16.
    FixedRoot,
    Cluster(u32),
}

/// An open FAT file system.
pub struct Fat<D> {
    device: D,
    width: Width,
    cluster_bytes: u64,
    data_start_bytes: u64,
    /// Number of data clusters; they are numbered from 2.
    clusters: u32,
    root: Place,
    root_start_bytes: u64,
    root_bytes: u64,
    table: Vec<u8>,
    label: Option<String>,
    volume_id: u32,
}

impl<D> fmt::Debug for Fat<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fat").field("width", &self.width).field("label", &self.label).finish_non_exhaustive()
    }
}

impl<D: BlockDevice> Fat<D> {
    /// Opens a file system and reads its allocation table.
    ///
    /// # Errors
    /// When it is no FAT file system, does not fit the device, or cannot be read.
    pub fn open(device: D) -> Result<Self, FatError> {
        let not = |what: &str| FatError::NotFat(what.into());
        if device.size_bytes() < 512 {
            return Err(not("it is smaller than a sector"));
        }
        let mut boot = [0; 512];
        device.read_at(0, &mut boot)?;
        let u8_at = |at: usize| u64::from(boot[at]);
        let u16_at = |at| u64::from(le16(&boot, at).unwrap_or(0));
        let u32_at = |at| u64::from(le32(&boot, at).unwrap_or(0));
        if u16_at(510) != 0xaa55 {
            return Err(not("the boot sector has no signature"));
        }
        let (sector, per_cluster, reserved, tables) = (u16_at(11), u8_at(13), u16_at(14), u8_at(16));
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
            return Err(not(&format!("a sector would have {sector} bytes")));
        }
        if !per_cluster.is_power_of_two() || reserved == 0 || !(1..=4).contains(&tables) {
            return Err(not("the boot sector makes no sense"));
        }
        let first_set = |a: u64, b: u64| if a == 0 { b } else { a };
        let (sectors, table_sectors) = (first_set(u16_at(19), u32_at(32)), first_set(u16_at(22), u32_at(36)));
        let root_bytes = u16_at(17) * 32;
        let root_start = (reserved + tables * table_sectors) * sector;
        let data_start = root_start + root_bytes.next_multiple_of(sector);
        let data_bytes =
            (sectors * sector).checked_sub(data_start).ok_or_else(|| not("it has no room for data"))?;
        if sectors * sector > device.size_bytes() {
            return Err(FatError::Damaged(format!(
                "it has {sectors} sectors of {sector} bytes and does not fit the device of {} bytes",
                device.size_bytes()
            )));
        }
        let clusters = data_bytes / (sector * per_cluster);
        let width = match (u16_at(22), clusters) {
            (0, _) => Width::Fat32,
            (_, 0..4085) => Width::Fat12,
            _ => Width::Fat16,
        };
        let (extended, needed_bits) = match width {
            Width::Fat12 => (36, 12),
            Width::Fat16 => (36, 16),
            Width::Fat32 => (64, 32),
        };
        let needed = ((clusters + 2) * needed_bits).div_ceil(8);
        if needed > table_sectors * sector || clusters == 0 || clusters > 0x0fff_fff5 {
            return Err(FatError::Damaged(format!(
                "its allocation table is too small for {clusters} clusters"
            )));
        }
        if needed > MAX_TABLE_BYTES {
            return Err(FatError::NotFat(format!("an allocation table of {needed} bytes is not supported")));
        }
        let mut table = vec![0; usize::try_from(needed).unwrap_or(0)];
        device.read_at(reserved * sector, &mut table)?;
        let has_label = boot[extended + 2] == 0x29;
        let mut fat = Self {
            device,
            width,
            cluster_bytes: sector * per_cluster,
            data_start_bytes: data_start,
            clusters: u32::try_from(clusters).unwrap_or(0),
            root: match width {
                Width::Fat32 => Place::Cluster(le32(&boot, 44).unwrap_or(0)),
                _ => Place::FixedRoot,
            },
            root_start_bytes: root_start,
            root_bytes,
            table,
            label: has_label.then(|| directory::oem(&boot[extended + 7..extended + 18])),
            volume_id: if has_label { le32(&boot, extended + 3).unwrap_or(0) } else { 0 },
        };
        if let Some(label) = directory::label(&fat.directory(fat.root)?) {
            fat.label = Some(label);
        }
        fat.label = fat.label.map(|l| l.trim_end().to_owned()).filter(|l| !l.is_empty() && l != "NO NAME");
        Ok(fat)
    }

    /// Label of the volume, if it has one.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Serial number of the volume; what Linux shows as its UUID.
    pub fn volume_id(&self) -> u32 {
        self.volume_id
    }

    /// What is in a directory; `""` and `/` are the root. Upper and lower case are the same in paths.
    ///
    /// # Errors
    /// When there is no such directory, or it cannot be read.
    pub fn list(&self, path: &str) -> Result<Vec<FatEntry>, FatError> {
        let place = match self.find(path)? {
            None => self.root,
            Some(entry) if entry.is_dir => self.place_of(&entry),
            Some(_) => return Err(FatError::WrongType { path: path.into(), expected: "directory" }),
        };
        let entries = self.entries(place)?;
        Ok(entries
            .into_iter()
            .map(|e| FatEntry { name: e.name, is_dir: e.is_dir, size_bytes: e.size_bytes })
            .collect())
    }

    /// Content of a file of at most `max_bytes`.
    ///
    /// # Errors
    /// When there is no such file, it is larger, or cannot be read.
    pub fn read(&self, path: &str, max_bytes: u64) -> Result<Vec<u8>, FatError> {
        let entry = match self.find(path)? {
            Some(entry) if !entry.is_dir => entry,
            _ => return Err(FatError::WrongType { path: path.into(), expected: "file" }),
        };
        let size_bytes = entry.size_bytes;
        if size_bytes > max_bytes {
            return Err(FatError::TooLarge { path: path.into(), size_bytes, max_bytes });
        }
        if size_bytes == 0 {
            return Ok(Vec::new());
        }
        let chain = self.chain(entry.first_cluster)?;
        if size_bytes > chain.len() as u64 * self.cluster_bytes {
            return Err(FatError::Damaged(format!(
                "`{path}` has {size_bytes} bytes and only {} clusters",
                chain.len()
            )));
        }
        self.read_chain(&chain, size_bytes)
    }

    /// Whether there is a file or directory of this path.
    ///
    /// # Errors
    /// When a directory on the way cannot be read.
    pub fn exists(&self, path: &str) -> Result<bool, FatError> {
        match self.find(path) {
            Ok(_) => Ok(true),
            Err(FatError::NotFound { .. } | FatError::WrongType { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The entry of a path; `None` is the root.
    fn find(&self, path: &str) -> Result<Option<Entry>, FatError> {
        let mut found: Option<Entry> = None;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            let place = match &found {
                None => self.root,
                Some(dir) if dir.is_dir => self.place_of(dir),
                Some(_) => return Err(FatError::WrongType { path: path.into(), expected: "directory" }),
            };
            let entry = self.entries(place)?.into_iter().find(|e| e.is_named(name));
            found = Some(entry.ok_or_else(|| FatError::NotFound { path: path.into() })?);
        }
        Ok(found)
    }

    fn entries(&self, place: Place) -> Result<Vec<Entry>, FatError> {
        Ok(directory::entries(&self.directory(place)?, self.width == Width::Fat32))
    }

    fn place_of(&self, dir: &Entry) -> Place {
        // An entry with cluster 0 means the root.
        if dir.first_cluster == 0 { self.root } else { Place::Cluster(dir.first_cluster) }
    }

    /// The bytes of a directory.
    fn directory(&self, place: Place) -> Result<Vec<u8>, FatError> {
        match place {
            Place::FixedRoot => {
                let mut bytes = vec![0; usize::try_from(self.root_bytes).unwrap_or(0)];
                self.device.read_at(self.root_start_bytes, &mut bytes)?;
                Ok(bytes)
            }
            Place::Cluster(first) => {
                let chain = self.chain(first)?;
                let len = chain.len() as u64 * self.cluster_bytes;
                if len > MAX_DIRECTORY_BYTES.max(self.cluster_bytes) {
                    return Err(FatError::Damaged(format!("a directory has {len} bytes")));
                }
                self.read_chain(&chain, len)
            }
        }
    }

    /// All clusters of a chain.
    fn chain(&self, first: u32) -> Result<Vec<u32>, FatError> {
        let mut chain = Vec::new();
        let mut cluster = first;
        loop {
            if cluster < 2 || cluster - 2 >= self.clusters {
                return Err(FatError::Damaged(format!("cluster {cluster} does not exist")));
            }
            if chain.len() as u64 >= u64::from(self.clusters) {
                return Err(FatError::Damaged(format!("the clusters from {first} on go round in circles")));
            }
            chain.push(cluster);
            let (next, end) = self.next(cluster)?;
            if next >= end {
                return Ok(chain);
            }
            cluster = next;
        }
    }

    /// The table's entry for a cluster, and the least value that means the end.
    fn next(&self, cluster: u32) -> Result<(u32, u32), FatError> {
        let beyond = || FatError::Damaged(format!("cluster {cluster} is not in the allocation table"));
        let at = usize::try_from(cluster).map_err(|_| beyond())?;
        Ok(match self.width {
            Width::Fat12 => {
                let pair = u32::from(le16(&self.table, at + at / 2).ok_or_else(beyond)?);
                (if at % 2 == 0 { pair & 0xfff } else { pair >> 4 }, 0xff8)
            }
            Width::Fat16 => (u32::from(le16(&self.table, at * 2).ok_or_else(beyond)?), 0xfff8),
            Width::Fat32 => (le32(&self.table, at * 4).ok_or_else(beyond)? & 0x0fff_ffff, 0x0fff_fff8),
        })
    }

    /// The first `len` bytes of a chain, in one round.
    fn read_chain(&self, chain: &[u32], len: u64) -> Result<Vec<u8>, FatError> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let cluster = usize::try_from(self.cluster_bytes).unwrap_or(usize::MAX);
        let mut requests: Vec<ReadRequest<'_>> = bytes
            .chunks_mut(cluster)
            .zip(chain)
            .map(|(buffer, &c)| ReadRequest {
                offset_bytes: self.data_start_bytes + u64::from(c - 2) * self.cluster_bytes,
                buffer,
            })
            .collect();
        self.device.read_batch(&mut requests)?;
        Ok(bytes)
    }
}
