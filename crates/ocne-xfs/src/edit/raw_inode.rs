//! Inodes as bytes: changing the core, and making new ones.

use crate::attr::{self, AttrNamespace, Xattr};
use crate::bytes::{array, put, put_u8, put_u16, put_u32, put_u64, u8_at, u32_at, u64_at};
use crate::crc;
use crate::edit::{EditError, EditOptions};
use crate::inode::{
    AFORMAT, ANEXTENTS, ATIME, BIG_NEXTENTS, CHANGECOUNT, CORE_LEN, CRC, CRTIME, CTIME, FLAG2_BIGTIME,
    FLAG2_NREXT64, FLAGS, FLAGS2, FORKOFF, FORMAT, ForkFormat, GEN, GID, INO, Inode, MAGIC, MODE, MTIME,
    NBLOCKS, NEXT_UNLINKED, NEXTENTS, NLINK, PROJID_HI, PROJID_LO, SIZE, Timestamp, UID, UUID, VERSION,
};
use crate::superblock::Superblock;

/// The SELinux label of a new file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// That of its directory, if the directory has one.
    Inherit,
    /// This value of `security.selinux`; the kernel's own end with a NUL.
    Exact(Vec<u8>),
    /// None.
    None,
}

/// What a new file or directory has besides name and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInode {
    /// Permissions (the lowest 12 bits); the type is added.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory has the set-group-ID bit and gives its own.
    pub gid: u32,
    /// SELinux label.
    pub label: Label,
}

/// Where the attribute fork of a new inode starts in units of 8 bytes, as the kernel chooses it.
const DEFAULT_FORK_OFFSET: usize = 24;
/// The least that a data fork needs: a block map root with three children.
const MIN_DATA_FORK_BYTES: usize = 56;

/// An inode that is being changed.
#[derive(Debug, Clone)]
pub(super) struct RawInode {
    pub ino: u64,
    pub bytes: Vec<u8>,
}

impl RawInode {
    /// Parses it as it is now; its checksum is not the right one any more.
    pub(super) fn parse(&self, sb: &Superblock) -> Result<Inode, EditError> {
        Inode::parse(sb, self.ino, &self.clone().finished())
            .map_err(|d| d.at(format_args!("inode {}", self.ino)).into())
    }

    fn has_flag2(&self, flag: u64) -> bool {
        u64_at(&self.bytes, FLAGS2) & flag != 0
    }

    fn set_time(&mut self, at: usize, time: Timestamp) -> Result<(), EditError> {
        let raw = time
            .to_raw(self.has_flag2(FLAG2_BIGTIME))
            .ok_or(EditError::Time { ino: self.ino, seconds: time.seconds })?;
        put_u64(&mut self.bytes, at, raw);
        Ok(())
    }

    /// The inode itself changed: `ctime` and the change counter.
    pub(super) fn touch_inode(&mut self, options: &EditOptions) -> Result<(), EditError> {
        let count = u64_at(&self.bytes, CHANGECOUNT).wrapping_add(1);
        put_u64(&mut self.bytes, CHANGECOUNT, count);
        self.set_time(CTIME, options.now)
    }

    /// Content or entries changed: `mtime` as well.
    pub(super) fn touch_content(&mut self, options: &EditOptions) -> Result<(), EditError> {
        self.set_time(MTIME, options.now)?;
        self.touch_inode(options)
    }

    pub(super) fn set_size(&mut self, size_bytes: u64) {
        put_u64(&mut self.bytes, SIZE, size_bytes);
    }

    pub(super) fn set_blocks(&mut self, blocks: u64) {
        put_u64(&mut self.bytes, NBLOCKS, blocks);
    }

    pub(super) fn nlink(&self) -> u32 {
        u32_at(&self.bytes, NLINK)
    }

    pub(super) fn set_nlink(&mut self, nlink: u32) {
        put_u32(&mut self.bytes, NLINK, nlink);
    }

    /// Format and number of extents of the data fork, and where it is.
    pub(super) fn set_data_fork(&mut self, format: ForkFormat, extents: u64) -> Result<&mut [u8], EditError> {
        put_u8(&mut self.bytes, FORMAT, format.to_byte());
        if self.has_flag2(FLAG2_NREXT64) {
            put_u64(&mut self.bytes, BIG_NEXTENTS, extents);
        } else {
            let extents =
                i32::try_from(extents).map_err(|_| EditError::TooLarge { what: "the number of extents" })?;
            put_u32(&mut self.bytes, NEXTENTS, extents.cast_unsigned());
        }
        let end = match usize::from(u8_at(&self.bytes, FORKOFF)) {
            0 => self.bytes.len(),
            n => CORE_LEN + 8 * n,
        };
        let fork = &mut self.bytes[CORE_LEN..end];
        fork.fill(0);
        Ok(fork)
    }

    pub(super) fn data_fork_len(&self) -> usize {
        match usize::from(u8_at(&self.bytes, FORKOFF)) {
            0 => self.bytes.len() - CORE_LEN,
            n => 8 * n,
        }
    }

    /// Makes it an inode that is not used.
    pub(super) fn make_free(&mut self, options: &EditOptions) -> Result<(), EditError> {
        self.touch_inode(options)?;
        let b = &mut self.bytes;
        for at in [MODE, FLAGS, ANEXTENTS] {
            put_u16(b, at, 0);
        }
        put_u32(b, NLINK, 0);
        put_u32(b, NEXTENTS, 0);
        for at in [SIZE, NBLOCKS, BIG_NEXTENTS] {
            put_u64(b, at, 0);
        }
        put_u8(b, FORKOFF, 0);
        put_u8(b, FORMAT, ForkFormat::Extents.to_byte());
        put_u8(b, AFORMAT, ForkFormat::Extents.to_byte());
        let generation = u32_at(b, GEN).wrapping_add(1);
        put_u32(b, GEN, generation);
        let kept = u64_at(b, FLAGS2) & (FLAG2_BIGTIME | FLAG2_NREXT64);
        put_u64(b, FLAGS2, kept);
        b[CORE_LEN..].fill(0);
        Ok(())
    }

    /// With the right checksum.
    pub(super) fn finished(mut self) -> Vec<u8> {
        crc::stamp(&mut self.bytes, CRC);
        self.bytes
    }
}

/// An inode of a new chunk: not used.
pub(super) fn stamped(sb: &Superblock, ino: u64, generation: u32) -> Vec<u8> {
    let mut b = vec![0; sb.inode_size_bytes as usize];
    put_u16(&mut b, 0, MAGIC);
    put_u8(&mut b, VERSION, 3);
    put_u32(&mut b, GEN, generation);
    put_u32(&mut b, NEXT_UNLINKED, u32::MAX);
    put_u64(&mut b, INO, ino);
    put(&mut b, UUID, &sb.meta_uuid);
    crc::stamp(&mut b, CRC);
    b
}

/// What a new inode gets from its directory and its caller.
#[derive(Debug)]
pub(super) struct Core {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub projid: u32,
    pub nlink: u32,
    pub flags: u16,
    pub generation: u32,
    pub label: Option<Vec<u8>>,
}

/// An inode in use, without content: its data fork is an empty list of extents. `old` is the free inode.
pub(super) fn fresh(
    sb: &Superblock,
    ino: u64,
    old: &[u8],
    core: &Core,
    options: &EditOptions,
) -> Result<RawInode, EditError> {
    let mut b = vec![0; sb.inode_size_bytes as usize];
    put_u16(&mut b, 0, MAGIC);
    put_u16(&mut b, MODE, core.mode);
    put_u8(&mut b, VERSION, 3);
    put_u32(&mut b, UID, core.uid);
    put_u32(&mut b, GID, core.gid);
    put_u32(&mut b, NLINK, core.nlink);
    let [hi0, hi1, lo0, lo1] = core.projid.to_be_bytes();
    put(&mut b, PROJID_HI, &[hi0, hi1]);
    put(&mut b, PROJID_LO, &[lo0, lo1]);
    put_u16(&mut b, FLAGS, core.flags);
    put_u32(&mut b, GEN, core.generation);
    put_u32(&mut b, NEXT_UNLINKED, u32::MAX);
    put_u64(&mut b, CHANGECOUNT, 1);
    // the log's own, which stays
    put(&mut b, crate::inode::LSN, &array::<8>(old, crate::inode::LSN));
    let flag = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
    let flags2 = flag(sb.has_bigtime(), FLAG2_BIGTIME) | flag(sb.has_nrext64(), FLAG2_NREXT64);
    put_u64(&mut b, FLAGS2, flags2);
    put_u64(&mut b, INO, ino);
    put(&mut b, UUID, &sb.meta_uuid);
    put_u8(&mut b, FORMAT, ForkFormat::Extents.to_byte());
    put_u8(&mut b, AFORMAT, ForkFormat::Extents.to_byte());
    if let Some(value) = &core.label {
        let label =
            Xattr { namespace: AttrNamespace::Security, name: b"selinux".to_vec(), value: value.clone() };
        let attrs = attr::short_bytes(&[label]).ok_or(EditError::TooLarge { what: "the SELinux label" })?;
        let literal = b.len() - CORE_LEN;
        let fork_offset = DEFAULT_FORK_OFFSET.min(literal.saturating_sub(attrs.len()) / 8);
        if fork_offset * 8 < MIN_DATA_FORK_BYTES {
            return Err(EditError::TooLarge { what: "the SELinux label" });
        }
        put_u8(&mut b, FORKOFF, u8::try_from(fork_offset).unwrap_or(0));
        put_u8(&mut b, AFORMAT, ForkFormat::Local.to_byte());
        put(&mut b, CORE_LEN + 8 * fork_offset, &attrs);
    }
    let mut raw = RawInode { ino, bytes: b };
    for at in [ATIME, MTIME, CTIME, CRTIME] {
        raw.set_time(at, options.now)?;
    }
    Ok(raw)
}
