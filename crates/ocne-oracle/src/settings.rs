//! Who speaks to which region: from flags, the environment and `~/.oci/config`, as the SDKs and the CLI take them.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use fs_err as fs;
use ocne_http::NetworkOptions;
use reqwest::Url;

use crate::config::{ConfigFile, DEFAULT_PROFILE};
use crate::credentials::{Credentials, GivenToken, Material, TokenSource};
use crate::federation::{self, Instance, Workload};
use crate::key::{KeyProblem, SigningKey};
use crate::region::{MoreRegions, Region};
use crate::secret::Secret;
use crate::token;

mod error;
mod resource;

pub use error::SettingsError;
use error::{INSTANCE, POD};

/// Configuration files, keys and tokens are a page of text; anything larger is none of them.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What says that this is a resource with a token of its own, and where that is.
const RESOURCE_VERSION: &str = "OCI_RESOURCE_PRINCIPAL_VERSION";
const RESOURCE_REGION: &str = "OCI_RESOURCE_PRINCIPAL_REGION";
/// Where the metadata service is, if not where it always is.
const METADATA_URL: &str = "OCI_METADATA_BASE_URL";
/// What a profile says whose users speak through an instance, as that of the Cloud Shell.
const DELEGATION: &str = "delegation_token_with_instance_principal";
/// What the firmware of every instance says.
const CHASSIS: (&str, &str) = ("/sys/class/dmi/id/chassis_asset_tag", "OracleCloud.com");

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
    /// By the token that a function or another resource is given, or gets.
    ResourcePrincipal,
    /// As the instance that this runs on.
    InstancePrincipal,
    /// As that instance in the name of a user, whose token is in a file.
    InstanceForUser,
    /// As the pod that this runs in, in a cluster of Oracle's Kubernetes.
    WorkloadIdentity,
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
    /// How the network is used when a token has to be fetched.
    pub network: NetworkOptions,
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
        match asked {
            AuthKind::ResourcePrincipal => return Self::of_resource(request, env),
            AuthKind::InstancePrincipal => return Self::of_instance(request, env, None),
            AuthKind::WorkloadIdentity => return Self::of_pod(request, env),
            AuthKind::Auto | AuthKind::ApiKey | AuthKind::SessionToken | AuthKind::InstanceForUser => {}
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
                if asked == AuthKind::Auto && !is_named {
                    if env("OCI_RESOURCE_PRINCIPAL_RPST").is_some() {
                        return Self::of_resource(request, env);
                    }
                    if env("KUBERNETES_SERVICE_HOST").is_some() && env(RESOURCE_REGION).is_some() {
                        return Self::of_pod(request, env);
                    }
                    let chassis = fs::read_to_string(CHASSIS.0).unwrap_or_default();
                    if env(METADATA_URL).is_some() || chassis.trim() == CHASSIS.1 {
                        return Self::of_instance(request, env, None);
                    }
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
        let says_so = || sources.find("", "authentication_type").as_deref() == Some(DELEGATION);
        if asked == AuthKind::InstanceForUser || (asked == AuthKind::Auto && says_so()) {
            let token = sources.need("OCI_CLI_DELEGATION_TOKEN_FILE", "delegation_token_file")?;
            let token = Material::File(expand(Path::new(&token), &home));
            token.read("delegation token", &mut warnings)?;
            let region = request.region.clone().or_else(|| sources.find("OCI_CLI_REGION", "region"));
            let request = SettingsRequest { region, ..request.clone() };
            return Self::of_instance(&request, env, Some(token));
        }
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
        let place = Place::find(request, env, &region)?;
        Ok(place.settings(credentials, tenancy, user, profile.clone(), warnings))
    }

    /// The settings of an instance of Oracle Cloud, which the metadata service tells; it may speak in the name of a user.
    fn of_instance(
        request: &SettingsRequest,
        env: &dyn Fn(&str) -> Option<String>,
        user: Option<Material>,
    ) -> Result<Self, SettingsError> {
        let refused = |reason| SettingsError::NoToken { who: INSTANCE, reason };
        let metadata = env(METADATA_URL);
        let (mut described, mut region) = (None, request.region.clone().or_else(|| env("OCI_CLI_REGION")));
        if region.is_none() {
            let place = block_on(federation::place(metadata.clone())).map_err(refused)?;
            (region, described) = (Some(place.region), place.metadata);
        }
        let more =
            |name: &str| env(name).or_else(|| described.clone().filter(|_| name == "OCI_REGION_METADATA"));
        let place = Place::find(request, &more, &region.unwrap_or_default())?;
        let url = format!("{}/v1/x509", place.federation_endpoint());
        let instance = Instance::new(metadata, url, place.certificate_files.clone(), request.network.clone());
        let profile = if user.is_some() { "instance, in a user's name" } else { "instance principal" };
        let instance = instance.in_the_name_of(user);
        let (session, tenancy) = block_on(instance.session()).map_err(refused)?;
        let credentials = session.credentials(Arc::new(TokenSource::Instance(instance)));
        Ok(place.settings(credentials, tenancy, None, profile.to_owned(), Vec::new()))
    }

    /// The settings of a pod, which Kubernetes and the node it is on tell.
    fn of_pod(
        request: &SettingsRequest,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let missing = |name: &str| SettingsError::NoVariable { name: name.to_owned() };
        let need = |name: &str| env(name).ok_or_else(|| missing(name));
        let host = need("KUBERNETES_SERVICE_HOST")?;
        let region = match request.region.clone().or_else(|| env("OCI_CLI_REGION")) {
            Some(region) => region,
            None => need(RESOURCE_REGION)?,
        };
        let place = Place::find(request, env, &region)?;
        let certificate = env("OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH").map(PathBuf::from);
        let workload = Workload::new(host, certificate, request.network.clone());
        let session =
            block_on(workload.session()).map_err(|reason| SettingsError::NoToken { who: POD, reason })?;
        let tenancy = token::tenancy(session.key_id.reveal()).or_else(|| env("OCI_CLI_TENANCY"));
        let tenancy = tenancy.ok_or_else(|| missing("OCI_CLI_TENANCY"))?;
        let credentials = session.credentials(Arc::new(TokenSource::Workload(workload)));
        Ok(place.settings(credentials, tenancy, None, "workload identity".to_owned(), Vec::new()))
    }
}

/// Waits for what has to be known before there is a client.
fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(work)
}

/// Where the services are, and whom to trust there.
struct Place {
    region: Region,
    endpoint: Option<Url>,
    certificate_files: Vec<PathBuf>,
}

impl Place {
    fn find(
        request: &SettingsRequest,
        env: &dyn Fn(&str) -> Option<String>,
        region: &str,
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
            region: Region::find(region, &more),
            endpoint: endpoint.map(|text| parse_endpoint(&text)).transpose()?,
            certificate_files: certificates.into_iter().collect(),
        })
    }

    /// Where tokens are given to who has a certificate.
    fn federation_endpoint(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.as_str().trim_end_matches('/').to_owned(),
            None => format!("https://{}", self.region.federation_host()),
        }
    }

    fn settings(
        self,
        credentials: Credentials,
        tenancy: String,
        user: Option<String>,
        profile: String,
        warnings: Vec<String>,
    ) -> Settings {
        let Self { region, endpoint, certificate_files } = self;
        Settings { credentials, tenancy, user, region, endpoint, certificate_files, profile, warnings }
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
        "auto" => Ok(AuthKind::Auto),
        "api_key" => Ok(AuthKind::ApiKey),
        "security_token" => Ok(AuthKind::SessionToken),
        "resource_principal" => Ok(AuthKind::ResourcePrincipal),
        "instance_principal" => Ok(AuthKind::InstancePrincipal),
        "instance_obo_user" => Ok(AuthKind::InstanceForUser),
        "oke_workload_identity" => Ok(AuthKind::WorkloadIdentity),
        other => Err(SettingsError::Value {
            name: "OCI_CLI_AUTH",
            value: other.to_owned(),
            reason: "this program knows auto, api_key, security_token, instance_principal, instance_obo_user, resource_principal and oke_workload_identity".to_owned(),
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
        (AuthKind::SessionToken, None) => return Err(sources.missing("security_token_file")),
        (AuthKind::SessionToken | AuthKind::Auto, Some(path)) => Some(expand(Path::new(&path), &home)),
        _ => None,
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
        let source = GivenToken {
            token: Material::File(path),
            key,
            pass_phrase: pass_phrase.map(Material::Value),
            renewal: Some(renewal.clone()),
        };
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
    Ok(Credentials { key_id, key, delegation: None, expires: None, renewal: None, source: None })
}

pub(crate) fn read(
    path: &Path,
    what: &'static str,
    warnings: &mut Vec<String>,
) -> Result<Vec<u8>, SettingsError> {
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
