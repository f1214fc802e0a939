//! Why an image could not be fetched.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::layer::LayerError;
use crate::manifest::ManifestError;
use crate::platform::Platform;
use crate::reference::ReferenceError;
use ocne_tar::TarError;

/// How a failed fetch ends, for the exit status of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was asked for cannot be asked for.
    Usage,
    /// The registry refused: authentication, permission, quota.
    RemoteRefused,
    /// Refused, or failed.
    Failed,
    /// The caller asked for it to end.
    Interrupted,
    /// It may succeed when it is tried again.
    Resumable,
}

/// A fetch that did not succeed. Nothing is left of it but what the cache had before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The caller asked for it to end.
    #[error("interrupted")]
    Interrupted,
    /// The text names no image.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Only what is in a registry can be fetched by another machine.
    #[error("`{reference}` is not in a registry, so no other machine can fetch it")]
    NotInARegistry {
        /// The reference.
        reference: String,
    },
    /// The path inside the image cannot be one.
    #[error("`{path}` cannot be the path of a file in an image: {reason}")]
    DiskPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The operating system refused something on a path that its error names.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The cache cannot take the disk.
    #[error("not enough space in `{}`: the disk needs {needed_bytes} bytes, {available_bytes} are free", folder.display())]
    NoSpace {
        /// Folder of the cache.
        folder: PathBuf,
        /// Size of the disk.
        needed_bytes: u64,
        /// What an ordinary user may still write there.
        available_bytes: u64,
    },
    /// A file of the transport is missing in a folder or an archive.
    #[error("`{location}` has no `{name}`")]
    Missing {
        /// The folder or archive.
        location: String,
        /// What was looked for in it.
        name: String,
    },
    /// The tar file of an archive is damaged.
    #[error("cannot read the archive `{}`", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TarError,
    },
    /// Something small is far too large.
    #[error("`{name}` has {size_bytes} bytes, which is more than the {limit_bytes} that are accepted")]
    TooLarge {
        /// What it is.
        name: String,
        /// Its size, or how much of it came before it was given up.
        size_bytes: u64,
        /// How large it may be.
        limit_bytes: u64,
    },
    /// A manifest, an index or a configuration cannot be used.
    #[error("cannot use {what} of `{location}`")]
    Manifest {
        /// Which of them.
        what: String,
        /// The reference.
        location: String,
        /// Why.
        source: ManifestError,
    },
    /// Several images, and none was named.
    #[error("`{location}` holds several images, and none is named: {}", names.join(", "))]
    SeveralImages {
        /// The folder or archive.
        location: String,
        /// What they are called.
        names: Vec<String>,
    },
    /// The image that was named is not there.
    #[error("`{location}` has no image `{name}`; it has: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })]
    NoSuchImage {
        /// The folder or archive.
        location: String,
        /// What was asked for.
        name: String,
        /// What there is.
        names: Vec<String>,
    },
    /// No image for the platform.
    #[error("`{reference}` has no image for {wanted}; it has: {}", if found.is_empty() { "none".to_owned() } else { found.join(", ") })]
    NoSuchPlatform {
        /// The reference.
        reference: String,
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        found: Vec<String>,
    },
    /// Content is not what its digest says.
    #[error("{what} is damaged: its digest is {found}, not {expected}")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// The digest that it has to have.
        expected: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// Content is shorter or longer than its descriptor says.
    #[error("{what} has {found_bytes} bytes, not {expected_bytes}")]
    SizeMismatch {
        /// What was read.
        what: String,
        /// The size that it has to have.
        expected_bytes: u64,
        /// The size that it has, as far as it was read.
        found_bytes: u64,
    },
    /// A layer cannot be unpacked.
    #[error("cannot unpack the layer {digest}")]
    Layer {
        /// The layer.
        digest: Digest,
        /// Why.
        source: LayerError,
    },
    /// No layer has the disk.
    #[error("`{reference}` has no file `{path}`")]
    NoDisk {
        /// The reference.
        reference: String,
        /// The path inside the image.
        path: String,
    },
    /// Links lead to links without end.
    #[error("`{path}` in `{reference}` is behind too many links")]
    LinkLoop {
        /// The reference.
        reference: String,
        /// The path inside the image.
        path: String,
    },
    /// Nothing is known of the reference, and the network is not to be used.
    #[error("`{reference}` for {platform} is not in the cache, and the network is not to be used")]
    Offline {
        /// The reference.
        reference: String,
        /// The platform.
        platform: Platform,
    },
    /// Source and destination are the same.
    #[error("`{reference}` is the source; the copy needs another place")]
    CopyOntoItself {
        /// The reference.
        reference: String,
    },
    /// Images for several platforms, and none was chosen.
    #[error("`{location}` has several images: {}", found.join(", "))]
    SeveralPlatforms {
        /// The index.
        location: String,
        /// The platforms.
        found: Vec<String>,
    },
    /// Another run writes the same output.
    #[error("another run is writing `{}`", target.display())]
    TargetBusy {
        /// The output.
        target: PathBuf,
    },
    /// There is something else at the output's place.
    #[error("the folder `{}` is not empty, and holds no image of this kind", target.display())]
    TargetInUse {
        /// The output.
        target: PathBuf,
    },
    /// The output cannot hold what is to go there.
    #[error("cannot write the image to `{}`: {reason}", target.display())]
    TargetForm {
        /// The output.
        target: PathBuf,
        /// Why.
        reason: String,
    },
    /// The programs that read and write podman's storage are missing.
    #[error("neither `skopeo` nor, for one image, `podman` is installed, which containers-storage needs")]
    NoStorageProgram,
    /// Such a program did not succeed.
    #[error("cannot {action}: `{program}` ended with {reason}")]
    Program {
        /// The program.
        program: &'static str,
        /// What was tried.
        action: &'static str,
        /// What it says.
        reason: String,
    },
    /// Layers are not kept for work without a network.
    #[error("the layers of `{reference}` are not in the cache, and the network is not to be used")]
    LayersOffline {
        /// The reference.
        reference: String,
    },
    /// The registry could not be reached, or broke off.
    #[error("cannot {action}, in {attempts} attempts at `{registry}`: {reason}")]
    Network {
        /// What was tried.
        action: String,
        /// Host and port.
        registry: String,
        /// How often, since it last got on.
        attempts: u32,
        /// What the last attempt ended with.
        reason: String,
    },
    /// The registry's certificate is not trusted.
    #[error("cannot {action}: the certificate of `{registry}` is not trusted: {reason}")]
    Untrusted {
        /// What was tried.
        action: String,
        /// Host and port.
        registry: String,
        /// What TLS says.
        reason: String,
    },
    /// The registry answered with an error.
    #[error("cannot {action}: `{registry}` answers {status}{}", message(detail))]
    Status {
        /// What was tried.
        action: String,
        /// Host and port.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says about it.
        detail: String,
    },
    /// The registry's answer cannot be used.
    #[error("cannot {action}: the answer of `{registry}` is of no use: {reason}")]
    Protocol {
        /// What was tried.
        action: String,
        /// Host and port.
        registry: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// Credentials cannot be read.
    #[error("cannot use the credentials in `{}`: {reason}", path.display())]
    Credentials {
        /// The file, or the helper program.
        path: PathBuf,
        /// Why, without secrets.
        reason: String,
    },
    /// Certificates cannot be read.
    #[error("cannot use the certificates in `{}`: {reason}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Client {
        /// Why.
        source: reqwest::Error,
    },
}

fn message(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

impl FetchError {
    /// How the fetch ends.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Reference(_) | Self::DiskPath { .. } => ErrorKind::Usage,
            Self::Status { status: 401 | 402 | 403 | 407 | 429, .. } => ErrorKind::RemoteRefused,
            Self::Network { .. } | Self::Status { status: 408 | 500..=599, .. } => ErrorKind::Resumable,
            _ => ErrorKind::Failed,
        }
    }

    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let text = |t: &str| Some(t.to_owned());
        match self {
            Self::Reference(_) => text(
                "references look like `registry.example.com/name:tag`, `oci-archive:FILE`, `oci:FOLDER`, `docker-archive:FILE` or `dir:FOLDER`",
            ),
            Self::NotInARegistry { .. } => text("leave `--pull pod` out, or name an image in a registry"),
            Self::NoSpace { .. } => text("make room, or remove cached images with `ocne image cache prune`"),
            Self::SeveralImages { .. } => text("name one after the path, as in `oci-archive:PATH:NAME`"),
            Self::NoSuchPlatform { found, .. } if !found.is_empty() => {
                text("choose one of them with `--arch`")
            }
            Self::Archive { source: TarError::Compressed, .. } => {
                text("unpack it with `gunzip` or `unzstd` first")
            }
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } | Self::Archive { .. } => {
                text("fetch or copy the image again")
            }
            Self::Offline { .. } => text("run it once without `--offline`"),
            Self::SeveralPlatforms { .. } => {
                text("choose one of them with `--arch`, or take them all with `--all`")
            }
            Self::TargetBusy { .. } => text("wait for it, or choose another place"),
            Self::TargetInUse { .. } => text("choose another folder, or empty it"),
            Self::NoStorageProgram => {
                text("install skopeo, or copy to `oci-archive:FILE` and use `podman load` elsewhere")
            }
            Self::LayersOffline { .. } => text(
                "copy the image into a file, such as with `skopeo copy docker://… oci-archive:FILE`, and name that",
            ),
            Self::NoDisk { .. } => {
                text("the path is the setting `providers.libvirt.bootVolumeContainerImagePath`")
            }
            Self::Status { status: 401 | 403, registry, .. } => Some(format!(
                "log in with `ocne registry login {registry}`, or name a file with credentials with `--authfile`"
            )),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    text("look at the path: every folder in it has to exist, and a file that is read, too")
                }
                io::ErrorKind::PermissionDenied => {
                    text("look at its permissions with `ls -l`, or choose another path")
                }
                _ => None,
            },
            Self::Untrusted { .. } => text("name the file of its certificate authority with `--ca-file`"),
            Self::Status { status: 404, .. } => text("look at the name and the tag of the image"),
            Self::Status { status: 429, .. } => {
                text("wait, or log in: registries limit anonymous users first")
            }
            Self::Network { .. } => {
                text("look at the host name, the network and the proxy settings, and run it again")
            }
            _ => None,
        }
    }
}
