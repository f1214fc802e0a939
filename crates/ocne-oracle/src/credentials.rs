//! What signs requests, and where newer of it comes from: users, sessions, and whatever else has a token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::federation::{Instance, Session, Workload};
use crate::key::SigningKey;
use crate::resource::Resource;
use crate::secret::Secret;
use crate::settings::{SettingsError, read};
use crate::token;

/// What signs requests, and in whose name.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// What the service finds the public key by. Of sessions it holds their token.
    pub(crate) key_id: Secret,
    pub(crate) key: SigningKey,
    /// The token of the user in whose name an instance speaks.
    pub(crate) delegation: Option<Secret>,
    /// When they end.
    pub(crate) expires: Option<SystemTime>,
    /// What renews them, for a hint.
    pub(crate) renewal: Option<String>,
    /// Where newer ones may be found.
    pub(crate) source: Option<Arc<TokenSource>>,
}

/// Where newer tokens come from.
#[derive(Debug)]
pub(crate) enum TokenSource {
    Given(GivenToken),
    Instance(Instance),
    Workload(Workload),
    Resource(Resource),
}

/// A token and its key, which others renew while this program runs.
#[derive(Debug)]
pub(crate) struct GivenToken {
    pub token: Material,
    pub key: Material,
    pub pass_phrase: Option<Material>,
    pub renewal: Option<String>,
}

/// A value, or the file that has it.
#[derive(Debug)]
pub(crate) enum Material {
    Value(Secret),
    File(PathBuf),
}

impl Material {
    /// As resources are given it: what begins with a slash is a file.
    pub fn new(text: String) -> Self {
        if text.starts_with('/') { Self::File(text.into()) } else { Self::Value(Secret::new(text)) }
    }

    pub fn read(&self, what: &'static str, warnings: &mut Vec<String>) -> Result<Secret, SettingsError> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::File(path) => {
                let content = read(path, what, warnings)?;
                Ok(Secret::new(String::from_utf8_lossy(&content).trim()))
            }
        }
    }

    /// Reads it as a private key.
    pub fn key(&self, pass_phrase: Option<&Self>) -> Result<SigningKey, SettingsError> {
        let mut warnings = Vec::new();
        let pass_phrase = pass_phrase.map(|p| p.read("pass phrase", &mut warnings)).transpose()?;
        let key = self.read("key", &mut warnings)?;
        SigningKey::from_pem(key.reveal().as_bytes(), pass_phrase.as_ref())
            .map_err(|problem| SettingsError::Key { path: self.path(), problem })
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Value(_) => PathBuf::from("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM"),
            Self::File(path) => path.clone(),
        }
    }
}

impl GivenToken {
    pub fn credentials(self, warnings: &mut Vec<String>) -> Result<Credentials, SettingsError> {
        let found = self.read(warnings)?;
        Ok(Credentials { source: Some(Arc::new(TokenSource::Given(self))), ..found })
    }

    pub fn read(&self, warnings: &mut Vec<String>) -> Result<Credentials, SettingsError> {
        let token = self.token.read("session token", warnings)?;
        let pass_phrase = self.pass_phrase.as_ref().map(|p| p.read("pass phrase", warnings)).transpose()?;
        let key = self.key.read("key", warnings)?;
        let key = SigningKey::from_pem(key.reveal().as_bytes(), pass_phrase.as_ref())
            .map_err(|problem| SettingsError::Key { path: self.key.path(), problem })?;
        Ok(Credentials {
            key_id: Secret::new(format!("ST${}", token.reveal())),
            key,
            delegation: None,
            expires: token::expiry(token.reveal()),
            renewal: self.renewal.clone(),
            source: None,
        })
    }
}

impl Session {
    pub fn credentials(self, source: Arc<TokenSource>) -> Credentials {
        let expires = token::expiry(self.key_id.reveal());
        let Self { key_id, key, delegation } = self;
        Credentials { key_id, key, delegation, expires, renewal: None, source: Some(source) }
    }
}

impl From<Credentials> for Session {
    fn from(found: Credentials) -> Self {
        Self { key_id: found.key_id, key: found.key, delegation: found.delegation }
    }
}

impl Credentials {
    /// Newer credentials: those of a session that somebody has renewed, or of one that is begun now.
    pub(crate) async fn renewed(&self) -> Option<Self> {
        let source = self.source.as_ref()?;
        let newer = match &**source {
            TokenSource::Given(given) => {
                let newer = given.read(&mut Vec::new()).ok()?;
                return (newer.key_id != self.key_id)
                    .then(|| Self { source: Some(Arc::clone(source)), ..newer });
            }
            TokenSource::Instance(instance) => instance.session().await.map(|(session, _)| session),
            TokenSource::Workload(workload) => workload.session().await,
            TokenSource::Resource(resource) => resource.session().await,
        };
        match newer {
            Ok(session) => Some(session.credentials(Arc::clone(source))),
            Err(reason) => {
                tracing::warn!("cannot renew the token: {reason}");
                None
            }
        }
    }

    /// Whether a token signs, and no user's API key.
    pub(crate) fn is_session(&self) -> bool {
        self.source.is_some()
    }

    /// Whether they end within a minute.
    pub(crate) fn is_about_to_end(&self) -> bool {
        self.expires.is_some_and(|end| end < SystemTime::now() + Duration::from_mins(1))
    }
}
