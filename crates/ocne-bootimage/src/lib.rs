//! OCK boot images: find their file systems, convert them for a cloud, look into them, tell whether they can boot.

pub mod architecture;
pub mod fstab;
pub mod kernel_args;
pub mod loader_entry;
pub mod network_files;
pub mod os_release;
mod uuid;

pub use architecture::Architecture;
pub use uuid::Uuid;
