//! Container images that hold an ostree commit in, container images that serve it over HTTP out.
//!
//! The source is an *encapsulated* image (ostree-ext's layout version 1, as `rpm-ostree compose container-encapsulate`
//! makes it): the objects of one commit as files in its layers. [`write_image`] goes through them once, in bounded
//! memory: every object's checksum is verified, it is written as an archive repository has it, and at the end the commit
//! is walked, so that nothing it needs is missing. What comes out is one file, an OCI image with the repository below the
//! document root of a web server.
//!
//! What comes in is taken for hostile; what comes out depends on nothing else, so that the same input gives the same bytes.
//! The crate is synchronous, and opens no file by itself.

mod archive;
mod audit;
mod checksum;
mod content;
mod deflate;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gvariant;
mod image;
mod import;
mod layer_input;
mod metadata;
mod object;
mod repository;
mod source;
mod timestamp;
mod verify;
mod walk;
mod workers;

pub use archive::Blob;
pub use audit::audit_image;
pub use checksum::Checksum;
pub use error::OstreeError;
pub use gvariant::Malformed;
pub use image::{
    Base, BaseImage, BaseLayer, ImageOptions, Written, check_documents, verify_image, write_image,
};
pub use import::{Imported, Layers, ObjectCounts, OpenLayer};
pub use metadata::{Commit, signatures};
pub use source::Encapsulated;
