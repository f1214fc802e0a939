//! What an image gets so that an Oracle Cloud instance is named by its metadata and uses DHCP's search domains.
//!
//! See `docs/decisions/0005-network-files.md`.

/// A file that is added to a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedFile {
    /// Path below the deployment, without a leading `/`.
    pub path: &'static str,
    /// Content.
    pub content: &'static [u8],
    /// Permissions.
    pub mode: u16,
}

/// The files, owned by root: NetworkManager runs no others.
pub const NETWORK_FILES: &[AddedFile] = &[AddedFile {
    path: "etc/NetworkManager/dispatcher.d/11-oracle-cloud",
    content: include_bytes!("../files/11-oracle-cloud"),
    mode: 0o755,
}];
