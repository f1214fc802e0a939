//! The way back: a compute image becomes an object, and the object a file.
//!
//! The file grows under a temporary name (`FILE.part`), in ranges of which a journal beside it (`FILE.part.json`) says which
//! are there. After any interruption the same command goes on.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fs_err::File;
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use md5::Md5;
use ocne_disk::Qcow2;
use ocne_oracle::{Bucket, Client, Image, ObjectHead, WorkRequestStatus};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::UploadError;
use crate::event::{Event, Events, Stage};
use crate::import;
use crate::upload::{block_on, cancelled, milliseconds};

/// The versions of the journal and of the record.
const JOURNAL: &str = "ocne.image.export.journal/1";
const RECORD: &str = "ocne.image.export/1";
/// What is fetched at a time, and how many at once: what is in memory is the product.
const RANGE_BYTES: u64 = 8 << 20;
const PARALLEL: usize = 4;
/// Waits between two looks at the work request.
const FIRST_POLL: Duration = Duration::from_secs(1);
const LONGEST_POLL: Duration = Duration::from_secs(10);
/// What is hashed at a time.
const HASH_BYTES: usize = 1 << 20;
const MIB: u64 = 1 << 20;

/// What an image is exported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// The archive of image and metadata, as an upload takes it.
    Oci,
    /// The bare disk.
    Qcow2,
    /// The disk for VMware.
    Vmdk,
}

impl ExportFormat {
    fn name(self) -> &'static str {
        match self {
            Self::Oci => "OCI",
            Self::Qcow2 => "QCOW2",
            Self::Vmdk => "VMDK",
        }
    }
}

/// An export.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// OCID of the image.
    pub image_id: String,
    /// The file that is made.
    pub output: PathBuf,
    /// What is in it.
    pub format: ExportFormat,
    /// The bucket in between.
    pub bucket: String,
    /// Replace the file.
    pub overwrite: bool,
    /// Leave the object in the bucket.
    pub keep_object: bool,
    /// The longest that the service is waited for.
    pub timeout: Option<Duration>,
}

/// What was exported.
#[derive(Debug, Clone, Serialize)]
pub struct ExportRecord {
    /// The version of the record.
    pub schema: &'static str,
    /// OCID of the image.
    pub image_id: String,
    /// The file.
    pub path: String,
    /// What is in it.
    pub format: ExportFormat,
    /// Its length.
    pub size_bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// Whether the checksum of the object could be compared with the file.
    pub verified: bool,
    /// The object that was in between.
    pub object: String,
    /// Whether it is still there.
    pub object_kept: bool,
    /// Bytes that were there from an earlier run.
    pub resumed_bytes: u64,
    /// Milliseconds from the start to the end.
    pub total_ms: u64,
}

/// What the next run has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct State {
    schema: String,
    image_id: String,
    format: Option<ExportFormat>,
    object: String,
    retry_token: String,
    work_request_id: Option<String>,
    etag: Option<String>,
    size_bytes: u64,
    /// Numbers of the ranges that are there.
    ranges: BTreeSet<u64>,
}

/// The unfinished file and its journal.
struct Unfinished {
    part: PathBuf,
    journal: PathBuf,
    file: File,
    state: State,
}

impl Unfinished {
    fn open(request: &ExportRequest) -> Result<Self, UploadError> {
        let io = |source| UploadError::Io { action: "prepare the file", source };
        let beside = |end: &str| {
            let mut name = request.output.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let (part, journal) = (beside(".part"), beside(".part.json"));
        let file = fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let file = file.map_err(io)?;
        // Without locks two runs write the same bytes.
        if flock(file.file(), FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK)
        {
            return Err(io(std::io::Error::other(format!("another run writes `{}`", part.display()))));
        }
        let known =
            fs_err::read(&journal).ok().and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        let known = known.filter(|state| {
            state.schema == JOURNAL
                && state.image_id == request.image_id
                && state.format == Some(request.format)
        });
        let fresh = || {
            let retry_token = import::token(&request.image_id, 0);
            let tail = request.image_id.rsplit('.').next().unwrap_or_default();
            let tail = tail.get(tail.len().saturating_sub(12)..).unwrap_or(tail);
            State {
                schema: JOURNAL.to_owned(),
                image_id: request.image_id.clone(),
                format: Some(request.format),
                // A name of its own, so that no object of anybody is replaced.
                object: format!(
                    "ocne_export_{tail}_{}.{}",
                    &retry_token[..8],
                    request.format.name().to_ascii_lowercase()
                ),
                retry_token,
                ..State::default()
            }
        };
        Ok(Self { part, journal, file, state: known.unwrap_or_else(fresh) })
    }

    fn save(&self) -> Result<(), UploadError> {
        let new = self.journal.with_extension("new");
        let text = serde_json::to_vec(&self.state).unwrap_or_default();
        fs_err::write(&new, text)
            .and_then(|()| fs_err::rename(&new, &self.journal))
            .map_err(|source| UploadError::Io { action: "remember what is there", source })
    }

    /// The object is another, or none: what was fetched is of no use.
    fn forget(&mut self) -> Result<(), UploadError> {
        self.state.ranges.clear();
        self.state.etag = None;
        self.save()
    }

    fn remove(&self) {
        let _ = fs_err::remove_file(&self.journal);
        let _ = fs_err::remove_file(&self.part);
    }
}

/// Exports an image into a file. Blocks.
///
/// # Errors
/// See [`UploadError`]; what was fetched stays for the next run.
pub fn export(
    request: &ExportRequest,
    client: &Client,
    events: &Events,
    cancel: &AtomicBool,
) -> Result<ExportRecord, UploadError> {
    block_on(async {
        tokio::select! {
            done = run(request, client, events, cancel) => done,
            () = cancelled(cancel) => Err(UploadError::InterruptedExport),
        }
    })
}

async fn run(
    request: &ExportRequest,
    client: &Client,
    events: &Events,
    cancel: &AtomicBool,
) -> Result<ExportRecord, UploadError> {
    let started = Instant::now();
    if request.output.exists() && !request.overwrite {
        return Err(UploadError::FileExists { path: request.output.clone() });
    }
    let image = client.image(&request.image_id).await?;
    let bucket = Bucket { namespace: client.namespace().await?, name: request.bucket.clone() };
    if !client.has_bucket(&bucket).await? {
        let compartment = image.compartment_id.clone().unwrap_or_else(|| client.settings().tenancy.clone());
        client.create_bucket(&bucket, &compartment).await?;
    }
    let mut unfinished = Unfinished::open(request)?;
    let head = object(request, client, &bucket, &image, &mut unfinished, events).await?;
    let resumed_bytes = fetch(client, &bucket, &head, &mut unfinished, events).await?;
    let path = unfinished.part.clone();
    let (sha256, verified) = tokio::task::block_in_place(|| verify(&path, &head, cancel))
        .and_then(|done| looked_into(&path, request.format).map(|()| done))
        .inspect_err(|error| {
            if matches!(error, UploadError::NotAsFetched { .. } | UploadError::Image { .. }) {
                unfinished.remove();
            }
        })?;
    if !verified {
        events(Event::Warning("the service tells no checksum that can be compared with the file".to_owned()));
    }
    let io = |source| UploadError::Io { action: "finish the file", source };
    unfinished.file.sync_all().map_err(io)?;
    fs_err::rename(&unfinished.part, &request.output).map_err(io)?;
    let _ = fs_err::remove_file(&unfinished.journal);
    if !request.keep_object {
        client.delete_object(&bucket, &unfinished.state.object, &head.etag).await?;
    }
    Ok(ExportRecord {
        schema: RECORD,
        image_id: request.image_id.clone(),
        path: request.output.display().to_string(),
        format: request.format,
        size_bytes: head.size_bytes,
        sha256,
        verified,
        object: unfinished.state.object.clone(),
        object_kept: request.keep_object,
        resumed_bytes,
        total_ms: milliseconds(started.elapsed()),
    })
}

/// The exported object: that of an earlier run, or one that is made now.
async fn object(
    request: &ExportRequest,
    client: &Client,
    bucket: &Bucket,
    image: &Image,
    unfinished: &mut Unfinished,
    events: &Events,
) -> Result<ObjectHead, UploadError> {
    if let Some(etag) = unfinished.state.etag.clone() {
        match client.head_object(bucket, &unfinished.state.object).await? {
            Some(head) if head.etag == etag && head.size_bytes == unfinished.state.size_bytes => {
                return Ok(head);
            }
            _ => {
                unfinished.state.work_request_id = None;
                unfinished.state.retry_token = import::token(&request.image_id, 1);
                unfinished.forget()?;
            }
        }
    }
    let known = unfinished.state.work_request_id.clone();
    let work_request_id = if let Some(id) = known {
        id
    } else {
        // Before the request: a run that is killed now gets the same export by the token.
        unfinished.save()?;
        let (state, format) = (&unfinished.state, request.format.name());
        let id = client.export_image(&image.id, bucket, &state.object, format, &state.retry_token).await?;
        unfinished.state.work_request_id = Some(id.clone());
        unfinished.save()?;
        id
    };
    if let Err(error) = follow(client, &work_request_id, request.timeout, events).await {
        if matches!(error, UploadError::ExportFailed { .. }) {
            unfinished.remove();
        }
        return Err(error);
    }
    let head = client.head_object(bucket, &unfinished.state.object).await?;
    let head = head.ok_or_else(|| UploadError::ExportFailed {
        problems: vec![format!("the object `{}` is not there", unfinished.state.object)],
    })?;
    unfinished.state.etag = Some(head.etag.clone());
    unfinished.state.size_bytes = head.size_bytes;
    unfinished.save()?;
    Ok(head)
}

async fn follow(
    client: &Client,
    work_request_id: &str,
    timeout: Option<Duration>,
    events: &Events,
) -> Result<(), UploadError> {
    let (started, stage) = (Instant::now(), Stage::Export);
    events(Event::Begin { stage, total_bytes: None });
    let mut wait = FIRST_POLL;
    loop {
        let (work, asked_for) = client.work_request(work_request_id).await?;
        match work.status {
            WorkRequestStatus::Succeeded => {
                events(Event::Percent { stage, percent: 100 });
                events(Event::End { stage, elapsed: started.elapsed(), bytes: None });
                return Ok(());
            }
            WorkRequestStatus::Failed | WorkRequestStatus::Canceled => {
                return Err(UploadError::ExportFailed {
                    problems: import::problems(client, work_request_id).await,
                });
            }
            _ => {}
        }
        events(Event::Percent { stage, percent: import::percent(work.percent_complete) });
        let pause = asked_for.unwrap_or_default().max(wait);
        if timeout.is_some_and(|timeout| started.elapsed() + pause > timeout) {
            return Err(UploadError::InterruptedExport);
        }
        tokio::time::sleep(pause).await;
        wait = (wait * 3 / 2).min(LONGEST_POLL);
    }
}

/// Fetches the ranges that are missing. Returns how many bytes were there.
async fn fetch(
    client: &Client,
    bucket: &Bucket,
    head: &ObjectHead,
    unfinished: &mut Unfinished,
    events: &Events,
) -> Result<u64, UploadError> {
    let io = |source| UploadError::Io { action: "write the file", source };
    let (started, stage, total) = (Instant::now(), Stage::Download, head.size_bytes);
    if unfinished.file.metadata().map_err(io)?.len() != total {
        unfinished.state.ranges.clear();
        unfinished.file.set_len(total).map_err(io)?;
    }
    let length = |number: u64| (total - number * RANGE_BYTES).min(RANGE_BYTES);
    let count = total.div_ceil(RANGE_BYTES);
    unfinished.state.ranges.retain(|number| *number < count);
    let resumed: u64 = unfinished.state.ranges.iter().map(|number| length(*number)).sum();
    events(Event::Begin { stage, total_bytes: Some(total) });
    let missing: Vec<u64> = (0..count).filter(|n| !unfinished.state.ranges.contains(n)).collect();
    let object = unfinished.state.object.clone();
    let mut fetched = futures_util::stream::iter(missing)
        .map(|number| {
            let object = object.as_str();
            async move {
                let begin = number * RANGE_BYTES;
                let bytes = client.object_range(bucket, object, &head.etag, begin, length(number)).await?;
                Ok::<_, UploadError>((number, bytes))
            }
        })
        .buffer_unordered(PARALLEL);
    let mut done_bytes = resumed;
    while let Some(next) = fetched.try_next().await.transpose() {
        let (number, bytes) = match next {
            Ok(next) => next,
            Err(error) if matches!(error.oracle_status(), Some(404 | 412)) => {
                drop(fetched);
                unfinished.state.work_request_id = None;
                unfinished.forget()?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        unfinished.file.file().write_all_at(&bytes, number * RANGE_BYTES).map_err(io)?;
        unfinished.state.ranges.insert(number);
        unfinished.save()?;
        done_bytes += bytes.len() as u64;
        events(Event::Bytes { stage, done_bytes });
    }
    events(Event::End { stage, elapsed: started.elapsed(), bytes: Some(total) });
    Ok(resumed)
}

/// Compares the file with the checksum of the object. Returns its SHA-256, and whether there was anything to compare.
fn verify(path: &Path, head: &ObjectHead, cancel: &AtomicBool) -> Result<(String, bool), UploadError> {
    let io = |source| UploadError::Io { action: "read the file", source };
    let mut file = File::open(path).map_err(io)?;
    let (mut sha256, mut md5, mut crc32c) = (Sha256::new(), Md5::new(), 0);
    let mut buffer = vec![0; HASH_BYTES];
    // MD5 of each MiB would not do: a part's MD5 is of all its bytes. So each possible size of parts has its own sum.
    let mut guesses = part_sizes(head);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(UploadError::InterruptedExport);
        }
        let count = file.read(&mut buffer).map_err(io)?;
        if count == 0 {
            break;
        }
        let bytes = &buffer[..count];
        sha256.update(bytes);
        md5.update(bytes);
        crc32c = crc32c::crc32c_append(crc32c, bytes);
        for guess in &mut guesses {
            guess.update(bytes);
        }
    }
    let sha256 = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let pairs = [
        ("MD5", &head.md5, BASE64.encode(md5.finalize())),
        ("CRC-32C", &head.crc32c, BASE64.encode(crc32c.to_be_bytes())),
    ];
    let mut verified = false;
    for (name, there, here) in pairs {
        let Some(there) = there else { continue };
        if *there != here {
            let reason = format!("its {name} is {here}, that of the object is {there}");
            return Err(UploadError::NotAsFetched { path: path.to_owned(), reason });
        }
        verified = true;
    }
    let multipart = guesses.into_iter().any(|guess| Some(guess.text()) == head.multipart_md5);
    Ok((sha256, verified || multipart))
}

/// The MD5 of an object in parts of a size.
struct PartSum {
    part_bytes: u64,
    left: u64,
    part: Md5,
    all: Md5,
    count: u32,
}

impl PartSum {
    fn new(part_bytes: u64) -> Self {
        Self { part_bytes, left: part_bytes, part: Md5::new(), all: Md5::new(), count: 0 }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.part.update(&bytes[..count]);
            self.left -= count as u64;
            bytes = &bytes[count..];
            if self.left == 0 {
                self.end_part();
            }
        }
    }

    fn end_part(&mut self) {
        self.all.update(std::mem::take(&mut self.part).finalize());
        self.count += 1;
        self.left = self.part_bytes;
    }

    fn text(mut self) -> String {
        if self.left != self.part_bytes || self.count == 0 {
            self.end_part();
        }
        format!("{}-{}", BASE64.encode(self.all.finalize()), self.count)
    }
}

/// Which sizes of parts fit the number of parts that the checksum tells: nobody says which it was.
fn part_sizes(head: &ObjectHead) -> Vec<PartSum> {
    let count = head.multipart_md5.as_ref().and_then(|text| text.rsplit_once('-')?.1.parse::<u64>().ok());
    let Some(count) = count.filter(|count| *count > 0) else { return Vec::new() };
    let usual = [5, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 256, 500, 512, 1000, 1024, 2048];
    let least = head.size_bytes.div_ceil(count).max(1);
    let mut sizes: Vec<u64> =
        usual.iter().map(|mib| mib * MIB).chain([least, least.div_ceil(MIB) * MIB]).collect();
    sizes.retain(|size| head.size_bytes.div_ceil(*size).max(1) == count);
    sizes.sort_unstable();
    sizes.dedup();
    sizes.into_iter().map(PartSum::new).collect()
}

/// A disk that was fetched is opened, with all its tables.
fn looked_into(path: &Path, format: ExportFormat) -> Result<(), UploadError> {
    if format == ExportFormat::Qcow2 {
        Qcow2::open(path).map_err(|source| UploadError::Image { path: path.to_owned(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(size_bytes: u64, multipart_md5: Option<&str>) -> ObjectHead {
        ObjectHead {
            etag: "e".to_owned(),
            size_bytes,
            md5: None,
            multipart_md5: multipart_md5.map(str::to_owned),
            crc32c: None,
            metadata: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn files_are_compared_with_what_the_service_tells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..12_u32 << 20).map(|n| u8::try_from(n % 251).unwrap()).collect();
        fs_err::write(&path, &bytes).unwrap();
        let cancel = AtomicBool::new(false);
        let size = bytes.len() as u64;
        let mut sum = PartSum::new(5 << 20);
        sum.update(&bytes);
        let parts = sum.text();
        assert!(parts.ends_with("-3"));
        assert!(verify(&path, &head(size, Some(&parts)), &cancel).unwrap().1);
        assert!(
            !verify(&path, &head(size, Some("AAAA-3")), &cancel).unwrap().1,
            "another size of parts, perhaps"
        );
        assert!(!verify(&path, &head(size, None), &cancel).unwrap().1);
        let whole = ObjectHead { md5: Some(BASE64.encode(Md5::digest(&bytes))), ..head(size, None) };
        assert!(verify(&path, &whole, &cancel).unwrap().1);
        let wrong = ObjectHead { crc32c: Some("AAAAAA==".to_owned()), ..whole };
        assert!(matches!(verify(&path, &wrong, &cancel), Err(UploadError::NotAsFetched { .. })));
    }

    #[test]
    fn sizes_of_parts_fit_their_number() {
        let sizes =
            |size, text| part_sizes(&head(size, Some(text))).iter().map(|s| s.part_bytes).collect::<Vec<_>>();
        assert!(sizes(100 * MIB, "x-10").contains(&(10 * MIB)));
        assert_eq!(sizes(100 * MIB, "x"), Vec::<u64>::new());
        assert_eq!(sizes(100 * MIB, "x-0"), Vec::<u64>::new());
    }
}
