//! What all HTTP clients here have in common: trust, proxies, time-outs, and when something is tried again.
//!
//! System roots come through `rustls-platform-verifier`, which reqwest brings along; on Linux they are the files that OpenSSL uses too.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backon::BackoffBuilder as _;
use fs_err as fs;
use jiff::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Certificate, Client, ClientBuilder, NoProxy, Proxy, StatusCode};

/// How the network is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkOptions {
    /// A connection has to come about in this time.
    pub connect_timeout: Duration,
    /// Something has to arrive in this time.
    pub stall_timeout: Duration,
    /// Attempts at one thing until it has failed. A transfer that got on begins to count anew.
    pub attempts: u32,
    /// About how long to wait before the second attempt; it doubles from one to the next, and varies by chance.
    pub first_wait: Duration,
    /// The longest wait. A server that asks for a longer one makes the attempt the last.
    pub longest_wait: Duration,
    /// Proxy for `http`, as a URL. Otherwise `http_proxy` counts.
    pub http_proxy: Option<String>,
    /// Proxy for `https`, as a URL. Otherwise `HTTPS_PROXY` counts.
    pub https_proxy: Option<String>,
    /// Hosts that need no proxy: names, domains, addresses and networks with commas between them. Otherwise `NO_PROXY` counts.
    pub no_proxy: Option<String>,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            attempts: 6,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_mins(1),
            http_proxy: None,
            https_proxy: None,
            no_proxy: None,
        }
    }
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Certificates to trust cannot be read.
    #[error("cannot read the certificates in `{}`: {reason}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A proxy is no URL, or the system's certificates cannot be used.
    #[error("cannot set up TLS or the proxy")]
    Setup {
        /// Why.
        source: reqwest::Error,
    },
}

/// Begins the client for a server at `host`, which is a name or address with an optional port. Redirects are left to
/// the caller, who knows what may be sent where.
///
/// # Errors
/// When certificates or proxies cannot be used.
pub fn client_builder(
    host: &str,
    certificate_files: &[PathBuf],
    options: &NetworkOptions,
) -> Result<ClientBuilder, ClientError> {
    // reqwest panics without a provider. Programs install theirs first; then this does nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("ocne/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.stall_timeout)
        .tcp_keepalive(options.stall_timeout)
        .referer(false);
    let mut certificates = Vec::new();
    for path in certificate_files {
        certificates.extend(read_certificates(path)?);
    }
    if !certificates.is_empty() {
        builder = builder.tls_certs_merge(certificates);
    }
    let no_proxy = options.no_proxy.as_deref().map_or_else(NoProxy::from_env, NoProxy::from_string);
    let refused = |source| ClientError::Setup { source };
    if is_loopback(host) {
        // No proxy could reach it. Docker and skopeo do the same (Go's `ProxyFromEnvironment`).
        return Ok(builder.no_proxy());
    }
    if let Some(url) = &options.https_proxy {
        builder = builder.proxy(Proxy::https(url).map_err(refused)?.no_proxy(no_proxy.clone()));
    }
    if let Some(url) = &options.http_proxy {
        builder = builder.proxy(Proxy::http(url).map_err(refused)?.no_proxy(no_proxy));
    }
    Ok(builder)
}

/// The host without the port.
pub fn host_name(server: &str) -> &str {
    match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => server.split(':').next().unwrap_or(server),
    }
}

/// Whether a server is on this machine.
pub fn is_loopback(server: &str) -> bool {
    let host = host_name(server);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate>, ClientError> {
    let refused = |reason: String| ClientError::Certificates { path: path.to_owned(), reason };
    let pem = fs::read(path).map_err(|e| refused(e.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|e| refused(e.to_string()))?;
    if found.is_empty() { Err(refused("there is no certificate in it".to_owned())) } else { Ok(found) }
}

/// What to do about a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It may work when tried again, not before this time if the server says so.
    Passing(Option<Duration>),
    /// It will fail again.
    Lasting,
}

/// Judges an answer that is no success.
pub fn judge_status(status: StatusCode, headers: &HeaderMap) -> Failure {
    match status.as_u16() {
        408 | 429 | 500 | 502 | 503 | 504 => Failure::Passing(retry_after(headers)),
        _ => Failure::Lasting,
    }
}

/// Judges a request that got no answer, or not all of it.
pub fn judge_error(error: &reqwest::Error) -> Failure {
    if error.is_builder() || error.is_redirect() || tls_problem(error).is_some() {
        Failure::Lasting
    } else {
        Failure::Passing(None)
    }
}

/// What TLS has against a connection.
pub fn tls_problem(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // `source` of an I/O error is not what it wraps, but the source of that.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// What lies behind an error, in one line. reqwest's own text says only at which stage it failed.
pub fn explain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if error.is_timeout() { "nothing came for too long".to_owned() } else { text }
}

/// Waits between attempts: they double, and vary by chance so that many clients do not come at once.
#[derive(Debug)]
pub struct Attempts {
    policy: backon::ExponentialBuilder,
    waits: backon::ExponentialBackoff,
    longest: Duration,
    /// Attempts that were made since the last progress.
    pub made: u32,
    limit: u32,
}

impl Attempts {
    /// The first attempt is under way.
    pub fn new(options: &NetworkOptions) -> Self {
        let policy = backon::ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(options.first_wait)
            .with_max_delay(options.longest_wait / 2)
            .without_max_times();
        Self {
            policy,
            waits: policy.build(),
            longest: options.longest_wait,
            made: 1,
            limit: options.attempts.max(1),
        }
    }

    /// The wait before the next attempt; none when there is to be no other.
    pub fn next(&mut self, asked_for: Option<Duration>) -> Option<Duration> {
        if self.made >= self.limit || asked_for.is_some_and(|wait| wait > self.longest) {
            return None;
        }
        self.made += 1;
        let wait = self.waits.next().unwrap_or(self.longest);
        Some(asked_for.map_or(wait, |asked| asked.max(wait)).min(self.longest))
    }

    /// Something was achieved: count anew.
    pub fn reset(&mut self) {
        self.made = 1;
        self.waits = self.policy.build();
    }
}

/// The header `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(http_date(value)?.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A date such as `Sun, 06 Nov 1994 08:49:37 GMT`, or in one of the two obsolete forms (RFC 9110, 5.6.7).
pub fn http_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

/// The same form of a time; one before 1970 is taken for 1970.
pub fn format_http_date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time.max(UNIX_EPOCH))
}

/// A time as RFC 3339 in UTC, in whole seconds.
pub fn format_rfc3339(time: SystemTime) -> String {
    format!("{:.0}", Timestamp::try_from(time).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_that_servers_ask_for() {
        let asked = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(asked("Fri, 31 Dec 9999 23:59:59 GMT").unwrap() > Duration::from_secs(1 << 32));
        for nothing in [
            "",
            "-1",
            "soon",
            "Sun, 06 Nov 1994",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 99:49:37 GMT",
        ] {
            assert_eq!(asked(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn hosts() {
        assert_eq!(host_name("r.example.com:5000"), "r.example.com");
        assert_eq!(host_name("[::1]:5000"), "::1");
        assert!(["localhost", "x.localhost:1", "127.3.2.1:5000", "[::1]:5000"].into_iter().all(is_loopback));
        assert!(!["docker.io", "localhost.example.com", "10.0.0.1", ""].into_iter().any(is_loopback));
    }

    #[test]
    fn dates_of_rfc_3339() {
        let text = |seconds| format_rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(text(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(text(1_798_761_599), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn dates() {
        let seconds = |text| http_date(text).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), 784_111_777);
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), 0);
        assert_eq!(seconds("Thu, 29 Feb 2024 12:00:00 GMT"), 1_709_208_000);
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "Thu, 29 Feb 2024 12:00:00 GMT",
            "Sat, 01 Mar 2025 23:59:59 GMT",
            "Fri, 31 Dec 2100 00:00:00 GMT",
        ] {
            assert_eq!(format_http_date(http_date(text).unwrap()), text);
        }
    }

    #[test]
    fn attempts_are_counted() {
        let options =
            NetworkOptions { attempts: 3, longest_wait: Duration::from_secs(8), ..NetworkOptions::default() };
        let mut attempts = Attempts::new(&options);
        let first = attempts.next(None).unwrap();
        assert!(first >= options.first_wait && first <= options.first_wait * 2, "{first:?}");
        assert_eq!(attempts.next(Some(Duration::from_secs(5))), Some(Duration::from_secs(5)));
        assert_eq!(attempts.next(None), None);
        attempts.reset();
        assert!(attempts.next(None).is_some());
        assert_eq!(attempts.next(Some(Duration::from_secs(9))), None, "longer than anyone wants to wait");
    }
}
