//! Requests: signed anew for each attempt, tried again when that may help, explained when it does not.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::TryStreamExt as _;
use ocne_http::{Attempts, Failure, NetworkOptions};
use reqwest::header::{DATE, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Body, Method, Response, Url};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::credentials::Credentials;
use crate::error::{OracleError, ServiceError};
use crate::object_storage::PartBody;
use crate::region::Service;
use crate::secret::Secret;
use crate::settings::Settings;
use crate::signature::{SignedBody, ToSign};

/// Answers are small; 10,000 parts of an upload come in pages.
const ANSWER_MAX_BYTES: usize = 16 << 20;
/// No list is longer; a server that goes on for ever is not believed.
const PAGES_MAX: usize = 100_000;
/// Pages without anything that a server may send in a row.
const EMPTY_PAGES_MAX: usize = 100;

/// An attempt that failed and is repeated.
#[derive(Debug, Clone)]
pub struct Retry {
    /// What is tried.
    pub action: String,
    /// The number of the attempt to come.
    pub attempt: u32,
    /// The wait before it.
    pub wait: Duration,
    /// Why the last one failed.
    pub reason: String,
}

/// How a client is made.
pub struct ClientOptions {
    /// Who speaks to which region.
    pub settings: Settings,
    /// How the network is used.
    pub network: NetworkOptions,
    /// Is told of every attempt that is repeated.
    pub on_retry: Box<dyn Fn(Retry) + Send + Sync>,
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Speaks to Oracle Cloud in one user's name, in one region.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    /// Those of the settings, or newer ones.
    credentials: tokio::sync::Mutex<Credentials>,
    /// A client for each host: proxies and certificates depend on it.
    http: Mutex<HashMap<String, Http>>,
}

/// Two clients for a host, as reqwest counts the time that sending a body takes as waiting for the answer.
#[derive(Debug, Clone)]
struct Http {
    plain: reqwest::Client,
    streaming: reqwest::Client,
}

/// When a request may be sent again although the last one may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Whenever it failed: doing it twice is as doing it once.
    Always,
    /// Only when the service said that it did not do it.
    IfRefused,
}

/// A request.
pub(crate) struct Call<'a> {
    /// What it is for, after "cannot".
    pub action: String,
    pub service: Service,
    pub method: Method,
    /// Encoded, below the service's base path.
    pub path: String,
    pub query: Vec<(&'static str, String)>,
    pub headers: Vec<(&'static str, String)>,
    pub json: Option<Vec<u8>>,
    pub stream: Option<&'a PartBody>,
    pub repeat: Repeat,
    /// The right that it needs, as in a policy.
    pub right: Option<&'static str>,
}

impl Call<'_> {
    pub fn new(action: impl Into<String>, service: Service, method: Method, path: impl Into<String>) -> Self {
        Self {
            action: action.into(),
            service,
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            json: None,
            stream: None,
            repeat: Repeat::Always,
            right: None,
        }
    }

    pub fn get(action: impl Into<String>, service: Service, path: impl Into<String>) -> Self {
        Self::new(action, service, Method::GET, path)
    }

    pub fn right(mut self, right: &'static str) -> Self {
        self.right = Some(right);
        self
    }

    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn json(mut self, body: &impl serde::Serialize) -> Self {
        // Only maps with keys that are no strings cannot be written, and there are none here.
        self.json = Some(serde_json::to_vec(body).unwrap_or_default());
        self
    }

    pub fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }
}

/// An answer that says that it was done.
#[derive(Debug)]
pub(crate) struct Answer {
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    action: String,
    host: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn need(&self, name: &str) -> Result<String, OracleError> {
        let found = self.header(name).map(str::to_owned);
        found.ok_or_else(|| self.unexpected(format!("there is no header `{name}`")))
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T, OracleError> {
        serde_json::from_slice(&self.body).map_err(|e| self.unexpected(e.to_string()))
    }

    pub fn unexpected(&self, reason: String) -> OracleError {
        OracleError::Protocol { action: self.action.clone(), host: self.host.clone(), reason }
    }
}

/// What one attempt came to.
enum Outcome {
    Done(Answer),
    Refused(Box<ServiceError>, Failure),
    Broken { reason: String, failure: Failure, is_untrusted: bool },
}

#[derive(Deserialize, Default)]
struct ErrorBody {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Client {
    /// Makes a client. Nothing is sent yet.
    ///
    /// # Errors
    /// When certificates or proxies cannot be used.
    pub fn new(options: ClientOptions) -> Result<Self, OracleError> {
        let credentials = tokio::sync::Mutex::new(options.settings.credentials.clone());
        let client = Self { options, credentials, http: Mutex::default() };
        let (_, host) = client.base(Service::ObjectStorage)?;
        client.http(&host)?;
        Ok(client)
    }

    /// Who speaks to which region.
    pub fn settings(&self) -> &Settings {
        &self.options.settings
    }

    /// Fingerprint of the key that signs.
    pub(crate) async fn fingerprint(&self) -> String {
        self.credentials.lock().await.key.fingerprint().to_owned()
    }

    /// The credentials; newer ones if these are about to end and can be renewed, or somebody has done so.
    async fn credentials(&self) -> Credentials {
        let mut credentials = self.credentials.lock().await;
        if credentials.is_about_to_end()
            && let Some(newer) = credentials.renewed().await
        {
            *credentials = newer;
        }
        credentials.clone()
    }

    /// Looks for newer credentials than those that were refused.
    async fn renew(&self, refused: &Credentials) -> bool {
        let mut credentials = self.credentials.lock().await;
        if credentials.key_id != refused.key_id {
            return true; // another request has found them
        }
        let newer = credentials.renewed().await;
        newer.map(|newer| *credentials = newer).is_some()
    }

    fn http(&self, host: &str) -> Result<Http, OracleError> {
        let mut known = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(http) = known.get(host) {
            return Ok(http.clone());
        }
        let (certificates, network) = (&self.options.settings.certificate_files, &self.options.network);
        let setup = |source| OracleError::Client(ocne_http::ClientError::Setup { source });
        // A signature is for one host and path. One connection for each part in flight is faster than one for all.
        let builder = || {
            Ok(ocne_http::client_builder(host, certificates, network)?.redirect(Policy::none()).http1_only())
        };
        let http = Http {
            plain: builder().and_then(|b| b.build().map_err(setup))?,
            streaming: builder()
                .and_then(|b| b.read_timeout(Duration::from_hours(24)).build().map_err(setup))?,
        };
        known.insert(host.to_owned(), http.clone());
        Ok(http)
    }

    /// The URL that a service's paths are below, and its host with the port, as it is signed.
    pub(crate) fn base(&self, service: Service) -> Result<(String, String), OracleError> {
        let settings = &self.options.settings;
        let base_path = service.base_path();
        let mut base = match &settings.endpoint {
            Some(endpoint) => endpoint.as_str().trim_end_matches('/').to_owned(),
            None => format!("https://{}", settings.region.host(service)),
        };
        if !base.ends_with(base_path) {
            base.push_str(base_path);
        }
        let url = Url::parse(&base).map_err(|e| OracleError::Protocol {
            action: "find the service".to_owned(),
            host: base.clone(),
            reason: e.to_string(),
        })?;
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok((base, host))
    }

    /// Sends a request until it is done, or cannot be.
    pub(crate) async fn send(&self, call: Call<'_>) -> Result<Answer, OracleError> {
        let (base, host) = self.base(call.service)?;
        let http = self.http(&host)?;
        let protocol = |reason: String| OracleError::Protocol {
            action: call.action.clone(),
            host: host.clone(),
            reason,
        };
        let mut url = Url::parse(&format!("{base}{}", call.path)).map_err(|e| protocol(e.to_string()))?;
        if !call.query.is_empty() {
            let pairs: Vec<String> =
                call.query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
            url.set_query(Some(&pairs.join("&")));
        }
        let body = call.json.as_deref().map(SignedBody::json);
        let mut attempts = Attempts::new(&self.options.network);
        let mut is_renewed = false;
        loop {
            let credentials = self.credentials().await;
            let (reason, failure, refused, is_untrusted) = match self
                .attempt(&call, &credentials, &http, &url, &host, body.as_ref())
                .await?
            {
                Outcome::Done(answer) => return Ok(answer),
                Outcome::Refused(error, failure) => {
                    let code = if error.code.is_empty() { &error.message } else { &error.code };
                    (format!("it answers {} {code}", error.status), failure, Some(error), false)
                }
                Outcome::Broken { reason, failure, is_untrusted } => (reason, failure, None, is_untrusted),
            };
            if refused.as_ref().is_some_and(|e| e.status == 401)
                && !is_renewed
                && self.renew(&credentials).await
            {
                is_renewed = true;
                continue;
            }
            let may_repeat = refused.is_some() || call.repeat == Repeat::Always;
            if let (Failure::Passing(asked_for), true) = (failure, may_repeat)
                && let Some(wait) = attempts.next(asked_for)
            {
                let retry = Retry { action: call.action.clone(), attempt: attempts.made, wait, reason };
                (self.options.on_retry)(retry);
                tokio::time::sleep(wait).await;
                continue;
            }
            let action = call.action.clone();
            return Err(match refused {
                Some(error) => error.into(),
                None if is_untrusted => OracleError::Untrusted { action, host, reason },
                None => OracleError::Network { action, host, attempts: attempts.made, reason },
            });
        }
    }

    async fn attempt(
        &self,
        call: &Call<'_>,
        credentials: &Credentials,
        http: &Http,
        url: &Url,
        host: &str,
        body: Option<&SignedBody>,
    ) -> Result<Outcome, OracleError> {
        let date = ocne_http::format_http_date(SystemTime::now());
        let target =
            url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let delegation = credentials.delegation.as_ref().map(Secret::reveal);
        let to_sign =
            ToSign { method: call.method.as_str(), target: &target, host, date: &date, delegation, body };
        let authorization = to_sign.authorization(&credentials.key_id, &credentials.key);
        let authorization = authorization.ok_or(OracleError::NoRandomness)?;
        let client = if call.stream.is_some() { &http.streaming } else { &http.plain };
        let mut request = client
            .request(call.method.clone(), url.clone())
            .header("date", &date)
            .header("authorization", authorization)
            .header("accept", "application/json")
            .header("opc-request-id", random_hex()?)
            .header("opc-client-info", concat!("ocne/", env!("CARGO_PKG_VERSION")))
            .header("opc-client-retries", "true");
        if let Some(token) = delegation {
            request = request.header("opc-obo-token", token);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let (Some(body), Some(json)) = (body, &call.json) {
            request = request
                .header("content-type", body.content_type)
                .header("content-length", body.length)
                .header("x-content-sha256", &body.sha256)
                .body(json.clone());
        }
        let started = Instant::now();
        let sent = match call.stream {
            None => request.send().await.map_err(|e| self.broken(&e)),
            Some(part) => self.send_stream(request, part).await,
        };
        let outcome = match sent {
            Err(broken) => broken,
            Ok(response) => self.judge(call, credentials, host, response).await,
        };
        let (path, elapsed) = (url.path(), started.elapsed());
        match &outcome {
            Outcome::Done(_) => tracing::debug!(method = %call.method, path, ?elapsed, "done"),
            Outcome::Refused(error, _) => {
                tracing::debug!(method = %call.method, path, ?elapsed, status = error.status, code = error.code, "refused");
            }
            Outcome::Broken { reason, .. } => {
                tracing::debug!(method = %call.method, path, ?elapsed, reason, "broken");
            }
        }
        Ok(outcome)
    }

    /// Sends a body that comes in pieces; gives up when nothing moves for too long.
    async fn send_stream(
        &self,
        request: reqwest::RequestBuilder,
        part: &PartBody,
    ) -> Result<Response, Outcome> {
        let moved = Arc::new(Mutex::new(Instant::now()));
        let touched = Arc::clone(&moved);
        let pieces = part.open().inspect_ok(move |_| {
            *touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        });
        let request = request
            .header("content-type", "application/octet-stream")
            .header("content-length", part.length_bytes)
            .body(Body::wrap_stream(pieces));
        let limit = self.options.network.stall_timeout;
        let stalled = async {
            loop {
                let still = moved.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
                match limit.checked_sub(still) {
                    Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                    _ => return,
                }
            }
        };
        tokio::select! {
            sent = request.send() => sent.map_err(|e| self.broken(&e)),
            () = stalled => Err(Outcome::Broken {
                reason: format!("nothing moved for {} s", limit.as_secs()),
                failure: Failure::Passing(None),
                is_untrusted: false,
            }),
        }
    }

    #[expect(clippy::unused_self, reason = "reads as the other outcomes do")]
    fn broken(&self, error: &reqwest::Error) -> Outcome {
        Outcome::Broken {
            reason: ocne_http::explain(error),
            failure: ocne_http::judge_error(error),
            is_untrusted: ocne_http::tls_problem(error).is_some(),
        }
    }

    async fn judge(
        &self,
        call: &Call<'_>,
        credentials: &Credentials,
        host: &str,
        mut response: Response,
    ) -> Outcome {
        let status = response.status();
        let headers = response.headers().clone();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_MAX_BYTES => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => {
                    return Outcome::Broken {
                        reason: format!("its answer is longer than {ANSWER_MAX_BYTES} bytes"),
                        failure: Failure::Lasting,
                        is_untrusted: false,
                    };
                }
                Ok(None) => break,
                // What was refused is known by its status already.
                Err(_) if !status.is_success() => break,
                Err(error) => return self.broken(&error),
            }
        }
        if status.is_success() {
            return Outcome::Done(Answer {
                headers,
                body,
                action: call.action.clone(),
                host: host.to_owned(),
            });
        }
        let said: ErrorBody = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let server_time = text(DATE.as_str()).and_then(|date| ocne_http::http_date(&date));
        let error = ServiceError {
            action: call.action.clone(),
            status: status.as_u16(),
            code: said.code.unwrap_or_default(),
            message: said.message.unwrap_or_default(),
            request_id: text("opc-request-id"),
            clock_ahead_seconds: server_time.map(seconds_ahead),
            right: call.right.map(str::to_owned),
            fingerprint: (!credentials.is_session()).then(|| credentials.key.fingerprint().to_owned()),
            renewal: credentials.renewal.clone(),
        };
        let failure = if is_passing(&error, call.stream.is_some()) {
            Failure::Passing(ocne_http::retry_after(&headers))
        } else {
            Failure::Lasting
        };
        Outcome::Refused(Box::new(error), failure)
    }

    /// All items of a list, page by page. A page may be short or empty and still have a next one.
    pub(crate) async fn list<'a, T: DeserializeOwned>(
        &self,
        page: impl Fn() -> Call<'a>,
    ) -> Result<Vec<T>, OracleError> {
        let (mut items, mut next, mut empty) = (Vec::new(), None::<String>, 0);
        for _ in 0..PAGES_MAX {
            let call = match &next {
                None => page(),
                Some(token) => page().query("page", token.as_str()),
            };
            let answer = self.send(call).await?;
            let found: Vec<T> = answer.json()?;
            empty = if found.is_empty() { empty + 1 } else { 0 };
            items.extend(found);
            match answer.header("opc-next-page").filter(|token| !token.is_empty()) {
                None => return Ok(items),
                Some(token) if next.as_deref() == Some(token) || empty > EMPTY_PAGES_MAX => {
                    return Err(answer.unexpected("its pages have no end".to_owned()));
                }
                Some(token) => next = Some(token.to_owned()),
            }
        }
        Ok(items)
    }
}

/// Whether a refusal may pass by itself.
fn is_passing(error: &ServiceError, is_part: bool) -> bool {
    match error.status {
        408 | 429 => true,
        409 => {
            // Answers to HEAD have no body, and so no code.
            matches!(error.code.as_str(), "" | "IncorrectState" | "LockConflict" | "ConcurrentObjectUpdate")
                || error.message.contains("another image operation")
        }
        // What was damaged on the way is sent again.
        400 => is_part && (error.code.contains("MD5") || error.message.contains("MD5")),
        501 => false,
        status => status >= 500,
    }
}

fn seconds_ahead(server: SystemTime) -> i64 {
    let now = SystemTime::now();
    let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    match server.duration_since(now) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    }
}

/// 32 random hexadecimal digits.
pub(crate) fn random_hex() -> Result<String, OracleError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| OracleError::NoRandomness)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// A name as part of a path or query: everything but the unreserved characters of RFC 3986 is encoded, slashes too.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths() {
        assert_eq!(encode("ocne_boot.qcow2-1.33-arm64.oci"), "ocne_boot.qcow2-1.33-arm64.oci");
        assert_eq!(encode("a/b c+ä?"), "a%2Fb%20c%2B%C3%A4%3F");
    }

    #[test]
    fn random_names_differ() {
        let (a, b) = (random_hex().unwrap(), random_hex().unwrap());
        assert!(a.len() == 32 && a != b && a.bytes().all(|c| c.is_ascii_hexdigit()));
    }

    #[test]
    fn clocks() {
        assert!((3590..=3600).contains(&seconds_ahead(SystemTime::now() + Duration::from_hours(1))));
        assert!((-3601..=-3590).contains(&seconds_ahead(SystemTime::now() - Duration::from_hours(1))));
    }
}
