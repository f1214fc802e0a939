//! The header of a qcow2 image, and every reason not to work on one.
//!
//! Source: "The QCOW2 image format", `docs/interop/qcow2.rst` of QEMU, sections "Header" and "Header extensions";
//! the upper limits are those of QEMU's `block/qcow2.h`.

use super::error::Qcow2Error;
use crate::bytes::{be32, be64};

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    Zlib,
    /// Zstandard frames.
    Zstd,
}

/// What an image says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Info {
    /// 2 or 3.
    pub version: u32,
    /// Size of the disk in the image.
    pub virtual_size_bytes: u64,
    /// Size of a cluster: 512 bytes to 2 MiB, a power of two.
    pub cluster_size_bytes: u64,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// Width of a reference count: 1 to 64, a power of two.
    pub refcount_bits: u32,
    /// Size of the image file.
    pub file_size_bytes: u64,
}

/// The fields that reading and writing need.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub info: Qcow2Info,
    pub cluster_bits: u32,
    pub l1_offset_bytes: u64,
    pub l1_entries: u32,
    pub refcount_table_offset_bytes: u64,
    pub refcount_table_clusters: u32,
    pub refcount_order: u32,
    pub autoclear_features: u64,
    /// A bitmaps extension that the autoclear bit declares valid.
    pub has_bitmaps: bool,
}

pub(crate) const MAGIC: u32 = 0x5146_49fb;
pub(crate) const INCOMPATIBLE_COMPRESSION_TYPE: u64 = 1 << 3;
/// Where the header has the offset and the size of the refcount table.
pub(crate) const REFCOUNT_TABLE_FIELD_BYTES: u64 = 48;
/// Where the header has its autoclear feature bits.
pub(crate) const AUTOCLEAR_FIELD_BYTES: u64 = 88;
const HEADER_V2_BYTES: usize = 72;
const HEADER_V3_BYTES: usize = 104;
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20;
pub(crate) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const AUTOCLEAR_BITMAPS: u64 = 1;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;

/// Reads the header out of the first bytes of the file (a cluster, or as much of the file as there is).
pub(crate) fn parse(first: &[u8], file_size_bytes: u64) -> Result<Header, Qcow2Error> {
    let damaged = |reason: &str| Qcow2Error::Damaged(format!("the header {reason}"));
    let short = || damaged("is cut short");
    if be32(first, 0) != Some(MAGIC) {
        return Err(Qcow2Error::NotQcow2);
    }
    let u32_at = |at| be32(first, at).ok_or_else(short);
    let u64_at = |at| be64(first, at).ok_or_else(short);
    let version = u32_at(4)?;
    if !matches!(version, 2 | 3) {
        return Err(Qcow2Error::Unsupported(format!("version {version} of the format")));
    }
    if first.len() < HEADER_V2_BYTES {
        return Err(short());
    }
    let (mut incompatible, mut autoclear, mut refcount_order, mut header_bytes) = (0, 0, 4, HEADER_V2_BYTES);
    if version == 3 {
        if first.len() < HEADER_V3_BYTES {
            return Err(short());
        }
        (incompatible, autoclear, refcount_order) = (u64_at(72)?, u64_at(88)?, u32_at(96)?);
        header_bytes = usize::try_from(u32_at(100)?).map_err(|_| short())?;
        if header_bytes < HEADER_V3_BYTES || header_bytes % 8 != 0 {
            return Err(damaged(&format!("gives its own length as {header_bytes} bytes")));
        }
    }
    if u64_at(8)? != 0 {
        return Err(Qcow2Error::Unsupported("a backing file; its content would be missing".into()));
    }
    match u32_at(32)? {
        0 => {}
        1 => return Err(Qcow2Error::Unsupported("AES encryption".into())),
        2 => return Err(Qcow2Error::Unsupported("LUKS encryption".into())),
        n => return Err(Qcow2Error::Unsupported(format!("encryption method {n}"))),
    }
    refuse_features(incompatible)?;
    if u32_at(60)? != 0 {
        return Err(Qcow2Error::Unsupported(format!("{} internal snapshots", u32_at(60)?)));
    }
    let cluster_bits = u32_at(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(damaged(&format!("gives a cluster size of 2^{cluster_bits} bytes, not 2^9 to 2^21")));
    }
    if refcount_order > 6 {
        return Err(damaged(&format!("gives reference counts of 2^{refcount_order} bits, not 1 to 64")));
    }
    let cluster_size_bytes = 1_u64 << cluster_bits;
    if header_bytes as u64 > cluster_size_bytes {
        return Err(damaged("is larger than a cluster"));
    }
    let compression =
        match (incompatible & INCOMPATIBLE_COMPRESSION_TYPE != 0, header_bytes > HEADER_V3_BYTES) {
            (_, true) => match first.get(HEADER_V3_BYTES).copied().ok_or_else(short)? {
                0 => Compression::Zlib,
                1 => Compression::Zstd,
                n => return Err(Qcow2Error::Unsupported(format!("compression type {n}"))),
            },
            (false, false) => Compression::Zlib,
            (true, false) => return Err(damaged("announces a compression type and has none")),
        };
    if (compression != Compression::Zlib) != (incompatible & INCOMPATIBLE_COMPRESSION_TYPE != 0) {
        return Err(damaged("has a compression type that its feature bits contradict"));
    }
    let virtual_size_bytes = u64_at(24)?;
    if virtual_size_bytes > i64::MAX as u64 {
        return Err(damaged(&format!("gives a disk size of {virtual_size_bytes} bytes")));
    }
    let header = Header {
        info: Qcow2Info {
            version,
            virtual_size_bytes,
            cluster_size_bytes,
            compression,
            refcount_bits: 1 << refcount_order,
            file_size_bytes,
        },
        cluster_bits,
        l1_offset_bytes: u64_at(40)?,
        l1_entries: u32_at(36)?,
        refcount_table_offset_bytes: u64_at(48)?,
        refcount_table_clusters: u32_at(56)?,
        refcount_order,
        autoclear_features: autoclear,
        has_bitmaps: extensions(first, header_bytes, cluster_size_bytes)?
            && autoclear & AUTOCLEAR_BITMAPS != 0,
    };
    check_sizes(&header)?;
    Ok(header)
}

fn refuse_features(incompatible: u64) -> Result<(), Qcow2Error> {
    let named = [
        "dirty reference counts (the image was not closed; hint: qemu-img check -r all)",
        "a corrupt bit (a program found damage; hint: qemu-img check)",
        "an external data file",
        "",
        "extended L2 entries (subclusters; hint: qemu-img convert -O qcow2)",
    ];
    for bit in 0..64 {
        if incompatible & (1 << bit) == 0 || 1 << bit == INCOMPATIBLE_COMPRESSION_TYPE {
            continue;
        }
        return Err(Qcow2Error::Unsupported(match named.get(bit) {
            Some(name) => (*name).to_owned(),
            None => format!("the unknown incompatible feature bit {bit}"),
        }));
    }
    Ok(())
}

/// Walks the header extensions; whether there is a bitmaps extension. The others are of no effect for us: feature
/// names are only names, and formats of backing or data files belong to files that we refuse.
fn extensions(first: &[u8], header_bytes: usize, cluster_size_bytes: u64) -> Result<bool, Qcow2Error> {
    let end = first.len().min(usize::try_from(cluster_size_bytes).unwrap_or(usize::MAX));
    let first = &first[..end];
    let (mut at, mut bitmaps) = (header_bytes, false);
    while let (Some(kind), Some(len)) = (be32(first, at), be32(first, at + 4)) {
        if kind == 0 {
            break;
        }
        let next = usize::try_from(len).ok().and_then(|n| n.checked_next_multiple_of(8)?.checked_add(at + 8));
        match next {
            Some(next) if next <= first.len() => at = next,
            _ => {
                return Err(Qcow2Error::Damaged(format!(
                    "a header extension of {len} bytes does not fit in the first cluster"
                )));
            }
        }
        bitmaps |= kind == EXTENSION_BITMAPS;
    }
    Ok(bitmaps)
}

fn check_sizes(h: &Header) -> Result<(), Qcow2Error> {
    let damaged = |reason: String| Err(Qcow2Error::Damaged(reason));
    let cluster = h.info.cluster_size_bytes;
    let l1_bytes = u64::from(h.l1_entries) * 8;
    if l1_bytes > MAX_L1_BYTES {
        return damaged(format!("the L1 table has {} entries", h.l1_entries));
    }
    // An L2 table is one cluster of 8-byte entries.
    let bytes_per_l2 = cluster * (cluster / 8);
    if h.info.virtual_size_bytes.div_ceil(bytes_per_l2) > u64::from(h.l1_entries) {
        return damaged(format!(
            "the L1 table of {} entries is too small for a disk of {} bytes",
            h.l1_entries, h.info.virtual_size_bytes
        ));
    }
    let table_bytes = u64::from(h.refcount_table_clusters) * cluster;
    if table_bytes > MAX_REFCOUNT_TABLE_BYTES.max(cluster) || table_bytes == 0 {
        return damaged(format!("the refcount table has {} clusters", h.refcount_table_clusters));
    }
    for (name, at, len) in [
        ("L1 table", h.l1_offset_bytes, l1_bytes),
        ("refcount table", h.refcount_table_offset_bytes, table_bytes),
    ] {
        let inside = at.checked_add(len).is_some_and(|end| end <= h.info.file_size_bytes);
        if len > 0 && (at % cluster != 0 || at == 0 || !inside) {
            return damaged(format!(
                "the {name} ({len} bytes at offset {at}) is not inside the file of {} bytes",
                h.info.file_size_bytes
            ));
        }
    }
    Ok(())
}

/// The header of a new image.
pub(crate) struct New {
    pub virtual_size_bytes: u64,
    pub cluster_bits: u32,
    pub compression: Compression,
    pub l1_offset_bytes: u64,
    pub l1_entries: u32,
    pub refcount_table_offset_bytes: u64,
    pub refcount_table_clusters: u32,
    pub refcount_order: u32,
}

impl New {
    /// Version 3, with the compression type and without extensions.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (incompatible, kind) = match self.compression {
            Compression::Zlib => (0, 0),
            Compression::Zstd => (INCOMPATIBLE_COMPRESSION_TYPE, 1),
        };
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_be_bytes());
        bytes.extend(3_u32.to_be_bytes());
        bytes.extend([0; 12]); // no backing file
        bytes.extend(self.cluster_bits.to_be_bytes());
        bytes.extend(self.virtual_size_bytes.to_be_bytes());
        bytes.extend([0; 4]); // not encrypted
        bytes.extend(self.l1_entries.to_be_bytes());
        bytes.extend(self.l1_offset_bytes.to_be_bytes());
        bytes.extend(self.refcount_table_offset_bytes.to_be_bytes());
        bytes.extend(self.refcount_table_clusters.to_be_bytes());
        bytes.extend([0; 12]); // no snapshots
        bytes.extend(incompatible.to_be_bytes());
        bytes.extend([0; 16]); // no compatible and no autoclear features
        bytes.extend(self.refcount_order.to_be_bytes());
        bytes.extend(112_u32.to_be_bytes());
        bytes.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0; 8]); // no extensions
        bytes
    }
}
