//! Where the pod keeps what it works on.

use std::str::FromStr;

/// The kind of volume at `/scratch`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scratch {
    /// An `emptyDir` on the node's disk.
    #[default]
    EmptyDir,
    /// An `emptyDir` in the node's memory, which counts against the pod's memory limit.
    Memory,
    /// A generic ephemeral volume: a claim that comes and goes with the pod.
    Pvc {
        /// The storage class, or the cluster's default.
        class: Option<String>,
    },
}

/// The text names no kind of volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no scratch volume: it is `emptydir`, `memory`, `pvc` or `pvc:CLASS`")]
pub struct ScratchError(String);

impl FromStr for Scratch {
    type Err = ScratchError;

    fn from_str(text: &str) -> Result<Self, ScratchError> {
        match text.split_once(':') {
            None if text == "emptydir" => Ok(Self::EmptyDir),
            None if text == "memory" => Ok(Self::Memory),
            None if text == "pvc" => Ok(Self::Pvc { class: None }),
            Some(("pvc", class)) if !class.is_empty() => Ok(Self::Pvc { class: Some(class.to_owned()) }),
            _ => Err(ScratchError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_are_read() {
        assert_eq!("emptydir".parse(), Ok(Scratch::EmptyDir));
        assert_eq!("memory".parse(), Ok(Scratch::Memory));
        assert_eq!("pvc".parse(), Ok(Scratch::Pvc { class: None }));
        assert_eq!("pvc:fast".parse(), Ok(Scratch::Pvc { class: Some("fast".to_owned()) }));
        for wrong in ["", "disk", "pvc:", "emptydir:x"] {
            assert!(wrong.parse::<Scratch>().is_err(), "{wrong}");
        }
    }
}
