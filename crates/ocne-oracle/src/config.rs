//! `~/.oci/config`: sections of `key=value` lines, as Python's `configparser` and the Go SDK read them.

use std::collections::BTreeMap;

/// The profile that all others inherit from.
pub(crate) const DEFAULT_PROFILE: &str = "DEFAULT";

/// Why a configuration file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblem {
    /// A value stands before the first section.
    #[error("line {line} stands before the first `[PROFILE]`")]
    OutsideProfile {
        /// Its number, from 1.
        line: usize,
    },
    /// A section header has no end.
    #[error("line {line} begins a profile without a closing `]`")]
    Header {
        /// Its number, from 1.
        line: usize,
    },
    /// A line says nothing that can be read.
    #[error("line {line} is neither `key=value` nor `[PROFILE]`")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
}

/// The profiles of a configuration file.
#[derive(Clone, Default)]
pub struct ConfigFile {
    profiles: BTreeMap<String, BTreeMap<String, String>>,
}

impl std::fmt::Debug for ConfigFile {
    /// The names only: values may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ConfigFile").field(&self.profiles.keys()).finish()
    }
}

impl ConfigFile {
    /// Reads a file's content. Keys are taken in any case; of one that is given twice the last counts.
    ///
    /// # Errors
    /// When a line cannot be understood. Its text is not repeated, as it may hold a secret.
    pub fn parse(text: &str) -> Result<Self, ConfigProblem> {
        let mut file = Self::default();
        let mut profile: Option<String> = None;
        for (index, raw) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let (line, number) = (raw.trim(), index + 1);
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let (name, _) = rest.split_once(']').ok_or(ConfigProblem::Header { line: number })?;
                let name = name.trim().to_owned();
                file.profiles.entry(name.clone()).or_default();
                profile = Some(name);
                continue;
            }
            let name = profile.as_ref().ok_or(ConfigProblem::OutsideProfile { line: number })?;
            let (key, value) = line
                .split_once('=')
                .or_else(|| line.split_once(':'))
                .ok_or(ConfigProblem::Line { line: number })?;
            let values = file.profiles.entry(name.clone()).or_default();
            values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
        Ok(file)
    }

    /// The names of the profiles.
    pub fn profiles(&self) -> impl Iterator<Item = &str> {
        self.profiles.keys().map(String::as_str)
    }

    /// Whether there is a profile of the name. `DEFAULT` need not be written down.
    pub fn has(&self, profile: &str) -> bool {
        profile == DEFAULT_PROFILE || self.profiles.contains_key(profile)
    }

    /// A value of a profile, or else of `DEFAULT`. One that is empty counts as not given.
    pub fn get(&self, profile: &str, key: &str) -> Option<&str> {
        let own = self.profiles.get(profile).and_then(|values| values.get(key));
        let value = own.or_else(|| self.profiles.get(DEFAULT_PROFILE)?.get(key))?;
        (!value.is_empty()).then_some(value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn profiles_inherit_from_the_default() {
        let file = ConfigFile::parse(
            "\u{feff}# comment\n[DEFAULT]\nuser=u\n region = us-ashburn-1 \r\npass_phrase=a=b # no comment\n\n[WORK]\n; note\nUser: w\nregion=\n",
        )
        .unwrap();
        assert_eq!(file.get("DEFAULT", "user"), Some("u"));
        assert_eq!(file.get("DEFAULT", "pass_phrase"), Some("a=b # no comment"));
        assert_eq!(file.get("WORK", "user"), Some("w"));
        assert_eq!(file.get("WORK", "pass_phrase"), Some("a=b # no comment"));
        assert_eq!(file.get("WORK", "region"), None, "an empty value hides the inherited one");
        assert_eq!(file.get("DEFAULT", "region"), Some("us-ashburn-1"));
        assert!(file.has("WORK") && file.has("DEFAULT") && !file.has("work"));
        assert_eq!(file.profiles().collect::<Vec<_>>(), ["DEFAULT", "WORK"]);
        assert!(!format!("{file:?}").contains("a=b"));
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line() {
        let problem = |text| ConfigFile::parse(text).unwrap_err();
        assert_eq!(problem("user=x"), ConfigProblem::OutsideProfile { line: 1 });
        assert_eq!(problem("[A]\n\n[B\n"), ConfigProblem::Header { line: 3 });
        assert_eq!(problem("[A]\nsecret text"), ConfigProblem::Line { line: 2 });
        assert!(ConfigFile::parse("").unwrap().has("DEFAULT"));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in any::<String>()) {
            let _ = ConfigFile::parse(&text);
        }

        #[test]
        fn what_was_written_is_read(key in "[a-z_]{1,12}", value in "[!-~][ -~]{0,30}[!-~]") {
            let file = ConfigFile::parse(&format!("[P]\n{key}={value}\n")).unwrap();
            prop_assert_eq!(file.get("P", &key), Some(value.as_str()));
        }
    }
}
