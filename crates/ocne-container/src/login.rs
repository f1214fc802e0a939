//! Logging in to registries and out of them: the files and helper programs of podman and docker, written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fs_err as fs;
use serde_json::{Value, json};

use crate::credentials::{CredentialFiles, Credentials, DOCKER_HUB, helper_of, old_key, run_helper};
use crate::error::FetchError;
use crate::fetch::{FetchOptions, unless_cancelled};
use crate::part_file::write_secret;
use crate::reference::{RegistryReference, Version};
use crate::transport::Registry;

/// Who we are for registries.
#[derive(Debug)]
pub struct Logins<'a> {
    options: &'a FetchOptions,
    files: CredentialFiles,
}

impl<'a> Logins<'a> {
    /// The files that a fetch with these options looks at.
    pub fn new(options: &'a FetchOptions) -> Self {
        let files = CredentialFiles::new(options.authfile.as_deref(), |name| std::env::var_os(name));
        Self { options, files }
    }

    /// What is known for a registry.
    ///
    /// # Errors
    /// When a file or a helper program cannot be used.
    pub async fn find(&self, registry: &str) -> Result<Option<Credentials>, FetchError> {
        self.files.find(registry, "").await
    }

    /// Sees that a registry lets in who has these credentials.
    ///
    /// # Errors
    /// When it does not, or cannot be reached.
    pub async fn verify(
        &self,
        registry: &str,
        credentials: &Credentials,
        cancel: &Arc<AtomicBool>,
    ) -> Result<(), FetchError> {
        let mut options = self.options.clone();
        options.credentials = Some(credentials.clone());
        let reference = RegistryReference {
            registry: registry.to_owned(),
            repository: String::new(),
            version: Version::Tag(String::new()),
        };
        let registry = Registry::new(&reference, &options, &|_| {})?;
        unless_cancelled(cancel, registry.log_in()).await
    }

    /// Keeps credentials where they are found the next time. Returns the file or the helper program that has them.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a helper program refuses.
    pub async fn store(&self, registry: &str, credentials: &Credentials) -> Result<String, FetchError> {
        let path = self.files.to_write();
        let mut file = read(&path)?;
        let (user, secret) = match credentials {
            Credentials::Password { user, password } => (user.as_str(), password),
            Credentials::IdentityToken(token) => ("<token>", token),
        };
        if let Some(helper) = helper_of(&file, registry) {
            let input = json!({ "ServerURL": server(registry), "Username": user, "Secret": secret.reveal() });
            run_helper(&helper, "store", &input.to_string(), true).await?;
            return Ok(format!("docker-credential-{helper}"));
        }
        let entry = match credentials {
            Credentials::Password { .. } => {
                json!({ "auth": STANDARD.encode(format!("{user}:{}", secret.reveal())) })
            }
            // Docker's form: the name is there too, and says nothing.
            Credentials::IdentityToken(_) => {
                json!({ "auth": STANDARD.encode("<token>:"), "identitytoken": secret.reveal() })
            }
        };
        let refused =
            |reason: &str| FetchError::Credentials { path: path.clone(), reason: reason.to_owned() };
        let auths = &mut file["auths"];
        if auths.is_null() {
            *auths = json!({});
        }
        let auths = auths.as_object_mut().ok_or_else(|| refused("its `auths` are no object"))?;
        auths.retain(|key, _| !is_for(key, registry));
        let is_dockers = path.file_name().is_some_and(|name| name == "config.json");
        let key = if is_dockers { server(registry) } else { registry };
        auths.insert(key.to_owned(), entry);
        write(&path, &file)?;
        Ok(format!("`{}`", path.display()))
    }

    /// Forgets what is known for a registry. Returns the files and helper programs that had it.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a helper program refuses.
    pub async fn erase(&self, registry: &str) -> Result<Vec<String>, FetchError> {
        let mut places = Vec::new();
        for path in self.files.paths() {
            if !path.exists() {
                continue;
            }
            let mut file = read(path)?;
            if let Some(helper) = helper_of(&file, registry)
                && run_helper(&helper, "get", server(registry), false).await?.is_some()
            {
                run_helper(&helper, "erase", server(registry), true).await?;
                places.push(format!("docker-credential-{helper}"));
            }
            let Some(auths) = file["auths"].as_object_mut() else { continue };
            let before = auths.len();
            auths.retain(|key, _| !is_for(key, registry));
            if auths.len() < before {
                write(path, &file)?;
                places.push(format!("`{}`", path.display()));
            }
        }
        Ok(places)
    }
}

/// What docker calls a registry.
fn server(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB } else { registry }
}

/// Whether a key of a file means the whole registry.
fn is_for(key: &str, registry: &str) -> bool {
    key == registry || old_key(key) == Some(registry)
}

/// A file of credentials with all that is in it; an empty one if it is not there.
fn read(path: &Path) -> Result<Value, FetchError> {
    let refused = |reason: String| FetchError::Credentials { path: path.to_owned(), reason };
    let text = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(json!({})),
        other => other.map_err(|e| refused(e.to_string()))?,
    };
    if text.trim_ascii().is_empty() {
        return Ok(json!({}));
    }
    // Only where it is wrong: the text of the error may quote a secret.
    match serde_json::from_slice(&text) {
        Ok(Value::Object(file)) => Ok(Value::Object(file)),
        Ok(_) => Err(refused("it is no JSON object".to_owned())),
        Err(e) => Err(refused(format!("it is not as expected at line {}, column {}", e.line(), e.column()))),
    }
}

fn write(path: &Path, file: &Value) -> Result<(), FetchError> {
    // What a link points to is replaced, and not the link.
    let target: PathBuf = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut text = serde_json::to_vec_pretty(file).unwrap_or_default();
    text.push(b'\n');
    write_secret(&target, &text)
        .map_err(|e| FetchError::Credentials { path: path.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Secret;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn what_is_stored_is_found_and_forgotten() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        for name in ["auth.json", "config.json"] {
            let path = dir.path().join("new").join(name);
            let options = FetchOptions { authfile: Some(path.clone()), ..FetchOptions::default() };
            let logins = Logins::new(&options);
            let password = |user: &str, text: &str| Credentials::Password {
                user: user.to_owned(),
                password: Secret::new(text),
            };
            let (first, second) = (password("me", "one:two"), Credentials::IdentityToken(Secret::new("t")));
            assert_eq!(
                block_on(logins.store("r.example:5000", &first)).unwrap(),
                format!("`{}`", path.display())
            );
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            // Somebody else's entries stay.
            let mut text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            text["HttpHeaders"] = json!({ "User-Agent": "x" });
            fs::write(&path, text.to_string()).unwrap();
            block_on(logins.store("docker.io", &second)).unwrap();
            block_on(logins.store("docker.io", &second)).unwrap();
            let text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(text["HttpHeaders"]["User-Agent"], "x");
            let hub = if name == "config.json" { DOCKER_HUB } else { "docker.io" };
            let keys: Vec<&String> = text["auths"].as_object().unwrap().keys().collect();
            assert!(keys.len() == 2 && keys.iter().any(|key| *key == hub), "{keys:?}");
            assert_eq!(block_on(logins.find("r.example:5000")).unwrap(), Some(first));
            assert_eq!(block_on(logins.find("docker.io")).unwrap(), Some(second));
            assert_eq!(block_on(logins.erase("docker.io")).unwrap().len(), 1);
            assert_eq!(block_on(logins.find("docker.io")).unwrap(), None);
            assert_eq!(block_on(logins.erase("docker.io")).unwrap().len(), 0);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn damaged_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        let options = FetchOptions { authfile: Some(path.clone()), ..FetchOptions::default() };
        for text in ["secret-thing", "[]", r#"{"auths": []}"#] {
            fs::write(&path, text).unwrap();
            let credentials = Credentials::IdentityToken(Secret::new("t"));
            let error = block_on(Logins::new(&options).store("r.example", &credentials)).unwrap_err();
            assert!(!error.to_string().contains("secret-thing"));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
