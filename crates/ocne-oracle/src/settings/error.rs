//! Why nobody can be authenticated, and what a person can do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::ConfigProblem;
use crate::key::KeyProblem;

/// Who this is without a user.
pub(super) const INSTANCE: &str = "an instance";
pub(super) const POD: &str = "a pod";
pub(super) const RESOURCE: &str = "a resource";

/// Why nobody can be authenticated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// There is no configuration file.
    #[error("there is no configuration for Oracle Cloud: `{}` does not exist", path.display())]
    NoConfig {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read the {what} `{}`", path.display())]
    File {
        /// What it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file makes no sense.
    #[error("cannot read the configuration file `{}`: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: ConfigProblem,
    },
    /// There is no such profile.
    #[error("`{}` has no profile `{profile}`; it has: {}", path.display(), present.join(", "))]
    NoProfile {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        profile: String,
        /// What there is.
        present: Vec<String>,
    },
    /// Something that is needed is not set.
    #[error("the profile `{profile}` of `{}` has no `{key}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The profile.
        profile: String,
        /// Its missing key.
        key: &'static str,
    },
    /// A variable that is needed is not set.
    #[error("the variable {name} is not set")]
    NoVariable {
        /// Its name.
        name: String,
    },
    /// A value cannot be used.
    #[error("{name} is `{value}`: {reason}")]
    Value {
        /// The setting.
        name: &'static str,
        /// What it is.
        value: String,
        /// Why not.
        reason: String,
    },
    /// The key cannot be used.
    #[error("cannot use the key `{}`: {problem}", path.display())]
    Key {
        /// The file, or the variable.
        path: PathBuf,
        /// Why.
        problem: KeyProblem,
    },
    /// The key is another than the configured fingerprint says.
    #[error("the key `{}` has the fingerprint {actual}, but the profile `{profile}` says {configured}", path.display())]
    Fingerprint {
        /// The key.
        path: PathBuf,
        /// Its fingerprint.
        actual: String,
        /// The profile.
        profile: String,
        /// What it says.
        configured: String,
    },
    /// No token could be had.
    #[error("cannot authenticate as {who}: {reason}")]
    NoToken {
        /// Who this would be.
        who: &'static str,
        /// Why not.
        reason: String,
    },
    /// The session has ended.
    #[error("the session token of the profile `{profile}` expired {} ago", minutes(*ago))]
    SessionExpired {
        /// The profile.
        profile: String,
        /// How long ago.
        ago: Duration,
        /// What makes a new one.
        renewal: String,
    },
}

impl SettingsError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoConfig { .. } => Some(
                "`ocne oci setup` writes one; or name it by `--oci-config` or OCI_CLI_CONFIG_FILE"
                    .to_owned(),
            ),
            Self::NoProfile { .. } => Some("choose one of them with `--profile`".to_owned()),
            Self::Missing { key: "region", .. } => {
                Some("add `region=` to the profile, or give `--region`, such as us-ashburn-1".to_owned())
            }
            Self::Missing { key: "delegation_token_file", .. } => Some(
                "the Cloud Shell's own configuration names it; elsewhere `--auth instance_principal`".to_owned(),
            ),
            Self::Missing { key, .. } => Some(format!(
                "add `{key}=` to the profile; the console shows it under the user's API keys, as a preview of the configuration file"
            )),
            Self::Key { problem: KeyProblem::NoPassPhrase, .. } => {
                Some("add `pass_phrase=` to the profile, or set OCI_CLI_PASSPHRASE".to_owned())
            }
            Self::Key { problem: KeyProblem::WrongPassPhrase, .. } => {
                Some("mend `pass_phrase=` in the profile, or set OCI_CLI_PASSPHRASE".to_owned())
            }
            Self::Key { problem: KeyProblem::Method { .. }, path } => {
                Some(format!("`openssl pkcs8 -topk8 -in {} -out new.pem` writes it anew", path.display()))
            }
            Self::Key { problem: KeyProblem::NotPrivate { .. }, .. } => Some(
                "`key_file=` names the private key, not the one that was pasted into the console".to_owned(),
            ),
            Self::Fingerprint { .. } => Some("mend `fingerprint=` or `key_file=` in the profile".to_owned()),
            Self::NoToken { who: INSTANCE, .. } => Some(
                "this is for instances of Oracle Cloud; elsewhere `--auth api_key` and a configuration file".to_owned(),
            ),
            Self::NoToken { who: RESOURCE, .. } => Some(
                "the variables OCI_RESOURCE_PRINCIPAL_* are set by the service that runs this; see which version it gives"
                    .to_owned(),
            ),
            Self::NoToken { .. } => Some(
                "the cluster has to be an enhanced one of OKE, and its policy has to name the pod's service account"
                    .to_owned(),
            ),
            Self::SessionExpired { renewal, .. } => Some(format!("`{renewal}` begins a new one")),
            _ => None,
        }
    }
}

fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
