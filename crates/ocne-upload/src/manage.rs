//! What earlier runs have made: images, and uploads that nobody went on with.

use std::sync::atomic::AtomicBool;

use ocne_bootimage::Architecture;
use ocne_oracle::{Bucket, Client, Image, MultipartUpload, OracleError, Whoami};

use crate::error::UploadError;
use crate::record::ImageRecord;
use crate::upload::{architecture_of, block_on, cancelled, image_record};

/// What every tag of ours begins with; the reference's too.
const TAGS: &str = "ocne/";
/// What every object of ours begins with, unless it was given another name.
const OBJECTS: &str = "ocne_";

fn is_ours(image: &Image) -> bool {
    image.freeform_tags.keys().any(|tag| tag.starts_with(TAGS))
}

/// The images of a compartment that this program or the reference has made, newest first. Blocks.
///
/// # Errors
/// See [`UploadError`].
pub fn images(
    client: &Client,
    compartment: &str,
    architecture: Option<Architecture>,
    cancel: &AtomicBool,
) -> Result<Vec<ImageRecord>, UploadError> {
    unless_cancelled(cancel, async {
        let compartment = client.find_compartment(compartment).await?;
        let mut found = client.images(&compartment, None).await?;
        found.retain(|image| {
            is_ours(image) && architecture.is_none_or(|wanted| architecture_of(image) == Some(wanted))
        });
        found.sort_by(|a, b| b.time_created.cmp(&a.time_created));
        Ok(found.into_iter().map(described).collect())
    })
}

/// An image, with the shapes that it runs on. Blocks.
///
/// # Errors
/// See [`UploadError`].
pub fn image(client: &Client, id: &str, cancel: &AtomicBool) -> Result<ImageRecord, UploadError> {
    unless_cancelled(cancel, async {
        let image = client.image(id).await?;
        let mut shapes = client.image_shapes(id).await?;
        shapes.sort();
        Ok(ImageRecord { shapes, ..described(image) })
    })
}

/// Removes an image that this program or the reference has made, and returns what it was. Blocks.
///
/// # Errors
/// When it is another's, or see [`UploadError`].
pub fn delete_image(client: &Client, id: &str, cancel: &AtomicBool) -> Result<ImageRecord, UploadError> {
    unless_cancelled(cancel, async {
        let image = client.image(id).await?;
        if !is_ours(&image) {
            let name = image.display_name.unwrap_or_default();
            return Err(UploadError::NotOurs { id: id.to_owned(), name });
        }
        client.delete_image(id).await?;
        Ok(described(image))
    })
}

/// The uploads in parts that nobody has finished, oldest first. Blocks.
///
/// # Errors
/// See [`UploadError`].
pub fn stale_uploads(
    client: &Client,
    bucket: &str,
    cancel: &AtomicBool,
) -> Result<Vec<MultipartUpload>, UploadError> {
    unless_cancelled(cancel, async {
        let bucket = Bucket { namespace: client.namespace().await?, name: bucket.to_owned() };
        if !client.has_bucket(&bucket).await? {
            return Ok(Vec::new());
        }
        let mut found = client.multipart_uploads(&bucket).await?;
        found.retain(|upload| upload.object.starts_with(OBJECTS));
        found.sort_by(|a, b| a.time_created.cmp(&b.time_created));
        Ok(found)
    })
}

/// Drops an upload in parts. Blocks.
///
/// # Errors
/// See [`UploadError`].
pub fn drop_upload(
    client: &Client,
    bucket: &str,
    upload: &MultipartUpload,
    cancel: &AtomicBool,
) -> Result<(), UploadError> {
    unless_cancelled(cancel, async {
        let bucket = Bucket { namespace: client.namespace().await?, name: bucket.to_owned() };
        Ok(client.abort_multipart_upload(&bucket, &upload.object, &upload.upload_id).await?)
    })
}

/// Asks the service something small. Blocks.
///
/// # Errors
/// See [`UploadError`].
pub fn ask<T>(
    work: impl Future<Output = Result<T, OracleError>>,
    cancel: &AtomicBool,
) -> Result<T, UploadError> {
    unless_cancelled(cancel, async { Ok(work.await?) })
}

/// Who this is, and what of an upload is allowed. Blocks.
///
/// # Errors
/// See [`UploadError`].
pub fn whoami(
    client: &Client,
    compartment: &str,
    bucket: &str,
    cancel: &AtomicBool,
) -> Result<Whoami, UploadError> {
    unless_cancelled(cancel, async { Ok(client.whoami(compartment, bucket).await?) })
}

fn described(image: Image) -> ImageRecord {
    let architecture = architecture_of(&image);
    image_record(image, Vec::new(), architecture)
}

fn unless_cancelled<T>(
    cancel: &AtomicBool,
    work: impl Future<Output = Result<T, UploadError>>,
) -> Result<T, UploadError> {
    block_on(async {
        tokio::select! {
            done = work => done,
            () = cancelled(cancel) => Err(UploadError::Interrupted),
        }
    })
}
