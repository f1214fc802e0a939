//! Why an image was refused, or could not be written.

use std::io;

use ocne_tar::TarError;

use crate::checksum::Checksum;
use crate::gvariant::Malformed;

/// An image that was not converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OstreeError {
    /// The caller asked for it to end.
    #[error("interrupted")]
    Interrupted,
    /// The output cannot be written, or read back.
    #[error("cannot {action}")]
    Output {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The configuration of an image is not what it has to be.
    #[error("cannot use the configuration of {image}: {reason}")]
    Config {
        /// Which image.
        image: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The image is no encapsulated commit.
    #[error("the image holds no ostree commit: it has no label `ostree.final-diffid`")]
    NotEncapsulated,
    /// The image has the layout of before 2023.
    #[error(
        "the image has the old layout of encapsulated commits, with the label `ostree.diffid` instead of `ostree.final-diffid`"
    )]
    OldLayout,
    /// The last layer of the commit is not there.
    #[error("the label `ostree.final-diffid` names {diff_id}, which is no layer of the image")]
    FinalLayerMissing {
        /// What the label says.
        diff_id: String,
    },
    /// The last layer of the commit is there more than once.
    #[error("the label `ostree.final-diffid` names {diff_id}, which is several layers of the image")]
    FinalLayerRepeated {
        /// What the label says.
        diff_id: String,
    },
    /// Somebody has added layers.
    #[error("the image has {count} layers on top of those of the ostree commit, which would be lost")]
    DerivedLayers {
        /// How many.
        count: usize,
    },
    /// A layer cannot be read or decompressed.
    #[error("cannot read layer {layer}")]
    Layer {
        /// Its number, from 1 on.
        layer: usize,
        /// Why.
        source: io::Error,
    },
    /// A layer is no tar file.
    #[error("cannot unpack layer {layer}")]
    Tar {
        /// Its number, from 1 on.
        layer: usize,
        /// Why.
        source: TarError,
    },
    /// A layer grows beyond reason.
    #[error("layer {layer} decompresses to more than {limit_bytes} bytes, far more than its size suggests")]
    Bomb {
        /// Its number, from 1 on.
        layer: usize,
        /// The limit for its size.
        limit_bytes: u64,
    },
    /// A layer is not what the configuration says.
    #[error(
        "layer {layer}, uncompressed, has the digest sha256:{actual}, and the configuration says {expected}"
    )]
    DiffId {
        /// Its number, from 1 on.
        layer: usize,
        /// As the configuration says.
        expected: String,
        /// As it is.
        actual: Checksum,
    },
    /// A layer of the base is not what its manifest says.
    #[error("layer {layer} of the base has the digest sha256:{actual}, and its manifest says {expected}")]
    BaseLayer {
        /// Its number, from 1 on.
        layer: usize,
        /// As the manifest says.
        expected: String,
        /// As it is.
        actual: Checksum,
    },
    /// A name that leads out of the image, or is no object's.
    #[error("layer {layer} has the entry `{entry}`, which {reason}")]
    Entry {
        /// Number of the layer, from 1 on.
        layer: usize,
        /// The entry's name, made printable.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An object is damaged, or was changed.
    #[error("the object {object} in layer {layer} is damaged: its {covered} has the checksum {actual}")]
    Mismatch {
        /// Number of the layer, from 1 on.
        layer: usize,
        /// Checksum and type.
        object: String,
        /// What the checksum is of.
        covered: &'static str,
        /// The checksum that it has.
        actual: Checksum,
    },
    /// An object has the right checksum, and is nonsense.
    #[error("the object {object} is malformed")]
    Malformed {
        /// Checksum and type.
        object: String,
        /// How.
        source: Malformed,
    },
    /// A file without its extended attributes.
    #[error("the object {object} in layer {layer} has no `.file-xattrs-link` ahead of it")]
    NoXattrs {
        /// Number of the layer, from 1 on.
        layer: usize,
        /// Checksum and type.
        object: String,
    },
    /// Extended attributes that are not there.
    #[error(
        "the object {object} in layer {layer} links to `{target}`, which is no `.file-xattrs` ahead of it"
    )]
    UnknownXattrs {
        /// Number of the layer, from 1 on.
        layer: usize,
        /// Checksum and type.
        object: String,
        /// What it links to.
        target: String,
    },
    /// More of something than any commit has.
    #[error("the image has {what}, more than the {limit} that are accepted")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much is accepted.
        limit: usize,
    },
    /// No commit.
    #[error("no layer has the commit")]
    NoCommit,
    /// Two commits.
    #[error("the image has two commits, {first} and {second}")]
    SeveralCommits {
        /// One of them.
        first: Checksum,
        /// Another.
        second: Checksum,
    },
    /// The label names another commit.
    #[error("the label `ostree.commit` names {label}, and the image has the commit {commit}")]
    CommitLabel {
        /// What the label says.
        label: String,
        /// The commit that is there.
        commit: Checksum,
    },
    /// The commit is for another ref.
    #[error(
        "the commit is for the ref {}, and clients that ask for `{wanted}` would refuse it",
        quoted(found)
    )]
    RefBinding {
        /// The ref that it would get.
        wanted: String,
        /// The refs that it names.
        found: Vec<String>,
    },
    /// The commit needs an object that is not there.
    #[error("the commit is not complete: `{path}` needs the object {object}, which no layer has")]
    Missing {
        /// Where in the tree.
        path: String,
        /// Checksum and type.
        object: String,
    },
    /// There are objects that the commit does not need.
    #[error("{count} objects do not belong to the commit, such as {object}")]
    Unreachable {
        /// How many.
        count: usize,
        /// Checksum and type of one.
        object: String,
    },
    /// What was written is not what is read back.
    #[error("the image is not what was written: {reason}")]
    NotAsWritten {
        /// What differs.
        reason: String,
    },
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" and ")
}

impl OstreeError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotEncapsulated => Some(
                "an image that `rpm-ostree compose container-encapsulate` or `ostree container encapsulate` made is needed",
            ),
            Self::OldLayout => Some("make it again with rpm-ostree 2022.17 or newer"),
            Self::DerivedLayers { .. } => Some("name the image that those layers were added to"),
            Self::Layer { .. } | Self::Tar { .. } | Self::DiffId { .. } | Self::Mismatch { .. } => {
                Some("fetch or copy the image again; if that does not help, it was made wrong")
            }
            Self::Missing { .. } | Self::NoCommit => Some("it was made wrong, and has to be made again"),
            _ => None,
        }
    }
}

/// A name from a layer, for a message.
pub(crate) fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(300).flat_map(char::escape_debug).collect()
}
