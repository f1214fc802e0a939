//! Requests to the API server: how long they may take, which failures pass, what a refusal means.

use std::future::Future;
use std::time::{Duration, Instant};

use kube::client::AuthError;

use crate::error::ClusterError;
use crate::refusal::{Rule, words};

/// No request of ours takes long; one that does has lost its connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// An API server that restarts is back within that.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(500);

/// How a request failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It took too long.
    TimedOut,
    /// The client's error.
    Kube(kube::Error),
}

impl Failure {
    /// The HTTP status of the answer, if there was one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Whether it may pass.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut => true,
            Self::Kube(kube::Error::Api(status)) => {
                matches!(status.code, 408 | 429 | 500 | 502 | 503 | 504) && !is_webhook_failure(status)
            }
            Self::Kube(error) => {
                matches!(
                    error,
                    kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_)
                ) && tls_trouble(error).is_none()
                    && login_trouble(error).is_none()
            }
        }
    }

    /// In words, with what caused it.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::TimedOut => "no answer in time".to_owned(),
            Self::Kube(kube::Error::Api(status)) => status.message.clone(),
            Self::Kube(error) => login_trouble(error).unwrap_or_else(|| causes(error)),
        }
    }

    /// The error that the caller sees.
    pub(crate) fn into_error(self, server: &str, action: &str) -> ClusterError {
        let server = server.to_owned();
        match self {
            Self::Kube(kube::Error::Api(status)) if status.code == 401 => {
                ClusterError::Unauthenticated { server, message: status.message }
            }
            Self::Kube(error) if tls_trouble(&error).is_some() => {
                ClusterError::Untrusted { server, reason: tls_trouble(&error).unwrap_or_default() }
            }
            Self::Kube(error) if login_trouble(&error).is_some() => {
                ClusterError::Login { server, reason: login_trouble(&error).unwrap_or_default() }
            }
            Self::Kube(source @ kube::Error::RustlsTls(_)) => {
                ClusterError::Client { server, source: Box::new(source) }
            }
            failure if failure.status().is_none() && failure.is_transient() => {
                ClusterError::Unreachable { server, reason: failure.reason() }
            }
            Self::TimedOut => ClusterError::Unreachable { server, reason: self.reason() },
            Self::Kube(source) => ClusterError::Api { action: action.to_owned(), source: Box::new(source) },
        }
    }

    /// The error that the caller sees, when an object was to be made.
    pub(crate) fn into_refusal(self, server: &str, object: &str, namespace: &str) -> ClusterError {
        match self {
            Self::Kube(kube::Error::Api(status))
                if matches!(status.code, 400 | 403 | 404 | 409 | 422) || is_webhook_failure(&status) =>
            {
                ClusterError::Refused {
                    rule: Rule::of(&status.message),
                    object: object.to_owned(),
                    namespace: namespace.to_owned(),
                    message: words(&status.message).to_owned(),
                }
            }
            failure => failure.into_error(server, &format!("make {object}")),
        }
    }
}

/// Whether the API server could not ask an admission webhook, which it calls an error of its own. That is no better
/// after half a second.
fn is_webhook_failure(status: &kube::core::Status) -> bool {
    status.code == 500 && matches!(Rule::of(&status.message), Rule::Webhook { .. })
}

/// Runs one request, for as long as it may take.
pub(crate) async fn once<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(result) => result.map_err(Failure::Kube),
        Err(_) => Err(Failure::TimedOut),
    }
}

/// Runs a request until it gets an answer that will not be another one the next time.
pub(crate) async fn patiently<T, F: Future<Output = kube::Result<T>>>(
    request: impl Fn() -> F,
) -> Result<T, Failure> {
    let start = Instant::now();
    loop {
        match once(request()).await {
            Err(failure) if failure.is_transient() && start.elapsed() < PATIENCE => {
                tracing::debug!(reason = failure.reason(), "asking the API server again");
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

/// The answer, or none when the object does not exist.
pub(crate) fn optional<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(failure) if failure.status() == Some(404) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// An error and its causes, each said once.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

/// What TLS has against the other end, or it against us. Such a failure does not pass.
fn tls_trouble(error: &kube::Error) -> Option<String> {
    let text = causes(error);
    let words = ["invalid peer certificate", "received fatal alert", "CertificateExpired", "UnknownIssuer"];
    words.iter().any(|w| text.contains(w)).then_some(text)
}

/// How logging in failed. kube's words about a program have its environment and all that it wrote, credentials
/// included; these have its exit status and its last complaint.
fn login_trouble(error: &kube::Error) -> Option<String> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let auth = loop {
        let error = next?;
        if let Some(auth) = error.downcast_ref::<AuthError>() {
            break auth;
        }
        next = error.source();
    };
    Some(match auth {
        AuthError::AuthExecRun { out, .. } => {
            let complaints = String::from_utf8_lossy(&out.stderr);
            let last = complaints.trim().lines().next_back().unwrap_or("it says nothing");
            format!("the program of the kubeconfig's user failed ({}): {last}", out.status)
        }
        AuthError::AuthExecStart(source) => {
            format!("the program of the kubeconfig's user cannot be started: {source}")
        }
        AuthError::AuthExecParse(_) => {
            "the program of the kubeconfig's user does not answer with an ExecCredential".to_owned()
        }
        other => causes(other),
    })
}
