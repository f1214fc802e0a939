//! What a build would do, found out without reading anything big.

use std::path::{Path, PathBuf};

use ocne_bootimage::ImageKind;
use ocne_container::Located;
use ocne_disk::Qcow2;

use crate::cluster;
use crate::error::BuildError;
use crate::output::{available_bytes, folder_of};
use crate::request::{Builder, CreateRequest, Source};
use crate::source::look_up;

/// What a build would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The source, as asked for.
    pub source: String,
    /// Where its bytes are: a file, the cache, or to be fetched.
    pub origin: Origin,
    /// The architecture.
    pub architecture: String,
    /// The file that would be written.
    pub output: PathBuf,
    /// Whether a file is there already, which would be replaced.
    pub replaces: bool,
    /// How large the output would be at least, where that is known.
    pub needed_bytes: Option<u64>,
    /// What is free in the output's folder, where that is known.
    pub available_bytes: Option<u64>,
    /// Where it would be converted, and what the cluster says to that.
    pub builder: Vec<String>,
    /// What would be changed in the image.
    pub changes: Vec<String>,
}

/// Where the bytes of a boot image are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File,
    /// In the cache, from an earlier run.
    Cache {
        /// Digest of the container image.
        digest: String,
    },
    /// Not here yet.
    Fetch {
        /// Digest of the container image.
        digest: String,
        /// How much would be fetched.
        compressed_bytes: u64,
    },
}

/// Finds out what a build would do. Of a container image, only the manifest is fetched.
///
/// # Errors
/// When the source is not there, or is refused; when the cluster that was asked for does not answer, or refuses the pod.
pub fn plan(request: &CreateRequest) -> Result<Plan, BuildError> {
    let architecture = request.resolved_architecture()?;
    let output = request.target(architecture)?;
    let found = look_up(&request.source)?;
    let (source, origin, local) = match (&request.source, found) {
        (Source::File { path, .. }, _) => (path.display().to_string(), Origin::File, Some(path.clone())),
        (_, Some(Located { reference, manifest_digest: digest, cached: Some(disk), .. })) => {
            (reference, Origin::Cache { digest }, Some(disk.path))
        }
        (_, Some(Located { reference, manifest_digest: digest, size_bytes, .. })) => {
            (reference, Origin::Fetch { digest, compressed_bytes: size_bytes }, None)
        }
        (Source::Image { reference, .. }, None) => (reference.to_string(), Origin::File, None),
    };
    let needed_bytes = match local {
        None => None,
        Some(path) => {
            let image = Qcow2::open(&path).map_err(|source| BuildError::Image { path, source })?;
            Some(image.info().file_size_bytes)
        }
    };
    Ok(Plan {
        source,
        origin,
        architecture: architecture.to_string(),
        replaces: output.exists(),
        needed_bytes,
        available_bytes: available_bytes(existing(&output)).ok(),
        output,
        builder: builder(&request.builder)?,
        changes: changes(request),
    })
}

pub(crate) fn builder(builder: &Builder) -> Result<Vec<String>, BuildError> {
    let here = "in this process";
    match builder {
        Builder::Local => Ok(vec![here.to_owned()]),
        Builder::Cluster(settings) => cluster::ask(settings),
        Builder::Auto(settings) => {
            Ok(cluster::ask(settings).unwrap_or_else(|e| vec![format!("{here}, because {e}")]))
        }
    }
}

/// The nearest folder above a file that is there.
pub(crate) fn existing(file: &Path) -> &Path {
    let folder = folder_of(file);
    folder.ancestors().find(|f| f.is_dir()).unwrap_or(folder)
}

fn changes(request: &CreateRequest) -> Vec<String> {
    let mut changes =
        vec![format!("set ignition.platform.id={} in every loader entry", request.ignition_provider)];
    if let Some(text) = &request.kernel_args {
        changes.push(format!("add `{text}` to every kernel command line"));
    }
    changes.push("give the boot and root file systems new UUIDs, in loader entries and fstab too".to_owned());
    changes.push("remove machine-id from every deployment".to_owned());
    match request.kind {
        ImageKind::Oci => changes.push("add what sets the host name from Oracle Cloud's metadata".to_owned()),
        ImageKind::Olvm => changes.push("move the console from ttyS0 to tty0".to_owned()),
    }
    if request.recompress.is_some() {
        changes.push("write all clusters compressed anew".to_owned());
    }
    changes
}
