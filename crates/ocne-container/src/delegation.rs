//! What another machine needs to fetch an image in place of this one.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::credentials::{CredentialFiles, Credentials};
use crate::error::FetchError;
use crate::fetch::{FetchOptions, Fetcher};
use crate::http;
use crate::platform::Platform;
use crate::reference::ImageReference;

/// Everything that another machine needs to fetch an image, decided here: there it looks for no file of settings,
/// credentials or certificates. It has a secret, so it goes over trusted lines only, and into no file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// The reference in its full form.
    pub reference: String,
    /// The architecture that is taken of an image with several.
    pub architecture: String,
    /// Path of the disk in the image; empty for all of it.
    pub disk_path: String,
    /// What proves to the registry who is asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// The certificate authorities to trust and no others, as DER in base 64.
    pub authorities: Vec<String>,
    /// The registry may be spoken to without TLS.
    pub plain_http: bool,
}

impl Fetcher {
    /// What another machine needs to fetch the disk at `disk_path` in an image. Nothing is fetched.
    ///
    /// # Errors
    /// When the image is in a file, when credentials or certificates cannot be read.
    pub async fn delegation(
        &self,
        reference: &ImageReference,
        platform: &Platform,
        disk_path: &str,
    ) -> Result<Delegation, FetchError> {
        let ImageReference::Registry(registry) = reference else {
            return Err(FetchError::NotInARegistry { reference: reference.to_string() });
        };
        let files = CredentialFiles::new(self.options().authfile.as_deref(), |name| std::env::var_os(name));
        let authorities = http::authorities(&registry.registry, self.options().ca_file.as_deref())?;
        Ok(Delegation {
            reference: reference.to_string(),
            architecture: platform.architecture.clone(),
            disk_path: disk_path.to_owned(),
            credentials: files.find(&registry.registry, &registry.repository).await?,
            authorities: authorities.iter().map(|der| STANDARD.encode(der)).collect(),
            plain_http: http::plain_allowed(&registry.registry, &self.options().insecure_registries),
        })
    }
}

impl Delegation {
    /// A fetcher that uses this and nothing of the machine that it runs on; with what it shall fetch.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn fetcher(self, cache_dir: PathBuf) -> Result<(Fetcher, ImageReference, Platform), FetchError> {
        let reference = ImageReference::parse(&self.reference)?;
        let ImageReference::Registry(registry) = &reference else {
            return Err(FetchError::NotInARegistry { reference: self.reference });
        };
        let insecure_registries = if self.plain_http { vec![registry.registry.clone()] } else { Vec::new() };
        let platform = Platform::linux(&self.architecture);
        let options =
            FetchOptions { cache_dir, insecure_registries, delegated: Some(self), ..FetchOptions::default() };
        Ok((Fetcher::new(options)?, reference, platform))
    }
}
