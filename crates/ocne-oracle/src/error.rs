//! Why something could not be done in Oracle Cloud.

use std::fmt;

use ocne_http::ClientError;

use crate::identity::CompartmentProblem;

/// More skew than this and the service refuses the signature.
pub(crate) const SKEW_MAX_SECONDS: i64 = 300;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OracleError {
    /// The service refused.
    #[error("cannot {0}")]
    Service(#[from] Box<ServiceError>),
    /// No answer came, however often it was tried.
    #[error("cannot {action}: `{host}` after {attempts} attempts: {reason}")]
    Network {
        /// What was tried.
        action: String,
        /// The server.
        host: String,
        /// How often.
        attempts: u32,
        /// Why the last attempt failed.
        reason: String,
    },
    /// The server's certificate is not trusted.
    #[error("cannot {action}: the certificate of `{host}` is not trusted: {reason}")]
    Untrusted {
        /// What was tried.
        action: String,
        /// The server.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An answer makes no sense.
    #[error("cannot {action}: `{host}` answers something else than expected: {reason}")]
    Protocol {
        /// What was tried.
        action: String,
        /// The server.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// The compartment cannot be told.
    #[error(transparent)]
    Compartment(#[from] CompartmentProblem),
    /// The client cannot be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The machine gives no random numbers, which signatures and tokens need.
    #[error("the operating system gives no random numbers")]
    NoRandomness,
}

impl OracleError {
    /// The refusal, if it is one.
    pub fn service(&self) -> Option<&ServiceError> {
        match self {
            Self::Service(error) => Some(error),
            _ => None,
        }
    }

    /// The HTTP status of the refusal, if it is one.
    pub fn status(&self) -> Option<u16> {
        self.service().map(|error| error.status)
    }

    /// Whether it may work later, with nothing changed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Network { .. } => true,
            Self::Service(error) => error.status == 429 || error.status >= 500,
            _ => false,
        }
    }

    /// Whether the service does not let this user do it.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Service(error) => {
                matches!(error.status, 401 | 403 | 404)
                    || error.code.ends_with("NotAuthorizedOrNotFound")
                    || ["Limit", "Quota"].iter().any(|word| error.code.contains(word))
            }
            Self::Compartment(_) => true,
            _ => false,
        }
    }

    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Service(error) => error.hint(),
            Self::Network { .. } => {
                Some("run it again when the network is back; what was sent is not sent again".to_owned())
            }
            Self::Untrusted { .. } => Some("name the certificate authority by `--ca-file`".to_owned()),
            Self::Compartment(problem) => problem.hint(),
            _ => None,
        }
    }
}

/// What a service says when it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceError {
    /// What was tried.
    pub action: String,
    /// HTTP status.
    pub status: u16,
    /// The service's word for it, such as `NotAuthorizedOrNotFound`; empty when the answer had no body.
    pub code: String,
    /// The service's words for people.
    pub message: String,
    /// What Oracle's support asks for.
    pub request_id: Option<String>,
    /// By how much the server's clock is ahead of this machine's.
    pub clock_ahead_seconds: Option<i64>,
    /// The right that allows it, as in a policy: `manage objects in compartment NAME`.
    pub right: Option<String>,
    /// The fingerprint of the user's API key, when it is that which signs.
    pub fingerprint: Option<String>,
    /// What renews a session.
    pub renewal: Option<String>,
}

impl std::error::Error for ServiceError {}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the service answers {}", self.action, self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        let message = self.message.trim().trim_end_matches('.');
        if !message.is_empty() {
            write!(f, ": {message}")?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (opc-request-id {id})")?;
        }
        Ok(())
    }
}

impl ServiceError {
    fn skew(&self) -> Option<i64> {
        self.clock_ahead_seconds.filter(|seconds| seconds.abs() > SKEW_MAX_SECONDS)
    }

    fn hint(&self) -> Option<String> {
        match self.status {
            401 => Some(match (self.skew(), &self.renewal) {
                (Some(ahead), _) => format!(
                    "the clock of this machine is {} s {}; signatures are valid for {SKEW_MAX_SECONDS} s: set the clock",
                    ahead.abs(),
                    if ahead > 0 { "behind" } else { "ahead" }
                ),
                (None, Some(renewal)) => format!("the session may have ended; `{renewal}` begins a new one"),
                (None, None) => match &self.fingerprint {
                    Some(fingerprint) => format!(
                        "the user needs an API key with the fingerprint {fingerprint}: add its public key in the console, under the user's API keys"
                    ),
                    None => "the token is refused; a policy has to name this instance or resource, as by a dynamic group".to_owned(),
                },
            }),
            403 | 404 => {
                let right = self.right.as_ref()?;
                Some(format!(
                    "it does not exist, or this user may not: the policy statement `Allow group GROUP to {right}` allows it"
                ))
            }
            // Said of an object that is to be imported, when it is gone, and when the service may not read it.
            _ if self.code.starts_with("Related") => Some(
                "it is gone, and the same command sends it again; or the policy statement `Allow group GROUP to read objects in compartment NAME` is missing"
                    .to_owned(),
            ),
            _ if ["Limit", "Quota"].iter().any(|word| self.code.contains(word)) => {
                Some("ask for a higher service limit in the console, or remove what is not needed".to_owned())
            }
            429 => Some(
                "the service is asked too much; run it again later, it goes on where it stopped".to_owned(),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, code: &str) -> ServiceError {
        ServiceError {
            action: "create the image `ock`".to_owned(),
            status,
            code: code.to_owned(),
            message: "Authorization failed or requested resource not found.".to_owned(),
            request_id: Some("A/B/C".to_owned()),
            clock_ahead_seconds: Some(2),
            right: Some("manage instance-images in compartment NAME".to_owned()),
            fingerprint: Some("00:11".to_owned()),
            renewal: None,
        }
    }

    #[test]
    fn a_refusal_says_all() {
        let error = OracleError::from(Box::new(error(404, "NotAuthorizedOrNotFound")));
        assert_eq!(
            error.to_string(),
            "cannot create the image `ock`: the service answers 404 NotAuthorizedOrNotFound: Authorization failed or requested resource not found (opc-request-id A/B/C)"
        );
        assert!(
            error
                .hint()
                .unwrap()
                .contains("`Allow group GROUP to manage instance-images in compartment NAME`")
        );
        assert!(error.is_refusal() && !error.is_passing());
    }

    #[test]
    fn a_wrong_clock_is_told_by_how_much() {
        let mut e = error(401, "NotAuthenticated");
        assert!(e.hint().unwrap().contains("00:11"));
        e.clock_ahead_seconds = Some(-3600);
        assert!(e.hint().unwrap().contains("3600 s ahead"));
        e.clock_ahead_seconds = Some(3600);
        assert!(e.hint().unwrap().contains("3600 s behind"));
    }

    #[test]
    fn quotas_are_refusals_and_busy_services_pass() {
        let of = |status, code| OracleError::from(Box::new(error(status, code)));
        assert!(of(400, "QuotaExceeded").is_refusal());
        let related = of(400, "RelatedResourceNotAuthorizedOrNotFound");
        assert!(related.is_refusal() && related.hint().unwrap().contains("read objects"));
        assert!(of(429, "TooManyRequests").is_passing() && of(503, "").is_passing());
        assert!(!of(409, "IncorrectState").is_passing());
    }
}
