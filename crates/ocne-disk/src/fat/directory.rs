//! Entries of FAT directories: short names, long names, the volume label.

use crate::bytes::{le16, le32};

const ENTRY_BYTES: usize = 32;
const ATTRIBUTE_LABEL: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
/// All of read-only, hidden, system and label: a part of a long name.
const ATTRIBUTE_LONG_NAME: u8 = 0x0f;
const DELETED: u8 = 0xe5;
const LAST_LONG_PART: u8 = 0x40;
/// Places of the 13 UTF-16 units in a part of a long name.
const LONG_UNITS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// A name has at most 255 units: 20 parts.
const MAX_LONG_PARTS: u8 = 20;

/// An entry that can be followed.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    short_name: String,
    pub is_dir: bool,
    pub size_bytes: u64,
    pub first_cluster: u32,
}

impl Entry {
    pub fn is_named(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.name.to_lowercase() == name || self.short_name.to_lowercase() == name
    }
}

/// Slots of a directory up to its end.
fn slots(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks_exact(ENTRY_BYTES).take_while(|s| s[0] != 0).filter(|s| s[0] != DELETED)
}

/// The volume label, which is kept in the root directory.
pub(super) fn label(root: &[u8]) -> Option<String> {
    let slot = slots(root)
        .find(|s| s[11] & ATTRIBUTE_LONG_NAME != ATTRIBUTE_LONG_NAME && s[11] & ATTRIBUTE_LABEL != 0)?;
    Some(oem(&slot[..11]))
}

/// Files and directories, without `.` and `..`. A long name that does not belong to its entry is passed over, as
/// every driver does. Only FAT32 has the upper half of a cluster number.
pub(super) fn entries(bytes: &[u8], is_fat32: bool) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut long = LongName::default();
    // Deleted slots are looked at here: they end a long name.
    for slot in bytes.chunks_exact(ENTRY_BYTES).take_while(|s| s[0] != 0) {
        if slot[0] == DELETED {
            long = LongName::default();
            continue;
        }
        if slot[11] & ATTRIBUTE_LONG_NAME == ATTRIBUTE_LONG_NAME {
            long.add(slot);
            continue;
        }
        let long_name = std::mem::take(&mut long).finish(&slot[..11]);
        if slot[11] & ATTRIBUTE_LABEL != 0 || slot[0] == b'.' {
            continue;
        }
        let short_name = short_name(slot);
        let is_dir = slot[11] & ATTRIBUTE_DIRECTORY != 0;
        let cluster = u32::from(le16(slot, 26).unwrap_or(0))
            | if is_fat32 { u32::from(le16(slot, 20).unwrap_or(0)) << 16 } else { 0 };
        found.push(Entry {
            name: long_name.unwrap_or_else(|| short_name.clone()),
            short_name,
            is_dir,
            size_bytes: if is_dir { 0 } else { u64::from(le32(slot, 28).unwrap_or(0)) },
            first_cluster: cluster,
        });
    }
    found
}

/// A long name on the way: its parts come last first.
#[derive(Default)]
struct LongName {
    /// Number of the part that came last; the next has one less.
    part: u8,
    checksum: u8,
    units: Vec<u16>,
}

impl LongName {
    fn add(&mut self, slot: &[u8]) {
        let part = slot[0] & !LAST_LONG_PART;
        if slot[0] & LAST_LONG_PART != 0 && (1..=MAX_LONG_PARTS).contains(&part) {
            *self = Self { part, checksum: slot[13], units: Vec::new() };
        } else if part != 0 && part + 1 == self.part && slot[13] == self.checksum {
            self.part = part;
        } else {
            *self = Self::default();
            return;
        }
        let units: Vec<u16> = LONG_UNITS.iter().filter_map(|&at| le16(slot, at)).collect();
        self.units.splice(0..0, units);
    }

    fn finish(self, short: &[u8]) -> Option<String> {
        let sum = short.iter().fold(0_u8, |sum, &b| sum.rotate_right(1).wrapping_add(b));
        if self.part != 1 || sum != self.checksum {
            return None;
        }
        let end = self.units.iter().position(|&u| u == 0).unwrap_or(self.units.len());
        Some(String::from_utf16_lossy(&self.units[..end]))
    }
}

/// `NAME.EXT` of a slot, in the letter case that Windows NT notes in it.
fn short_name(slot: &[u8]) -> String {
    let mut raw = [0; 11];
    raw.copy_from_slice(&slot[..11]);
    if raw[0] == 0x05 {
        raw[0] = DELETED; // a first letter that would mean "deleted"
    }
    let part = |bytes: &[u8], lower: bool| {
        let text = oem(bytes).trim_end().to_owned();
        if lower { text.to_lowercase() } else { text }
    };
    let (base, extension) = (part(&raw[..8], slot[12] & 0x08 != 0), part(&raw[8..], slot[12] & 0x10 != 0));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}

/// Text in the code page of whoever made it; only its ASCII part is known.
pub(super) fn oem(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| if b.is_ascii() { char::from(b) } else { char::REPLACEMENT_CHARACTER }).collect()
}
