//! Points in time as log lines and records carry them: `2024-07-05T16:01:56Z`.

use jiff::Timestamp;

/// The present moment, in seconds and UTC.
pub fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

/// Seconds since 1970 as RFC 3339.
pub fn format(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    format!("{:.0}", time.unwrap_or(Timestamp::MAX))
}

/// Seconds since 1970 of a time such as `2024-07-05T16:01:56.789Z` (RFC 3339); none of anything else.
pub fn parse(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<Timestamp>().ok()?.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::{format, parse};

    #[test]
    fn what_was_written_is_read() {
        for seconds in [0, 951_782_400, 1_720_195_316, 4_102_444_799] {
            assert_eq!(parse(&format(seconds)), Some(seconds));
        }
        assert_eq!(parse("2024-07-05T16:01:56.789Z"), Some(1_720_195_316));
        assert_eq!(parse("2024-07-05T16:01:56.789000+00:00"), Some(1_720_195_316));
        assert_eq!(parse("2024-07-05T18:01:56+02:00"), Some(1_720_195_316));
        for nothing in ["", "2024-07-05", "2024-00-00T99:00:00Z", "1969-12-31T00:00:00Z"] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn dates_that_are_known() {
        assert_eq!(format(0), "1970-01-01T00:00:00Z");
        assert_eq!(format(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(format(1_720_195_316), "2024-07-05T16:01:56Z");
        assert_eq!(format(4_102_444_799), "2099-12-31T23:59:59Z");
    }
}
