//! The serialisation of GVariant, as far as ostree's metadata needs it ("GVariant Specification", GNOME).
//!
//! A container of items of variable size has a table of offsets at its end: little-endian numbers that say where
//! items end, each as wide as the size of the whole container needs. Only the normal form is read: offsets that go
//! back, or padding that is not zero, are errors, so that no two readers can see different things in the same bytes.

/// What is wrong with a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

type Result<T> = std::result::Result<T, Malformed>;

/// Width of the offsets of a container of this size.
pub(crate) fn offset_width(container_bytes: usize) -> usize {
    match container_bytes {
        0..=0xFF => 1,
        0x100..=0xFFFF => 2,
        0x1_0000..=0xFFFF_FFFF => 4,
        _ => 8,
    }
}

/// The offset at `at`, little-endian.
fn offset(bytes: &[u8], at: usize, width: usize) -> Result<usize> {
    let field = at.checked_add(width).and_then(|end| bytes.get(at..end));
    let field = field.ok_or(Malformed("an offset is outside"))?;
    let number = field.iter().rev().try_fold(0_usize, |n, &b| n.checked_mul(256)?.checked_add(b.into()));
    number.ok_or(Malformed("an offset is too large"))
}

/// `bytes[start..end]`, where `start` is first moved to a multiple of `alignment` over zeros.
fn field(bytes: &[u8], start: usize, end: usize, alignment: usize) -> Result<&[u8]> {
    let aligned = start.checked_next_multiple_of(alignment).ok_or(Malformed("an item is outside"))?;
    // An empty item at the very end needs no padding before it.
    if end == start {
        return Ok(&[]);
    }
    let padding = bytes.get(start..aligned).ok_or(Malformed("an item is outside"))?;
    if padding.iter().any(|&b| b != 0) {
        return Err(Malformed("padding is not zero"));
    }
    bytes.get(aligned..end).ok_or(Malformed("offsets go back, or outside"))
}

/// The items of an array of items of variable size.
#[derive(Debug)]
pub(crate) struct Array<'a> {
    bytes: &'a [u8],
    width: usize,
    alignment: usize,
    /// Where the table of offsets begins, which is where the last item ends.
    table_at: usize,
    /// Place of the next offset in the table.
    next_at: usize,
    /// Where the last item ended.
    end: usize,
}

impl<'a> Array<'a> {
    pub fn new(bytes: &'a [u8], alignment: usize) -> Result<Self> {
        let width = offset_width(bytes.len());
        let table_at = match bytes.len() {
            0 => 0,
            len => offset(bytes, len.saturating_sub(width), width)?,
        };
        let table_bytes = bytes.len().checked_sub(table_at).ok_or(Malformed("an array has no end"))?;
        if table_bytes % width != 0 || (table_bytes == 0) != bytes.is_empty() {
            return Err(Malformed("an array has no table of offsets"));
        }
        Ok(Self { bytes, width, alignment, table_at, next_at: table_at, end: 0 })
    }

    fn item(&mut self) -> Result<&'a [u8]> {
        let start = self.end;
        self.end = offset(self.bytes, self.next_at, self.width)?;
        self.next_at += self.width;
        if self.end < start || self.end > self.table_at {
            return Err(Malformed("offsets go back, or outside"));
        }
        field(self.bytes, start, self.end, self.alignment)
    }
}

impl<'a> Iterator for Array<'a> {
    type Item = Result<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next_at >= self.bytes.len() {
            return None;
        }
        let item = self.item();
        if item.is_err() {
            self.next_at = self.bytes.len();
        }
        Some(item)
    }
}

/// The fields of a tuple, in their order. The table has an offset for each field of variable size but the last field of
/// the tuple, in reverse order.
#[derive(Debug)]
pub(crate) struct Tuple<'a> {
    bytes: &'a [u8],
    width: usize,
    /// Where the table of offsets begins.
    table_at: usize,
    /// Behind the next offset in the table.
    next_before: usize,
    /// Where the last field ended.
    end: usize,
}

impl<'a> Tuple<'a> {
    pub fn new(bytes: &'a [u8], offsets: usize) -> Result<Self> {
        let width = offset_width(bytes.len());
        let table_at =
            bytes.len().checked_sub(width * offsets).ok_or(Malformed("a tuple has no table of offsets"))?;
        Ok(Self { bytes, width, table_at, next_before: bytes.len(), end: 0 })
    }

    /// A field of variable size that is not the last one.
    pub fn variable(&mut self, alignment: usize) -> Result<&'a [u8]> {
        let at = self.next_before.checked_sub(self.width).filter(|&at| at >= self.table_at);
        let at = at.ok_or(Malformed("a tuple has too few offsets"))?;
        self.next_before = at;
        let end = offset(self.bytes, at, self.width)?;
        self.until(end, alignment)
    }

    /// The last field, of variable size.
    pub fn last(mut self, alignment: usize) -> Result<&'a [u8]> {
        self.until(self.table_at, alignment)
    }

    /// A field of fixed size, aligned to that size.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let aligned = self.end.checked_next_multiple_of(N).ok_or(Malformed("an item is outside"))?;
        let found = self.until(aligned.saturating_add(N), N)?;
        found.try_into().map_err(|_| Malformed("an item is outside"))
    }

    fn until(&mut self, end: usize, alignment: usize) -> Result<&'a [u8]> {
        if end < self.end || end > self.table_at {
            return Err(Malformed("offsets go back, or outside"));
        }
        let found = field(self.bytes, self.end, end, alignment)?;
        self.end = end;
        Ok(found)
    }
}

/// A string, without the NUL that ends it.
pub(crate) fn string(bytes: &[u8]) -> Result<&str> {
    let (last, text) = bytes.split_last().ok_or(Malformed("a string has no end"))?;
    if *last != 0 || text.contains(&0) {
        return Err(Malformed("a string has no NUL at its end, or one inside"));
    }
    std::str::from_utf8(text).map_err(|_| Malformed("a string is not UTF-8"))
}

/// The value for a key in a dictionary of variants, `a{sv}`, if its type is the wanted one.
pub(crate) fn lookup<'a>(dictionary: &'a [u8], wanted: &str, signature: &str) -> Result<Option<&'a [u8]>> {
    let mut found = None;
    for entry in Array::new(dictionary, 8)? {
        let mut entry = Tuple::new(entry?, 1)?;
        let key = string(entry.variable(1)?)?;
        let variant = entry.last(8)?;
        // A variant is its value, NUL, and its type.
        let at = variant.iter().rposition(|&b| b == 0).ok_or(Malformed("a variant has no type"))?;
        if key == wanted && &variant[at + 1..] == signature.as_bytes() {
            found = Some(&variant[..at]);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes an array of strings.
    fn strings(items: &[String]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for item in items {
            bytes.extend_from_slice(item.as_bytes());
            bytes.push(0);
            ends.push(bytes.len());
        }
        let width = [1, 2, 4, 8].into_iter().find(|w| offset_width(bytes.len() + w * ends.len()) == *w);
        for end in ends {
            bytes.extend_from_slice(&end.to_le_bytes()[..width.unwrap()]);
        }
        bytes
    }

    #[test]
    fn offsets_get_wider_with_the_container() {
        assert_eq!([0, 255, 256, 65535, 65536].map(offset_width), [1, 1, 2, 2, 4]);
    }

    #[test]
    fn what_is_not_in_normal_form_is_refused() {
        fn all(bytes: &[u8]) -> Result<Vec<&[u8]>> {
            Array::new(bytes, 1)?.collect()
        }
        assert_eq!(all(b""), Ok(vec![]));
        assert_eq!(all(b"a\0bc\0\x02\x05"), Ok(vec![&b"a\0"[..], b"bc\0"]));
        for bad in [&b"\x09"[..], b"a\0bc\0\x05\x02", b"a\0bc\0\x06\x05", b"a\0", b"\0\0\0\x00\x03\x02"] {
            assert!(all(bad).is_err(), "{bad:?}");
        }
        assert!(string(b"a").is_err() && string(b"a\0b\0").is_err() && string(b"\xFF\0").is_err());
        assert!(Tuple::new(b"", 1).is_err());
        let mut tuple = Tuple::new(b"a\0\x07", 1).unwrap();
        assert!(tuple.variable(1).is_err());
    }

    #[test]
    fn values_are_found_by_key_and_type() {
        // {'a': <'x'>, 'version': <'8.10'>}
        let mut bytes = b"a\0\0\0\0\0\0\0x\0\0s\x02".to_vec(); // 13 bytes, then padding to 16
        bytes.extend_from_slice(b"\0\0\0version\08.10\0\0s\x08\x0d\x20");
        assert_eq!(lookup(&bytes, "version", "s").unwrap(), Some(&b"8.10\0"[..]));
        assert_eq!(lookup(&bytes, "a", "s").unwrap(), Some(&b"x\0"[..]));
        assert_eq!(lookup(&bytes, "a", "as").unwrap(), None);
        assert_eq!(lookup(&bytes, "b", "s").unwrap(), None);
    }

    proptest! {
        #[test]
        fn arrays_come_back(items in prop::collection::vec("[a-z]{0,80}", 0..40)) {
            let bytes = strings(&items);
            let found: Vec<String> = Array::new(&bytes, 1).unwrap().map(|i| string(i.unwrap()).unwrap().to_owned()).collect();
            prop_assert_eq!(found, items);
        }

        #[test]
        fn anything_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), alignment in prop::sample::select(vec![1_usize, 8])) {
            if let Ok(array) = Array::new(&bytes, alignment) {
                let total: usize = array.map_while(Result::ok).map(<[u8]>::len).sum();
                prop_assert!(total <= bytes.len());
            }
            let _ = lookup(&bytes, "version", "s");
            if let Ok(mut tuple) = Tuple::new(&bytes, 3) {
                let _ = tuple.variable(alignment).and_then(|_| tuple.fixed::<8>()).and_then(|_| tuple.variable(1)).and_then(|_| tuple.last(8));
            }
        }
    }
}
