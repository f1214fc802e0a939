//! Credentials for registries, from the files and helper programs of podman and docker.
//!
//! Files: containers-auth.json(5) and docker's `config.json`, which share their form. Helpers: docker-credential-helpers' protocol.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fs_err as fs;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::FetchError;

/// Files of credentials are small.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// So are the answers of helpers.
const ANSWER_MAX_BYTES: u64 = 64 << 10;
/// Helpers may have to ask a server, but not for longer than this.
const HELPER_TIMEOUT: Duration = Duration::from_mins(1);
/// What docker writes for its own registry.
pub(crate) const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A secret, which is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Gives it away, to be sent.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What proves to a registry who is asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credentials {
    /// Name and password.
    Password {
        /// Name of the account.
        user: String,
        /// Its password, or a token in place of one.
        password: Secret,
    },
    /// A token that is exchanged for others (OAuth 2 refresh token).
    IdentityToken(Secret),
}

/// The form of the files.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    /// Base64 of `user:password`.
    #[serde(rename = "auth")]
    encoded: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

/// Where credentials are looked for, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct CredentialFiles {
    /// Known already; no file is looked at.
    given: Option<Credentials>,
    files: Vec<PathBuf>,
    /// The file was named by the user, and has to be there.
    named: bool,
}

impl CredentialFiles {
    /// The file that was named, or else the usual ones. `variable` reads the environment.
    pub fn new(authfile: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = authfile {
            return Self { given: None, files: vec![file.to_owned()], named: true };
        }
        if let Some(file) = path("REGISTRY_AUTH_FILE") {
            return Self { given: None, files: vec![file], named: true };
        }
        let home = path("HOME").or_else(std::env::home_dir);
        let config = path("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let docker = path("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
        let user = rustix::process::getuid().as_raw().to_string();
        let usual = path("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json"));
        let files = [
            Some(usual.unwrap_or_else(|| Path::new("/run/containers").join(user).join("auth.json"))),
            config.map(|folder| folder.join("containers/auth.json")),
            docker.map(|folder| folder.join("config.json")),
        ];
        Self { given: None, files: files.into_iter().flatten().collect(), named: false }
    }

    /// These credentials, or none.
    pub fn given(credentials: Option<Credentials>) -> Self {
        Self { given: credentials, files: Vec::new(), named: false }
    }

    /// All files that are looked at.
    pub fn paths(&self) -> &[PathBuf] {
        &self.files
    }

    /// The file that new credentials go to: the first, or the next of podman's if its folder cannot be there.
    pub fn to_write(&self) -> PathBuf {
        let can_be = |path: &&PathBuf| {
            path.parent().is_some_and(|folder| {
                let there = folder.ancestors().find(|folder| folder.is_dir());
                there.is_some_and(|folder| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok())
            })
        };
        let ours = self.files.iter().take(if self.named { 1 } else { 2 });
        ours.clone().find(can_be).or_else(|| self.files.first()).cloned().unwrap_or_default()
    }

    /// Credentials for a repository of a registry, if there are any.
    pub async fn find(&self, registry: &str, repository: &str) -> Result<Option<Credentials>, FetchError> {
        if self.given.is_some() {
            return Ok(self.given.clone());
        }
        let keys = keys(registry, repository);
        for path in &self.files {
            let Some(file) = self.read(path)? else { continue };
            let own_helper = keys.iter().find_map(|key| file.cred_helpers.get(key));
            let found = match (own_helper, &file.creds_store) {
                (Some(helper), _) => ask_helper(helper, registry, true).await?,
                (None, Some(helper)) if !helper.is_empty() => ask_helper(helper, registry, false).await?,
                _ => None,
            };
            let refused =
                |reason: &str| FetchError::Credentials { path: path.clone(), reason: reason.to_owned() };
            let found = match (found, file.entry(&keys)) {
                (None, Some(auth)) => auth.credentials().map_err(refused)?,
                (found, _) => found,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn read(&self, path: &Path) -> Result<Option<AuthFile>, FetchError> {
        let refused = |reason: String| FetchError::Credentials { path: path.to_owned(), reason };
        match fs::metadata(path) {
            Ok(found) if found.len() > FILE_MAX_BYTES || !found.is_file() => {
                return Err(refused("it is no file of a sensible size".to_owned()));
            }
            Err(e)
                if !self.named
                    && matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                return Ok(None);
            }
            _ => {}
        }
        let text = fs::read(path).map_err(|e| refused(e.to_string()))?;
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        AuthFile::parse(&text).map(Some).map_err(refused)
    }
}

impl AuthFile {
    fn parse(text: &[u8]) -> Result<Self, String> {
        // Only where it is wrong: the text of the error may quote a secret.
        serde_json::from_slice(text)
            .map_err(|e| format!("it is not as expected at line {}, column {}", e.line(), e.column()))
    }

    /// What is there under the most exact of the keys.
    fn entry(&self, keys: &[String]) -> Option<&Auth> {
        let exact = keys.iter().find_map(|key| self.auths.get(key));
        let host = keys.last()?;
        exact.or_else(|| self.auths.iter().find(|(key, _)| old_key(key) == Some(host)).map(|(_, auth)| auth))
    }
}

impl Auth {
    fn credentials(&self) -> Result<Option<Credentials>, &'static str> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.0.is_empty()) {
            return Ok(Some(Credentials::IdentityToken(token.clone())));
        }
        if let Some(auth) = self.encoded.as_ref().filter(|auth| !auth.0.is_empty()) {
            let bytes = STANDARD.decode(auth.0.trim()).map_err(|_| "an `auth` in it is not base64")?;
            let text = String::from_utf8(bytes).map_err(|_| "an `auth` in it is not UTF-8")?;
            let (user, password) = text.split_once(':').ok_or("an `auth` in it has no colon")?;
            // Docker pads passwords with NUL.
            let password = Secret::new(password.trim_end_matches('\0'));
            return Ok(Some(Credentials::Password { user: user.to_owned(), password }));
        }
        Ok(match (&self.username, &self.password) {
            (Some(user), Some(password)) if !user.is_empty() => {
                Some(Credentials::Password { user: user.clone(), password: password.clone() })
            }
            _ => None,
        })
    }
}

/// The keys under which credentials may be, the most exact first: `host/a/b`, `host/a`, `host`.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = vec![match repository {
        "" => registry.to_owned(),
        repository => format!("{registry}/{repository}"),
    }];
    while let Some((shorter, _)) = keys.last().and_then(|key| key.rsplit_once('/')) {
        let shorter = shorter.to_owned();
        keys.push(shorter);
    }
    keys
}

/// The host in a key that is a URL, as docker writes them.
pub(crate) fn old_key(key: &str) -> Option<&str> {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    // Docker's own registry has several names.
    match rest.unwrap_or(key).split('/').next()? {
        "index.docker.io" | "registry-1.docker.io" => Some("docker.io"),
        host => rest.map(|_| host),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: Secret,
}

/// The credential helper that a file names for a registry.
pub(crate) fn helper_of(file: &serde_json::Value, registry: &str) -> Option<String> {
    let own = file["credHelpers"]
        .get(registry)
        .or_else(|| (registry == "docker.io").then(|| file["credHelpers"].get(DOCKER_HUB)).flatten());
    let helper = own.and_then(serde_json::Value::as_str).or_else(|| file["credsStore"].as_str())?;
    (!helper.is_empty()).then(|| helper.to_owned())
}

/// Asks a credential helper. One that is only a default may be missing.
async fn ask_helper(helper: &str, registry: &str, required: bool) -> Result<Option<Credentials>, FetchError> {
    let server = if registry == "docker.io" { DOCKER_HUB } else { registry };
    let Some(answer) = run_helper(helper, "get", server, required).await? else { return Ok(None) };
    let answer: HelperAnswer = serde_json::from_slice(&answer).map_err(|_| FetchError::Credentials {
        path: PathBuf::from(format!("docker-credential-{helper}")),
        reason: "its answer is not as expected".to_owned(),
    })?;
    Ok(Some(match answer.username.as_str() {
        "" => return Ok(None),
        "<token>" => Credentials::IdentityToken(answer.secret),
        user => Credentials::Password { user: user.to_owned(), password: answer.secret },
    }))
}

/// Runs a credential helper; none when it knows nothing of the registry. One that is only a default may be missing.
pub(crate) async fn run_helper(
    helper: &str,
    verb: &str,
    input: &str,
    required: bool,
) -> Result<Option<Vec<u8>>, FetchError> {
    let program = format!("docker-credential-{helper}");
    let refused = |reason: String| FetchError::Credentials { path: PathBuf::from(&program), reason };
    if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(refused("this is no name of a credential helper".to_owned()));
    }
    let spawned = tokio::process::Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !required => {
            tracing::warn!("the credential helper `{program}` is not installed");
            return Ok(None);
        }
        other => other.map_err(|e| refused(e.to_string()))?,
    };
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not want to know is no failure.
            let _ = stdin.write_all(format!("{input}\n").as_bytes()).await;
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(ANSWER_MAX_BYTES).read_to_end(&mut answer).await?;
        }
        Ok::<_, io::Error>((child.wait().await?, answer))
    };
    let (status, answer) = match tokio::time::timeout(HELPER_TIMEOUT, talk).await {
        Ok(result) => result.map_err(|e| refused(e.to_string()))?,
        Err(_) => return Err(refused("it does not answer".to_owned())),
    };
    if status.success() {
        return Ok(Some(answer));
    }
    // There is no other sign for it in the protocol.
    match String::from_utf8_lossy(&answer).to_ascii_lowercase() {
        text if text.contains("credentials not found") => Ok(None),
        _ => Err(refused(format!("it ended with {status}"))),
    }
}

/// Reads a file of credentials and looks into it, for fuzzing.
#[cfg(feature = "fuzzing")]
pub fn fuzz_auth_file(text: &[u8]) {
    if let Ok(file) = AuthFile::parse(text) {
        let keys = keys("r.example.com:5000", "a/b");
        let _ = file.entry(&keys).map(Auth::credentials);
        for auth in file.auths.values() {
            let _ = auth.credentials();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password { user: user.to_owned(), password: Secret::new(password) }
    }

    fn look_up(text: &str, registry: &str, repository: &str) -> Option<Credentials> {
        let file = AuthFile::parse(text.as_bytes()).unwrap();
        file.entry(&keys(registry, repository)).and_then(|auth| auth.credentials().unwrap())
    }

    #[test]
    fn the_longest_key_wins() {
        let text = r#"{"auths": {
            "r.example.com": {"auth": "aG9zdDox"},
            "r.example.com/a": {"auth": "YTpwOnE="},
            "r.example.com:5000": {"username": "u", "password": "p"},
            "https://index.docker.io/v1/": {"auth": "aHViOjI="},
            "https://old.example.com/v2/": {"identitytoken": "t"}}}"#;
        assert_eq!(look_up(text, "r.example.com", "b/c"), Some(password("host", "1")));
        assert_eq!(look_up(text, "r.example.com", "a/b"), Some(password("a", "p:q")));
        assert_eq!(look_up(text, "r.example.com", "ab"), Some(password("host", "1")));
        assert_eq!(look_up(text, "r.example.com:5000", "x"), Some(password("u", "p")));
        assert_eq!(look_up(text, "docker.io", "library/x"), Some(password("hub", "2")));
        assert_eq!(look_up(text, "old.example.com", "x"), Some(Credentials::IdentityToken(Secret::new("t"))));
        assert_eq!(look_up(text, "example.com", "x"), None);
    }

    #[test]
    fn damaged_files_do_not_show_secrets() {
        for text in [r#"{"auths": {"r": {"auth": 12345678}}}"#, r#"{"auths": "secret-thing"}"#, "secret"] {
            let reason = AuthFile::parse(text.as_bytes()).map(|_| ()).unwrap_err();
            assert!(!reason.contains("secret-thing") && !reason.contains("12345678"), "{reason}");
        }
        for auth in ["%%%", "bm9jb2xvbg==", "/////w=="] {
            let text = format!(r#"{{"auths": {{"r": {{"auth": "{auth}"}}}}}}"#);
            let file = AuthFile::parse(text.as_bytes()).unwrap();
            assert!(file.auths["r"].credentials().is_err(), "{auth}");
        }
        assert_eq!(format!("{:?}", Secret::new("x")), "…");
    }

    #[test]
    fn files_in_their_order() {
        let of = |name: &str| match name {
            "HOME" => Some("/h".into()),
            "XDG_RUNTIME_DIR" => Some("/run/u".into()),
            _ => None,
        };
        let usual = CredentialFiles::new(None, of);
        let expected =
            ["/run/u/containers/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json"];
        assert_eq!(usual.files, expected.map(PathBuf::from));
        let named = CredentialFiles::new(None, |name| (name == "REGISTRY_AUTH_FILE").then(|| "/a".into()));
        assert!(named.named && named.files == [PathBuf::from("/a")]);
        let flag = CredentialFiles::new(Some(Path::new("/f")), |_| Some("/a".into()));
        assert_eq!(flag.files, [PathBuf::from("/f")]);
    }
}
