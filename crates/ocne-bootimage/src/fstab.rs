//! fstab (`fstab(5)`): one mount a line, fields between blanks.
//!
//! Only the first field of lines is ever edited, and everything else stays byte for byte.

use std::ops::Range;

use crate::uuid::Uuid;

/// A mount in an fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount<'a> {
    /// What is mounted, as written: `UUID=…`, `LABEL=…`, a device.
    pub source: &'a [u8],
    /// Where, as written.
    pub target: &'a [u8],
    /// With which options, as written.
    pub options: &'a [u8],
    /// Which line, from 1.
    pub line: usize,
}

impl Mount<'_> {
    /// The UUID that `UUID=` (which may have it in quotes) or `/dev/disk/by-uuid/` names, if it has the form of an XFS one.
    pub fn uuid(&self) -> Option<Uuid> {
        if let Some(path) = self.source.strip_prefix(b"/dev/disk/by-uuid/") {
            return Uuid::parse(path);
        }
        let text = self.source.strip_prefix(b"UUID=")?;
        Uuid::parse(text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\"")).unwrap_or(text))
    }

    /// Whether a boot goes on without it.
    pub fn is_optional(&self) -> bool {
        self.options.split(|&b| b == b',').any(|o| matches!(o, b"nofail" | b"noauto"))
    }
}

/// The mounts of an fstab; comments, blank lines and lines with one field are left out.
pub fn mounts(text: &[u8]) -> Vec<Mount<'_>> {
    fields(text)
        .map(|(line, source, target)| {
            let rest = text[target.end..].split(|&b| b == b'\n').next().unwrap_or_default();
            // the type is between the target and the options
            let options =
                rest.split(u8::is_ascii_whitespace).filter(|f| !f.is_empty()).nth(1).unwrap_or_default();
            Mount { source: &text[source], target: &text[target], options, line }
        })
        .collect()
}

/// The line, and where its first two fields are in the text.
fn fields(text: &[u8]) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let mut start = 0;
    text.split_inclusive(|&b| b == b'\n').zip(1..).filter_map(move |(bytes, line)| {
        let offset = start;
        start += bytes.len();
        let source = field(bytes, 0)?;
        let target = field(bytes, source.end)?;
        let shifted = |r: Range<usize>| r.start + offset..r.end + offset;
        (bytes[source.start] != b'#').then(|| (line, shifted(source), shifted(target)))
    })
}

/// The next field from `from` on.
fn field(line: &[u8], from: usize) -> Option<Range<usize>> {
    let start = from + line.get(from..)?.iter().position(|b| !b.is_ascii_whitespace())?;
    let len = line[start..].iter().position(u8::is_ascii_whitespace);
    Some(start..len.map_or(line.len(), |n| start + n))
}

/// A mount point whose file system gets a new UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountUuid {
    /// Where it is mounted.
    pub target: &'static str,
    /// The UUID that the file system had.
    pub old: Uuid,
    /// The UUID that it gets.
    pub new: Uuid,
}

/// The text with new UUIDs: every line for one of the mount points that names its file system by `UUID=`, and
/// by `/dev/disk/by-uuid/` if that is the old UUID.
///
/// A line that uses something else, such as `LABEL=`, still finds its file system and stays.
pub fn with_new_uuids(text: &[u8], changes: &[MountUuid]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut copied = 0;
    for (_, source, target) in fields(text) {
        let Some(change) = changes.iter().find(|c| c.target.as_bytes() == &text[target.clone()]) else {
            continue;
        };
        let new = match &text[source.clone()] {
            t if t.starts_with(b"UUID=") => format!("UUID={}", change.new),
            t if t.eq_ignore_ascii_case(format!("/dev/disk/by-uuid/{}", change.old).as_bytes()) => {
                format!("/dev/disk/by-uuid/{}", change.new)
            }
            _ => continue,
        };
        out.extend_from_slice(&text[copied..source.start]);
        out.extend_from_slice(new.as_bytes());
        copied = source.end;
    }
    out.extend_from_slice(&text[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: MountUuid = MountUuid { target: "/", old: Uuid([0x11; 16]), new: Uuid([0xaa; 16]) };
    const BOOT: MountUuid = MountUuid { target: "/boot", old: Uuid([0x22; 16]), new: Uuid([0xbb; 16]) };

    fn edited(text: &str) -> String {
        String::from_utf8(with_new_uuids(text.as_bytes(), &[ROOT, BOOT])).unwrap()
    }

    #[test]
    fn root_and_boot_only() {
        let (root, boot, stale) = (ROOT.old, BOOT.old, Uuid([0x33; 16]));
        let text = format!(
            "# UUID={root} / xfs\n\nUUID={root} / xfs defaults 0 0\n\tUUID=\"{boot}\"\t /boot  xfs defaults,sync 0 0 # UUID={root}\r\n\
             UUID=9859-575E /boot/efi vfat umask=077 0 2\nUUID={stale} /boot xfs\nlonely\n"
        );
        let want = format!(
            "# UUID={root} / xfs\n\nUUID={} / xfs defaults 0 0\n\tUUID={}\t /boot  xfs defaults,sync 0 0 # UUID={root}\r\n\
             UUID=9859-575E /boot/efi vfat umask=077 0 2\nUUID={} /boot xfs\nlonely\n",
            ROOT.new, BOOT.new, BOOT.new
        );
        assert_eq!(edited(&text), want);
    }

    #[test]
    fn what_still_works_stays() {
        let text = "LABEL=root / xfs\nPARTUUID=1 /boot xfs\n/dev/sda3 / xfs\nUUID=1";
        assert_eq!(edited(text), text);
        assert_eq!(
            edited(&format!("/dev/disk/by-uuid/{} / xfs", ROOT.old)),
            format!("/dev/disk/by-uuid/{} / xfs", ROOT.new)
        );
        let other = format!("/dev/disk/by-uuid/{} / xfs", BOOT.old);
        assert_eq!(edited(&other), other);
    }

    #[test]
    fn mounts_of_a_table() {
        let text = format!("#c\n UUID={} / xfs\nLABEL=x /y", ROOT.old);
        let found = mounts(text.as_bytes());
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].line, found[0].target, found[0].uuid()), (2, &b"/"[..], Some(ROOT.old)));
        assert_eq!((found[1].line, found[1].target, found[1].uuid()), (3, &b"/y"[..], None));
        // found by fuzzing: quotes belong to tags, not to paths
        let quoted = format!("/dev/disk/by-uuid/\"{}\" / xfs", ROOT.old);
        assert_eq!(mounts(quoted.as_bytes())[0].uuid(), None);
        assert_eq!(edited(&quoted), quoted);
    }

    proptest! {
        #[test]
        fn other_lines_stay(lines in proptest::collection::vec("[ -~\t]{0,30}", 0..6)) {
            let other: Vec<_> = lines.into_iter().filter(|l| !l.contains("UUID")).collect();
            let old = format!("{}\nUUID={} / xfs\n{}", other.join("\n"), ROOT.old, other.join("\n"));
            let new = format!("{}\nUUID={} / xfs\n{}", other.join("\n"), ROOT.new, other.join("\n"));
            prop_assert_eq!(edited(&old), new);
        }

        #[test]
        fn any_bytes(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            mounts(&text);
            with_new_uuids(&text, &[ROOT, BOOT]);
        }
    }
}
