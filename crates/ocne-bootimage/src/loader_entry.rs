//! Loader entries (Boot Loader Specification, type 1): a key and a value a line.
//!
//! Edits are made in the text, and everything that is not edited stays byte for byte.

use std::ops::Range;

use crate::uuid::Uuid;

/// The kernel argument that tells Ignition where it runs.
pub const PLATFORM_ARGUMENT: &str = "ignition.platform.id";

/// A loader entry: its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderEntry {
    text: Vec<u8>,
}

impl LoaderEntry {
    /// Takes any text: lines that are no `key value` are kept and mean nothing.
    pub fn new(text: Vec<u8>) -> Self {
        Self { text }
    }

    /// The text.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The text, given away.
    pub fn into_text(self) -> Vec<u8> {
        self.text
    }

    /// Where the values of a key are in the text, without white space around them.
    fn ranges(&self, key: &str) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut start = 0;
        for line in self.text.split_inclusive(|&b| b == b'\n') {
            let indent = line.len() - line.trim_ascii_start().len();
            if let Some(rest) = line.trim_ascii_start().strip_prefix(key.as_bytes())
                && rest.first().is_none_or(u8::is_ascii_whitespace)
            {
                let value = rest.trim_ascii();
                let blanks = rest.len() - rest.trim_ascii_start().len();
                let at = start + indent + key.len() + if value.is_empty() { 0 } else { blanks };
                ranges.push(at..at + value.len());
            }
            start += line.len();
        }
        ranges
    }

    /// The values of a key, in order. `initrd` and `options` may come several times.
    pub fn values(&self, key: &str) -> Vec<&[u8]> {
        self.ranges(key).into_iter().map(|r| &self.text[r]).collect()
    }

    /// The first value of a key, as text.
    pub fn value(&self, key: &str) -> Option<String> {
        self.values(key).first().map(|v| String::from_utf8_lossy(v).into_owned())
    }

    /// The kernel command line: all `options` lines, joined by a space.
    pub fn options(&self) -> Vec<u8> {
        self.values("options").join(&b' ')
    }

    /// Sets the Ignition platform wherever the entry names one, and says whether it did.
    pub fn set_platform(&mut self, platform: &str) -> bool {
        let needle = format!("{PLATFORM_ARGUMENT}=");
        let mut values = Vec::new();
        let mut at = 0;
        while let Some(start) = find(&self.text, needle.as_bytes(), at) {
            let value = start + needle.len();
            let end = self.text[value..].iter().position(|b| b.is_ascii_whitespace() || *b == b'"');
            at = end.map_or(self.text.len(), |n| value + n);
            // a longer name that ends in this one is another argument
            let is_name = |b: &u8| b.is_ascii_alphanumeric() || b".-_".contains(b);
            if !self.text[..start].last().is_some_and(is_name) {
                values.push(value..at);
            }
        }
        self.replace(&values, platform)
    }

    /// Appends text to the end of every `options` line, after a space.
    pub fn append(&mut self, text: &str) {
        let ends: Vec<_> = self.ranges("options").into_iter().map(|r| r.end..r.end).collect();
        self.replace(&ends, &format!(" {text}"));
    }

    /// Appends text to the end of the last `options` line, after a space; says whether there is one.
    pub fn append_last(&mut self, text: &str) -> bool {
        let end: Vec<_> = self.ranges("options").pop().into_iter().map(|r| r.end..r.end).collect();
        self.replace(&end, &format!(" {text}"))
    }

    /// Replaces an argument in the `options` lines: whole words only. Says whether there was one.
    pub fn replace_argument(&mut self, old: &str, new: &str) -> bool {
        let mut words = Vec::new();
        for line in self.ranges("options") {
            let mut at = line.start;
            for word in self.text[line].split(u8::is_ascii_whitespace) {
                if word == old.as_bytes() {
                    words.push(at..at + word.len());
                }
                at += word.len() + 1;
            }
        }
        self.replace(&words, new)
    }

    /// Replaces ranges, ascending and disjoint; says whether there are any.
    fn replace(&mut self, ranges: &[Range<usize>], new: &str) -> bool {
        let mut out = Vec::with_capacity(self.text.len() + ranges.len() * new.len());
        let mut copied = 0;
        for range in ranges {
            out.extend_from_slice(&self.text[copied..range.start]);
            out.extend_from_slice(new.as_bytes());
            copied = range.end;
        }
        out.extend_from_slice(&self.text[copied..]);
        self.text = out;
        !ranges.is_empty()
    }

    /// Replaces a UUID wherever the entry has it, in either case.
    pub fn replace_uuid(&mut self, old: Uuid, new: Uuid) -> bool {
        replace_uuid(&mut self.text, old, new)
    }
}

/// Replaces a UUID in a text wherever it stands, in either case; says whether it stood anywhere.
fn replace_uuid(text: &mut [u8], old: Uuid, new: Uuid) -> bool {
    let (old, new) = (old.to_string(), new.to_string());
    let mut found = false;
    let mut at = 0;
    while let Some(window) = text.get_mut(at..at + old.len()) {
        if window.eq_ignore_ascii_case(old.as_bytes()) {
            window.copy_from_slice(new.as_bytes());
            found = true;
            at += old.len();
        } else {
            at += 1;
        }
    }
    found
}

fn find(text: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    text.get(from..)?.windows(needle.len()).position(|w| w == needle).map(|n| from + n)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: Uuid = Uuid([0x11; 16]);
    const NEW: Uuid = Uuid([0xab; 16]);

    fn entry(text: &str) -> LoaderEntry {
        LoaderEntry::new(text.as_bytes().to_vec())
    }

    fn edited(text: &str, edit: impl FnOnce(&mut LoaderEntry)) -> String {
        let mut entry = entry(text);
        edit(&mut entry);
        String::from_utf8(entry.into_text()).unwrap()
    }

    #[test]
    fn values_of_keys() {
        let e = entry(
            "# linux /no\ntitle  A b \n options a  b\t\noptionsx no\ninitrd /i\ninitrd\t/j\r\noptions\nlinux /k",
        );
        assert_eq!(e.value("title").as_deref(), Some("A b"));
        assert_eq!(e.value("linux").as_deref(), Some("/k"));
        assert_eq!(e.values("options"), [&b"a  b"[..], b""]);
        assert_eq!(e.values("initrd"), [&b"/i"[..], b"/j"]);
        assert_eq!(e.value("machine-id"), None);
    }

    #[test]
    fn platform_everywhere() {
        let text = "# ignition.platform.id=qemu\noptions a ignition.platform.id=qemu b\noptions ignition.platform.id=\n";
        let want = "# ignition.platform.id=oci\noptions a ignition.platform.id=oci b\noptions ignition.platform.id=oci\n";
        assert_eq!(edited(text, |e| assert!(e.set_platform("oci"))), want);
        let other = "options rd.ignition.platform.id=qemu";
        assert_eq!(edited(other, |e| assert!(!e.set_platform("oci"))), other);
        assert_eq!(
            edited("options \"ignition.platform.id=qemu\"", |e| assert!(e.set_platform("oci"))),
            "options \"ignition.platform.id=oci\""
        );
        assert_eq!(
            edited("options ignition.platform.id=qemu", |e| assert!(
                e.set_platform("ignition.platform.id=x")
            )),
            "options ignition.platform.id=ignition.platform.id=x"
        );
    }

    #[test]
    fn appended_once_to_each_line() {
        let cases = [
            ("options a b\nlinux /k\n", "options a b x=1 y\nlinux /k\n"),
            ("options a b", "options a b x=1 y"),
            ("options a b  \r\nlinux /k", "options a b x=1 y  \r\nlinux /k"),
            ("options a\noptions b\n", "options a x=1 y\noptions b x=1 y\n"),
            ("options\n", "options x=1 y\n"),
            ("title options\n", "title options\n"),
        ];
        for (text, want) in cases {
            assert_eq!(edited(text, |e| e.append("x=1 y")), want);
        }
        assert_eq!(
            edited("options a\noptions b\n", |e| assert!(e.append_last("x"))),
            "options a\noptions b x\n"
        );
        assert_eq!(edited("linux /k\n", |e| assert!(!e.append_last("x"))), "linux /k\n");
    }

    #[test]
    fn whole_arguments_are_replaced() {
        let text = "title console=ttyS0\noptions console=ttyS0 a console=ttyS0,115200 xconsole=ttyS0 console=ttyS0\n";
        let want =
            "title console=ttyS0\noptions console=tty0 a console=ttyS0,115200 xconsole=ttyS0 console=tty0\n";
        assert_eq!(edited(text, |e| assert!(e.replace_argument("console=ttyS0", "console=tty0"))), want);
        assert_eq!(
            edited("options a\n", |e| assert!(!e.replace_argument("console=ttyS0", "x"))),
            "options a\n"
        );
    }

    #[test]
    fn uuid_in_either_case() {
        let text = format!("options root=UUID={OLD} resume=UUID={}\n", OLD.to_string().to_uppercase());
        let want = format!("options root=UUID={NEW} resume=UUID={NEW}\n");
        assert_eq!(edited(&text, |e| assert!(e.replace_uuid(OLD, NEW))), want);
        assert_eq!(
            edited("options root=LABEL=root\n", |e| assert!(!e.replace_uuid(OLD, NEW))),
            "options root=LABEL=root\n"
        );
    }

    proptest! {
        #[test]
        fn nothing_else_changes(
            before in "(\\PC{0,20}\n){0,3}", options in "[ -~]{0,40}", after in "(\n\\PC{0,20}){0,3}",
        ) {
            prop_assume!(!before.contains("options") && !after.contains("options"));
            prop_assume!(![&before, &options, &after].iter().any(|t| t.contains(PLATFORM_ARGUMENT)));
            let text = format!("{before}options {} ignition.platform.id=qemu root=UUID={OLD}{after}", options.trim());
            let got = edited(&text, |e| {
                e.set_platform("oci");
                e.append("k=v w");
                e.replace_uuid(OLD, NEW);
            });
            let want = format!("{before}options {} ignition.platform.id=oci root=UUID={NEW} k=v w{after}", options.trim());
            prop_assert_eq!(got, want);
        }

        #[test]
        fn any_bytes(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut e = LoaderEntry::new(text.clone());
            prop_assert!(!e.replace_uuid(OLD, NEW));
            prop_assert_eq!(e.text(), &text[..]);
            e.append("x");
            e.set_platform("oci");
            e.replace_argument("a", "b");
        }
    }
}
