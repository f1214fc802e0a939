//! Reading from a registry: manifests, and blobs that go on where they broke off (OCI distribution specification 1.1, "Pull").

mod push;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use crate::credentials::CredentialFiles;
use crate::digest::Digest;
use crate::error::FetchError;
use crate::event::{Events, FetchEvent};
use crate::fetch::FetchOptions;
use crate::http::{self, Attempts, Failure, NetworkOptions};
use crate::manifest::MANIFEST_MAX_BYTES;
use crate::pipeline::Feed;
use crate::reference::{RegistryReference, Version};
use crate::registry_auth::{AuthError, Authorization, Subject, answer, challenge};

pub(crate) use push::Arrived;

/// The kinds of manifests that are understood.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// A transfer that brought this much got on.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Bound for the text of an error.
const ERROR_MAX_BYTES: usize = 64 << 10;

/// One repository of a registry.
#[derive(Debug)]
pub(crate) struct Registry<'a> {
    reference: RegistryReference,
    http: Client,
    credentials: CredentialFiles,
    network: NetworkOptions,
    /// Whether TLS may be done without, if the registry has none.
    plain_allowed: bool,
    /// What tokens are to allow: `pull`, or `pull,push`.
    actions: &'static str,
    state: Mutex<State>,
    events: Quiet<'a>,
}

/// Callbacks cannot be printed.
struct Quiet<'a>(Events<'a>);

impl std::fmt::Debug for Quiet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("events")
    }
}

/// What is found out on the way.
#[derive(Debug, Default)]
struct State {
    base: Option<Url>,
    authorization: Option<Authorization>,
}

/// A request to the registry.
struct Request<'r> {
    /// What it is for, for messages: `fetch the manifest of …`.
    action: &'r str,
    /// Below the repository: `blobs/sha256:…`.
    path: &'r str,
    accept: Option<&'static str>,
    /// The first byte that is wanted, unless it is all.
    from_bytes: u64,
}

impl<'a> Registry<'a> {
    /// Makes ready for requests; none is made yet.
    pub fn new(
        reference: &RegistryReference,
        options: &FetchOptions,
        events: Events<'a>,
    ) -> Result<Self, FetchError> {
        let registry = &reference.registry;
        Ok(Self {
            http: http::client(registry, options)?,
            credentials: match (&options.credentials, &options.delegated) {
                (Some(given), _) => CredentialFiles::given(Some(given.clone())),
                (None, Some(delegation)) => CredentialFiles::given(delegation.credentials.clone()),
                (None, None) => {
                    CredentialFiles::new(options.authfile.as_deref(), |name| std::env::var_os(name))
                }
            },
            network: options.network.clone(),
            plain_allowed: http::plain_allowed(registry, &options.insecure_registries),
            reference: reference.clone(),
            actions: "pull",
            state: Mutex::default(),
            events: Quiet(events),
        })
    }

    /// The same for writing. An answer may take as long as what it answers takes to be sent, so that time-outs are kept by whoever sends.
    pub fn for_pushing(
        reference: &RegistryReference,
        options: &FetchOptions,
        events: Events<'a>,
    ) -> Result<Self, FetchError> {
        let mut patient = options.clone();
        // It becomes the idle time of TCP's keep-alive too, which Linux takes up to 32767 s only.
        patient.network.stall_timeout = Duration::from_hours(8);
        let patient = Self::new(reference, &patient, events)?;
        Ok(Self { actions: "pull,push", network: options.network.clone(), ..patient })
    }

    /// Sees that the registry answers whoever asks.
    pub async fn log_in(&self) -> Result<(), FetchError> {
        let action = "log in";
        let get = |base: &Url| {
            let url = base.join("v2/").map_err(|e| self.protocol(action, e.to_string()))?;
            Ok(self.http.get(url))
        };
        self.exchange(action, &mut Attempts::new(&self.network), &[], &get).await.map(drop)
    }

    /// The manifest or index of the reference, and its media type. It is what the reference's digest says, if that has one.
    pub async fn manifest(&self) -> Result<(Vec<u8>, Option<String>), FetchError> {
        match &self.reference.version {
            Version::Tag(tag) => self.tagged_manifest(tag).await,
            Version::Digest(digest) => {
                let what = format!("the manifest {digest}");
                let (bytes, media_type) =
                    self.small(&format!("manifests/{digest}"), &what, Some(MANIFEST_TYPES)).await?;
                self.verify(&bytes, *digest, &what)?;
                Ok((bytes, media_type))
            }
        }
    }

    /// A manifest of the same repository, by its digest. It is not verified here.
    pub async fn manifest_of(&self, digest: &Digest) -> Result<Vec<u8>, FetchError> {
        let what = format!("the manifest {digest}");
        Ok(self.small(&format!("manifests/{digest}"), &what, Some(MANIFEST_TYPES)).await?.0)
    }

    /// A small blob. It is not verified here.
    pub async fn small_blob(&self, digest: &Digest) -> Result<Vec<u8>, FetchError> {
        Ok(self.small(&format!("blobs/{digest}"), &format!("the blob {digest}"), None).await?.0)
    }

    async fn tagged_manifest(&self, tag: &str) -> Result<(Vec<u8>, Option<String>), FetchError> {
        let what = format!("the manifest of `{}:{tag}`", self.reference.repository);
        self.small(&format!("manifests/{tag}"), &what, Some(MANIFEST_TYPES)).await
    }

    fn verify(&self, bytes: &[u8], expected: Digest, what: &str) -> Result<(), FetchError> {
        let found = Digest::of(bytes);
        if found == expected {
            return Ok(());
        }
        let what = format!("{what} from `{}`", self.reference.registry);
        Err(FetchError::DigestMismatch { what, expected, found })
    }

    /// Reads something small whole.
    async fn small(
        &self,
        path: &str,
        what: &str,
        accept: Option<&'static str>,
    ) -> Result<(Vec<u8>, Option<String>), FetchError> {
        let action = format!("fetch {what}");
        let request = Request { action: &action, path, accept, from_bytes: 0 };
        let mut attempts = Attempts::new(&self.network);
        loop {
            let mut response = self.send(&request, &mut attempts).await?;
            let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let media_type =
                media_type.map(|value| value.split(';').next().unwrap_or(value).trim().to_owned());
            let mut bytes = Vec::new();
            let error = loop {
                match response.chunk().await {
                    Ok(Some(chunk)) if (bytes.len() + chunk.len()) as u64 > MANIFEST_MAX_BYTES => {
                        return Err(FetchError::TooLarge {
                            name: format!("{what} from `{}`", self.reference.registry),
                            size_bytes: (bytes.len() + chunk.len()) as u64,
                            limit_bytes: MANIFEST_MAX_BYTES,
                        });
                    }
                    Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                    Ok(None) => return Ok((bytes, media_type)),
                    Err(error) => break error,
                }
            };
            self.pause(&action, &mut attempts, None, http::explain(&error)).await?;
        }
    }

    /// Feeds a blob, going on where a transfer breaks off. Whoever fed it compares the digest.
    pub async fn blob(&self, digest: &Digest, size_bytes: u64, feed: &mut Feed) -> Result<(), FetchError> {
        let action = format!("fetch the layer {digest}");
        let path = format!("blobs/{digest}");
        let mut attempts = Attempts::new(&self.network);
        let mut done_bytes = 0;
        loop {
            let request = Request { action: &action, path: &path, accept: None, from_bytes: done_bytes };
            let response = self.send(&request, &mut attempts).await?;
            let skip_bytes = self.begins_at(&response, done_bytes, size_bytes, &action)?;
            let reason = self
                .transfer(response, skip_bytes, &mut done_bytes, size_bytes, digest, feed, &mut attempts)
                .await?;
            match reason {
                None => return Ok(()),
                Some(reason) => self.pause(&action, &mut attempts, None, reason).await?,
            }
        }
    }

    /// How much of an answer has to be passed over, as it was fed already.
    fn begins_at(
        &self,
        response: &Response,
        wanted_bytes: u64,
        size_bytes: u64,
        action: &str,
    ) -> Result<u64, FetchError> {
        let wrong = |reason: String| self.protocol(action, reason);
        if response.status() != StatusCode::PARTIAL_CONTENT {
            // All of it, from the first byte: the server knows no ranges, or was not asked for one.
            return Ok(wanted_bytes);
        }
        let header =
            response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let range = header.strip_prefix("bytes ").and_then(|range| range.split_once('/'));
        let start = range.and_then(|(range, _)| range.split_once('-')?.0.trim().parse::<u64>().ok());
        let total = range.and_then(|(_, total)| total.trim().parse::<u64>().ok());
        match (start, total) {
            (Some(start), total)
                if start == wanted_bytes && total.is_none_or(|total| total == size_bytes) =>
            {
                Ok(0)
            }
            _ => Err(wrong(format!(
                "asked for the bytes from {wanted_bytes} of {size_bytes}, it sends `{header}`"
            ))),
        }
    }

    /// Feeds what arrives. Returns why it broke off, or none at the end.
    #[expect(clippy::too_many_arguments, reason = "the state of one transfer, used here only")]
    async fn transfer(
        &self,
        mut response: Response,
        mut skip_bytes: u64,
        done_bytes: &mut u64,
        size_bytes: u64,
        digest: &Digest,
        feed: &mut Feed,
        attempts: &mut Attempts,
    ) -> Result<Option<String>, FetchError> {
        let mut pace = Pace::new(self.network.stall_timeout);
        let mut gained_bytes = 0;
        loop {
            let asked = Instant::now();
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) if *done_bytes == size_bytes => return Ok(None),
                Ok(None) => return Ok(Some(format!("it ended after {done_bytes} of {size_bytes} bytes"))),
                Err(error) => return Ok(Some(http::explain(&error))),
            };
            // Not the time that whoever takes the bytes needs for them.
            let waited = asked.elapsed();
            let passed = usize::try_from(skip_bytes).unwrap_or(usize::MAX).min(chunk.len());
            skip_bytes -= passed as u64;
            let chunk = &chunk[passed..];
            let count = chunk.len() as u64;
            if count > size_bytes - *done_bytes {
                let what = format!("the layer {digest}");
                let found_bytes = done_bytes.saturating_add(count);
                return Err(FetchError::SizeMismatch { what, expected_bytes: size_bytes, found_bytes });
            }
            feed.push(chunk).await;
            *done_bytes += count;
            gained_bytes += count;
            if gained_bytes >= PROGRESS_BYTES {
                gained_bytes = 0;
                attempts.reset();
            }
            if pace.is_too_slow(waited, count + passed as u64) {
                return Ok(Some("it became too slow".to_owned()));
            }
        }
    }

    /// Sends a request until it is answered with success.
    async fn send(&self, request: &Request<'_>, attempts: &mut Attempts) -> Result<Response, FetchError> {
        let get = |base: &Url| {
            let mut builder = self.http.get(self.join(base, request.path, request.action)?);
            if let Some(types) = request.accept {
                builder = builder.header(ACCEPT, types);
            }
            if request.from_bytes > 0 {
                builder = builder.header(RANGE, format!("bytes={}-", request.from_bytes));
            }
            Ok(builder)
        };
        self.exchange(request.action, attempts, &[], &get).await
    }

    /// Sends what `make` makes until it is answered with success, or with one of the `wanted` statuses.
    async fn exchange(
        &self,
        action: &str,
        attempts: &mut Attempts,
        wanted: &[u16],
        make: &dyn Fn(&Url) -> Result<RequestBuilder, FetchError>,
    ) -> Result<Response, FetchError> {
        let mut answered = false;
        loop {
            let base = self.base().await?;
            let mut builder = make(&base)?;
            if let Some(authorization) = self.fresh_authorization() {
                let (name, value) = authorization.header();
                builder = builder.header(name, value);
            }
            let response = match builder.send().await {
                Ok(response) => response,
                Err(error) => {
                    self.pause_after(action, attempts, &error).await?;
                    continue;
                }
            };
            let status = response.status();
            if status.is_success() || wanted.contains(&status.as_u16()) {
                return Ok(response);
            }
            // Only the registry may ask for credentials; not a server that it sends us to.
            if status == StatusCode::UNAUTHORIZED && !answered && response.url().origin() == base.origin() {
                answered = self.authenticate(&base, &response, action, attempts).await?;
                continue;
            }
            if let Failure::Passing(wait) = http::judge_status(status, response.headers()) {
                let last = self.refusal(action, response).await;
                if self.try_pause(attempts, wait, format!("it answers {status}")).await.is_some() {
                    continue;
                }
                return Err(last);
            }
            return Err(self.refusal(action, response).await);
        }
    }

    fn fresh_authorization(&self) -> Option<Authorization> {
        self.state().authorization.clone().filter(Authorization::is_fresh)
    }

    /// The address of something in the repository.
    fn join(&self, base: &Url, path: &str, action: &str) -> Result<Url, FetchError> {
        base.join(&format!("v2/{}/{path}", self.reference.repository))
            .map_err(|e| self.protocol(action, e.to_string()))
    }

    /// Where the registry's API is: over TLS, or without if it has none and that is allowed.
    async fn base(&self) -> Result<Url, FetchError> {
        let known = self.state().base.clone();
        if let Some(base) = known {
            return Ok(base);
        }
        let host = match self.reference.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/"))
                .map_err(|e| self.protocol("reach the registry", e.to_string()))
        };
        let mut base = url("https")?;
        if self.plain_allowed
            && let Err(error) = self.http.get(base.join("v2/").unwrap_or_else(|_| base.clone())).send().await
            && !matches!(http::tls_problem(&error), Some(rustls::Error::InvalidCertificate(_)))
        {
            base = url("http")?;
        }
        self.state().base = Some(base.clone());
        Ok(base)
    }

    /// Answers a challenge; the next request carries it. `false` when it has to be tried again.
    async fn authenticate(
        &self,
        base: &Url,
        response: &Response,
        action: &str,
        attempts: &mut Attempts,
    ) -> Result<bool, FetchError> {
        self.state().authorization = None;
        let Some(challenge) = challenge(response.headers()) else {
            return Err(self.unauthorized(action, "it does not say how to log in".to_owned()));
        };
        let subject = Subject {
            registry: &self.reference.registry,
            repository: &self.reference.repository,
            actions: self.actions,
            is_secure: base.scheme() == "https",
        };
        match answer(&self.http, &self.credentials, &challenge, &subject).await {
            Ok((authorization, has_credentials)) => {
                tracing::debug!(registry = subject.registry, has_credentials, "authenticated");
                self.state().authorization = Some(authorization);
                Ok(true)
            }
            Err(AuthError::Fetch(error)) => Err(error),
            Err(AuthError::Refused(reason)) => Err(self.unauthorized(action, reason)),
            Err(AuthError::Network(error)) => {
                self.pause_after(action, attempts, &error).await.map(|()| false)
            }
            Err(AuthError::Busy { status, wait }) => self
                .pause(action, attempts, wait, format!("the token server answers {status}"))
                .await
                .map(|()| false),
        }
    }

    /// Waits before the next attempt, if the error may pass and there is to be one.
    async fn pause_after(
        &self,
        action: &str,
        attempts: &mut Attempts,
        error: &reqwest::Error,
    ) -> Result<(), FetchError> {
        if let Some(problem @ rustls::Error::InvalidCertificate(_)) = http::tls_problem(error) {
            let (action, registry) = (action.to_owned(), self.reference.registry.clone());
            return Err(FetchError::Untrusted { action, registry, reason: problem.to_string() });
        }
        let reason = http::explain(error);
        match http::judge_error(error) {
            Failure::Passing(wait) => self.pause(action, attempts, wait, reason).await,
            Failure::Lasting => Err(self.network_error(action, attempts.made, reason)),
        }
    }

    async fn pause(
        &self,
        action: &str,
        attempts: &mut Attempts,
        asked_for: Option<Duration>,
        reason: String,
    ) -> Result<(), FetchError> {
        match self.try_pause(attempts, asked_for, reason.clone()).await {
            Some(()) => Ok(()),
            None => Err(self.network_error(action, attempts.made, reason)),
        }
    }

    async fn try_pause(
        &self,
        attempts: &mut Attempts,
        asked_for: Option<Duration>,
        reason: String,
    ) -> Option<()> {
        let wait = attempts.next(asked_for)?;
        (self.events.0)(FetchEvent::Retry { attempt: attempts.made, wait, reason });
        tokio::time::sleep(wait).await;
        Some(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn network_error(&self, action: &str, attempts: u32, reason: String) -> FetchError {
        FetchError::Network {
            action: action.to_owned(),
            registry: self.reference.registry.clone(),
            attempts,
            reason,
        }
    }

    fn protocol(&self, action: &str, reason: String) -> FetchError {
        FetchError::Protocol { action: action.to_owned(), registry: self.reference.registry.clone(), reason }
    }

    fn unauthorized(&self, action: &str, detail: String) -> FetchError {
        let registry = self.reference.registry.clone();
        FetchError::Status { action: action.to_owned(), registry, status: 401, detail }
    }

    /// What an answer says that is no success.
    async fn refusal(&self, action: &str, mut response: Response) -> FetchError {
        let status = response.status().as_u16();
        let asked_for = http::retry_after(response.headers());
        let mut body = Vec::new();
        while body.len() < ERROR_MAX_BYTES
            && let Ok(Some(chunk)) = response.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
        let mut detail = error_text(&body);
        if let Some(wait) = asked_for.filter(|wait| *wait > self.network.longest_wait) {
            detail = format!("it wants no more requests for {} s", wait.as_secs());
        }
        FetchError::Status {
            action: action.to_owned(),
            registry: self.reference.registry.clone(),
            status,
            detail,
        }
    }
}

/// Whether bytes come fast enough to be worth waiting for.
#[derive(Debug)]
struct Pace {
    window: Duration,
    waited: Duration,
    came_bytes: u64,
}

impl Pace {
    fn new(stall_timeout: Duration) -> Self {
        Self { window: stall_timeout * 2, waited: Duration::ZERO, came_bytes: 0 }
    }

    /// Only the time in which we wait for the network counts, not the one in which the disk is written.
    fn is_too_slow(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.came_bytes += bytes;
        if self.waited < self.window {
            return false;
        }
        let slow = self.came_bytes < PROGRESS_BYTES;
        self.waited = Duration::ZERO;
        self.came_bytes = 0;
        slow
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<ErrorItem>,
}

#[derive(Deserialize)]
struct ErrorItem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a registry says in its error document, as one printable line.
fn error_text(body: &[u8]) -> String {
    let Ok(Errors { errors }) = serde_json::from_slice(body) else { return String::new() };
    let Some(ErrorItem { code, message }) = errors.into_iter().next() else { return String::new() };
    let text = if message.is_empty() { code } else { message };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_one_line() {
        assert_eq!(error_text(br#"{"errors":[{"code":"DENIED","message":"not\nthis"}]}"#), "not this");
        assert_eq!(error_text(br#"{"errors":[{"code":"DENIED"}]}"#), "DENIED");
        assert_eq!(error_text(br#"{"errors":[]}"#), "");
        assert_eq!(error_text(b"<html>"), "");
    }

    #[test]
    fn slow_transfers() {
        let mut pace = Pace::new(Duration::from_secs(1));
        assert!(!pace.is_too_slow(Duration::from_millis(1900), 10));
        assert!(pace.is_too_slow(Duration::from_millis(200), 10));
        assert!(!pace.is_too_slow(Duration::from_secs(3), 1 << 20));
    }
}
