//! What a request asks of a file besides its bytes: only if it changed, and only a part (RFC 9110, 13 and 14).

use std::time::SystemTime;

use hyper::HeaderMap;
use hyper::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};

use crate::file::Found;

/// What is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// All of it.
    Whole,
    /// The bytes from one to another, both included.
    Part(u64, u64),
    /// It is what the client has already.
    NotModified,
    /// It is not what the client wants it to be.
    Failed,
    /// It has no such part.
    NoSuchPart,
}

/// Decides, in the order of RFC 9110, 13.2.2.
pub fn answer(headers: &HeaderMap, found: &Found) -> Answer {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let date = |name| text(name).and_then(|t| httpdate::parse_http_date(t).ok());
    if let Some(tags) = text(IF_MATCH) {
        if !matches(tags, &found.etag, false) {
            return Answer::Failed;
        }
    } else if date(IF_UNMODIFIED_SINCE).is_some_and(|since| found.modified > since) {
        return Answer::Failed;
    }
    if let Some(tags) = text(IF_NONE_MATCH) {
        if matches(tags, &found.etag, true) {
            return Answer::NotModified;
        }
    } else if date(IF_MODIFIED_SINCE).is_some_and(|since| found.modified <= since) {
        return Answer::NotModified;
    }
    match text(RANGE) {
        Some(range) if same_as_before(text(IF_RANGE), found) => part(range, found.size_bytes),
        _ => Answer::Whole,
    }
}

/// Whether one of the tags is the file's. A weak one is good enough to say that nothing changed, for nothing else.
fn matches(tags: &str, etag: &str, weak: bool) -> bool {
    tags.split(',').map(str::trim).any(|tag| {
        let tag = if weak { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
        tag == "*" || tag == etag
    })
}

fn same_as_before(if_range: Option<&str>, found: &Found) -> bool {
    match if_range {
        None => true,
        Some(tag) if tag.starts_with('"') => tag == found.etag,
        Some(date) => httpdate::parse_http_date(date).is_ok_and(|d: SystemTime| d == found.modified),
    }
}

/// Reads `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT`. Whoever asks for several parts, or for something unknown, gets all.
fn part(range: &str, size_bytes: u64) -> Answer {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|r| r.trim().split_once('-')) else {
        return Answer::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number that is too large is beyond every end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Answer::Whole,
        (Some(first), _) if first >= size_bytes && (last.is_empty() || number(last).is_some()) => {
            Answer::NoSuchPart
        }
        (Some(first), Some(last)) => Answer::Part(first, last.min(size_bytes - 1)),
        (Some(first), None) if last.is_empty() => Answer::Part(first, size_bytes - 1),
        (None, Some(count)) if first.is_empty() => match count.min(size_bytes) {
            0 => Answer::NoSuchPart,
            count => Answer::Part(size_bytes - count, size_bytes - 1),
        },
        _ => Answer::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_file() {
        for (range, expected) in [
            ("bytes=0-0", Answer::Part(0, 0)),
            ("bytes=2-", Answer::Part(2, 9)),
            ("bytes=2-99", Answer::Part(2, 9)),
            ("bytes=-3", Answer::Part(7, 9)),
            ("bytes=-99", Answer::Part(0, 9)),
            ("bytes=10-", Answer::NoSuchPart),
            ("bytes=10-20", Answer::NoSuchPart),
            ("bytes=99999999999999999999999-", Answer::NoSuchPart),
            ("bytes=-0", Answer::NoSuchPart),
            ("bytes=5-2", Answer::Whole),
            ("bytes=0-1,3-4", Answer::Whole),
            ("bytes=-", Answer::Whole),
            ("bytes=a-b", Answer::Whole),
            ("bytes=+1-2", Answer::Whole),
            ("lines=1-2", Answer::Whole),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Answer::NoSuchPart);
    }

    #[test]
    fn tags() {
        assert!(matches("\"a\", W/\"b\"", "\"b\"", true));
        assert!(!matches("\"a\", W/\"b\"", "\"b\"", false));
        assert!(matches("*", "\"b\"", false));
        assert!(!matches("", "\"b\"", true));
    }
}
