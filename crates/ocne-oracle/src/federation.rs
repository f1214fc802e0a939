//! Tokens that this program fetches itself: as an instance of Oracle Cloud, and as a pod in its Kubernetes.
//!
//! Both prove who they are (by the certificate that the metadata service gives an instance, by the token that Kubernetes
//! gives a pod), hand in the public key of a new session, and get a token for it. As in the official Python SDK.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fs_err as fs;
use ocne_http::{Attempts, Failure, NetworkOptions};
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, RequestBuilder, Url};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde::Deserialize;
use serde_json::json;

use crate::credentials::Material;
use crate::key::SigningKey;
use crate::keygen::NewKey;
use crate::secret::Secret;
use crate::signature::SignedBody;

/// The metadata service, which every instance has at this address; what it says is never proxied.
const METADATA: &str = "http://169.254.169.254/opc/v2";
/// It wants to be asked so, lest it be asked by mistake.
const METADATA_AUTHORIZATION: &str = "Bearer Oracle";
/// It is near, and answers at once.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts at each request; the official SDK makes as many.
const ATTEMPTS: u32 = 3;
/// Certificates, keys and tokens are a page of text.
const ANSWER_MAX_BYTES: usize = 64 << 10;
/// Bits of a session's key.
const SESSION_BITS: u32 = 2048;
/// The port of the proxy on each node that gives tokens to pods.
const WORKLOAD_PORT: u16 = 12_250;
/// What Kubernetes gives a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What was fetched: a token and the key that goes with it.
#[derive(Debug)]
pub(crate) struct Session {
    pub key_id: Secret,
    pub key: SigningKey,
    /// The token of the user in whose name an instance speaks.
    pub delegation: Option<Secret>,
}

/// How an instance is known.
#[derive(Debug)]
pub(crate) struct Instance {
    metadata: String,
    /// URL of the service that gives tokens; known when the region is.
    federation: String,
    certificate_files: Vec<PathBuf>,
    network: NetworkOptions,
    /// The token of the user in whose name it speaks.
    delegation: Option<Material>,
}

/// Where an instance is.
#[derive(Debug)]
pub(crate) struct Place {
    pub region: String,
    /// The region described, for one that the table does not have.
    pub metadata: Option<String>,
}

/// Asks who this instance is.
pub(crate) async fn instance_id(metadata: Option<String>) -> Result<String, String> {
    let base = metadata.unwrap_or_else(|| METADATA.to_owned());
    Ok(ask_metadata(&base, "instance/id").await?.reveal().trim().to_ascii_lowercase())
}

/// Asks where this instance is.
pub(crate) async fn place(metadata: Option<String>) -> Result<Place, String> {
    let base = metadata.unwrap_or_else(|| METADATA.to_owned());
    let region = ask_metadata(&base, "instance/region").await?;
    // Older instances do not tell it.
    let metadata = ask_metadata(&base, "instance/regionInfo").await.ok();
    Ok(Place { region: region.reveal().trim().to_owned(), metadata: metadata.map(|m| m.reveal().to_owned()) })
}

impl Instance {
    pub fn new(
        metadata: Option<String>,
        federation: String,
        certificate_files: Vec<PathBuf>,
        network: NetworkOptions,
    ) -> Self {
        let metadata = metadata.unwrap_or_else(|| METADATA.to_owned());
        Self { metadata, federation, certificate_files, network, delegation: None }
    }

    /// It speaks in a user's name.
    pub fn in_the_name_of(mut self, user: Option<Material>) -> Self {
        self.delegation = user;
        self
    }

    /// Fetches a token, and says what tenancy the instance belongs to.
    pub async fn session(&self) -> Result<(Session, String), String> {
        let certificate = ask_metadata(&self.metadata, "identity/cert.pem").await?;
        let key = ask_metadata(&self.metadata, "identity/key.pem").await?;
        let intermediate = ask_metadata(&self.metadata, "identity/intermediate.pem").await?;
        let key = SigningKey::from_pem(key.reveal().as_bytes(), None)
            .map_err(|problem| format!("the key of the instance is of no use: {problem}"))?;
        let leaf = pem::parse(certificate.reveal())
            .map_err(|_| "the certificate of the instance is no PEM".to_owned())?;
        let tenancy = tenancy(leaf.contents()).ok_or("the certificate of the instance names no tenancy")?;
        let new = new_key().await?;
        let body = json!({
            "certificate": bare(certificate.reveal()),
            "publicKey": bare(&new.public_pem()),
            "intermediateCertificates": [bare(intermediate.reveal())],
        })
        .to_string();
        let (builder, url) = builder(&self.federation, &self.certificate_files, &self.network)?;
        let client = builder.build().map_err(|e| e.to_string())?;
        let answer = send(|| {
            let signed = SignedBody::json(body.as_bytes());
            let date = ocne_http::format_http_date(SystemTime::now());
            let text = format!(
                "date: {date}\n(request-target): post {}\ncontent-length: {}\ncontent-type: {}\nx-content-sha256: {}",
                url.path(), signed.length, signed.content_type, signed.sha256
            );
            let signature = key.sign(&text).unwrap_or_default();
            let authorization = format!(
                "Signature version=\"1\",keyId=\"{tenancy}/fed-x509/{}\",algorithm=\"rsa-sha256\",headers=\"date (request-target) content-length content-type x-content-sha256\",signature=\"{signature}\"",
                certificate_fingerprint(leaf.contents())
            );
            client
                .post(url.clone())
                .header("date", date)
                .header("authorization", authorization)
                .header("content-type", signed.content_type)
                .header("content-length", signed.length)
                .header("x-content-sha256", signed.sha256)
                .body(body.clone())
        })
        .await
        .map_err(|reason| format!("`{}` gives no token: {reason}", self.federation))?;
        let token = token_of(answer.0.reveal().as_bytes())
            .ok_or_else(|| format!("the answer of `{}` holds no token", self.federation))?;
        let key_id = Secret::new(format!("ST${}", token.reveal()));
        let delegation =
            self.delegation.as_ref().map(|token| token.read("delegation token", &mut Vec::new()));
        let delegation = delegation.transpose().map_err(|e| e.to_string())?;
        Ok((Session { key_id, key: new.signing_key().clone(), delegation }, tenancy))
    }
}

/// How a pod is known.
#[derive(Debug)]
pub(crate) struct Workload {
    host: String,
    certificate: PathBuf,
    token: PathBuf,
    network: NetworkOptions,
}

impl Workload {
    /// `certificate` is that of the cluster's authority, if it is not where Kubernetes puts it; the token is beside it.
    pub fn new(host: String, certificate: Option<PathBuf>, network: NetworkOptions) -> Self {
        let usual = Path::new(SERVICE_ACCOUNT);
        let certificate = certificate.unwrap_or_else(|| usual.join("ca.crt"));
        let beside = certificate.with_file_name("token");
        let token = if beside.exists() { beside } else { usual.join("token") };
        Self { host, certificate, token, network }
    }

    /// Fetches a token.
    pub async fn session(&self) -> Result<Session, String> {
        // Kubernetes renews it, so it is read each time.
        let token = fs::read_to_string(&self.token).map_err(|e| e.to_string())?;
        let new = new_key().await?;
        let body = json!({ "podKey": bare(&new.public_pem()) }).to_string();
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let url = format!("https://{host}:{WORKLOAD_PORT}/resourcePrincipalSessionTokens");
        let (builder, url) = builder(&url, std::slice::from_ref(&self.certificate), &self.network)?;
        // It is in the cluster's own network.
        let client = builder.no_proxy().build().map_err(|e| e.to_string())?;
        let answer = send(|| {
            client
                .post(url.clone())
                .bearer_auth(token.trim())
                .header("content-type", "application/json")
                .body(body.clone())
        })
        .await
        .map_err(|reason| format!("`{url}` gives no token: {reason}"))?;
        // Base64, bare or as a JSON string.
        let inner = BASE64.decode(answer.0.reveal().trim().trim_matches('"')).ok();
        let token = inner
            .and_then(|bytes| token_of(&bytes))
            .ok_or_else(|| format!("the answer of `{url}` holds no token"))?;
        let bare = token.reveal().trim_start_matches("ST$");
        let key_id = Secret::new(format!("ST${bare}"));
        Ok(Session { key_id, key: new.signing_key().clone(), delegation: None })
    }
}

pub(crate) async fn new_key() -> Result<NewKey, String> {
    let made = tokio::task::spawn_blocking(|| NewKey::generate(SESSION_BITS)).await;
    made.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

async fn ask_metadata(base: &str, path: &str) -> Result<Secret, String> {
    let url = format!("{}/{path}", base.trim_end_matches('/'));
    let client = Client::builder().no_proxy().timeout(METADATA_TIMEOUT).redirect(Policy::none()).build();
    let client = client.map_err(|e| e.to_string())?;
    let asked = send(|| client.get(&url).header("authorization", METADATA_AUTHORIZATION)).await;
    let told = asked.map(|(text, _)| text);
    told.map_err(|reason| format!("the metadata service does not tell `{url}`: {reason}"))
}

/// A client for a URL, which has TLS unless it is this machine's.
pub(crate) fn builder(
    url: &str,
    certificates: &[PathBuf],
    network: &NetworkOptions,
) -> Result<(ClientBuilder, Url), String> {
    let url = Url::parse(url).map_err(|e| format!("`{url}` is no URL: {e}"))?;
    let host = url.host_str().unwrap_or_default();
    if url.scheme() != "https" && !ocne_http::is_loopback(host) {
        return Err(format!("`{url}` has no TLS, without which only this machine is spoken to"));
    }
    let builder = ocne_http::client_builder(host, certificates, network).map_err(|e| e.to_string())?;
    Ok((builder.redirect(Policy::none()).http1_only(), url))
}

/// Sends a request, made anew for each attempt.
pub(crate) async fn send(request: impl Fn() -> RequestBuilder) -> Result<(Secret, HeaderMap), String> {
    let mut attempts = Attempts::new(&NetworkOptions { attempts: ATTEMPTS, ..NetworkOptions::default() });
    loop {
        let (reason, failure) = match request().send().await {
            Err(error) => (ocne_http::explain(&error), ocne_http::judge_error(&error)),
            Ok(mut response) => {
                let status = response.status();
                let headers = response.headers().clone();
                let mut body = Vec::new();
                let cut = loop {
                    match response.chunk().await {
                        Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_MAX_BYTES => {
                            body.extend_from_slice(&chunk);
                        }
                        Ok(Some(_)) => {
                            return Err(format!("its answer is longer than {ANSWER_MAX_BYTES} bytes"));
                        }
                        Ok(None) => break None,
                        Err(error) => break Some(ocne_http::explain(&error)),
                    }
                };
                if status.is_success() && cut.is_none() {
                    let text = String::from_utf8(body).map_err(|_| "its answer is no text".to_owned())?;
                    return Ok((Secret::new(text), headers));
                }
                let passing = status.as_u16() == 429 || status.is_server_error();
                let failure = if passing { Failure::Passing(None) } else { Failure::Lasting };
                match cut.filter(|_| status.is_success()) {
                    Some(reason) => (reason, Failure::Passing(None)),
                    None => (format!("it answers {}", status.as_u16()), failure),
                }
            }
        };
        match failure {
            Failure::Passing(asked_for) => match attempts.next(asked_for) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(reason),
            },
            Failure::Lasting => return Err(reason),
        }
    }
}

fn token_of(json: &[u8]) -> Option<Secret> {
    #[derive(Deserialize)]
    struct Answer {
        token: String,
    }
    serde_json::from_slice::<Answer>(json).ok().map(|answer| Secret::new(answer.token))
}

/// A PEM file without its first and last line and without line ends, as the service wants it.
fn bare(pem: &str) -> String {
    pem.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect()
}

/// SHA-1 of a certificate, as the service names it: upper-case hexadecimal with colons.
fn certificate_fingerprint(der: &[u8]) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, der);
    hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// The tenancy that the subject of a certificate names: a string that begins with one of two words. DER has its length
/// before it.
pub(crate) fn tenancy(certificate: &[u8]) -> Option<String> {
    for word in [&b"opc-tenant:"[..], b"opc-identity:"] {
        let Some(at) = certificate.windows(word.len()).position(|window| window == word) else { continue };
        let length = usize::from(*certificate.get(at.checked_sub(1)?)?);
        let text = certificate.get(at + word.len()..at + length)?;
        let text = std::str::from_utf8(text).ok()?;
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Some(text.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tenancies_in_certificates() {
        let name = |text: &str| {
            let length = u8::try_from(text.len()).unwrap();
            let mut der = vec![0x31, 0x10, 0x0c];
            if length >= 0x80 {
                der.push(0x81);
            }
            der.push(length);
            der.extend_from_slice(text.as_bytes());
            der.extend_from_slice(b"1\x0b0");
            der
        };
        assert_eq!(tenancy(&name("opc-tenant:ocid1.tenancy.oc1..aaa")).unwrap(), "ocid1.tenancy.oc1..aaa");
        let long = format!("ocid1.tenancy.oc1..{}", "a".repeat(110));
        assert_eq!(tenancy(&name(&format!("opc-identity:{long}"))).unwrap(), long);
        assert_eq!(tenancy(&name("opc-tenant:")), None);
        assert_eq!(tenancy(b"opc-tenant:x"), None);
        assert_eq!(tenancy(b"\xffopc-tenant:x"), None);
        assert_eq!(tenancy(&name("CN=somebody")), None);
    }

    #[test]
    fn pem_without_armour() {
        assert_eq!(bare("-----BEGIN X-----\nab\r\ncd\n-----END X-----\n"), "abcd");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(mut bytes in any::<Vec<u8>>(), at in any::<prop::sample::Index>()) {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, *b"opc-tenant:");
            let _ = tenancy(&bytes);
        }
    }
}
