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

/// Seconds since 1970 of a time in UTC such as `2024-07-05T16:01:56.789Z` (RFC 3339); none of anything else.
pub fn parse(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    let time = time.strip_suffix('Z').or_else(|| time.strip_suffix("+00:00"))?;
    let number = |part: Option<&str>, most: u64| part?.parse().ok().filter(|n: &u64| *n <= most);
    let mut date = date.split('-');
    let (year, month, day) = (number(date.next(), 9999)?, number(date.next(), 12)?, number(date.next(), 31)?);
    let mut clock = time.split('.').next()?.split(':');
    let (hour, minute, second) =
        (number(clock.next(), 23)?, number(clock.next(), 59)?, number(clock.next(), 60)?);
    // The same eras as above, the other way round.
    let (year, month) = if month <= 2 { (year.checked_sub(1)?, month + 9) } else { (year, month - 3) };
    let days =
        year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day.checked_sub(1)?;
    Some(((days.checked_sub(719_468)? * 24 + hour) * 60 + minute) * 60 + second)
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
        for nothing in
            ["", "2024-07-05", "2024-07-05T16:01:56+02:00", "2024-00-00T99:00:00Z", "1969-12-31T00:00:00Z"]
        {
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
