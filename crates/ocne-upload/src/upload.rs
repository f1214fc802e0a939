//! The whole way from a file to an image.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ocne_bootimage::Architecture;
use ocne_oracle::{Bucket, Client, CreateImage, Image, ImageSource, SourceImageType};

use crate::archive::Archive;
use crate::content::Content;
use crate::digesting::Digesting;
use crate::error::{FailureKind, UploadError};
use crate::event::{Event, Events, Stage};
use crate::import::{self, TAG_SHA256};
use crate::journal::Journal;
use crate::metadata::{LAUNCH_MODE, Traits};
use crate::parts::Parts;
use crate::record::{ImageRecord, ObjectRecord, Timings, UPLOAD_SCHEMA, UploadRecord};
use crate::report::BuildReport;
use crate::request::{Format, UploadRequest};
use crate::send::{Sender, Sent};
use crate::source::{Digests, FileKind, Source};

/// How often it is looked whether the caller asked for an end.
const CANCEL_POLL: Duration = Duration::from_millis(100);
/// How often it is looked whether another run of the same upload has ended.
const BUSY_POLL: Duration = Duration::from_secs(1);

/// Uploads a file and has it imported. Blocks.
///
/// # Errors
/// See [`UploadError`]; what was sent stays for the next run.
pub fn upload(
    request: &UploadRequest,
    client: &Client,
    events: &Events,
    cancel: &AtomicBool,
) -> Result<UploadRecord, UploadError> {
    block_on(async {
        let begun = Begun::default();
        tokio::select! {
            done = upload_and_import(request, client, events, &begun) => done,
            () = cancelled(cancel) => Err(begun.interrupted()),
        }
    })
}

/// Waits for an import that an earlier run began. Blocks.
///
/// # Errors
/// See [`UploadError`].
pub fn wait(
    work_request_id: &str,
    timeout: Option<Duration>,
    client: &Client,
    events: &Events,
    cancel: &AtomicBool,
) -> Result<UploadRecord, UploadError> {
    block_on(async {
        let started = Instant::now();
        let begun = Begun::default();
        begun.set(work_request_id);
        tokio::select! {
            done = async {
                let id = import::follow(client, work_request_id, timeout, events).await?;
                let image = match id {
                    Some(id) => import::available(client, &id).await?,
                    None => return Ok(record(None, Some(work_request_id), started)),
                };
                let architecture = architecture_of(&image);
                let (image, shapes) = match architecture {
                    Some(architecture) => {
                        let traits = traits_of(&image, architecture);
                        let compartment = image.compartment_id.clone().unwrap_or_default();
                        import::settle(client, image, &compartment, &traits, events).await?
                    }
                    None => (image, Vec::new()),
                };
                Ok(record(Some(image_record(image, shapes, architecture)), Some(work_request_id), started))
            } => done,
            () = cancelled(cancel) => Err(begun.interrupted()),
        }
    })
}

/// Drops what was sent of a file that has not become an image. Returns how many uploads were ended. Blocks.
///
/// # Errors
/// See [`UploadError`].
pub fn abort(request: &UploadRequest, client: &Client, cancel: &AtomicBool) -> Result<usize, UploadError> {
    block_on(async {
        tokio::select! {
            done = async {
                let path = fs_err::canonicalize(&request.file)
                    .map_err(|source| UploadError::Io { action: "find the image", source })?;
                let object = object_name(request, &path);
                let bucket = bucket(request, client).await?;
                let Some(journal) = Journal::open(&request.state_dir, &path, &destination(client, &bucket, &object))
                else {
                    return Err(UploadError::Io {
                        action: "drop the upload",
                        source: std::io::Error::other("another run is at it; stop that first"),
                    });
                };
                let mut ended = 0;
                if client.has_bucket(&bucket).await? {
                    for upload in client.multipart_uploads(&bucket).await? {
                        if upload.object == object {
                            client.abort_multipart_upload(&bucket, &object, &upload.upload_id).await?;
                            ended += 1;
                        }
                    }
                }
                journal.remove();
                Ok(ended)
            } => done,
            () = cancelled(cancel) => Err(UploadError::Interrupted),
        }
    })
}

pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, UploadError>>) -> Result<T, UploadError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| UploadError::Io { action: "start the network's threads", source })?;
    let done = runtime.block_on(work);
    // A thread that reads a file has nothing to finish.
    runtime.shutdown_background();
    done
}

pub(crate) async fn cancelled(cancel: &AtomicBool) {
    while !cancel.load(Ordering::Relaxed) {
        tokio::time::sleep(CANCEL_POLL).await;
    }
}

/// The import that was begun, for whoever is interrupted.
#[derive(Debug, Default)]
struct Begun(std::sync::Mutex<Option<String>>);

impl Begun {
    fn set(&self, work_request_id: &str) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(work_request_id.to_owned());
    }

    fn interrupted(&self) -> UploadError {
        let begun = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        match begun {
            Some(work_request_id) => UploadError::InterruptedImport { work_request_id },
            None => UploadError::Interrupted,
        }
    }
}

async fn upload_and_import(
    request: &UploadRequest,
    client: &Client,
    events: &Events,
    begun: &Begun,
) -> Result<UploadRecord, UploadError> {
    let started = Instant::now();
    let report = find_report(request)?;
    let reported = report.as_ref().map(|report| report.architecture);
    let source = Arc::new(Source::open(&request.file, request.architecture, reported)?);
    if source.kind == FileKind::Archive && request.format == Format::Qcow2 {
        return Err(UploadError::ArchiveAsQcow2 { path: source.path.clone() });
    }
    let object = object_name(request, &source.path);
    // The cheap questions first: who may not do it learns so before the file is read.
    let compartment = client.find_compartment(&request.compartment).await?;
    let bucket = bucket(request, client).await?;
    let mut journal = open_journal(request, client, &source, &bucket, &object, events).await;
    let mut timings = Timings::default();
    let same_name = if request.force {
        Vec::new()
    } else {
        import::with_digest(client, &compartment, &request.image_name).await?
    };
    // Where nothing depends on the digests yet, they are found while the file is sent.
    let decides = report.is_some() || !same_name.is_empty();
    let digesting = begin_digests(&source, &journal, decides.then_some(events));
    if decides {
        let (digests, elapsed) = digesting.get().await?;
        timings.digest = milliseconds(elapsed);
        if !elapsed.is_zero() {
            let bytes = Some(source.identity.size_bytes);
            events(Event::End { stage: Stage::Digest, elapsed, bytes });
        }
        remember(&mut journal, &source, &digests);
    } else {
        // Whether it can be kept is known before anything is sent.
        journal.save();
    }
    warn_about(&journal, events);
    let kubernetes_version = match kubernetes_version(request, &source, report, &digesting, events).await {
        Ok(version) => version,
        Err(error) => {
            if journal.is_idle() {
                journal.remove();
            }
            return Err(error);
        }
    };
    let traits = Traits {
        architecture: source.architecture,
        operating_system: source.operating_system.clone(),
        is_appliance: client.regions().await?.len() == 1,
    };
    if !same_name.is_empty()
        && let (digests, _) = digesting.get().await?
        && let Some(image) =
            same_name.into_iter().rfind(|image| image.freeform_tags.get(TAG_SHA256) == Some(&digests.sha256))
    {
        events(Event::Note(format!("The image is there already, made of the same file: {}", image.id)));
        // A run that was killed after the import may not have come to this.
        let (image, shapes) = import::settle(client, image, &compartment, &traits, events).await?;
        if !request.keep_object {
            remove_left_over(client, &bucket, &object, &journal).await;
        }
        if let Some(import) = journal.state.import.as_mut() {
            import::end_url(client, &bucket, import).await;
        }
        journal.remove();
        let mut record = record(Some(image_record(image, shapes, Some(source.architecture))), None, started);
        (record.already_there, record.sha256) = (true, Some(digests.sha256));
        return Ok(record);
    }
    let content = content(&source, request.format, &traits)?;
    // What cannot be is said before anything is made.
    Parts::wanted(content.length(), request.part_size_bytes)?;
    if !client.has_bucket(&bucket).await? {
        client.create_bucket(&bucket, &compartment).await?;
        events(Event::Note(format!("Created the bucket {}", bucket.name)));
    }
    let clock = Instant::now();
    let sent_bytes = Arc::new(AtomicU64::new(0));
    let sent = Sender {
        client,
        bucket: &bucket,
        object: &object,
        content,
        source: &source,
        digesting: &digesting,
        request,
        journal: &mut journal,
        events,
        with_crc32c: !traits.is_appliance,
        has_committed: false,
        sent_bytes: Arc::clone(&sent_bytes),
    }
    .run()
    .await?;
    let (digests, elapsed) = digesting.get().await?;
    if !decides {
        timings.digest = milliseconds(elapsed);
        remember(&mut journal, &source, &digests);
    }
    timings.upload = milliseconds(clock.elapsed());
    let clock = Instant::now();
    let kind = if source.kind == FileKind::Qcow2 && request.format == Format::Qcow2 {
        SourceImageType::Qcow2
    } else {
        SourceImageType::Archive
    };
    let wish =
        wish(request, kubernetes_version, &source, &traits, &bucket, &object, compartment, kind, &digests);
    let work_request_id =
        import::begin(client, &wish, &mut journal, &sent.etag, request.from_url, events).await?;
    begun.set(&work_request_id);
    let mut result = record(None, Some(&work_request_id), started);
    result.object = Some(object_record(&bucket, &object, request.format, &sent));
    result.sent_bytes = sent_bytes.load(Ordering::Relaxed);
    result.resumed_bytes = sent.resumed_bytes;
    result.sha256 = Some(digests.sha256);
    if request.no_wait {
        let (work, _) = client.work_request(&work_request_id).await?;
        if let Some(id) = work.image_id() {
            let image = client.image(id).await?;
            result.image = Some(image_record(image, Vec::new(), Some(traits.architecture)));
        }
    } else {
        let followed = import::follow(client, &work_request_id, request.import_timeout, events).await;
        let is_over = !followed.as_ref().is_err_and(|e| e.kind() == FailureKind::Resumable);
        if let Some(import) = journal.state.import.as_mut().filter(|_| is_over) {
            import::end_url(client, &bucket, import).await;
            journal.save();
        }
        let id = followed?.unwrap_or_default();
        let image = import::available(client, &id).await?;
        let (image, shapes) = import::settle(client, image, &wish.compartment_id, &traits, events).await?;
        result.image = Some(image_record(image, shapes, Some(traits.architecture)));
        if !request.keep_object {
            client.delete_object(&bucket, &object, &sent.etag).await?;
            if let Some(object) = &mut result.object {
                object.kept = false;
            }
        }
        journal.remove();
        timings.import = milliseconds(clock.elapsed());
    }
    timings.total = milliseconds(started.elapsed());
    result.timings_ms = timings;
    Ok(result)
}

/// A run that was killed between the import and the end left the object.
async fn remove_left_over(client: &Client, bucket: &Bucket, object: &str, journal: &Journal) {
    let is_ours = journal.state.import.as_ref().is_some_and(|import| import.work_request_id.is_some());
    if is_ours
        && let Ok(Some(head)) = client.head_object(bucket, object).await
        && let Err(error) = client.delete_object(bucket, object, &head.etag).await
    {
        tracing::warn!("the object `{object}` stays: {error}");
    }
}

async fn bucket(request: &UploadRequest, client: &Client) -> Result<Bucket, UploadError> {
    Ok(Bucket { namespace: client.namespace().await?, name: request.bucket.clone() })
}

/// `ocne_` and the name of the file, as the reference has it.
fn object_name(request: &UploadRequest, path: &Path) -> String {
    let name = || format!("ocne_{}", path.file_name().unwrap_or_default().to_string_lossy());
    request.object.clone().unwrap_or_else(name)
}

fn destination(client: &Client, bucket: &Bucket, object: &str) -> String {
    let settings = client.settings();
    let place = settings.endpoint.as_ref().map_or(settings.region.name.as_str(), |url| url.as_str());
    format!("{place} {} {} {object}", bucket.namespace, bucket.name)
}

/// Opens the journal; waits while another run of the same upload has it.
async fn open_journal(
    request: &UploadRequest,
    client: &Client,
    source: &Source,
    bucket: &Bucket,
    object: &str,
    events: &Events,
) -> Journal {
    let destination = destination(client, bucket, object);
    let mut is_told = false;
    loop {
        if let Some(journal) = Journal::open(&request.state_dir, &source.path, &destination) {
            return journal;
        }
        if !is_told {
            events(Event::Note("Another run is uploading the same file; waiting for it".to_owned()));
            is_told = true;
        }
        tokio::time::sleep(BUSY_POLL).await;
    }
}

fn find_report(request: &UploadRequest) -> Result<Option<BuildReport>, UploadError> {
    let look = |source| UploadError::Io { action: "look at the image", source };
    let size_bytes = fs_err::metadata(&request.file).map_err(look)?.len();
    BuildReport::find(request.report.as_deref(), &request.file, size_bytes)
}

/// The version that was given, or that of the report if it is of this very file, or the usual one.
async fn kubernetes_version(
    request: &UploadRequest,
    source: &Source,
    report: Option<BuildReport>,
    digesting: &Digesting,
    events: &Events,
) -> Result<String, UploadError> {
    let usual = || request.usual_kubernetes_version.clone();
    let given = request.kubernetes_version.clone();
    let Some(report) = report else { return Ok(given.unwrap_or_else(usual)) };
    let (digests, _) = digesting.get().await?;
    if report.output.sha256 == digests.sha256 {
        return Ok(given.unwrap_or(report.kubernetes_version));
    }
    if report.is_named || source.is_architecture_reported {
        let reason = format!("the image has the digest {}, not {}", digests.sha256, report.output.sha256);
        return Err(UploadError::Report { path: report.path, reason });
    }
    events(Event::Warning(format!("`{}` is of another image, and is not used", report.path.display())));
    Ok(given.unwrap_or_else(usual))
}

fn warn_about(journal: &Journal, events: &Events) {
    if let Some(problem) = &journal.problem {
        events(Event::Warning(format!(
            "cannot keep the state of the upload, so that the next run has to look for it: {problem}"
        )));
    }
}

/// The digests that the journal remembers of the unchanged file, or of the file read now; whose progress is told if
/// somebody waits for it.
fn begin_digests(source: &Arc<Source>, journal: &Journal, told: Option<&Events>) -> Digesting {
    if journal.state.identity.as_ref() == Some(&source.identity)
        && let Some(digests) = &journal.state.digests
    {
        return Digesting::known(digests.clone());
    }
    let stage = Stage::Digest;
    let told = told.cloned();
    let tell = move |event| told.iter().for_each(|events| events(Event::clone(&event)));
    tell(Event::Begin { stage, total_bytes: Some(source.identity.size_bytes) });
    Digesting::begin(source, move |done_bytes| tell(Event::Bytes { stage, done_bytes }))
}

/// Remembers the digests of a file for the next run.
fn remember(journal: &mut Journal, source: &Source, digests: &Digests) {
    if journal.state.digests.as_ref() != Some(digests) {
        // What was imported is not this file.
        journal.state.import = None;
    }
    journal.state.identity = Some(source.identity.clone());
    journal.state.digests = Some(digests.clone());
    journal.save();
}

fn content(source: &Source, format: Format, traits: &Traits) -> Result<Content, UploadError> {
    let refused = |source| UploadError::Io { action: "prepare the archive", source };
    let size_bytes = source.identity.size_bytes;
    let file = source.file.file().try_clone().map_err(refused)?;
    let archive = if source.kind == FileKind::Qcow2 && format == Format::Archive {
        Some(Archive::new(&traits.metadata_json(), size_bytes).map_err(refused)?)
    } else {
        None
    };
    Ok(Content::new(file, size_bytes, archive))
}

#[expect(clippy::too_many_arguments, reason = "all of it is said in one request")]
fn wish(
    request: &UploadRequest,
    kubernetes_version: String,
    source: &Source,
    traits: &Traits,
    bucket: &Bucket,
    object: &str,
    compartment_id: String,
    kind: SourceImageType,
    digests: &Digests,
) -> CreateImage {
    let mut freeform_tags = request.freeform_tags.clone();
    freeform_tags.extend([
        ("ocne/architecture".to_owned(), traits.architecture.name().to_owned()),
        ("ocne/kubernetes".to_owned(), kubernetes_version),
        (TAG_SHA256.to_owned(), digests.sha256.clone()),
    ]);
    CreateImage {
        compartment_id,
        display_name: request.image_name.clone(),
        // An archive says it itself.
        launch_mode: (kind == SourceImageType::Qcow2).then_some(LAUNCH_MODE),
        freeform_tags,
        defined_tags: request.defined_tags.clone(),
        source: ImageSource {
            namespace: bucket.namespace.clone(),
            bucket: bucket.name.clone(),
            object: object.to_owned(),
            url: None,
            kind,
            operating_system: source.operating_system.clone(),
        },
    }
}

pub(crate) fn architecture_of(image: &Image) -> Option<Architecture> {
    let tag = image.freeform_tags.get("ocne/architecture")?;
    Architecture::ALL.into_iter().find(|architecture| architecture.name() == tag)
}

fn traits_of(image: &Image, architecture: Architecture) -> Traits {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Traits {
        architecture,
        operating_system: (text(&image.operating_system), text(&image.operating_system_version)),
        // An image that was made for an appliance says so by its launch mode.
        is_appliance: image.launch_mode.as_deref() == Some("CUSTOM"),
    }
}

pub(crate) fn image_record(
    image: Image,
    shapes: Vec<String>,
    architecture: Option<Architecture>,
) -> ImageRecord {
    ImageRecord {
        id: image.id,
        display_name: image.display_name.unwrap_or_default(),
        state: image.lifecycle_state,
        compartment_id: image.compartment_id,
        architecture,
        firmware: image.launch_options.and_then(|options| options.firmware),
        launch_mode: image.launch_mode,
        operating_system: image.operating_system,
        operating_system_version: image.operating_system_version,
        freeform_tags: image.freeform_tags,
        shapes,
        time_created: image.time_created,
    }
}

fn object_record(bucket: &Bucket, object: &str, format: Format, sent: &Sent) -> ObjectRecord {
    ObjectRecord {
        namespace: bucket.namespace.clone(),
        bucket: bucket.name.clone(),
        name: object.to_owned(),
        format: format.name(),
        size_bytes: sent.parts.total_bytes,
        multipart_md5: sent.multipart_md5.clone(),
        parts: sent.parts.count,
        part_size_bytes: sent.parts.part_bytes,
        kept: true,
    }
}

fn record(image: Option<ImageRecord>, work_request_id: Option<&str>, started: Instant) -> UploadRecord {
    UploadRecord {
        schema: UPLOAD_SCHEMA,
        image,
        already_there: false,
        work_request_id: work_request_id.map(str::to_owned),
        object: None,
        sha256: None,
        sent_bytes: 0,
        resumed_bytes: 0,
        timings_ms: Timings { total: milliseconds(started.elapsed()), ..Timings::default() },
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_interrupted_import_is_told() {
        let begun = Begun::default();
        assert!(matches!(begun.interrupted(), UploadError::Interrupted));
        begun.set("ocid1.x");
        assert!(matches!(begun.interrupted(), UploadError::InterruptedImport { .. }));
    }

    #[test]
    fn images_say_their_architecture() {
        let image = |tag: &str| -> Image {
            serde_json::from_value(serde_json::json!({
                "id": "x", "lifecycleState": "AVAILABLE", "freeformTags": BTreeMap::from([("ocne/architecture", tag)]),
            }))
            .unwrap()
        };
        assert_eq!(architecture_of(&image("arm64")), Some(Architecture::Arm64));
        assert_eq!(architecture_of(&image("sparc")), None);
    }
}
