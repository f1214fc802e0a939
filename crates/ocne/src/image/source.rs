//! Flags that say which container image is fetched, and how.

use std::path::PathBuf;

use clap::Args;
use ocne_build::{
    Architecture, FetchOptions, ImageReference, NetworkOptions, OstreeReference, ReferenceError, Source,
};

use crate::failure::Failure;
use crate::settings::{Settings, home};

/// How registries are spoken to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Fetching")]
pub struct FetchArguments {
    /// Use what was fetched before, and no network
    #[arg(long)]
    pub offline: bool,
    /// Credentials for registries, as podman and docker write them
    #[arg(long, value_name = "PATH", env = "REGISTRY_AUTH_FILE", hide_env = true)]
    pub authfile: Option<PathBuf>,
    /// Certificates to trust besides the system's, as PEM
    #[arg(long, value_name = "PATH")]
    pub ca_file: Option<PathBuf>,
    /// Registry that may be spoken to without TLS; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
}

/// The container image that is named, or else the configured one.
pub fn image(
    reference: Option<&str>,
    architecture: Option<Architecture>,
    kubernetes_version: &str,
    fetch: &FetchArguments,
    settings: &Settings,
) -> Result<Source, Failure> {
    let libvirt = settings.values.providers.as_ref().and_then(|p| p.libvirt.as_ref());
    let disk_path = libvirt.and_then(|l| l.boot_volume_container_image_path.clone());
    Ok(Source::Image {
        architecture: match architecture {
            Some(architecture) => architecture,
            None => system_architecture()?,
        },
        reference: parse(&reference.map_or_else(|| settings.boot_image(kubernetes_version), str::to_owned))?,
        disk_path: disk_path.unwrap_or_else(|| "disk/boot.qcow2".to_owned()),
        fetch: Box::new(fetch.options(settings)?),
    })
}

/// Reads the reference of an image.
pub fn parse(reference: &str) -> Result<ImageReference, Failure> {
    ImageReference::parse(reference).map_err(|e| no_reference(&e))
}

/// Reads the reference of an image that holds an ostree commit.
pub fn parse_ostree(reference: &str) -> Result<OstreeReference, Failure> {
    OstreeReference::parse(reference).map_err(|e| no_reference(&e))
}

fn no_reference(error: &ReferenceError) -> Failure {
    Failure::usage(error.to_string())
        .with_hint("such as docker://registry.example/name:tag, oci-archive:FILE, docker-archive:FILE, oci:FOLDER or dir:FOLDER")
}

/// The architecture of this system.
pub fn system_architecture() -> Result<Architecture, Failure> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Architecture::Amd64),
        "aarch64" => Ok(Architecture::Arm64),
        other => {
            Err(Failure::usage(format!("there is no boot image for this system's architecture, {other}"))
                .with_hint("choose one with `--arch amd64` or `--arch arm64`"))
        }
    }
}

impl FetchArguments {
    /// How images are fetched.
    pub fn options(&self, settings: &Settings) -> Result<FetchOptions, Failure> {
        let proxy = settings.values.proxy.clone().unwrap_or_default();
        Ok(FetchOptions {
            cache_dir: home()?.join("images"),
            credentials: None,
            authfile: self.authfile.clone(),
            ca_file: self.ca_file.clone(),
            insecure_registries: self.insecure_registry.clone(),
            delegated: None,
            offline: self.offline,
            network: NetworkOptions {
                http_proxy: proxy.http_proxy,
                https_proxy: proxy.https_proxy,
                no_proxy: proxy.no_proxy,
                ..NetworkOptions::default()
            },
        })
    }
}
