//! Extended attributes: the short form in the inode, leaves, and blocks with remote values.

use crate::bytes::{array, u8_at, u16_at, u32_at, u64_at};
use crate::crc;
use crate::dir::da;
use crate::error::{Damage, damage};
use crate::superblock::Superblock;

pub(crate) const FLAG_LOCAL: u8 = 1;
pub(crate) const FLAG_ROOT: u8 = 2;
pub(crate) const FLAG_SECURE: u8 = 4;
/// Being removed or replaced when the system stopped.
pub(crate) const FLAG_INCOMPLETE: u8 = 0x80;

/// Where the name of an attribute belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttrNamespace {
    /// `user.`
    User,
    /// `trusted.`, and what the file system keeps itself, such as `SGI_ACL_DEFAULT`.
    Trusted,
    /// `security.`
    Security,
}

impl AttrNamespace {
    /// Of the flags of an attribute; `None` when two are set.
    pub(crate) fn from_flags(flags: u8) -> Option<Self> {
        match flags & (FLAG_ROOT | FLAG_SECURE) {
            0 => Some(Self::User),
            FLAG_ROOT => Some(Self::Trusted),
            FLAG_SECURE => Some(Self::Security),
            _ => None,
        }
    }
    /// The flag of an attribute.
    pub(crate) fn to_flag(self) -> u8 {
        match self {
            Self::User => 0,
            Self::Trusted => FLAG_ROOT,
            Self::Security => FLAG_SECURE,
        }
    }
    /// What stands before the name for the system's calls, with the dot.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::User => "user.",
            Self::Trusted => "trusted.",
            Self::Security => "security.",
        }
    }
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Where the name belongs.
    pub namespace: AttrNamespace,
    /// The name, without its namespace.
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// Parses the short form: the attribute fork of an inode with local format.
pub(crate) fn parse_short(fork: &[u8]) -> Result<Vec<Xattr>, Damage> {
    let (total, count) = (usize::from(u16_at(fork, 0)), usize::from(u8_at(fork, 2)));
    if total < 4 || total > fork.len() {
        return damage!("{total} bytes of attributes in a fork of {}", fork.len());
    }
    let fork = &fork[..total];
    let mut at = 4;
    let mut out = Vec::with_capacity(count);
    for i in 0..count {
        let (name_len, value_len) = (usize::from(u8_at(fork, at)), usize::from(u8_at(fork, at + 1)));
        let flags = u8_at(fork, at + 2);
        let end = at + 3 + name_len + value_len;
        if name_len == 0 || end > total {
            return damage!("attribute {i} of {count} ends after {total} bytes");
        }
        let Some(namespace) =
            AttrNamespace::from_flags(flags).filter(|_| flags & !(FLAG_ROOT | FLAG_SECURE) == 0)
        else {
            return damage!("attribute {i} with flags {flags:#x}");
        };
        let name = fork[at + 3..at + 3 + name_len].to_vec();
        out.push(Xattr { namespace, name, value: fork[at + 3 + name_len..end].to_vec() });
        at = end;
    }
    if at != total {
        return damage!("{} bytes after the last attribute", total - at);
    }
    Ok(out)
}

/// The short form of attributes; `None` when they do not fit it.
pub(crate) fn short_bytes(attrs: &[Xattr]) -> Option<Vec<u8>> {
    let mut out = vec![0, 0, u8::try_from(attrs.len()).ok()?, 0];
    for a in attrs {
        out.push(u8::try_from(a.name.len()).ok()?);
        out.push(u8::try_from(a.value.len()).ok()?);
        out.push(a.namespace.to_flag());
        out.extend_from_slice(&a.name);
        out.extend_from_slice(&a.value);
    }
    let total = u16::try_from(out.len()).ok()?;
    out[..2].copy_from_slice(&total.to_be_bytes());
    Some(out)
}

/// Offset of the first entry of an attribute leaf.
const LEAF_LEN: usize = 80;

/// Where the value of an attribute is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttrValue {
    /// In the leaf.
    Local(Vec<u8>),
    /// In blocks of the attribute fork of their own.
    Remote { first_block: u32, len: u32 },
}

/// An entry of an attribute leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeafAttr {
    pub hash: u32,
    pub flags: u8,
    pub namespace: AttrNamespace,
    pub name: Vec<u8>,
    pub value: AttrValue,
}

/// A leaf of attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttrLeaf {
    pub forw: u32,
    pub back: u32,
    pub entries: Vec<LeafAttr>,
}

impl AttrLeaf {
    /// Parses a block that `verify_da_header` accepted; verifies that entries are inside, do not overlap, and
    /// that the counts, the first used byte and the free map agree with them.
    pub(crate) fn parse(block: &[u8]) -> Result<Self, Damage> {
        let count = usize::from(u16_at(block, da::COUNT));
        let used_bytes = usize::from(u16_at(block, 58));
        // 0 stands for 65536 in a block of 64 KiB
        let first_used = match usize::from(u16_at(block, 60)) {
            0 => 65536,
            n => n,
        };
        let entries_end = LEAF_LEN + 8 * count;
        if entries_end > first_used || first_used > block.len() {
            return damage!("{count} attributes, first used byte {first_used} of {}", block.len());
        }
        let mut entries = Vec::with_capacity(count);
        let mut ranges = Vec::with_capacity(count);
        for i in 0..count {
            let at = LEAF_LEN + 8 * i;
            let (hash, flags) = (u32_at(block, at), u8_at(block, at + 6));
            let start = usize::from(u16_at(block, at + 4));
            let is_local = flags & FLAG_LOCAL != 0;
            let (name_len, value_len) = if is_local {
                (usize::from(u8_at(block, start + 2)), usize::from(u16_at(block, start)))
            } else {
                (usize::from(u8_at(block, start + 8)), 0)
            };
            let name_at = start + if is_local { 3 } else { 9 };
            // the kernel counts the padding of its own structure: 11 bytes before the name of a remote one
            let head = if is_local { 3 } else { 11 };
            let end = start + (head + name_len + value_len).next_multiple_of(4);
            if start < first_used || end > block.len() || name_len == 0 {
                return damage!("attribute {i} at {start}..{end} of {first_used}..{}", block.len());
            }
            let known = FLAG_LOCAL | FLAG_ROOT | FLAG_SECURE | FLAG_INCOMPLETE;
            let Some(namespace) = AttrNamespace::from_flags(flags).filter(|_| flags & !known == 0) else {
                return damage!("attribute {i} with flags {flags:#x}");
            };
            let name = block[name_at..name_at + name_len].to_vec();
            let value = if is_local {
                AttrValue::Local(block[name_at + name_len..name_at + name_len + value_len].to_vec())
            } else {
                AttrValue::Remote { first_block: u32_at(block, start), len: u32_at(block, start + 4) }
            };
            ranges.push((start, end));
            entries.push(LeafAttr { hash, flags, namespace, name, value });
        }
        ranges.sort_unstable();
        if ranges.windows(2).any(|w| w[0].1 > w[1].0) {
            return damage!("attributes overlap");
        }
        let used: usize = ranges.iter().map(|(a, b)| b - a).sum();
        if used != used_bytes {
            return damage!("{used_bytes} bytes counted, {used} found");
        }
        for i in 0..3 {
            let (base, size) =
                (usize::from(u16_at(block, 64 + 4 * i)), usize::from(u16_at(block, 66 + 4 * i)));
            let inside = base >= entries_end && base + size <= block.len();
            if size != 0 && (!inside || ranges.iter().any(|&(a, b)| a < base + size && base < b)) {
                return damage!("free map entry {i} of {size} bytes at {base} is not free");
            }
        }
        Ok(Self { forw: u32_at(block, da::FORW), back: u32_at(block, da::BACK), entries })
    }
}

/// Bytes of the header of a block with a part of a remote value.
pub(crate) const REMOTE_LEN: usize = 56;
const REMOTE_MAGIC: u32 = 0x5841_524D;
const SYMLINK_MAGIC: u32 = 0x5853_4C4D;

/// Bytes of content in each block of a remote value or a remote symlink.
pub(crate) fn remote_bytes_per_block(sb: &Superblock) -> usize {
    sb.block_size_bytes as usize - REMOTE_LEN
}

/// Whether a block of an attribute fork has the magic of a remote value.
pub(crate) fn is_remote_block(block: &[u8]) -> bool {
    u32_at(block, 0) == REMOTE_MAGIC
}

/// What a block with a header of its own is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RemoteKind {
    /// The value of an attribute.
    Value,
    /// The target of a symlink.
    Symlink,
}

/// Verifies one block of a remote value or symlink; returns its content. `offset` is the content's in the whole.
pub(crate) fn parse_remote<'a>(
    sb: &Superblock,
    kind: RemoteKind,
    ino: u64,
    daddr: u64,
    offset: usize,
    block: &'a [u8],
) -> Result<&'a [u8], Damage> {
    let wanted = match kind {
        RemoteKind::Value => REMOTE_MAGIC,
        RemoteKind::Symlink => SYMLINK_MAGIC,
    };
    if u32_at(block, 0) != wanted {
        return damage!("magic {:#x} instead of {wanted:#x}", u32_at(block, 0));
    }
    if !crc::verify(block, 12) {
        return damage!("wrong checksum");
    }
    if array::<16>(block, 16) != sb.meta_uuid {
        return damage!("UUID of another file system");
    }
    let (owner, blkno) = (u64_at(block, 32), u64_at(block, 40));
    if owner != ino || blkno != daddr {
        return damage!("says it is at sector {blkno} of inode {owner}");
    }
    let (found, len) = (u32_at(block, 4) as usize, u32_at(block, 8) as usize);
    match block.get(REMOTE_LEN..).and_then(|b| b.get(..len)) {
        Some(content) if found == offset => Ok(content),
        _ => damage!("{len} bytes at {found} instead of at {offset}"),
    }
}
