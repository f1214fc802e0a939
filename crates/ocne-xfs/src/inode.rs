//! Inodes: the core, the two forks, extent records, times.

use crate::bytes::{array, u8_at, u16_at, u32_at, u64_at};
use crate::crc;
use crate::error::{Damage, damage};
use crate::superblock::Superblock;

/// `IN`.
pub(crate) const MAGIC: u16 = 0x494E;
pub(crate) const MODE: usize = 2;
pub(crate) const VERSION: usize = 4;
pub(crate) const FORMAT: usize = 5;
pub(crate) const ONLINK: usize = 6;
pub(crate) const UID: usize = 8;
pub(crate) const GID: usize = 12;
pub(crate) const NLINK: usize = 16;
pub(crate) const PROJID_LO: usize = 20;
pub(crate) const PROJID_HI: usize = 22;
/// Extents of the data fork when the inode has [`FLAG2_NREXT64`], else padding and `flushiter`.
pub(crate) const BIG_NEXTENTS: usize = 24;
pub(crate) const ATIME: usize = 32;
pub(crate) const MTIME: usize = 40;
pub(crate) const CTIME: usize = 48;
pub(crate) const SIZE: usize = 56;
pub(crate) const NBLOCKS: usize = 64;
pub(crate) const EXTSIZE: usize = 72;
/// Extents of the data fork; with [`FLAG2_NREXT64`] those of the attribute fork.
pub(crate) const NEXTENTS: usize = 76;
pub(crate) const ANEXTENTS: usize = 80;
pub(crate) const FORKOFF: usize = 82;
pub(crate) const AFORMAT: usize = 83;
pub(crate) const FLAGS: usize = 90;
pub(crate) const GEN: usize = 92;
pub(crate) const NEXT_UNLINKED: usize = 96;
pub(crate) const CRC: usize = 100;
pub(crate) const CHANGECOUNT: usize = 104;
pub(crate) const LSN: usize = 112;
pub(crate) const FLAGS2: usize = 120;
pub(crate) const COWEXTSIZE: usize = 128;
pub(crate) const CRTIME: usize = 144;
pub(crate) const INO: usize = 152;
pub(crate) const UUID: usize = 160;
/// Bytes of the core: the literal area with the forks follows.
pub(crate) const CORE_LEN: usize = 176;

pub(crate) const FLAG_REALTIME: u16 = 1;
pub(crate) const FLAG_EXTSIZE: u16 = 1 << 11;
pub(crate) const FLAG2_DAX: u64 = 1;
pub(crate) const FLAG2_REFLINK: u64 = 2;
pub(crate) const FLAG2_COWEXTSIZE: u64 = 4;
pub(crate) const FLAG2_BIGTIME: u64 = 8;
pub(crate) const FLAG2_NREXT64: u64 = 16;

/// Extents of a data fork without and with [`FLAG2_NREXT64`], and of an attribute fork likewise.
pub(crate) const MAX_EXTENTS: [u64; 2] = [(1 << 31) - 1, (1 << 48) - 1];
pub(crate) const MAX_ATTR_EXTENTS: [u64; 2] = [(1 << 15) - 1, (1 << 32) - 1];

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// None of these: in a directory entry, one that was made without a type.
    Unknown,
}

impl FileType {
    /// Of the `S_IFMT` bits of a mode.
    pub fn from_mode(mode: u16) -> Self {
        match mode >> 12 {
            8 => Self::Regular,
            4 => Self::Directory,
            10 => Self::Symlink,
            2 => Self::CharDevice,
            6 => Self::BlockDevice,
            1 => Self::Fifo,
            12 => Self::Socket,
            _ => Self::Unknown,
        }
    }
    /// Of the byte in a directory entry.
    pub(crate) fn from_dirent(ftype: u8) -> Option<Self> {
        Some(match ftype {
            0 => Self::Unknown,
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => return None,
        })
    }
    /// The byte in a directory entry.
    pub(crate) fn to_dirent(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }
}

/// How a fork is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForkFormat {
    /// A device number: the data fork of a device, pipe or socket.
    Device,
    /// The content is in the inode.
    Local,
    /// A list of extents is in the inode.
    Extents,
    /// The root of a btree of extents is in the inode.
    Btree,
}

impl ForkFormat {
    pub(crate) fn parse(v: u8) -> Option<Self> {
        Some(match v {
            0 => Self::Device,
            1 => Self::Local,
            2 => Self::Extents,
            3 => Self::Btree,
            _ => return None,
        })
    }
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Device => 0,
            Self::Local => 1,
            Self::Extents => 2,
            Self::Btree => 3,
        }
    }
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970, UTC.
    pub seconds: i64,
    /// Nanoseconds, under 10^9 unless the inode is damaged.
    pub nanoseconds: u32,
}

/// Seconds between the start of bigtime (-2^31) and 1970.
const BIGTIME_EPOCH: i64 = 1 << 31;

impl Timestamp {
    pub(crate) fn parse(raw: u64, bigtime: bool) -> Self {
        if bigtime {
            let seconds = i64::try_from(raw / 1_000_000_000).unwrap_or(i64::MAX) - BIGTIME_EPOCH;
            Self { seconds, nanoseconds: u32::try_from(raw % 1_000_000_000).unwrap_or(0) }
        } else {
            let [s, n] = [raw >> 32, raw & 0xFFFF_FFFF].map(|v| u32::try_from(v).unwrap_or(0));
            Self { seconds: i64::from(s.cast_signed()), nanoseconds: n }
        }
    }
    /// As stored in an inode; `None` when it cannot be (before 1901, after 2038 without bigtime, after 2486).
    pub(crate) fn to_raw(self, bigtime: bool) -> Option<u64> {
        if bigtime {
            let seconds = u64::try_from(self.seconds.checked_add(BIGTIME_EPOCH)?).ok()?;
            seconds.checked_mul(1_000_000_000)?.checked_add(u64::from(self.nanoseconds))
        } else {
            let seconds = i32::try_from(self.seconds).ok()?.cast_unsigned();
            Some(u64::from(seconds) << 32 | u64::from(self.nanoseconds))
        }
    }
}

/// One of the two forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fork {
    /// Content of a file, entries of a directory, target of a link.
    Data,
    /// Extended attributes.
    Attr,
}

/// The core of an inode, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub ino: u64,
    /// Type and permissions; 0 when the inode is not used.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links.
    pub nlink: u32,
    /// Project.
    pub projid: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// When it was made.
    pub crtime: Timestamp,
    /// Size of the content.
    pub size_bytes: u64,
    /// Blocks of both forks, with those of their btrees.
    pub blocks: u64,
    /// Extent size hint in blocks.
    pub extent_size_hint: u32,
    /// Copy on write extent size hint in blocks.
    pub cow_extent_size_hint: u32,
    /// Extents of the data fork.
    pub extent_count: u64,
    /// Extents of the attribute fork.
    pub attr_extent_count: u64,
    /// How the data fork is stored.
    pub format: ForkFormat,
    /// How the attribute fork is stored.
    pub attr_format: ForkFormat,
    /// Where the attribute fork starts in the literal area, in units of 8 bytes; 0: there is none.
    pub fork_offset: u8,
    /// `di_flags`.
    pub flags: u16,
    /// `di_flags2`.
    pub flags2: u64,
    /// Generation.
    pub generation: u32,
    /// Next inode of an unlinked chain.
    pub next_unlinked: u32,
    /// Counts changes.
    pub change_count: u64,
    /// LSN of the last logged change.
    pub lsn: u64,
}

impl Inode {
    /// Parses and verifies an inode of `inode_size_bytes`: checksum, magic, version, identity and that the
    /// forks are inside it; not whether the values make sense.
    pub(crate) fn parse(sb: &Superblock, ino: u64, b: &[u8]) -> Result<Self, Damage> {
        verify_identity(sb, ino, b)?;
        let (format, aformat) = (u8_at(b, FORMAT), u8_at(b, AFORMAT));
        let Some(format) = ForkFormat::parse(format) else { return damage!("data fork format {format}") };
        let Some(attr_format) = ForkFormat::parse(aformat) else {
            return damage!("attribute fork format {aformat}");
        };
        let fork_offset = u8_at(b, FORKOFF);
        if usize::from(fork_offset) * 8 >= b.len() - CORE_LEN {
            return damage!(
                "attribute fork at {} of {} bytes",
                usize::from(fork_offset) * 8,
                b.len() - CORE_LEN
            );
        }
        let flags2 = u64_at(b, FLAGS2);
        let bigtime = flags2 & FLAG2_BIGTIME != 0;
        let time = |at| Timestamp::parse(u64_at(b, at), bigtime);
        let (extent_count, attr_extent_count) = if flags2 & FLAG2_NREXT64 == 0 {
            (u64::from(u32_at(b, NEXTENTS)), u64::from(u16_at(b, ANEXTENTS)))
        } else {
            (u64_at(b, BIG_NEXTENTS), u64::from(u32_at(b, NEXTENTS)))
        };
        Ok(Self {
            ino,
            mode: u16_at(b, MODE),
            uid: u32_at(b, UID),
            gid: u32_at(b, GID),
            nlink: u32_at(b, NLINK),
            projid: u32::from(u16_at(b, PROJID_HI)) << 16 | u32::from(u16_at(b, PROJID_LO)),
            atime: time(ATIME),
            mtime: time(MTIME),
            ctime: time(CTIME),
            crtime: time(CRTIME),
            size_bytes: u64_at(b, SIZE),
            blocks: u64_at(b, NBLOCKS),
            extent_size_hint: u32_at(b, EXTSIZE),
            cow_extent_size_hint: u32_at(b, COWEXTSIZE),
            extent_count,
            attr_extent_count,
            format,
            attr_format,
            fork_offset,
            flags: u16_at(b, FLAGS),
            flags2,
            generation: u32_at(b, GEN),
            next_unlinked: u32_at(b, NEXT_UNLINKED),
            change_count: u64_at(b, CHANGECOUNT),
            lsn: u64_at(b, LSN),
        })
    }

    /// What the file is.
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode)
    }
    /// Whether its blocks may be shared with other files.
    pub fn is_reflinked(&self) -> bool {
        self.flags2 & FLAG2_REFLINK != 0
    }
    /// Whether its times are stored in 64 bits.
    pub fn has_bigtime(&self) -> bool {
        self.flags2 & FLAG2_BIGTIME != 0
    }
    /// Whether its extent counts are stored in 64 and 32 bits.
    pub fn has_nrext64(&self) -> bool {
        self.flags2 & FLAG2_NREXT64 != 0
    }
    /// Where in an inode of `inode_len` bytes a fork is.
    pub(crate) fn fork_range(&self, fork: Fork, inode_len: usize) -> std::ops::Range<usize> {
        let split = match self.fork_offset {
            0 => inode_len,
            n => (CORE_LEN + usize::from(n) * 8).min(inode_len),
        };
        match fork {
            Fork::Data => CORE_LEN.min(split)..split,
            Fork::Attr => split..inode_len,
        }
    }
    /// The bytes of a fork of `raw`, the whole inode.
    pub(crate) fn fork_bytes<'a>(&self, fork: Fork, raw: &'a [u8]) -> &'a [u8] {
        raw.get(self.fork_range(fork, raw.len())).unwrap_or(&[])
    }
    /// Format and number of extents of a fork.
    pub(crate) fn fork_form(&self, fork: Fork) -> (ForkFormat, u64) {
        match fork {
            Fork::Data => (self.format, self.extent_count),
            Fork::Attr => (self.attr_format, self.attr_extent_count),
        }
    }
}

/// Verifies what all inodes have, in use or not: magic, version, checksum, number, UUID.
pub(crate) fn verify_identity(sb: &Superblock, ino: u64, b: &[u8]) -> Result<(), Damage> {
    if b.len() != sb.inode_size_bytes as usize {
        return damage!("{} bytes", b.len());
    }
    if u16_at(b, 0) != MAGIC {
        return damage!("magic {:#x} instead of `IN`", u16_at(b, 0));
    }
    if u8_at(b, VERSION) != 3 {
        return damage!("version {}", u8_at(b, VERSION));
    }
    if !crc::verify(b, CRC) {
        return damage!("wrong checksum");
    }
    if u64_at(b, INO) != ino {
        return damage!("says it is inode {}", u64_at(b, INO));
    }
    if array::<16>(b, UUID) != sb.meta_uuid {
        return damage!("UUID of another file system");
    }
    Ok(())
}

/// Bytes of an extent record.
pub(crate) const EXTENT_LEN: usize = 16;

/// A run of blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// First block in the file.
    pub file_block: u64,
    /// First block in the file system (a file system block number).
    pub fsblock: u64,
    /// Number of blocks.
    pub count: u64,
    /// Allocated, but reads as zeros.
    pub unwritten: bool,
}

impl Extent {
    pub(crate) fn parse(b: &[u8]) -> Self {
        let (hi, lo) = (u64_at(b, 0), u64_at(b, 8));
        Self {
            unwritten: hi >> 63 != 0,
            file_block: hi >> 9 & ((1 << 54) - 1),
            fsblock: (hi & 0x1FF) << 43 | lo >> 21,
            count: lo & ((1 << 21) - 1),
        }
    }
    pub(crate) fn write(&self, b: &mut [u8]) {
        let hi = u64::from(self.unwritten) << 63
            | (self.file_block & ((1 << 54) - 1)) << 9
            | self.fsblock >> 43 & 0x1FF;
        let lo = self.fsblock << 21 | self.count & ((1 << 21) - 1);
        crate::bytes::put_u64(b, 0, hi);
        crate::bytes::put_u64(b, 8, lo);
    }
    /// Most blocks of one record.
    pub(crate) const MAX_COUNT: u64 = (1 << 21) - 1;
    /// File block after the last.
    pub fn end_file_block(&self) -> u64 {
        self.file_block + self.count
    }
}

/// The extents of a fork in [`ForkFormat::Extents`].
pub(crate) fn parse_extent_list(fork: &[u8], count: u64) -> Result<Vec<Extent>, Damage> {
    let max = fork.len() / EXTENT_LEN;
    match usize::try_from(count) {
        Ok(n) if n <= max => Ok(fork.chunks_exact(EXTENT_LEN).take(n).map(Extent::parse).collect()),
        _ => damage!("{count} extents in a fork that has room for {max}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_stored_in_both_forms() {
        for seconds in [0, 1_700_000_000, -1, i64::from(i32::MIN), i64::from(i32::MAX)] {
            let t = Timestamp { seconds, nanoseconds: 999_999_999 };
            for bigtime in [false, true] {
                assert_eq!(t.to_raw(bigtime).map(|raw| Timestamp::parse(raw, bigtime)), Some(t));
            }
        }
        let late = Timestamp { seconds: 1 << 32, nanoseconds: 5 };
        assert_eq!(late.to_raw(false), None);
        assert_eq!(late.to_raw(true).map(|raw| Timestamp::parse(raw, true)), Some(late));
        assert_eq!(Timestamp { seconds: i64::MAX, nanoseconds: 0 }.to_raw(true), None);
    }

    #[test]
    fn extents_are_packed() {
        for e in [
            Extent { file_block: 0, fsblock: 1, count: 1, unwritten: false },
            Extent {
                file_block: (1 << 54) - 1,
                fsblock: (1 << 52) - 1,
                count: Extent::MAX_COUNT,
                unwritten: true,
            },
        ] {
            let mut b = [0; EXTENT_LEN];
            e.write(&mut b);
            assert_eq!(Extent::parse(&b), e);
        }
    }
}
