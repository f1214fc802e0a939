//! What makes two conversions of one image differ: its new UUIDs, the time in it, and what hash seeds come from.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use ocne_xfs::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest as _, Sha256};

use crate::error::BuildError;

/// What a conversion needs beside the image and what was asked for. The same identifiers give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identifiers {
    pub boot_uuid: [u8; 16],
    pub root_uuid: [u8; 16],
    pub number: u64,
    pub now: Timestamp,
}

impl Identifiers {
    /// From a seed and a time (seconds since 1970), each if it was given; else as nobody can guess them, and the present.
    pub fn new(seed: Option<&str>, seconds: Option<u64>) -> Result<Self, BuildError> {
        let now = seconds.map_or_else(now, |seconds| Timestamp {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanoseconds: 0,
        });
        let Some(seed) = seed else {
            let number = u64::from_le_bytes(random()?);
            return Ok(Self { boot_uuid: uuid(random()?, 4), root_uuid: uuid(random()?, 4), number, now });
        };
        let number = u64::from_le_bytes(derived(seed, "number"));
        // RFC 9562, section 5.8: a UUID from a hash that is not MD5 or SHA-1 has version 8.
        let (boot_uuid, root_uuid) = (uuid(derived(seed, "boot"), 8), uuid(derived(seed, "root"), 8));
        Ok(Self { boot_uuid, root_uuid, number, now })
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(0), nanoseconds: since.subsec_nanos() }
}

/// Bytes that nobody can guess.
fn random<const N: usize>() -> Result<[u8; N], BuildError> {
    let mut bytes = [0; N];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(n) if n == N => Ok(bytes), // up to 256 bytes always come at once
        Ok(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        Err(e) => Err(e.into()),
    }
    .map_err(|source| BuildError::Io { action: "get random bytes", source })
}

/// Bytes that everybody gets from the same seed: the beginning of SHA-256 over purpose, NUL and seed.
fn derived<const N: usize>(seed: &str, purpose: &str) -> [u8; N] {
    let digest = Sha256::new().chain_update(purpose).chain_update([0]).chain_update(seed).finalize();
    let mut bytes = [0; N];
    bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    bytes
}

/// A UUID of these bytes: RFC 9562, section 4.
fn uuid(mut bytes: [u8; 16], version: u8) -> [u8; 16] {
    bytes[6] = bytes[6] & 0x0F | version << 4;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_but_the_time() {
        let of = |seed| Identifiers::new(Some(seed), Some(1_700_000_000)).unwrap();
        assert_eq!(of("1.33-amd64"), of("1.33-amd64"));
        assert_ne!(of("1.33-amd64").boot_uuid, of("1.33-arm64").boot_uuid);
        assert_ne!(of("a").boot_uuid, of("a").root_uuid);
        assert_eq!(of("a").boot_uuid[6] >> 4, 8);
        assert_eq!(of("a").now, Timestamp { seconds: 1_700_000_000, nanoseconds: 0 });
        // Published: images that were built from a seed are built again from it.
        assert_eq!(
            of("a").boot_uuid,
            [0xF7, 0x48, 0x68, 0x11, 0x69, 0xC0, 0x83, 0x4D, 0x9F, 0xA8, 0x2B, 0xD2, 0xC1, 0x34, 0xAF, 0xB3]
        );
    }

    #[test]
    fn without_a_seed_no_two_are_the_same() {
        let (a, b) = (Identifiers::new(None, None).unwrap(), Identifiers::new(None, None).unwrap());
        assert_ne!(a.boot_uuid, b.boot_uuid);
        assert_ne!(a.root_uuid, b.root_uuid);
        assert_eq!(a.root_uuid[6] >> 4, 4);
    }
}
