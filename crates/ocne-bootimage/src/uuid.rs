//! UUIDs of file systems, as bytes and as text.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A UUID, most significant byte first, as XFS stores it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads the usual form of 36 characters, in either case.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != 36 {
            return None;
        }
        let mut digits = Vec::with_capacity(32);
        for (at, &b) in text.iter().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                if b != b'-' {
                    return None;
                }
            } else {
                digits.push(u8::try_from(char::from(b).to_digit(16)?).ok()?);
            }
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(text.as_bytes()).ok_or_else(|| D::Error::custom("not a UUID"))
    }
}

#[cfg(test)]
mod tests {
    use super::Uuid;

    #[test]
    fn text_and_bytes() {
        let text = "0c3e8f89-9c23-457a-bd90-cb55343725ef";
        let uuid = Uuid::parse(text.as_bytes()).unwrap();
        assert_eq!(uuid.0[..4], [0x0c, 0x3e, 0x8f, 0x89]);
        assert_eq!(uuid.to_string(), text);
        assert_eq!(Uuid::parse(text.to_uppercase().as_bytes()), Some(uuid));
    }

    #[test]
    fn what_is_no_uuid() {
        for text in
            ["", "9859-575E", "0c3e8f89-9c23-457a-bd90-cb55343725e", "0c3e8f89x9c23-457a-bd90-cb55343725ef"]
        {
            assert_eq!(Uuid::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Uuid::parse(&[b'+'; 36]), None);
    }
}
