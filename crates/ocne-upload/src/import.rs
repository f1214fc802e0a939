//! Having an object made into a compute image, and seeing to it that the image is what it should be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ocne_oracle::{Bucket, Client, CreateImage, Image, NewImage, WorkRequestStatus};
use sha2::{Digest as _, Sha256};

use crate::error::UploadError;
use crate::event::{Event, Events, Stage};
use crate::journal::{Import, Journal};
use crate::metadata::{FIRMWARE, LAUNCH_MODE, Traits};

/// The tag that tells which file an image was made of.
pub(crate) const TAG_SHA256: &str = "ocne/sha256";
/// Waits between two looks at a work request.
const FIRST_POLL: Duration = Duration::from_secs(1);
const LONGEST_POLL: Duration = Duration::from_secs(10);
/// Retry tokens are valid for a day; one that is about to end is not relied upon.
const TOKEN_SECONDS: u64 = 23 * 3600;
/// An image is available at the latest so long after its import.
const SETTLE: Duration = Duration::from_mins(2);

/// Begins an import, or finds the one that an earlier run began with the same wish.
pub(crate) async fn begin(
    client: &Client,
    wish: &CreateImage,
    journal: &mut Journal,
    etag: &str,
    from_url: bool,
    events: &Events,
) -> Result<String, UploadError> {
    // Another content under the same name is another wish.
    let text = format!("{wish:?} {etag}");
    let hash = Sha256::digest(text);
    let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let earlier = journal
        .state
        .import
        .clone()
        .filter(|import| import.wish == hash && now.saturating_sub(import.begun_seconds) < TOKEN_SECONDS);
    if let Some(Import { work_request_id: Some(id), .. }) = &earlier
        && let Ok((work, _)) = client.work_request(id).await
        && !matches!(
            work.status,
            WorkRequestStatus::Failed | WorkRequestStatus::Canceled | WorkRequestStatus::Canceling
        )
    {
        return Ok(id.clone());
    }
    let is_over = earlier.as_ref().is_some_and(|import| import.work_request_id.is_some());
    let mut import = match earlier {
        Some(import) if !is_over => import,
        _ => Import {
            retry_token: token(&hash, now),
            wish: hash,
            begun_seconds: now,
            work_request_id: None,
            read_url_id: None,
        },
    };
    // Before the request: a run that is killed now finds the image by the token.
    journal.state.import = Some(import.clone());
    journal.save();
    let created = if from_url {
        create_from_url(client, wish, journal, &mut import).await
    } else {
        match client.create_image(wish, &import.retry_token).await {
            // Said to federated users and instances; a URL is what Oracle tells them to use.
            Err(error) if error.service().is_some_and(|e| e.message.contains("Invalid bucketName")) => {
                events(Event::Note(
                    "The service does not let this identity name the object; it gets a URL of it".to_owned(),
                ));
                create_from_url(client, wish, journal, &mut import).await
            }
            other => other.map_err(UploadError::from),
        }
    };
    let NewImage { work_request_id, .. } = created?;
    import.work_request_id = Some(work_request_id.clone());
    journal.state.import = Some(import);
    journal.save();
    Ok(work_request_id)
}

/// Has the object imported by a URL that anybody may read it by, for a day at most.
async fn create_from_url(
    client: &Client,
    wish: &CreateImage,
    journal: &mut Journal,
    import: &mut Import,
) -> Result<NewImage, UploadError> {
    let bucket = Bucket { namespace: wish.source.namespace.clone(), name: wish.source.bucket.clone() };
    if import.read_url_id.is_some() {
        // A killed run may have been heard.
        if let Some(begun) = begun_by_url(client, wish).await? {
            return Ok(begun);
        }
        // Its URL cannot be known again.
        end_url(client, &bucket, import).await;
    }
    let expires = SystemTime::now() + Duration::from_hours(24);
    let (id, url) = client.create_read_url(&bucket, &wish.source.object, expires).await?;
    import.read_url_id = Some(id);
    // Another URL is another request, and has a token of its own.
    import.retry_token = token(&import.wish, import.begun_seconds);
    journal.state.import = Some(import.clone());
    journal.save();
    let mut wish = wish.clone();
    wish.source.url = Some(url);
    let created = client.create_image(&wish, &import.retry_token).await;
    if created.is_err() {
        end_url(client, &bucket, import).await;
        journal.state.import = Some(import.clone());
        journal.save();
    }
    Ok(created?)
}

/// The import of the same file under the same name that is under way, if there is one.
async fn begun_by_url(client: &Client, wish: &CreateImage) -> Result<Option<NewImage>, UploadError> {
    let digest = wish.freeform_tags.get(TAG_SHA256);
    let mut images = client.images(&wish.compartment_id, Some(&wish.display_name)).await?;
    images.retain(|i| i.lifecycle_state == "IMPORTING" && i.freeform_tags.get(TAG_SHA256) == digest);
    let Some(image) = images.pop() else { return Ok(None) };
    let mut work = client.work_requests_of(&wish.compartment_id, &image.id).await?;
    work.truncate(1);
    Ok(work.pop().map(|work| NewImage { image, work_request_id: work.id }))
}

/// Ends the URL of an import, if it has one. It ends by itself after a day.
pub(crate) async fn end_url(client: &Client, bucket: &Bucket, import: &mut Import) {
    if let Some(id) = import.read_url_id.take()
        && let Err(error) = client.delete_read_url(bucket, &id).await
    {
        tracing::warn!("the URL of the object stays valid for a day: {error}");
    }
}

/// A token that no other run has: it holds the time in nanoseconds and the process.
pub(crate) fn token(hash: &str, now: u64) -> String {
    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let text = format!("{hash} {now} {nanoseconds} {}", std::process::id());
    Sha256::digest(text)[..16].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// Waits for a work request, and returns the OCID of its image.
pub(crate) async fn follow(
    client: &Client,
    work_request_id: &str,
    timeout: Option<Duration>,
    events: &Events,
) -> Result<Option<String>, UploadError> {
    let started = Instant::now();
    events(Event::Begin { stage: Stage::Import, total_bytes: None });
    let mut wait = FIRST_POLL;
    loop {
        let looked = client.work_request(work_request_id).await;
        let (work, asked_for) = looked.map_err(|source| {
            if source.is_passing() {
                UploadError::ImportUnwatched { source, work_request_id: work_request_id.to_owned() }
            } else {
                source.into()
            }
        })?;
        match work.status {
            WorkRequestStatus::Succeeded => {
                events(Event::Percent { stage: Stage::Import, percent: 100 });
                events(Event::End { stage: Stage::Import, elapsed: started.elapsed(), bytes: None });
                return Ok(work.image_id().map(str::to_owned));
            }
            WorkRequestStatus::Failed => return Err(failed(client, work_request_id).await),
            WorkRequestStatus::Canceled => {
                return Err(UploadError::ImportCancelled { work_request_id: work_request_id.to_owned() });
            }
            WorkRequestStatus::Accepted
            | WorkRequestStatus::InProgress
            | WorkRequestStatus::Canceling
            | WorkRequestStatus::Unknown => {}
        }
        events(Event::Percent { stage: Stage::Import, percent: percent(work.percent_complete) });
        let pause = asked_for.unwrap_or_default().max(wait);
        if let Some(timeout) = timeout
            && started.elapsed() + pause > timeout
        {
            let work_request_id = work_request_id.to_owned();
            return Err(UploadError::ImportTimeout { waited: started.elapsed(), work_request_id });
        }
        tokio::time::sleep(pause).await;
        wait = (wait * 3 / 2).min(LONGEST_POLL);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
pub(crate) fn percent(complete: Option<f32>) -> u8 {
    complete.unwrap_or(0.0).clamp(0.0, 100.0) as u8
}

async fn failed(client: &Client, work_request_id: &str) -> UploadError {
    let problems = problems(client, work_request_id).await;
    UploadError::ImportFailed { problems, work_request_id: work_request_id.to_owned() }
}

/// What the service says of a work request that failed: its errors, or else the end of its log.
pub(crate) async fn problems(client: &Client, work_request_id: &str) -> Vec<String> {
    let errors = client.work_request_errors(work_request_id).await.unwrap_or_default();
    let mut problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        let log = client.work_request_logs(work_request_id).await.unwrap_or_default();
        problems.extend(log.last().map(ToString::to_string));
    }
    if problems.is_empty() {
        problems.push("the service does not say why".to_owned());
    }
    problems
}

/// Waits until an image is available, as its state may lag behind its work request.
pub(crate) async fn available(client: &Client, id: &str) -> Result<Image, UploadError> {
    let started = Instant::now();
    loop {
        let image = client.image(id).await?;
        match image.lifecycle_state.as_str() {
            "AVAILABLE" => return Ok(image),
            "IMPORTING" | "PROVISIONING" if started.elapsed() < SETTLE => {
                tokio::time::sleep(FIRST_POLL).await;
            }
            state => {
                return Err(UploadError::NotAvailable { id: id.to_owned(), state: state.to_owned() });
            }
        }
    }
}

/// The available images of a name that say which file they were made of, oldest first.
pub(crate) async fn with_digest(
    client: &Client,
    compartment: &str,
    name: &str,
) -> Result<Vec<Image>, UploadError> {
    let mut images = client.images(compartment, Some(name)).await?;
    images
        .retain(|image| image.freeform_tags.contains_key(TAG_SHA256) && image.lifecycle_state == "AVAILABLE");
    images.sort_by(|a, b| a.time_created.cmp(&b.time_created));
    Ok(images)
}

/// Sets firmware, launch mode and shapes if the import has not, and reads them back. Returns image and shapes.
pub(crate) async fn settle(
    client: &Client,
    image: Image,
    compartment: &str,
    traits: &Traits,
    events: &Events,
) -> Result<(Image, Vec<String>), UploadError> {
    let mut image = image;
    if !traits.is_appliance && !is_as_wished(&image) {
        let capabilities: BTreeMap<&str, &str> = Traits::capabilities();
        let schema = token(&image.id, 0);
        match client.create_capability_schema(&image, compartment, &capabilities, &schema).await {
            // It has one already, perhaps from an attempt whose answer was lost; what counts is read back.
            Err(error) if error.status() == Some(409) => {}
            other => other?,
        }
        image = client.image(&image.id).await?;
        if !is_as_wished(&image) {
            let options = image.launch_options.as_ref();
            events(Event::Warning(format!(
                "the image has the firmware {} and the launch mode {}, not {FIRMWARE} and {LAUNCH_MODE}",
                options.and_then(|o| o.firmware.as_deref()).unwrap_or("unknown"),
                image.launch_mode.as_deref().unwrap_or("unknown"),
            )));
        }
    }
    let mut shapes = client.image_shapes(&image.id).await?;
    let wanted = traits.shapes();
    // Without a list of our own, what the service gives is right.
    if !wanted.is_empty() && !traits.is_appliance {
        // First added, then removed: an image without any shape might be refused.
        for shape in wanted.iter().filter(|shape| !shapes.iter().any(|s| s == *shape)) {
            if let Err(error) = client.add_image_shape(&image.id, shape).await {
                events(Event::Warning(error.to_string()));
            }
        }
        for shape in shapes.iter().filter(|shape| !traits.fits(shape)) {
            client.remove_image_shape(&image.id, shape).await?;
        }
        shapes = client.image_shapes(&image.id).await?;
        if let Some(shape) = shapes.iter().find(|shape| !traits.fits(shape)) {
            events(Event::Warning(format!(
                "the image still lists the shape {shape}, on which it cannot run"
            )));
        }
    }
    shapes.sort();
    Ok((image, shapes))
}

fn is_as_wished(image: &Image) -> bool {
    let firmware = image.launch_options.as_ref().and_then(|options| options.firmware.as_deref());
    firmware == Some(FIRMWARE) && image.launch_mode.as_deref() == Some(LAUNCH_MODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents() {
        assert_eq!(
            [percent(None), percent(Some(-1.0)), percent(Some(49.9)), percent(Some(1e9))],
            [0, 0, 49, 100]
        );
        assert_eq!(percent(Some(f32::NAN)), 0);
    }

    #[test]
    fn tokens_differ_and_fit() {
        let (a, b) = (token("x", 1), token("x", 1));
        assert!(a != b && a.len() <= 64, "{a}");
    }
}
