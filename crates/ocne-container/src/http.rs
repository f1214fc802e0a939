//! The HTTP client of a registry: which certificates count for it, and where it may send a client on to.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fs_err as fs;
pub use ocne_http::NetworkOptions;
pub(crate) use ocne_http::{
    Attempts, Failure, explain, host_name, is_loopback, judge_error, judge_status, retry_after, tls_problem,
};
use ocne_http::{ClientError, client_builder};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::error::FetchError;
use crate::fetch::FetchOptions;

/// Registries send blobs from elsewhere, one or two redirects away.
const REDIRECTS_MAX: usize = 5;

/// Makes the client for a registry at `host`, which is a name or address with an optional port.
pub(crate) fn client(host: &str, fetch: &FetchOptions) -> Result<Client, FetchError> {
    let certificates: Vec<PathBuf> = match fetch.delegated {
        Some(_) => Vec::new(),
        None => own_authorities(host, fetch.ca_file.as_deref()).collect(),
    };
    let mut builder = client_builder(host, &certificates, &fetch.network).map_err(|error| match error {
        ClientError::Certificates { path, reason } => FetchError::Certificates { path, reason },
        ClientError::Setup { source } => FetchError::Client { source },
    })?;
    if let Some(delegation) = &fetch.delegated {
        let ders = delegation.authorities.iter().filter_map(|text| STANDARD.decode(text).ok());
        builder = builder.tls_certs_only(ders.filter_map(|der| Certificate::from_der(&der).ok()));
    }
    builder
        .http2_adaptive_window(true)
        // reqwest drops credentials when the host, port or scheme changes.
        .redirect(Policy::custom(|attempt| {
            let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
            if attempt.previous().len() > REDIRECTS_MAX {
                attempt.error("too many redirects")
            } else if was_secure && attempt.url().scheme() != "https" {
                attempt.error("a redirect from https to http")
            } else {
                attempt.follow()
            }
        }))
        .build()
        .map_err(|source| FetchError::Client { source })
}

/// Files with authorities for a registry, besides the system's.
fn own_authorities(host: &str, ca_file: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    ca_file.map(Path::to_owned).into_iter().chain(certificates_of(host))
}

/// All authorities that this machine trusts for a registry, as DER.
pub(crate) fn authorities(host: &str, ca_file: Option<&Path>) -> Result<Vec<Vec<u8>>, FetchError> {
    // What the system has and cannot be read is not trusted, there as here.
    let mut all: Vec<Vec<u8>> =
        rustls_native_certs::load_native_certs().certs.into_iter().map(|der| der.to_vec()).collect();
    for path in own_authorities(host, ca_file) {
        let refused = |reason: String| FetchError::Certificates { path: path.clone(), reason };
        let pem = fs::read(&path).map_err(|e| refused(e.to_string()))?;
        for der in CertificateDer::pem_slice_iter(&pem) {
            all.push(der.map_err(|e| refused(e.to_string()))?.to_vec());
        }
    }
    Ok(all)
}

/// Whether a registry may be spoken to without TLS.
pub(crate) fn plain_allowed(registry: &str, insecure_registries: &[String]) -> bool {
    is_loopback(registry)
        || insecure_registries.iter().any(|one| one == registry || one == host_name(registry))
}

/// Certificate authorities for one registry, where podman and docker look for them (containers-certs.d(5)).
fn certificates_of(host: &str) -> Vec<PathBuf> {
    let home = std::env::home_dir().map(|home| home.join(".config/containers/certs.d"));
    let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    let mut found = Vec::new();
    for folder in home.into_iter().chain(system) {
        let files = fs::read_dir(folder.join(host)).into_iter().flatten().filter_map(Result::ok);
        found.extend(
            files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "crt")),
        );
        if !found.is_empty() {
            break;
        }
    }
    found.sort();
    found
}
