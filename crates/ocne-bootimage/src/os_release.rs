//! `os-release(5)`: shell-like assignments.

use std::collections::BTreeMap;

use serde::Serialize;

/// What an operating system says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct OsRelease(pub BTreeMap<String, String>);

impl OsRelease {
    /// Reads the assignments; what is none is left out.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        Self(text.lines().filter_map(assignment).collect())
    }

    /// The value of a key such as `PRETTY_NAME`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

fn assignment(line: &str) -> Option<(String, String)> {
    let (key, value) = line.trim().split_once('=')?;
    let is_name = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then(|| (key.to_owned(), unquoted(value)))
}

fn unquoted(value: &str) -> String {
    if let Some(inner) = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')) {
        return inner.to_owned();
    }
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::OsRelease;

    #[test]
    fn assignments() {
        let os = OsRelease::parse(
            b"NAME=\"Oracle Linux Server\"\nID='ol'\n# X=1\nVERSION_ID=8.10\r\nA=\"say \\\"hi\\\" \\$x\"\n1B=2\n =3\nlast=\"",
        );
        assert_eq!(os.get("NAME"), Some("Oracle Linux Server"));
        assert_eq!(os.get("ID"), Some("ol"));
        assert_eq!(os.get("VERSION_ID"), Some("8.10"));
        assert_eq!(os.get("A"), Some("say \"hi\" $x"));
        assert_eq!(os.get("last"), Some("\""));
        assert_eq!(os.0.len(), 5);
    }
}
