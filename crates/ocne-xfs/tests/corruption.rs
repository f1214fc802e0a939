//! Random damage to single fields, with the checksum made right again: whatever `xfs_repair -n` finds, the check finds.

mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;

use ocne_disk::RawDevice;
use ocne_xfs::Volume;
use support::Random;

/// What `xfs_repair -n` says of a file that is sound.
const ROUTINE: [&str; 6] =
    ["Phase", "        - ", "No modify", "Cannot get host", "Repair may fail", "the image and the host"];

/// Ways to make a file system; a run takes three.
const OPTIONS: [&[&str]; 9] = [
    &[],
    &["-m", "rmapbt=1"],
    &["-b", "size=1024", "-m", "rmapbt=1"],
    &["-m", "bigtime=0,inobtcount=0"],
    &["-i", "nrext64=1,size=1024"],
    &["-n", "size=16384", "-m", "rmapbt=1"],
    &["-s", "size=4096", "-i", "size=2048"],
    &["-m", "finobt=0,inobtcount=0,reflink=0", "-i", "sparse=0"],
    &["-b", "size=2048", "-d", "agcount=2"],
];

/// A structure with a checksum.
#[derive(Debug, Clone, Copy)]
struct Structure {
    kind: &'static str,
    offset: u64,
    len: usize,
    crc_at: usize,
    /// Bytes from here on are rarely used, so that less damage goes there.
    dense: usize,
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(b[at..at + 4].try_into().unwrap())
}

fn crc(b: &[u8], at: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&b[..at]), &[0; 4]), &b[at + 4..])
}

/// Every structure of an image, found by its magic and its checksum; also some that are not in use any more.
fn structures(image: &[u8]) -> Vec<Structure> {
    let block = be32(image, 4) as usize;
    let sector = usize::from(u16::from_be_bytes([image[102], image[103]]));
    let inode = usize::from(u16::from_be_bytes([image[104], image[105]]));
    let dir_block = block << image[192];
    let mut out = Vec::new();
    for at in (0..image.len()).step_by(512) {
        let b = &image[at..];
        if b[..512].iter().all(|&x| x == 0) {
            continue;
        }
        let found = match &b[..4] {
            b"XFSB" => Some(("sb", sector, 224, 264)),
            b"XAGF" => Some(("agf", sector, 216, 100)),
            b"XAGI" => Some(("agi", sector, 312, 344)),
            b"XAFL" => Some(("agfl", sector, 32, 64)),
            b"AB3B" => Some(("bnobt", block, 52, 256)),
            b"AB3C" => Some(("cntbt", block, 52, 256)),
            b"IAB3" => Some(("inobt", block, 52, 256)),
            b"FIB3" => Some(("finobt", block, 52, 256)),
            b"RMB3" => Some(("rmapbt", block, 52, 512)),
            b"R3FC" => Some(("refcountbt", block, 52, 128)),
            b"BMA3" => Some(("bmbt", block, 64, 512)),
            b"XDB3" => Some(("dir block", dir_block, 4, 512)),
            b"XDD3" => Some(("dir data", dir_block, 4, 512)),
            b"XDF3" => Some(("dir free", dir_block, 4, 96)),
            b"XARM" => Some(("attr remote", block, 12, 56)),
            b"XSLM" => Some(("symlink", block, 12, 64)),
            [b'I', b'N', _, _] => Some(("inode", inode, 100, 400)),
            _ => match &b[8..10] {
                [0x3D, 0xF1] => Some(("dir leaf1", dir_block, 12, 256)),
                [0x3D, 0xFF] => Some(("dir leafn", dir_block, 12, 256)),
                [0x3E, 0xBE] if crc(&b[..block], 12).to_le_bytes() == b[12..16] => {
                    Some(("attr node", block, 12, 128))
                }
                [0x3E, 0xBE] => Some(("dir node", dir_block, 12, 128)),
                [0x3B, 0xEE] => Some(("attr leaf", block, 12, 256)),
                _ => None,
            },
        };
        if let Some((kind, len, crc_at, dense)) = found
            && b.len() >= len
            && crc(&b[..len], crc_at).to_le_bytes() == b[crc_at..crc_at + 4]
        {
            out.push(Structure { kind, offset: at as u64, len, crc_at, dense });
        }
    }
    out
}

/// The structure with one field changed, and what was done.
fn damaged(random: &mut Random, s: &Structure, original: &[u8]) -> (Vec<u8>, String) {
    let mut bytes = original.to_vec();
    loop {
        let width = *random.pick(&[1usize, 2, 4, 8]);
        let range = if random.below(4) == 0 { s.len } else { s.dense };
        let at = usize::try_from(random.below((range / width) as u64)).unwrap() * width;
        let field = &mut bytes[at..at + width];
        match random.below(5) {
            0 => field.fill(0),
            1 => field.fill(0xFF),
            2 => field[width - 1] = field[width - 1].wrapping_add(1),
            3 => field[width - 1] ^= 1 << random.below(8),
            _ => field.iter_mut().for_each(|b| *b = random.next().to_le_bytes()[0]),
        }
        let crc = crc(&bytes, s.crc_at);
        bytes[s.crc_at..s.crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        if bytes != original {
            let what = format!(
                "{} at {:#x}: {width} bytes at {at}: {:02x?} -> {:02x?}",
                s.kind,
                s.offset,
                &original[at..at + width],
                &bytes[at..at + width]
            );
            return (bytes, what);
        }
        bytes.copy_from_slice(original);
    }
}

/// Whether the check finds something, and what.
fn check(image: &Path) -> (bool, String) {
    match Volume::open(RawDevice::open(image).unwrap()).and_then(|v| v.check()) {
        Ok(report) => {
            (!report.is_clean(), report.problems.first().map_or_else(String::new, ToString::to_string))
        }
        Err(e) => (true, e.to_string()),
    }
}

/// Damages an image `rounds` times, one field each time; returns how often both found it, and what was missed.
fn torture(image: &Path, seed: u64, rounds: usize) -> (usize, Vec<String>) {
    let content = fs_err::read(image).unwrap();
    let all = structures(&content);
    let mut kinds: Vec<&str> = all.iter().map(|s| s.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let file = fs_err::OpenOptions::new().write(true).open(image).unwrap();
    let mut random = Random(seed);
    let (mut both, mut missed) = (0, Vec::new());
    for _ in 0..rounds {
        let kind = *random.pick(&kinds);
        let of_kind: Vec<&Structure> = all.iter().filter(|s| s.kind == kind).collect();
        let s = *random.pick(&of_kind);
        let at = usize::try_from(s.offset).unwrap();
        let original = &content[at..at + s.len];
        let (bytes, what) = damaged(&mut random, s, original);
        file.file().write_all_at(&bytes, s.offset).unwrap();
        let ((repair_finds, said), (we_find, _)) = (support::repair(image), check(image));
        match (repair_finds, we_find) {
            (true, true) => both += 1,
            (true, false) => {
                let odd: Vec<&str> =
                    said.lines().filter(|l| !ROUTINE.iter().any(|r| l.starts_with(r))).take(4).collect();
                missed.push(format!("{what}\n    {}", odd.join("\n    ")));
            }
            (false, _) => {}
        }
        file.file().write_all_at(original, s.offset).unwrap();
    }
    let (finds, problem) = check(image);
    assert!(!finds, "not clean after the damage was undone: {problem}");
    (both, missed)
}

#[test]
fn finds_what_repair_finds() {
    if !support::can_mount() || !support::has(&["xfs_repair"]) {
        return support::skipped(
            "finds_what_repair_finds",
            "needs root, loop devices, mkfs.xfs and xfs_repair",
        );
    }
    let rounds = std::env::var("XFS_CORRUPTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(130);
    let seed: u64 = std::env::var("XFS_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let dir = tempfile::tempdir().unwrap();
    let (mut both, mut missed) = (0, Vec::new());
    for i in 0..3 {
        let options = OPTIONS[(usize::try_from(seed).unwrap() * 3 + i) % OPTIONS.len()];
        let image = support::mkfs(dir.path(), &format!("{i}.img"), 300, options);
        let mount = support::Mount::new(&image);
        support::populate(&mount.at, !options.iter().any(|o| o.contains("reflink=0")));
        drop(mount);
        let (n, m) = torture(&image, 0x9E37_79B9_7F4A_7C15 ^ (seed * 7 + i as u64), rounds);
        both += n;
        missed.extend(m);
    }
    assert!(missed.is_empty(), "{both} found by both, {} missed:\n{}", missed.len(), missed.join("\n"));
    assert!(both >= 200, "only {both} of the damages were of a kind that xfs_repair finds");
}
