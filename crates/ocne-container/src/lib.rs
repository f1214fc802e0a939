//! Boot images out of container images: references, transports, registries, credentials, layers and a cache.
//!
//! [`Fetcher::disk`] is the way in: it finds the image for a platform, takes its layers apart in one pass
//! (read, hash, decompress, unpack, write; in parallel, in a few MiB of memory), and keeps the disk in a
//! [`Cache`] by digest. Everything that comes is taken for hostile: sizes are bounded, names are only
//! compared, digests are verified, and nothing has its final name before all of that was done.
//!
//! It is for a tokio runtime. Programs install a rustls crypto provider first.

mod cache;
mod copy;
mod credentials;
mod delegation;
mod digest;
mod error;
mod event;
mod fetch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod image;
mod layer;
mod login;
mod manifest;
mod ostree_reference;
mod part_file;
mod pipeline;
mod platform;
mod reference;
mod registry_auth;
mod resolve;
mod transport;

pub use cache::{Cache, CacheEntry, CacheRecord, Pruned};
pub use copy::{Copied, CopyOptions};
pub use credentials::{Credentials, Secret};
pub use delegation::Delegation;
pub use digest::{Digest, DigestParseError};
pub use error::{ErrorKind, FetchError};
pub use event::{Events, FetchEvent};
pub use fetch::{FetchOptions, FetchedDisk, Fetcher, Located};
pub use http::NetworkOptions;
pub use image::{Image, LayerReader, LayerSender, SentFile, SentImage, SentLayer, layer_pipe};
pub use layer::LayerError;
pub use login::Logins;
pub use manifest::ManifestError;
pub use ocne_tar::TarError;
pub use ostree_reference::{OstreeReference, OstreeTrust};
pub use platform::Platform;
pub use reference::{ImageReference, LayoutImage, ReferenceError, RegistryReference, Version};
