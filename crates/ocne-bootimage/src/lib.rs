//! OCK boot images: find their file systems, convert them for a cloud, look into them, tell whether they can boot.
//!
//! [`convert`] reads a disk and gives the bytes of it that change; nothing is ever written here. [`inspect`] tells what is
//! in an image. The layout of such images is described in `docs/architecture.md`.

pub mod architecture;
mod convert;
mod disk;
mod edit;
mod efi;
mod error;
mod finding;
pub mod fstab;
mod inspect;
pub mod kernel_args;
mod kind;
pub mod loader_entry;
pub mod network_files;
pub mod os_release;
pub mod preflight;
mod read_ahead;
mod report;
mod sysroot;
mod tree;
mod uuid;

pub use architecture::{Architecture, ArchitectureSign};
pub use convert::{Conversion, ConvertEvent, ConvertOptions, convert, verify_converted};
pub use efi::EfiProgram;
pub use error::ConvertError;
pub use finding::{Finding, Severity};
pub use inspect::{BootImage, DeploymentRecord, EntryRecord, FilesystemRecord, inspect};
pub use kind::ImageKind;
pub use report::{ChangeKind, EntryChange, FileChange, FilesystemChange};
pub use uuid::Uuid;
