//! Points in time as log lines and records carry them: `2024-07-05T16:01:56Z`.

use std::time::{SystemTime, UNIX_EPOCH};

/// The present moment, in seconds and UTC.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    format(seconds)
}

/// Seconds since 1970 as RFC 3339.
///
/// The date comes from the count of days by the method of 400-year eras that begin on 1 March, so that leap
/// days are last (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub fn format(seconds: u64) -> String {
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let since_era_zero = days + 719_468;
    let (era, day_of_era) = (since_era_zero / 146_097, since_era_zero % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn dates_that_are_known() {
        assert_eq!(format(0), "1970-01-01T00:00:00Z");
        assert_eq!(format(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(format(1_720_195_316), "2024-07-05T16:01:56Z");
        assert_eq!(format(4_102_444_799), "2099-12-31T23:59:59Z");
    }
}
