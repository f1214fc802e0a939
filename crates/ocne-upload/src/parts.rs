//! How an object is cut into parts.

use std::num::NonZeroU64;

use crate::error::UploadError;

/// The service takes no more parts.
pub(crate) const PARTS_MAX: u64 = 10_000;
/// A part takes a minute on a line of 2.3 Mbit/s; what is lost with a connection is at most that.
const PART_BYTES: u64 = 16 << 20;
/// Sizes are whole MiB.
const MIB: u64 = 1 << 20;

/// The parts of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    pub total_bytes: u64,
    pub part_bytes: u64,
    pub count: u32,
}

impl Parts {
    /// Cuts `total_bytes`, by the size that was asked for or by the rule. None when that would be too many parts.
    pub fn new(total_bytes: u64, asked_for: Option<NonZeroU64>) -> Option<Self> {
        let part_bytes = match asked_for {
            Some(bytes) => bytes.get(),
            None => PART_BYTES.max(total_bytes.div_ceil(PARTS_MAX).div_ceil(MIB) * MIB),
        };
        let count = total_bytes.div_ceil(part_bytes).max(1);
        let count = u32::try_from(count).ok().filter(|count| u64::from(*count) <= PARTS_MAX)?;
        Some(Self { total_bytes, part_bytes, count })
    }

    /// The same; that it cannot be is an error.
    pub fn wanted(total_bytes: u64, asked_for: Option<NonZeroU64>) -> Result<Self, UploadError> {
        let part_bytes = asked_for.map_or(0, NonZeroU64::get);
        Self::new(total_bytes, asked_for).ok_or(UploadError::PartSize { part_bytes, total_bytes })
    }

    /// The smallest size of a part that `total_bytes` can be cut by.
    pub fn smallest(total_bytes: u64) -> u64 {
        total_bytes.div_ceil(PARTS_MAX)
    }

    /// The numbers of the parts, from 1.
    pub fn numbers(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.count
    }

    /// Where a part begins.
    pub fn offset(&self, number: u32) -> u64 {
        u64::from(number.saturating_sub(1)) * self.part_bytes
    }

    /// Which bytes a part has.
    pub fn range(&self, number: u32) -> std::ops::Range<u64> {
        self.offset(number)..self.offset(number) + self.length(number)
    }

    /// The length of a part.
    pub fn length(&self, number: u32) -> u64 {
        self.total_bytes.saturating_sub(self.offset(number)).min(self.part_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        let by_rule = |total| Parts::new(total, None).unwrap();
        assert_eq!(by_rule(0).count, 1);
        assert_eq!(by_rule(1).count, 1);
        assert_eq!((by_rule(16 << 20).count, by_rule((16 << 20) + 1).count), (1, 2));
        assert_eq!(by_rule(400 << 30).part_bytes, 41 << 20);
        let asked = |bytes| Parts::new(100, NonZeroU64::new(bytes)).unwrap();
        assert_eq!((asked(30).count, asked(30).length(4), asked(30).offset(4)), (4, 10, 90));
        assert_eq!(Parts::new(20_000, NonZeroU64::new(1)), None);
        assert_eq!(Parts::new(20_000, NonZeroU64::new(Parts::smallest(20_000))).unwrap().count, 10_000);
    }

    proptest! {
        #[test]
        fn parts_cover_all_of_it_once(total in 0_u64..(1 << 45)) {
            let parts = Parts::new(total, None).unwrap();
            prop_assert!(u64::from(parts.count) <= PARTS_MAX);
            prop_assert_eq!(parts.offset(parts.count) + parts.length(parts.count), total);
            prop_assert!(parts.count == 1 || parts.length(parts.count) > 0);
        }
    }
}
