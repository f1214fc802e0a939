//! A thin client of Oracle Cloud: what an upload of an image needs, and nothing else.
//!
//! Configuration and keys are read as the official SDKs read them ([`Settings`]); every attempt at a request is signed
//! anew ([`Client`]); what the service refuses becomes a [`ServiceError`] with its `opc-request-id` and, where it is
//! known, what would allow it.

mod artifacts;
mod auth_token;
mod client;
mod compute;
mod config;
mod credentials;
mod error;
mod federation;
mod identity;
mod key;
mod keygen;
mod object_storage;
mod region;
mod resource;
mod secret;
mod settings;
mod setup;
mod signature;
mod token;
mod whoami;
mod work_request;

pub use artifacts::ContainerRepository;
pub use auth_token::AuthToken;
pub use client::{Client, ClientOptions, Retry};
pub use compute::{
    CreateImage, Image, ImageSource, LaunchOptions, NewImage, ShapeCompatibility, SourceImageType,
};
pub use config::{ConfigFile, ConfigProblem};
pub use credentials::Credentials;
pub use error::{OracleError, ServiceError};
pub use identity::{Compartment, CompartmentProblem};
pub use key::{KeyProblem, SigningKey};
pub use keygen::NewKey;
pub use object_storage::{
    Bucket, CommittedObject, MultipartUpload, ObjectHead, Part, PartBody, UploadedPart,
};
pub use region::{Region, Service};
pub use secret::Secret;
pub use settings::{AuthKind, Settings, SettingsError, SettingsRequest};
pub use setup::{NewProfile, SetupError, check_profile, write_key, write_profile};
pub use whoami::{Right, Whoami};
pub use work_request::{WorkRequest, WorkRequestProblem, WorkRequestStatus};
