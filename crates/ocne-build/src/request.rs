//! What is to be built.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ocne_bootimage::{Architecture, ImageKind};
use ocne_container::{FetchOptions, ImageReference};
use ocne_disk::{CompressOptions, Qcow2};

use crate::cluster::{ClusterSettings, Transfer};
use crate::error::BuildError;

/// One image to build, with every setting decided.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// What the image is for.
    pub kind: ImageKind,
    /// Kubernetes version, for names and the report.
    pub kubernetes_version: String,
    /// Value of `ignition.platform.id`.
    pub ignition_provider: String,
    /// Text added to every kernel command line.
    pub kernel_args: Option<String>,
    /// Where the boot image comes from.
    pub source: Source,
    /// Where the new image goes.
    pub destination: Destination,
    /// Where it is converted.
    pub builder: Builder,
    /// Write all clusters compressed anew.
    pub recompress: Option<CompressOptions>,
    /// Look whether the new image can boot.
    pub preflight: bool,
    /// What the new UUIDs come from, for a build that can be repeated; otherwise they are random.
    pub seed: Option<String>,
    /// The time that files of the image are changed at, in seconds since 1970; otherwise the present.
    pub timestamp_seconds: Option<u64>,
    /// Where the report goes.
    pub report: Option<PathBuf>,
}

/// Where an image is converted.
#[derive(Debug, Clone)]
pub enum Builder {
    /// In this process.
    Local,
    /// In a cluster.
    Cluster(Box<ClusterSettings>),
    /// In a cluster; in this process if that cannot be.
    Auto(Box<ClusterSettings>),
}

/// Where a boot image comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A qcow2 file.
    File {
        /// Its path.
        path: PathBuf,
        /// The architecture that it has to have; otherwise the one it has.
        architecture: Option<Architecture>,
    },
    /// A container image that holds one.
    Image {
        /// Reference of the container image.
        reference: ImageReference,
        /// The architecture that is taken of a container image with several, and that the image has to have.
        architecture: Architecture,
        /// Path of the boot image in it.
        disk_path: String,
        /// How it is fetched, and where it is kept.
        fetch: Box<FetchOptions>,
    },
}

/// Where the new image goes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A file of this name.
    File(PathBuf),
    /// A file of the usual name in this folder, which is made if it is missing.
    Folder(PathBuf),
}

impl CreateRequest {
    /// Whether the pod fetches the image.
    pub(crate) fn pulls(&self) -> bool {
        matches!(&self.builder, Builder::Cluster(s) | Builder::Auto(s) if s.transfer == Transfer::Pull)
    }

    /// The architecture that was asked for, or that the source file has.
    ///
    /// # Errors
    /// When the file has to be looked at, and is no boot image.
    pub(crate) fn resolved_architecture(&self) -> Result<Architecture, BuildError> {
        match &self.source {
            Source::Image { architecture, .. } | Source::File { architecture: Some(architecture), .. } => {
                Ok(*architecture)
            }
            Source::File { path, architecture: None } => {
                let refused = |source| BuildError::Image { path: path.clone(), source };
                let device = Qcow2::open(path).map_err(refused)?;
                let found = ocne_bootimage::inspect(&device)
                    .map_err(|e| BuildError::Inspect { path: path.clone(), source: Box::new(e) })?;
                Ok(found.architecture)
            }
        }
    }

    /// The file that is made.
    ///
    /// # Errors
    /// When it would replace the source.
    pub(crate) fn target(&self, architecture: Architecture) -> Result<PathBuf, BuildError> {
        let target = match &self.destination {
            Destination::File(path) => path.clone(),
            Destination::Folder(folder) => {
                let (version, kind) = (&self.kubernetes_version, self.kind);
                folder.join(format!("boot.qcow2-{version}-{architecture}.{kind}"))
            }
        };
        match &self.source {
            Source::File { path, .. } if same_file(path, &target) => {
                Err(BuildError::OutputIsSource { target })
            }
            _ => Ok(target),
        }
    }

    /// Makes the folder of the usual name; one that was named has to be there.
    pub(crate) fn make_folder(&self) -> Result<(), BuildError> {
        make_folder(&self.destination)
    }
}

/// Makes the folder of the usual name; one that was named has to be there.
pub(crate) fn make_folder(destination: &Destination) -> Result<(), BuildError> {
    match destination {
        Destination::Folder(folder) => fs_err::create_dir_all(folder)
            .map_err(|source| BuildError::OutputFolder { folder: folder.clone(), source }),
        Destination::File(_) => Ok(()),
    }
}

pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    match (fs_err::metadata(a), fs_err::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
