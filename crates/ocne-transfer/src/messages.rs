//! What the payloads of frames are.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::TransferError;

/// Name and version of the protocol.
pub const PROTOCOL: &str = "ocne-transfer/1";
/// The most bytes that one batch of reads may ask for.
pub const MAX_BATCH_BYTES: u64 = 8 << 20;
/// The most bytes that all changes of a result may have; a conversion changes a few hundred KiB.
pub const MAX_CHANGES_BYTES: u64 = 16 << 20;

/// How the agent gets at the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It asks for the ranges of the disk that it needs.
    Blocks,
    /// It gets the whole image file.
    Full,
    /// It fetches the image itself, and the whole result goes to the client.
    Pull,
    /// It makes a container image that serves an ostree commit, of images that it fetches itself or gets the files of.
    Ostree,
}

impl Mode {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Full => "full",
            Self::Pull => "pull",
            Self::Ostree => "ostree",
        }
    }
}

/// The first frame in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: String,
    /// Name and version of the program, for logs.
    pub program: String,
    /// Names of the modes that it can do; a later release may know more.
    pub modes: Vec<String>,
}

impl Hello {
    /// The greeting of a program of this release.
    pub fn of(program: &str) -> Self {
        let modes =
            [Mode::Blocks, Mode::Full, Mode::Pull, Mode::Ostree].map(|mode| mode.name().to_owned()).into();
        Self { protocol: PROTOCOL.to_owned(), program: program.to_owned(), modes }
    }
}

/// What the client wants done.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// How the agent gets at the image.
    pub mode: Mode,
    /// Size of the disk in the image, or of the image file.
    pub size_bytes: u64,
    /// Tells one image file from others, so that a part of it that is there is not taken for the start of another; for
    /// a full transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What the agent fetches, for a pull. It may have a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Value>,
    /// What the converter makes of it.
    pub options: Value,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, size_bytes, key, source: _, options } = self;
        let mut debug = f.debug_struct("Job");
        debug.field("mode", mode).field("size_bytes", size_bytes).field("key", key);
        debug.field("options", options).finish_non_exhaustive()
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How many changes were sent.
    pub changes: u64,
    /// Their SHA-256, as [`ChangesDigest`] computes it.
    pub changes_sha256: String,
    /// What the converter says.
    pub report: Value,
    /// What the agent fetched, for a pull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled: Option<Pulled>,
}

/// An image that an agent fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Its reference in the full form.
    pub reference: String,
    /// Digest of its manifest.
    pub manifest_digest: String,
    /// SHA-256 of the disk in it, in hexadecimal digits.
    pub disk_sha256: String,
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeFile {
    /// Its size.
    pub size_bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// Why a side gives up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure, for programs.
    pub code: String,
    /// Why, for people.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<Failure> for TransferError {
    fn from(f: Failure) -> Self {
        Self::Peer { code: f.code, message: f.message, hint: f.hint }
    }
}

/// A range of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is.
    pub len_bytes: u32,
}

/// The payload of a `Read` frame: for each range the offset (64 bits) and the length (32 bits), little endian.
pub fn encode_ranges(ranges: &[Range]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(ranges.len() * 12);
    for r in ranges {
        payload.extend(r.offset_bytes.to_le_bytes());
        payload.extend(r.len_bytes.to_le_bytes());
    }
    payload
}

/// The ranges in the payload of a `Read` frame, all inside a disk of `size_bytes` and together not too long.
///
/// # Errors
/// When they break a rule.
pub fn parse_ranges(payload: &[u8], size_bytes: u64) -> Result<Vec<Range>, TransferError> {
    let (entries, rest) = payload.as_chunks::<12>();
    if !rest.is_empty() || entries.is_empty() {
        return Err(TransferError::protocol(format!("a request for ranges of {} bytes", payload.len())));
    }
    let mut total_bytes = 0;
    entries
        .iter()
        .map(|&[o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3]| {
            let offset_bytes = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
            let len_bytes = u32::from_le_bytes([l0, l1, l2, l3]);
            let end = offset_bytes.checked_add(u64::from(len_bytes));
            if end.is_none_or(|end| end > size_bytes) || len_bytes == 0 {
                return Err(TransferError::protocol(format!(
                    "a request for {len_bytes} bytes at offset {offset_bytes} of a disk of {size_bytes}"
                )));
            }
            total_bytes += u64::from(len_bytes);
            if total_bytes > MAX_BATCH_BYTES {
                return Err(TransferError::protocol(format!(
                    "a request for more than {MAX_BATCH_BYTES} bytes at once"
                )));
            }
            Ok(Range { offset_bytes, len_bytes })
        })
        .collect()
}

/// SHA-256 over a list of changes: of each its offset and length (64 bits each, little endian) and its bytes.
#[derive(Debug, Clone, Default)]
pub struct ChangesDigest {
    hasher: Sha256,
    changes: u64,
}

impl ChangesDigest {
    /// Takes the next change.
    pub fn add(&mut self, offset_bytes: u64, bytes: &[u8]) {
        self.hasher.update(offset_bytes.to_le_bytes());
        self.hasher.update((bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
        self.changes += 1;
    }

    /// How many there were, and their digest in hexadecimal digits.
    pub fn finish(self) -> (u64, String) {
        (self.changes, hex(&self.hasher.finalize()))
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_and_bad_ones_are_refused() {
        let ranges = [Range { offset_bytes: 0, len_bytes: 512 }, Range { offset_bytes: 4096, len_bytes: 1 }];
        assert_eq!(parse_ranges(&encode_ranges(&ranges), 8192).unwrap(), ranges);
        for (bad, size) in [
            (vec![], 10),
            (vec![0; 11], 10),
            (encode_ranges(&[Range { offset_bytes: 9, len_bytes: 2 }]), 10),
            (encode_ranges(&[Range { offset_bytes: u64::MAX, len_bytes: 2 }]), 10),
            (encode_ranges(&[Range { offset_bytes: 0, len_bytes: 0 }]), 10),
            (encode_ranges(&[Range { offset_bytes: 0, len_bytes: 4 << 20 }; 3]), 1 << 30),
        ] {
            assert!(parse_ranges(&bad, size).is_err(), "{} bytes", bad.len());
        }
    }
}
