//! What can be wrong with a qcow2 image.

use std::io;

use crate::device::DeviceError;

/// Why an image is refused, or could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// The file does not begin with the format's magic number.
    #[error("it is not a qcow2 image: the magic number is missing")]
    NotQcow2,
    /// A feature of the format that is not handled, on purpose.
    #[error("the image uses {0}, which is not supported")]
    Unsupported(String),
    /// The image contradicts itself or the format.
    #[error("the image is damaged: {0}")]
    Damaged(String),
    /// The operating system could not read or write.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// The device that was read for a new image failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The caller wanted to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Qcow2Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotQcow2 => {
                Some("`qemu-img info FILE` tells the format; `qemu-img convert -O qcow2` makes a qcow2")
            }
            Self::Unsupported(_) => {
                Some("`qemu-img convert -c -O qcow2 OLD NEW` makes a plain image without it")
            }
            Self::Damaged(_) => Some("`qemu-img check FILE` says more; fetch the image again"),
            Self::Io { .. } | Self::Device(_) | Self::Interrupted => None,
        }
    }
}
