//! Entry points for the fuzz targets: each makes what it is given pass for a structure (magic, identity, checksum),
//! so that a fuzzer gets past those, and parses it. What can be written again must be what was read.

use crate::ag::{self, Agf, Agi, agf, agfl, agi};
use crate::attr::{self, AttrLeaf, RemoteKind};
use crate::bmap::{ForkContent, fork_content};
use crate::btree::{BmapRoot, LongBlock, long, write_long_header, write_short_header};
use crate::btree::{FreeRecord, InodeRecord, RefcountRecord, RmapRecord, ShortBlock, Tree, short};
use crate::bytes::{put, put_u16, put_u32, put_u64, u8_at, u16_at};
use crate::crc;
use crate::dir::{self, BlockTail, FreeIndex, Leaf, Node, ShortDir, da, data};
use crate::inode::{self, Extent, Fork, Inode};
use crate::log;
use crate::superblock::{self, Superblock};

/// Geometry of a file system with blocks of 1 KiB.
fn geometry() -> Superblock {
    Superblock {
        uuid: [7; 16],
        meta_uuid: [7; 16],
        label: String::new(),
        block_size_bytes: 1024,
        sector_size_bytes: 512,
        inode_size_bytes: 512,
        dir_block_size_bytes: 1024,
        blocks: 1 << 16,
        ag_count: 4,
        ag_blocks: 1 << 14,
        log_start: 1 << 10,
        log_blocks: 512,
        log_sector_size_bytes: 0,
        log_stripe_unit_bytes: 1,
        root_inode: 128,
        inode_count: 64,
        free_inode_count: 0,
        free_block_count: 0,
        version: 0xB4B5,
        features2: 0x18A,
        compat: 0,
        ro_compat: 0xF,
        incompat: 0x2B,
        log_incompat: 0,
        in_progress: false,
        inode_align_blocks: 8,
        sparse_inode_align_blocks: 4,
        realtime_blocks: 0,
        special_inodes: [129, 130, 0, 0, 0],
        quota_flags: 0,
        ag_block_log: 14,
        inodes_per_block_log: 1,
        block_log: 10,
        lsn: 0,
    }
}

/// `bytes`, cut or filled with zeros to `len`.
fn sized(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut b = bytes.to_vec();
    b.resize(len, 0);
    b
}

/// A superblock, and the arithmetic of its addresses.
pub fn superblock(input: &[u8]) {
    let mut b = sized(input, 512);
    put_u32(&mut b, 0, superblock::MAGIC);
    crc::stamp(&mut b, superblock::CRC);
    if let Ok(sb) = Superblock::parse_primary(&b) {
        for n in [0, 1, u64::MAX, sb.blocks, sb.root_inode, sb.log_start] {
            let _ = (sb.split_fsblock(n), sb.split_ino(n), sb.ino_offset_bytes(n), sb.is_extent_inside(n, n));
        }
        let _ = (sb.size_bytes(), sb.ag_len_blocks(sb.ag_count), sb.ag_offset_bytes(sb.ag_count));
    }
}

/// The three headers of an allocation group.
pub fn ag(input: &[u8]) {
    let sb = geometry();
    let headers = [
        (agf::MAGIC, agf::SEQNO, agf::UUID, agf::CRC),
        (agi::MAGIC, agi::SEQNO, agi::UUID, agi::CRC),
        (agfl::MAGIC, agfl::SEQNO, agfl::UUID, agfl::CRC),
    ];
    let sectors = headers.map(|(magic, seqno_at, uuid_at, crc_at)| {
        let mut b = sized(input, 512);
        put_u32(&mut b, 0, magic);
        put_u32(&mut b, 4, 1);
        put_u32(&mut b, seqno_at, 1);
        if magic != agfl::MAGIC {
            put_u32(&mut b, agf::LENGTH, sb.ag_len_blocks(1));
        }
        put(&mut b, uuid_at, &sb.meta_uuid);
        crc::stamp(&mut b, crc_at);
        b
    });
    if let Ok(agf) = Agf::parse(&sb, 1, &sectors[0]) {
        let _ = ag::parse_agfl(&sb, 1, &sectors[2], &agf);
    }
    let _ = Agi::parse(&sb, 1, &sectors[1]);
}

/// Blocks of all btrees: the first byte says which, the second the level.
pub fn btree(input: &[u8]) {
    let sb = geometry();
    let (kind, level) = (u8_at(input, 0), u16::from(u8_at(input, 1) % 3));
    let mut b = sized(input.get(2..).unwrap_or(&[]), 1024);
    let count = u16_at(&b, short::NUMRECS);
    if kind % 7 == 6 {
        write_long_header(&sb, 131, 77, level, &mut b);
        put_u16(&mut b, long::NUMRECS, count);
        crc::stamp(&mut b, long::CRC);
        if let Ok(block) = LongBlock::parse(&sb, 131, 77, u32::from(level), &b) {
            for i in 0..block.count {
                let e = Extent::parse(block.record(i));
                let mut again = [0; 16];
                e.write(&mut again);
                assert_eq!(again, block.record(i), "{e:?}");
                let _ = (block.key(i), block.child(i));
            }
        }
        return;
    }
    let tree = Tree::ALL[usize::from(kind % 7)];
    write_short_header(&sb, tree, 1, 77, level, &mut b);
    put_u16(&mut b, short::NUMRECS, count);
    crc::stamp(&mut b, short::CRC);
    let Ok(block) = ShortBlock::parse(&sb, tree, 1, 77, u32::from(level), true, &b) else { return };
    for i in 0..block.count {
        if level > 0 {
            let _ = (block.key(i), block.high_key(i), block.child(i));
            continue;
        }
        let record = block.record(i);
        let mut again = vec![0; tree.record_len()];
        match tree {
            Tree::Bno | Tree::Cnt => FreeRecord::parse(record).write(&mut again),
            Tree::Rmap => {
                let r = RmapRecord::parse(record);
                let _ = (r.key(), r.high_key());
                r.write(&mut again);
            }
            Tree::Refcount => RefcountRecord::parse(record).write(&mut again),
            Tree::Ino | Tree::Fino => {
                let r = InodeRecord::parse(&sb, record);
                let _ = r.holes();
                r.write(&sb, &mut again);
            }
        }
        assert_eq!(again, record);
    }
}

/// An inode and both of its forks.
pub fn inode(input: &[u8]) {
    let sb = geometry();
    let mut b = sized(input, 512);
    put_u16(&mut b, 0, inode::MAGIC);
    b[inode::VERSION] = 3;
    put_u64(&mut b, inode::INO, 131);
    put(&mut b, inode::UUID, &sb.meta_uuid);
    crc::stamp(&mut b, inode::CRC);
    let Ok(parsed) = Inode::parse(&sb, 131, &b) else { return };
    for fork in [Fork::Data, Fork::Attr] {
        match fork_content(&sb, &parsed, fork, &b) {
            Ok(ForkContent::Local(bytes)) => {
                let _ = (ShortDir::parse(bytes), attr::parse_short(bytes));
            }
            Ok(ForkContent::Tree(tree)) => {
                let mut again = vec![0; parsed.fork_range(fork, b.len()).len()];
                tree.root.write(&mut again);
                assert_eq!(BmapRoot::parse(&again), Ok(tree.root));
            }
            _ => {}
        }
    }
}

/// Directories: the short form, data blocks and the blocks of the index.
pub fn dir(input: &[u8]) {
    let sb = geometry();
    if let Ok(short) = ShortDir::parse(input) {
        assert_eq!(short.to_bytes().get(2..), input.get(2..));
        assert_eq!(short.len(), input.len());
    }
    for magic in [data::MAGIC_BLOCK, data::MAGIC_DATA, data::MAGIC_FREE] {
        let mut b = sized(input, 1024);
        dir::write_data_header(&sb, magic, 131, 8, &mut b);
        crc::stamp(&mut b, data::CRC);
        assert_eq!(dir::verify_data_header(&sb, 131, 8, &[magic], &b), Ok(magic));
        let _ = (dir::parse_data(&b), BlockTail::parse(&b).map(|t| t.entries(&b)), FreeIndex::parse(&b));
        let _ = dir::best_free(&b);
    }
    for magic in [da::MAGIC_LEAF1, da::MAGIC_LEAFN, da::MAGIC_NODE] {
        let mut b = sized(input, 1024);
        dir::write_da_header(&sb, magic, 131, 8, &mut b);
        crc::stamp(&mut b, da::CRC);
        assert_eq!(dir::verify_da_header(&sb, 131, 8, &[magic], &b), Ok(magic));
        let _ = (Leaf::parse(&b), Node::parse(&b));
    }
}

/// Attributes: the short form, a leaf, a part of a remote value.
pub fn attr(input: &[u8]) {
    let sb = geometry();
    if let Ok(attrs) = attr::parse_short(input) {
        let again = attr::short_bytes(&attrs);
        assert_eq!(again.as_deref().and_then(|b| attr::parse_short(b).ok()), Some(attrs));
    }
    let mut b = sized(input, 1024);
    dir::write_da_header(&sb, da::MAGIC_ATTR_LEAF, 131, 8, &mut b);
    let _ = AttrLeaf::parse(&b);
    put(&mut b, 0, b"XARM");
    put(&mut b, 16, &sb.meta_uuid);
    put_u64(&mut b, 32, 131);
    put_u64(&mut b, 40, 8);
    crc::stamp(&mut b, 12);
    let _ = attr::parse_remote(&sb, RemoteKind::Value, 131, 8, 0, &b);
}

/// The last record of a log.
pub fn log(input: &[u8]) {
    let mut b = sized(input, log::MAX_RECORD_BYTES);
    put_u32(&mut b, 0, log::MAGIC);
    for (block, head) in [(0, 2), (1020, 2), (5, 7)] {
        let _ = log::parse_unmount(&b, block, head, 1024);
    }
}
