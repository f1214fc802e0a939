//! Authentication at a registry: challenges, and the tokens that answer them.
//!
//! Sources: RFC 7235 and 6750 for challenges; docker's "Token Authentication Specification" and its OAuth 2 variant for tokens.

use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Url};
use serde::Deserialize;

use crate::credentials::{CredentialFiles, Credentials, Secret};

/// Tokens live this long if nothing is said.
const TOKEN_LIFE: Duration = Duration::from_mins(1);
/// A token is not used when it ends so soon.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);
/// Bound for the answer of a token server.
const TOKEN_MAX_BYTES: usize = 1 << 20;

/// How a registry wants to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// With name and password in each request.
    Basic,
    /// With a token from this server.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// What goes into the header `Authorization`.
#[derive(Debug, Clone)]
pub(crate) struct Authorization {
    value: HeaderValue,
    ends: Option<Instant>,
}

impl Authorization {
    pub fn is_fresh(&self) -> bool {
        self.ends.is_none_or(|ends| Instant::now() + TOKEN_MARGIN < ends)
    }

    pub fn header(&self) -> (reqwest::header::HeaderName, HeaderValue) {
        (AUTHORIZATION, self.value.clone())
    }

    fn new(text: &str, ends: Option<Instant>) -> Result<Self, String> {
        let mut value =
            HeaderValue::from_str(text).map_err(|_| "the token has control characters".to_owned())?;
        value.set_sensitive(true);
        Ok(Self { value, ends })
    }

    fn basic(user: &str, password: &Secret) -> Result<Self, String> {
        use base64::Engine as _;
        let pair = format!("{user}:{}", password.reveal());
        Self::new(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)), None)
    }
}

/// Why there is no answer to a challenge.
#[derive(Debug)]
pub(crate) enum AuthError {
    /// Files or helpers of credentials.
    Fetch(crate::error::FetchError),
    /// The token server could not be reached; trying again may help.
    Network(reqwest::Error),
    /// It answers that it is too busy.
    Busy { status: u16, wait: Option<Duration> },
    /// It says no, or the challenge cannot be answered.
    Refused(String),
}

/// Where an answer is for.
#[derive(Debug, Clone)]
pub(crate) struct Subject<'a> {
    pub registry: &'a str,
    pub repository: &'a str,
    /// What a token is to allow: `pull`, `pull,push`.
    pub actions: &'a str,
    /// The registry itself is spoken to over TLS, so that tokens have to come over TLS too.
    pub is_secure: bool,
}

/// Reads the challenges of an answer; of several the best.
pub(crate) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        for challenge in value.to_str().map(parse_challenges).unwrap_or_default() {
            if found.is_none() || matches!(challenge, Challenge::Bearer { .. }) {
                found = Some(challenge);
            }
        }
    }
    found
}

/// Reads `Scheme key="value", key=value, Scheme …`. What is not understood is passed over.
fn parse_challenges(mut text: &str) -> Vec<Challenge> {
    let mut schemes: Vec<(String, Vec<(String, String)>)> = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        let end = text.find([' ', '\t', ',', '=', '"']).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if word.is_empty() {
            let Some(next) = rest.char_indices().nth(1) else { break };
            text = &rest[next.0..];
            continue;
        }
        let Some(value) = rest.trim_start().strip_prefix('=') else {
            schemes.push((word.to_ascii_lowercase(), Vec::new()));
            text = rest;
            continue;
        };
        let value = value.trim_start();
        let (value, rest) = if let Some(quoted) = value.strip_prefix('"') {
            unquote(quoted)
        } else {
            let (value, rest) = value.split_at(value.find([' ', '\t', ',']).unwrap_or(value.len()));
            (value.to_owned(), rest)
        };
        if let Some((_, parameters)) = schemes.last_mut() {
            parameters.push((word.to_ascii_lowercase(), value));
        }
        text = rest;
    }
    let known = |(scheme, parameters): (String, Vec<(String, String)>)| {
        let of = |key: &str| parameters.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        match scheme.as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => {
                Some(Challenge::Bearer { realm: of("realm")?, service: of("service"), scope: of("scope") })
            }
            _ => None,
        }
    };
    schemes.into_iter().filter_map(known).collect()
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => {
                escaped = true;
                continue;
            }
            '"' => return (value, &text[at + 1..]),
            _ => {}
        }
        value.push(c);
    }
    (value, "")
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<u64>,
}

/// Answers a challenge. The second value is whether credentials were used.
pub(crate) async fn answer(
    http: &Client,
    files: &CredentialFiles,
    challenge: &Challenge,
    subject: &Subject<'_>,
) -> Result<(Authorization, bool), AuthError> {
    let credentials = files.find(subject.registry, subject.repository).await.map_err(AuthError::Fetch)?;
    let has_credentials = credentials.is_some();
    let authorization = match (challenge, credentials) {
        (Challenge::Basic, None) => {
            return Err(AuthError::Refused("it wants a name and a password".to_owned()));
        }
        (Challenge::Basic, Some(Credentials::Password { user, password })) => {
            Authorization::basic(&user, &password).map_err(AuthError::Refused)?
        }
        (Challenge::Basic, Some(Credentials::IdentityToken(_))) => {
            return Err(AuthError::Refused(
                "it wants a name and a password, and there is only an identity token".to_owned(),
            ));
        }
        (Challenge::Bearer { realm, service, scope }, credentials) => {
            let url = Url::parse(realm)
                .map_err(|_| AuthError::Refused(format!("its token server `{realm}` is no URL")))?;
            if url.scheme() != "https" && (subject.is_secure || url.scheme() != "http") {
                return Err(AuthError::Refused(format!(
                    "its token server `{realm}` is not spoken to over https"
                )));
            }
            // Who only logs in wants nothing yet.
            let usual = match subject.repository {
                "" => String::new(),
                repository => format!("repository:{repository}:{}", subject.actions),
            };
            let scope = scope.clone().unwrap_or(usual);
            token(http, url, service.as_deref(), &scope, credentials).await?
        }
    };
    Ok((authorization, has_credentials))
}

async fn token(
    http: &Client,
    mut url: Url,
    service: Option<&str>,
    scope: &str,
    credentials: Option<Credentials>,
) -> Result<Authorization, AuthError> {
    let asked = Instant::now();
    let request = match credentials {
        Some(Credentials::IdentityToken(token)) => {
            // Only made to have a form encoded.
            let mut form = url.clone();
            form.query_pairs_mut()
                .clear()
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service.unwrap_or_default())
                .append_pair("scope", scope)
                .append_pair("client_id", "ocne")
                .append_pair("refresh_token", token.reveal());
            let body = form.query().unwrap_or_default().to_owned();
            http.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
        }
        other => {
            {
                let mut query = url.query_pairs_mut();
                if let Some(service) = service {
                    query.append_pair("service", service);
                }
                for one in scope.split(' ').filter(|one| !one.is_empty()) {
                    query.append_pair("scope", one);
                }
            }
            let request = http.get(url);
            match other {
                Some(Credentials::Password { user, password }) => {
                    let basic = Authorization::basic(&user, &password).map_err(AuthError::Refused)?;
                    let (name, value) = basic.header();
                    request.header(name, value)
                }
                _ => request,
            }
        }
    };
    let mut answer = request.send().await.map_err(AuthError::Network)?;
    let status = answer.status();
    if let crate::http::Failure::Passing(wait) = crate::http::judge_status(status, answer.headers()) {
        return Err(AuthError::Busy { status: status.as_u16(), wait });
    }
    if !status.is_success() {
        return Err(AuthError::Refused(format!("its token server answers {status}")));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(AuthError::Network)? {
        body.extend_from_slice(&chunk);
        if body.len() > TOKEN_MAX_BYTES {
            return Err(AuthError::Refused("its token server answers without end".to_owned()));
        }
    }
    let answer: TokenAnswer = serde_json::from_slice(&body)
        .map_err(|_| AuthError::Refused("its token server answers something else than a token".to_owned()))?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.reveal().is_empty());
    let token =
        token.ok_or_else(|| AuthError::Refused("its token server answers without a token".to_owned()))?;
    let life = answer.expires_in.map_or(TOKEN_LIFE, |seconds| Duration::from_secs(seconds.min(86_400)));
    Authorization::new(&format!("Bearer {}", token.reveal()), Some(asked + life)).map_err(AuthError::Refused)
}

/// Reads challenges, for fuzzing.
#[cfg(feature = "fuzzing")]
pub fn fuzz_challenges(text: &str) {
    let _ = parse_challenges(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        for (text, expected) in [
            (
                r#"Bearer realm="https://a.example.com/token",service="r",scope="repository:a/b:pull,push""#,
                vec![bearer("https://a.example.com/token", Some("r"), Some("repository:a/b:pull,push"))],
            ),
            (r#"Basic realm="x""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Negotiate, BEARER realm=u , Basic realm="a\"b, c""#,
                vec![bearer("u", None, None), Challenge::Basic],
            ),
            (r#"Bearer service="no realm""#, vec![]),
            ("", vec![]),
            (r#"""=,,= ""#, vec![]),
            ("Bearer realm=\"unclosed", vec![bearer("unclosed", None, None)]),
        ] {
            assert_eq!(parse_challenges(text), expected, "{text}");
        }
    }

    #[test]
    fn authorization_is_not_printed() {
        let basic = Authorization::basic("u", &Secret::new("hidden")).unwrap();
        assert!(!format!("{basic:?}").contains("dTpoaWRkZW4="));
        assert!(basic.is_fresh());
        assert!(!Authorization::new("Bearer x", Some(Instant::now())).unwrap().is_fresh());
    }
}
