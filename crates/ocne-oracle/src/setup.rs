//! A profile for somebody who has none yet: a key, and what the configuration file says of it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

use crate::config::{ConfigFile, ConfigProblem, DEFAULT_PROFILE};
use crate::secret::Secret;

/// A profile to be written.
#[derive(Debug, Clone)]
pub struct NewProfile {
    /// Its name.
    pub name: String,
    /// OCID of the user.
    pub user: String,
    /// OCID of the tenancy.
    pub tenancy: String,
    /// The region.
    pub region: String,
    /// Fingerprint of the key.
    pub fingerprint: String,
    /// The private key.
    pub key_file: PathBuf,
    /// The pass phrase, if it is to be written down.
    pub pass_phrase: Option<Secret>,
}

/// Why a profile or key cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// Something is there already.
    #[error("`{}` is there already, and is not overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The profile is there already.
    #[error("`{}` has a profile `{name}` already, which is not overwritten", path.display())]
    ProfileExists {
        /// The file.
        path: PathBuf,
        /// The profile.
        name: String,
    },
    /// The configuration file makes no sense.
    #[error("cannot read the configuration file `{}`: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: ConfigProblem,
    },
    /// A value cannot stand in a configuration file.
    #[error("the {what} cannot be written down: it is empty, or has a line break")]
    Value {
        /// What it is.
        what: &'static str,
    },
    /// The operating system refused.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl SetupError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } => {
                Some("`--key-name` takes another name; `--key-file` uses a key that is there".to_owned())
            }
            Self::ProfileExists { .. } => Some("`--profile` takes another name".to_owned()),
            _ => None,
        }
    }
}

/// Refuses what [`write_profile`] would refuse, before anything is made.
///
/// # Errors
/// When the profile is there, or the file is none.
pub fn check_profile(path: &Path, name: &str) -> Result<(), SetupError> {
    let content = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|source| SetupError::Io { action: "read the configuration file", source })?,
    };
    let file = ConfigFile::parse(&content)
        .map_err(|problem| SetupError::Config { path: path.to_owned(), problem })?;
    if file.profiles().any(|present| present == name) {
        return Err(SetupError::ProfileExists { path: path.to_owned(), name: name.to_owned() });
    }
    Ok(())
}

/// Adds a profile to a configuration file, which is made when it is missing. What is in it stays as it is.
///
/// # Errors
/// When the profile is there, or the file cannot be written.
pub fn write_profile(path: &Path, profile: &NewProfile) -> Result<(), SetupError> {
    check_profile(path, &profile.name)?;
    let io = |action| move |source| SetupError::Io { action, source };
    let mut text = String::new();
    let key_file = profile.key_file.display().to_string();
    let pass_phrase = profile.pass_phrase.as_ref().map(Secret::reveal);
    let _ = writeln!(text, "[{}]", profile.name);
    for (what, key, value) in [
        ("user", "user", Some(profile.user.as_str())),
        ("fingerprint", "fingerprint", Some(profile.fingerprint.as_str())),
        ("name of the key's file", "key_file", Some(key_file.as_str())),
        ("tenancy", "tenancy", Some(profile.tenancy.as_str())),
        ("region", "region", Some(profile.region.as_str())),
        ("pass phrase", "pass_phrase", pass_phrase),
    ] {
        let Some(value) = value else { continue };
        // What is read back without its outer blanks would be another value.
        if value.is_empty() || value.contains(['\n', '\r']) || value.trim() != value {
            return Err(SetupError::Value { what });
        }
        let _ = writeln!(text, "{key}={value}");
    }
    let before = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(io("read the configuration file"))?,
    };
    let gap = if before.is_empty() || before.ends_with("\n\n") {
        ""
    } else if before.ends_with('\n') {
        "\n"
    } else {
        "\n\n"
    };
    // `DEFAULT` is first, where people look for it; order means nothing.
    let whole = if profile.name == DEFAULT_PROFILE && !before.is_empty() {
        format!("{text}\n{before}")
    } else {
        format!("{before}{gap}{text}")
    };
    // A link stays one.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    make_folder(&target)?;
    let new = target.with_extension("ocne-new");
    let _ = fs::remove_file(&new);
    create_private(&new, &whole).map_err(io("write the configuration file"))?;
    fs::rename(&new, &target).map_err(io("write the configuration file"))
}

/// Writes a private key where there is no file yet, for nobody else to read.
///
/// # Errors
/// When there is a file, or it cannot be written.
pub fn write_key(path: &Path, pem: &Secret) -> Result<(), SetupError> {
    make_folder(path)?;
    create_private(path, pem.reveal()).map_err(|source| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            SetupError::Exists { path: path.to_owned() }
        } else {
            SetupError::Io { action: "write the key", source }
        }
    })
}

fn make_folder(file: &Path) -> Result<(), SetupError> {
    let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| SetupError::Io { action: "make the folder of the configuration", source })
}

fn create_private(path: &Path, content: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn profile(name: &str) -> NewProfile {
        NewProfile {
            name: name.to_owned(),
            user: "ocid1.user.oc1..u".to_owned(),
            tenancy: "ocid1.tenancy.oc1..t".to_owned(),
            region: "us-ashburn-1".to_owned(),
            fingerprint: "00:11".to_owned(),
            key_file: PathBuf::from("/k.pem"),
            pass_phrase: None,
        }
    }

    #[test]
    fn profiles_are_added_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".oci/config");
        write_profile(&path, &profile("WORK")).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let secret = NewProfile { pass_phrase: Some(Secret::new("a=b # c")), ..profile("OTHER") };
        write_profile(&path, &secret).unwrap();
        write_profile(&path, &profile("DEFAULT")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&first));
        let file = ConfigFile::parse(&text).unwrap();
        assert_eq!(file.get("OTHER", "pass_phrase"), Some("a=b # c"));
        assert_eq!(file.get("WORK", "key_file"), Some("/k.pem"));
        assert!(matches!(write_profile(&path, &profile("WORK")), Err(SetupError::ProfileExists { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let wrong = NewProfile { region: "a\n[X]".to_owned(), ..profile("X") };
        assert!(matches!(write_profile(&path, &wrong), Err(SetupError::Value { what: "region" })));
    }

    #[test]
    fn keys_are_private_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/k.pem");
        write_key(&path, &Secret::new("one")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(write_key(&path, &Secret::new("two")), Err(SetupError::Exists { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    }
}
