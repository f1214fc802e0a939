//! Who speaks to which region: from flags, the environment and `~/.oci/config`, as the SDKs and the CLI take them.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use reqwest::Url;

use crate::config::{ConfigFile, ConfigProblem, DEFAULT_PROFILE};
use crate::key::{KeyProblem, SigningKey};
use crate::region::{MoreRegions, Region};
use crate::secret::Secret;
use crate::token;

/// Configuration files, keys and tokens are a page of text; anything larger is none of them.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What says that this is a resource with a token of its own.
const RESOURCE_VERSION: &str = "OCI_RESOURCE_PRINCIPAL_VERSION";

/// How requests are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthKind {
    /// By a session token if the profile has one, else by an API key; as a resource where there is no configuration file.
    #[default]
    Auto,
    /// By a user's API key.
    ApiKey,
    /// By a token that `oci session authenticate` fetched.
    SessionToken,
    /// By the token that a function or another resource is given, version 2.2.
    ResourcePrincipal,
}

/// What was asked for; all of it may be left to the environment and the configuration file.
#[derive(Debug, Clone, Default)]
pub struct SettingsRequest {
    /// The configuration file.
    pub config_file: Option<PathBuf>,
    /// The profile in it, if it was asked for.
    pub profile: Option<String>,
    /// The profile that is taken when neither a flag nor the environment names one.
    pub usual_profile: Option<String>,
    /// The region, by name or key.
    pub region: Option<String>,
    /// One URL in the place of all services.
    pub endpoint: Option<String>,
    /// How to authenticate.
    pub auth: Option<AuthKind>,
    /// Certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// What signs requests, and in whose name.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// What the service finds the public key by. Of sessions it holds their token.
    pub(crate) key_id: Secret,
    pub(crate) key: SigningKey,
    /// When they end.
    pub(crate) expires: Option<SystemTime>,
    /// What renews them, for a hint.
    pub(crate) renewal: Option<String>,
    /// Where newer ones may be found.
    source: Option<Arc<TokenSource>>,
}

/// A token and its key, which others renew while this program runs.
#[derive(Debug)]
struct TokenSource {
    token: Material,
    key: Material,
    pass_phrase: Option<Material>,
    renewal: Option<String>,
}

/// A value, or the file that has it.
#[derive(Debug)]
enum Material {
    Value(Secret),
    File(PathBuf),
}

impl Material {
    /// As resources are given it: what begins with a slash is a file.
    fn new(text: String) -> Self {
        if text.starts_with('/') { Self::File(text.into()) } else { Self::Value(Secret::new(text)) }
    }

    fn read(&self, what: &'static str, warnings: &mut Vec<String>) -> Result<Secret, SettingsError> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::File(path) => {
                let content = read(path, what, warnings)?;
                Ok(Secret::new(String::from_utf8_lossy(&content).trim()))
            }
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Value(_) => PathBuf::from("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM"),
            Self::File(path) => path.clone(),
        }
    }
}

impl TokenSource {
    fn credentials(self: &Arc<Self>, warnings: &mut Vec<String>) -> Result<Credentials, SettingsError> {
        let token = self.token.read("session token", warnings)?;
        let pass_phrase = self.pass_phrase.as_ref().map(|p| p.read("pass phrase", warnings)).transpose()?;
        let key = self.key.read("key", warnings)?;
        let key = SigningKey::from_pem(key.reveal().as_bytes(), pass_phrase.as_ref())
            .map_err(|problem| SettingsError::Key { path: self.key.path(), problem })?;
        Ok(Credentials {
            key_id: Secret::new(format!("ST${}", token.reveal())),
            key,
            expires: token::expiry(token.reveal()),
            renewal: self.renewal.clone(),
            source: Some(Arc::clone(self)),
        })
    }
}

impl Credentials {
    /// Newer credentials, if somebody has renewed them.
    pub(crate) fn renewed(&self) -> Option<Self> {
        let newer = self.source.as_ref()?.credentials(&mut Vec::new()).ok()?;
        (newer.key_id != self.key_id).then_some(newer)
    }

    /// Whether they end within a minute.
    pub(crate) fn is_about_to_end(&self) -> bool {
        self.expires.is_some_and(|end| end < SystemTime::now() + Duration::from_mins(1))
    }
}

/// The settings in effect.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What signs requests.
    pub credentials: Credentials,
    /// OCID of the tenancy.
    pub tenancy: String,
    /// OCID of the user.
    pub user: Option<String>,
    /// The region.
    pub region: Region,
    /// One URL in the place of all services.
    pub endpoint: Option<Url>,
    /// Certificates to trust besides the system's.
    pub certificate_files: Vec<PathBuf>,
    /// The profile that they come from.
    pub profile: String,
    /// What a person should know.
    pub warnings: Vec<String>,
}

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
        name: &'static str,
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
                "`oci setup config` writes one; or name it by `--oci-config` or OCI_CLI_CONFIG_FILE"
                    .to_owned(),
            ),
            Self::NoProfile { .. } => Some("choose one of them with `--profile`".to_owned()),
            Self::Missing { key: "region", .. } => {
                Some("add `region=` to the profile, or give `--region`, such as us-ashburn-1".to_owned())
            }
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

/// Where values come from: the environment over the profile.
struct Sources<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    file: &'a ConfigFile,
    path: &'a Path,
    profile: &'a str,
}

impl Sources<'_> {
    fn find(&self, variable: &str, key: &str) -> Option<String> {
        (self.env)(variable).or_else(|| self.file.get(self.profile, key).map(str::to_owned))
    }

    fn need(&self, variable: &str, key: &'static str) -> Result<String, SettingsError> {
        self.find(variable, key).ok_or_else(|| self.missing(key))
    }

    fn missing(&self, key: &'static str) -> SettingsError {
        SettingsError::Missing { path: self.path.to_owned(), profile: self.profile.to_owned(), key }
    }
}

impl Settings {
    /// Finds everything. `env` gives variables that are set and not empty; `ask` asks a person for the pass phrase of a
    /// key, if there is a person.
    ///
    /// # Errors
    /// When something is missing or cannot be read.
    pub fn load(
        request: &SettingsRequest,
        env: &dyn Fn(&str) -> Option<String>,
        ask: &dyn Fn(&Path) -> Option<Secret>,
    ) -> Result<Self, SettingsError> {
        let mut warnings = Vec::new();
        let asked = match (request.auth, env("OCI_CLI_AUTH")) {
            (Some(kind), _) => kind,
            (None, None) => AuthKind::Auto,
            (None, Some(text)) => auth_kind(&text)?,
        };
        if asked == AuthKind::ResourcePrincipal {
            return Self::of_resource(request, env);
        }
        let home = env("HOME").map(PathBuf::from).unwrap_or_default();
        let (path, is_named) = config_path(request, env, &home);
        let file = match read(&path, "configuration file", &mut warnings) {
            Ok(bytes) => ConfigFile::parse(&String::from_utf8_lossy(&bytes))
                .map_err(|problem| SettingsError::Config { path: path.clone(), problem })?,
            // Everything may be in the environment; what is not is missed below.
            Err(SettingsError::File { source, .. })
                if source.kind() == io::ErrorKind::NotFound && !is_named && env("OCI_CLI_USER").is_some() =>
            {
                ConfigFile::default()
            }
            Err(SettingsError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if asked == AuthKind::Auto && !is_named && env(RESOURCE_VERSION).is_some() {
                    return Self::of_resource(request, env);
                }
                return Err(SettingsError::NoConfig { path });
            }
            Err(error) => return Err(error),
        };
        let profile = request.profile.clone().or_else(|| env("OCI_CLI_PROFILE"));
        let profile = profile.or_else(|| request.usual_profile.clone());
        let profile = profile.unwrap_or_else(|| DEFAULT_PROFILE.to_owned());
        if !file.has(&profile) {
            let present = file.profiles().map(str::to_owned).collect();
            return Err(SettingsError::NoProfile { path, profile, present });
        }
        let sources = Sources { env, file: &file, path: &path, profile: &profile };
        let region = match &request.region {
            Some(region) => region.clone(),
            None => sources
                .find("OCI_CLI_REGION", "region")
                .or_else(|| env("OCI_REGION"))
                .ok_or_else(|| sources.missing("region"))?,
        };
        let tenancy = sources.need("OCI_CLI_TENANCY", "tenancy")?;
        let user = sources.find("OCI_CLI_USER", "user");
        let credentials = credentials(asked, &sources, &region, &tenancy, ask, &mut warnings)?;
        Self::with_place(request, env, credentials, tenancy, user, &region, profile.clone(), warnings)
    }

    /// The settings of a function or another resource, which has no configuration file.
    fn of_resource(
        request: &SettingsRequest,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let need = |name: &'static str| env(name).ok_or(SettingsError::NoVariable { name });
        let version = need(RESOURCE_VERSION)?;
        if version != "2.2" {
            let reason = "this program knows 2.2".to_owned();
            return Err(SettingsError::Value { name: RESOURCE_VERSION, value: version, reason });
        }
        let mut warnings = Vec::new();
        let source = Arc::new(TokenSource {
            token: Material::new(need("OCI_RESOURCE_PRINCIPAL_RPST")?),
            key: Material::new(need("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM")?),
            pass_phrase: env("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM_PASSPHRASE").map(Material::new),
            renewal: None,
        });
        let credentials = source.credentials(&mut warnings)?;
        let token = credentials.key_id.reveal().trim_start_matches("ST$");
        let tenancy = token::tenancy(token).or_else(|| env("OCI_CLI_TENANCY"));
        let tenancy = tenancy.ok_or(SettingsError::NoVariable { name: "OCI_CLI_TENANCY" })?;
        let region = match &request.region {
            Some(region) => region.clone(),
            None => Material::new(need("OCI_RESOURCE_PRINCIPAL_REGION")?)
                .read("region", &mut warnings)?
                .reveal()
                .to_owned(),
        };
        // Files that a platform mounts have the modes that it gives them.
        let profile = "resource principal".to_owned();
        Self::with_place(request, env, credentials, tenancy, None, &region, profile, Vec::new())
    }

    #[expect(clippy::too_many_arguments, reason = "all of it goes into the settings")]
    fn with_place(
        request: &SettingsRequest,
        env: &dyn Fn(&str) -> Option<String>,
        credentials: Credentials,
        tenancy: String,
        user: Option<String>,
        region: &str,
        profile: String,
        warnings: Vec<String>,
    ) -> Result<Self, SettingsError> {
        let home = env("HOME").map(PathBuf::from).unwrap_or_default();
        let endpoint = request.endpoint.clone().or_else(|| env("OCI_CLI_ENDPOINT"));
        let more = MoreRegions {
            file: fs::read_to_string(home.join(".oci/regions-config.json")).ok(),
            metadata: env("OCI_REGION_METADATA"),
            default_realm: env("OCI_DEFAULT_REALM"),
        };
        let certificates = request.ca_file.clone().or_else(|| env("OCI_CLI_CERT_BUNDLE").map(PathBuf::from));
        Ok(Self {
            credentials,
            tenancy,
            user,
            region: Region::find(region, &more),
            endpoint: endpoint.map(|text| parse_endpoint(&text)).transpose()?,
            certificate_files: certificates.into_iter().collect(),
            profile,
            warnings,
        })
    }
}

/// The configuration file, and whether somebody named it.
fn config_path(
    request: &SettingsRequest,
    env: &dyn Fn(&str) -> Option<String>,
    home: &Path,
) -> (PathBuf, bool) {
    let named = request.config_file.clone();
    let named =
        named.or_else(|| env("OCI_CLI_CONFIG_FILE").or_else(|| env("OCI_CONFIG_FILE")).map(PathBuf::from));
    if let Some(path) = named {
        return (expand(&path, home), true);
    }
    let usual = home.join(".oci/config");
    let older = home.join(".oraclebmc/config");
    if !usual.exists() && older.exists() { (older, false) } else { (usual, false) }
}

fn auth_kind(text: &str) -> Result<AuthKind, SettingsError> {
    match text {
        "api_key" => Ok(AuthKind::ApiKey),
        "security_token" => Ok(AuthKind::SessionToken),
        "resource_principal" => Ok(AuthKind::ResourcePrincipal),
        other => Err(SettingsError::Value {
            name: "OCI_CLI_AUTH",
            value: other.to_owned(),
            reason: "this program knows api_key, security_token and resource_principal".to_owned(),
        }),
    }
}

fn credentials(
    auth: AuthKind,
    sources: &Sources<'_>,
    region: &str,
    tenancy: &str,
    ask: &dyn Fn(&Path) -> Option<Secret>,
    warnings: &mut Vec<String>,
) -> Result<Credentials, SettingsError> {
    let home = (sources.env)("HOME").map(PathBuf::from).unwrap_or_default();
    let token_file = sources.find("OCI_CLI_SECURITY_TOKEN_FILE", "security_token_file");
    let token_file = match (auth, token_file) {
        (AuthKind::ApiKey | AuthKind::ResourcePrincipal, _) | (AuthKind::Auto, None) => None,
        (AuthKind::SessionToken, None) => return Err(sources.missing("security_token_file")),
        (AuthKind::SessionToken | AuthKind::Auto, Some(path)) => Some(expand(Path::new(&path), &home)),
    };
    let (key_path, content) = if let Some(content) = (sources.env)("OCI_CLI_KEY_CONTENT") {
        (PathBuf::from("OCI_CLI_KEY_CONTENT"), content.into_bytes())
    } else {
        let path = expand(Path::new(&sources.need("OCI_CLI_KEY_FILE", "key_file")?), &home);
        let content = read(&path, "key", warnings)?;
        (path, content)
    };
    // The Go SDK takes the second spelling too.
    let pass_phrase = sources.find("OCI_CLI_PASSPHRASE", "pass_phrase");
    let pass_phrase =
        pass_phrase.or_else(|| sources.find("OCI_CLI_PASSPHRASE", "passphrase")).map(Secret::new);
    let mut pass_phrase = pass_phrase;
    let mut key = SigningKey::from_pem(&content, pass_phrase.as_ref());
    if key.as_ref().is_err_and(|problem| *problem == KeyProblem::NoPassPhrase)
        && let Some(said) = ask(&key_path)
    {
        key = SigningKey::from_pem(&content, Some(&said));
        pass_phrase = Some(said);
    }
    let key = key.map_err(|problem| SettingsError::Key { path: key_path.clone(), problem })?;
    if let Some(path) = token_file {
        let renewal =
            format!("oci session authenticate --profile-name {} --region {region}", sources.profile);
        let key = if key_path.is_file() {
            Material::File(key_path)
        } else {
            Material::Value(Secret::new(String::from_utf8_lossy(&content)))
        };
        let source = Arc::new(TokenSource {
            token: Material::File(path),
            key,
            pass_phrase: pass_phrase.map(Material::Value),
            renewal: Some(renewal.clone()),
        });
        let mut said_already = Vec::new();
        let credentials = source.credentials(&mut said_already)?;
        if let Some(ago) = credentials.expires.and_then(|end| SystemTime::now().duration_since(end).ok()) {
            return Err(SettingsError::SessionExpired { profile: sources.profile.to_owned(), ago, renewal });
        }
        return Ok(credentials);
    }
    let user = sources.need("OCI_CLI_USER", "user")?;
    let fingerprint = sources.need("OCI_CLI_FINGERPRINT", "fingerprint")?;
    if !fingerprint.eq_ignore_ascii_case(key.fingerprint()) {
        return Err(SettingsError::Fingerprint {
            path: key_path,
            actual: key.fingerprint().to_owned(),
            profile: sources.profile.to_owned(),
            configured: fingerprint,
        });
    }
    let key_id = Secret::new(format!("{tenancy}/{user}/{fingerprint}"));
    Ok(Credentials { key_id, key, expires: None, renewal: None, source: None })
}

fn read(path: &Path, what: &'static str, warnings: &mut Vec<String>) -> Result<Vec<u8>, SettingsError> {
    let refused = |source| SettingsError::File { what, path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(refused)?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(refused(io::Error::other(format!("it has {} bytes, too many for one", metadata.len()))));
    }
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        warnings
            .push(format!("others may read the {what} `{0}`; `chmod 600 {0}` mends that", path.display()));
    }
    fs::read(path).map_err(refused)
}

/// `~` is expanded, variables are not.
fn expand(path: &Path, home: &Path) -> PathBuf {
    match path.strip_prefix("~") {
        Ok(rest) => home.join(rest),
        Err(_) => path.to_owned(),
    }
}

fn parse_endpoint(text: &str) -> Result<Url, SettingsError> {
    let wrong = |reason: &str| SettingsError::Value {
        name: "the endpoint",
        value: text.to_owned(),
        reason: reason.to_owned(),
    };
    let url = Url::parse(text).map_err(|e| wrong(&e.to_string()))?;
    let host = url.host_str().ok_or_else(|| wrong("it has no host"))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if ocne_http::is_loopback(host) => Ok(url),
        "http" => Err(wrong("without TLS only this machine is spoken to")),
        _ => Err(wrong("it is no https URL")),
    }
}

#[cfg(test)]
mod tests;
