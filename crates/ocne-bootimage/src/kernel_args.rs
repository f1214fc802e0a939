//! Kernel command lines: arguments between white space, where double quotes protect it.

/// The arguments of a command line, as written.
///
/// As the kernel does it: white space separates, and none does between double quotes, which may stand anywhere
/// in an argument.
pub fn arguments(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return None;
        }
        let mut quoted = false;
        let end = rest.iter().position(|&b| {
            quoted ^= b == b'"';
            !quoted && b.is_ascii_whitespace()
        });
        let (argument, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(argument)
    })
}

/// The values of `name=value` in a command line, without double quotes around the value or the argument.
pub fn values<'a>(line: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    arguments(line).filter_map(move |argument| {
        let argument = unquoted(argument);
        argument.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(unquoted)
    })
}

/// The value that counts: the last one.
pub fn last_value<'a>(line: &'a [u8], name: &'a str) -> Option<&'a [u8]> {
    values(line, name).last()
}

fn unquoted(text: &[u8]) -> &[u8] {
    let text = text.strip_prefix(b"\"").unwrap_or(text);
    text.strip_suffix(b"\"").unwrap_or(text)
}

/// Why text cannot be added to a command line, or be a value in one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelArgumentError {
    /// It would end the line.
    #[error("kernel arguments cannot hold a line break or NUL, but `{}` does", text.escape_debug())]
    ControlCharacter {
        /// The text.
        text: String,
    },
    /// An Ignition platform is one word.
    #[error("an Ignition platform is one word without white space or quotes, but `{}` is not", value.escape_debug())]
    NotAWord {
        /// The value.
        value: String,
    },
}

/// Checks text that is to be appended to a command line.
///
/// # Errors
/// When it has a line break or NUL.
pub fn check_appended(text: &str) -> Result<(), KernelArgumentError> {
    if text.contains(['\n', '\r', '\0']) {
        return Err(KernelArgumentError::ControlCharacter { text: text.to_owned() });
    }
    Ok(())
}

/// Checks the value of `ignition.platform.id`.
///
/// # Errors
/// When it is empty, or has white space, a quote or a control character.
pub fn check_platform(value: &str) -> Result<(), KernelArgumentError> {
    if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') {
        return Err(KernelArgumentError::NotAWord { value: value.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_protect_white_space() {
        let line = br#"  rw a="b c" "d=e f" console=ttyS0,115200	root=UUID=x "#;
        let found: Vec<_> = arguments(line).map(|a| std::str::from_utf8(a).unwrap()).collect();
        assert_eq!(found, ["rw", r#"a="b c""#, r#""d=e f""#, "console=ttyS0,115200", "root=UUID=x"]);
        assert_eq!(last_value(line, "a"), Some(&b"b c"[..]));
        assert_eq!(last_value(line, "d"), Some(&b"e f"[..]));
        assert_eq!(last_value(line, "root"), Some(&b"UUID=x"[..]));
        assert_eq!(last_value(line, "ro"), None);
    }

    #[test]
    fn last_value_counts() {
        assert_eq!(last_value(b"root=a root=b", "root"), Some(&b"b"[..]));
        assert_eq!(last_value(b"xroot=a", "root"), None);
        assert_eq!(arguments(b"\"open quote").count(), 1);
        assert_eq!(arguments(b"   ").count(), 0);
    }

    #[test]
    fn what_may_be_added() {
        check_appended("quiet a=\"b c\"").unwrap();
        for bad in ["a\nb", "a\rb", "a\0b"] {
            check_appended(bad).unwrap_err();
        }
        check_platform("oci").unwrap();
        for bad in ["", "o ci", "o\u{a0}ci", "o\nci", "o\"ci"] {
            check_platform(bad).unwrap_err();
        }
    }
}
