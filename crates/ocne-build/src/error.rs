//! Why a build did not succeed.

use std::io;
use std::path::PathBuf;

use ocne_cluster::ClusterError;
use ocne_container::{ErrorKind, FetchError};
use ocne_disk::Qcow2Error;
use ocne_ostree::OstreeError;

use crate::remote::RemoteError;
use crate::signature::SignatureError;

/// How a failed build ends, for the exit status of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Refused, or failed.
    Failed,
    /// What was asked for cannot be asked for.
    Usage,
    /// The other side refused: authentication, quota, permission.
    RemoteRefused,
    /// The next run goes on where this one stopped.
    Resumable,
    /// The caller asked for it to end.
    Interrupted,
}

/// A build that did not succeed. Nothing is left of its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The caller asked for it to end.
    #[error("interrupted")]
    Interrupted,
    /// The operating system refused something on a path that its error names.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The output's folder is missing or may not be written.
    #[error("cannot write into the folder `{}`", folder.display())]
    OutputFolder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another run writes the same output.
    #[error("another run is writing `{}`", target.display())]
    OutputBusy {
        /// The output.
        target: PathBuf,
    },
    /// The output exists, and is not a file.
    #[error("`{}` exists and is not a regular file", target.display())]
    OutputNotAFile {
        /// The output.
        target: PathBuf,
    },
    /// The output would replace what it is made from.
    #[error("`{}` is the source; the output needs another name", target.display())]
    OutputIsSource {
        /// The output.
        target: PathBuf,
    },
    /// Too little room for the output.
    #[error("not enough space in `{}`: {needed_bytes} bytes are needed, {available_bytes} are free", folder.display())]
    NoSpace {
        /// The folder.
        folder: PathBuf,
        /// What the output needs.
        needed_bytes: u64,
        /// What an ordinary user may still write there.
        available_bytes: u64,
    },
    /// The source changed while it was read.
    #[error("`{}` was changed by somebody else while it was read", path.display())]
    SourceChanged {
        /// The source.
        path: PathBuf,
    },
    /// The cached image is not what was fetched.
    #[error("the cached image `{}` is damaged: its BLAKE3 is {actual}, not {expected}", path.display())]
    CacheDamaged {
        /// The cached file.
        path: PathBuf,
        /// The digest that was recorded.
        expected: String,
        /// The digest that it has.
        actual: String,
    },
    /// The output, read back, is not what was written.
    #[error("`{}` is not what was written to it: {reason}", path.display())]
    NotAsWritten {
        /// The output's temporary name.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// An image with an ostree commit was refused.
    #[error("cannot serve the ostree commit in `{reference}`")]
    Ostree {
        /// The image.
        reference: String,
        /// Why.
        source: OstreeError,
    },
    /// Nobody whom the user trusts has signed the commit.
    #[error("cannot trust the ostree commit in `{reference}`")]
    Signature {
        /// The image.
        reference: String,
        /// Why.
        source: SignatureError,
    },
    /// There are no keys in the file that is to have them.
    #[error("cannot read GPG keys from `{}`: {reason}", path.display())]
    GpgKeys {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Fetching failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The image's qcow2 layer was refused.
    #[error("cannot use `{}` as a boot image", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why.
        source: Qcow2Error,
    },
    /// The image is not one that a boot image can be made of.
    #[error("cannot read `{}` as a boot image", path.display())]
    Inspect {
        /// The image.
        path: PathBuf,
        /// Why.
        source: Box<ocne_bootimage::ConvertError>,
    },
    /// The image could not be converted.
    #[error("cannot convert `{}`", path.display())]
    Convert {
        /// The image.
        path: PathBuf,
        /// Why.
        source: Box<ocne_bootimage::ConvertError>,
    },
    /// The cluster could not be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The agent in the pod did not make a conversion that can be taken.
    #[error("the conversion in the pod {pod} failed")]
    Remote {
        /// Namespace and name of the pod.
        pod: String,
        /// Why.
        source: RemoteError,
    },
    /// There is no program to bring into a pod whose image has none, or into an image.
    #[error("the program `{name}` is not there; looked at {}", places.iter().map(|p| format!("`{}`", p.display())).collect::<Vec<_>>().join(", "))]
    NoProgram {
        /// Name of the program.
        name: String,
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },
    /// The agent's program was brought into the pod, and does not run there.
    #[error("the agent does not run in the pod {pod}: {reason}")]
    AgentNotStarted {
        /// Namespace and name of the pod.
        pod: String,
        /// What the pod's shell says.
        reason: String,
    },
}

impl BuildError {
    /// How the build ends.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Interrupted | Self::Cluster(ClusterError::Interrupted) => FailureKind::Interrupted,
            Self::Fetch(e) => match e.kind() {
                ErrorKind::Usage => FailureKind::Usage,
                ErrorKind::RemoteRefused => FailureKind::RemoteRefused,
                ErrorKind::Resumable => FailureKind::Resumable,
                ErrorKind::Interrupted => FailureKind::Interrupted,
                ErrorKind::Failed => FailureKind::Failed,
            },
            Self::Cluster(e) if e.is_remote_refusal() => FailureKind::RemoteRefused,
            Self::Cluster(ClusterError::ConnectionLost { .. } | ClusterError::NodeLost { .. }) => {
                FailureKind::Resumable
            }
            Self::Remote { source: RemoteError::Transfer(e), .. } if e.is_transient() => {
                FailureKind::Resumable
            }
            _ => FailureKind::Failed,
        }
    }

    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let text = |t: &str| Some(t.to_owned());
        match self {
            Self::OutputFolder { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                text("make the folder first, or choose another with `--output`")
            }
            Self::OutputFolder { .. } | Self::OutputNotAFile { .. } | Self::OutputIsSource { .. } => {
                text("choose another place with `--output`")
            }
            Self::OutputBusy { .. } => text("wait for it, or choose another place with `--output`"),
            Self::NoSpace { .. } => text("make room, or choose another place with `--output`"),
            Self::SourceChanged { .. } => text("run it again when nobody writes to the source"),
            Self::CacheDamaged { .. } => text("remove it with `ocne image cache prune`, and run it again"),
            Self::Fetch(e) => e.hint(),
            Self::Signature { .. } => text(
                "give the public key of whoever signs these commits with `--gpg-key`; without it, no signature is verified",
            ),
            Self::GpgKeys { .. } => text("`gpg --export KEY` writes such a file"),
            Self::Ostree { source, .. } => source.hint().map(str::to_owned),
            Self::Cluster(e) => e.hint(),
            Self::Remote { source, .. } => source.hint(),
            Self::NoProgram { name, .. } if name.starts_with("ocne-serve") => {
                text("`make serve` builds it; or name an image with nginx by `--base`")
            }
            Self::NoProgram { .. } => text(
                "`make agent` builds it; or name an image that has it by `--builder-image`, or take `--builder local`",
            ),
            Self::AgentNotStarted { .. } => text(
                "the image of `--builder-image` needs `sh`, `cat` and `chmod`, and the node's architecture",
            ),
            Self::Image { source, .. } => source.hint().map(str::to_owned),
            Self::Inspect { source, .. } | Self::Convert { source, .. } => source.hint().map(str::to_owned),
            _ => None,
        }
    }
}
