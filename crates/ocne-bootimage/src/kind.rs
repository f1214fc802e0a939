//! What an image is converted for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::network_files::{AddedFile, NETWORK_FILES};

/// Where a converted image is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// Oracle Cloud Infrastructure.
    Oci,
    /// Oracle Linux Virtualization Manager.
    Olvm,
}

impl ImageKind {
    /// The name in `--type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::Olvm => "olvm",
        }
    }

    /// The value of `ignition.platform.id`, unless another is asked for.
    pub fn default_ignition_provider(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::Olvm => "openstack",
        }
    }

    /// Kernel arguments that become others.
    pub(crate) fn replaced_arguments(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Oci => &[],
            Self::Olvm => &[("console=ttyS0", "console=tty0")],
        }
    }

    /// Files that every booted deployment gets.
    pub fn added_files(self) -> &'static [AddedFile] {
        match self {
            Self::Oci => NETWORK_FILES,
            Self::Olvm => &[],
        }
    }
}

impl fmt::Display for ImageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
