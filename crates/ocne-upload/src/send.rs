//! An object in parts: what the service has is found out and compared, the rest is sent, and the whole is proven.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt as _, TryStreamExt as _};
use ocne_oracle::{Bucket, Client, MultipartUpload, ObjectHead, OracleError, Part, PartBody};

use crate::content::{Checksums, Content};
use crate::digesting::Digesting;
use crate::error::UploadError;
use crate::event::{Event, Events, Stage};
use crate::journal::Journal;
use crate::lanes::LANES;
use crate::parallel::Parallel;
use crate::parts::Parts;
use crate::request::UploadRequest;
use crate::source::Source;
use crate::throttle::Throttle;

/// An upload that others end again and again is given up.
const ROUNDS_MAX: u32 = 6;
/// Attempts at what cannot simply be repeated, and the wait after the first.
const ATTEMPTS_MAX: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// How often one part is sent whose MD5 comes back wrong.
const DAMAGED_MAX: u32 = 5;
/// Batches of parts that are hashed at once to be compared with what the service has.
const HASHES: usize = 2;
/// The most bytes of parts that are hashed before the first of them is sent, unless one part alone has more.
const BATCH_BYTES: u64 = 512 << 20;
/// What an object says about its parts, for whoever wants to compare it later.
const PART_BYTES: &str = "ocne-part-bytes";

/// What is sent where.
pub(crate) struct Sender<'a> {
    pub client: &'a Client,
    pub bucket: &'a Bucket,
    pub object: &'a str,
    pub content: Content,
    pub source: &'a Source,
    /// The end of an archive needs them.
    pub digesting: &'a Digesting,
    pub request: &'a UploadRequest,
    pub journal: &'a mut Journal,
    pub events: &'a Events,
    /// Whether the service is to compute CRC-32C too: an appliance may not know how.
    pub with_crc32c: bool,
    /// Whether a commit was sent whose fate may be unknown.
    pub has_committed: bool,
    pub sent_bytes: Arc<AtomicU64>,
}

/// An object that is there, and is what the file is.
#[derive(Debug)]
pub(crate) struct Sent {
    pub etag: String,
    pub multipart_md5: String,
    pub parts: Parts,
    pub resumed_bytes: u64,
}

/// What stands in the place of the object.
enum Place {
    Free,
    /// It may be replaced, while it has this etag.
    Replaceable(String),
    Same(Sent),
}

/// How one round over all parts ended.
enum Round {
    Done(Sent),
    /// The upload or its parts were changed by somebody else: look again.
    Again,
}

/// What is counted while parts are on their way.
struct Meter {
    done: AtomicU64,
    sent: Arc<AtomicU64>,
    events: Events,
}

impl Meter {
    fn moved(&self, in_flight: &AtomicU64, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        in_flight.fetch_add(bytes, Ordering::Relaxed);
        let done_bytes = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.events)(Event::Bytes { stage: Stage::Upload, done_bytes });
    }

    /// An attempt begins anew: what the last one sent does not count.
    fn lost(&self, in_flight: &AtomicU64) {
        self.done.fetch_sub(in_flight.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Sender<'_> {
    /// Brings the object there.
    pub async fn run(&mut self) -> Result<Sent, UploadError> {
        for round in 0..ROUNDS_MAX {
            let replaces = match self.place().await? {
                Place::Same(sent) => {
                    self.drop_upload().await;
                    return Ok(sent);
                }
                Place::Free => None,
                Place::Replaceable(etag) => Some(etag),
            };
            if round == 0 && self.request.no_resume {
                self.drop_upload().await;
            }
            let done = self.one_round(replaces.as_deref()).await;
            match done {
                Ok(Round::Done(sent)) => {
                    self.journal.state.upload_id = None;
                    self.journal.save();
                    return Ok(sent);
                }
                Ok(Round::Again) => tracing::debug!(round, "the upload was changed by somebody else"),
                // Whatever failed: parts of a file that is no more are of no use, and neither is another error.
                Err(error) if self.source.has_changed() => {
                    tracing::debug!(%error, "the file was changed");
                    self.drop_upload().await;
                    return Err(UploadError::FileChanged { path: self.source.path.clone() });
                }
                Err(error) => return Err(error),
            }
        }
        Err(UploadError::Ended { object: self.object.to_owned(), times: ROUNDS_MAX })
    }

    async fn one_round(&mut self, replaces: Option<&str>) -> Result<Round, UploadError> {
        let (upload, parts, there) = self.find_or_begin(replaces).await?;
        self.round(&upload, parts, there, replaces).await
    }

    /// Ends the upload that the journal remembers. That it cannot be ended is nobody's failure: it is listed as stale.
    async fn drop_upload(&mut self) {
        if let Some(id) = self.journal.state.upload_id.take() {
            if let Err(e) = self.client.abort_multipart_upload(self.bucket, self.object, &id).await {
                tracing::warn!("the upload {id} of `{}` stays: {e}", self.object);
            }
            self.journal.save();
        }
    }

    async fn place(&self) -> Result<Place, UploadError> {
        let Some(head) = self.client.head_object(self.bucket, self.object).await? else {
            return Ok(Place::Free);
        };
        if (!self.request.overwrite || self.has_committed)
            && let Some(parts) = self.parts_of(&head)
        {
            let found = self.checksums_of(parts, parts.numbers()).await?;
            let (multipart_md5, crc32c) = Checksums::of_object(found.values());
            if is_as_sent(&head, &multipart_md5, &crc32c) {
                let (etag, resumed_bytes) = (head.etag, parts.total_bytes);
                return Ok(Place::Same(Sent { etag, multipart_md5, parts, resumed_bytes }));
            }
        }
        if self.request.overwrite {
            return Ok(Place::Replaceable(head.etag));
        }
        let (bucket, object) = (self.bucket.name.clone(), self.object.to_owned());
        Err(UploadError::ObjectExists { bucket, object })
    }

    /// How an object of the same length was cut.
    fn parts_of(&self, head: &ObjectHead) -> Option<Parts> {
        if head.size_bytes != self.content.length() {
            return None;
        }
        let bytes = head.metadata.get(PART_BYTES)?.parse().ok()?;
        Parts::new(head.size_bytes, Some(bytes))
    }

    async fn checksums_of(
        &self,
        parts: Parts,
        numbers: impl Iterator<Item = u32>,
    ) -> Result<BTreeMap<u32, Checksums>, UploadError> {
        let batches: Vec<BTreeMap<u32, Checksums>> = futures_util::stream::iter(batches(parts, numbers))
            .map(|batch| async move { self.checksums(parts, &batch).await.map(BTreeMap::from_iter) })
            .buffer_unordered(HASHES)
            .try_collect()
            .await?;
        Ok(batches.into_iter().flatten().collect())
    }

    /// Checksums of parts, by their numbers.
    async fn checksums(&self, parts: Parts, numbers: &[u32]) -> Result<Vec<(u32, Checksums)>, UploadError> {
        let ranges: Vec<_> = numbers.iter().map(|number| parts.range(*number)).collect();
        if ranges.iter().any(|range| !self.content.is_known_to(range.end)) {
            self.content.seal(self.digesting.get().await?.0.crc32);
        }
        let found = self.content.checksums(ranges).await.map_err(|source| {
            if self.source.has_changed() || source.kind() == io::ErrorKind::UnexpectedEof {
                UploadError::FileChanged { path: self.source.path.clone() }
            } else {
                UploadError::Io { action: "read the image", source }
            }
        })?;
        Ok(numbers.iter().copied().zip(found).collect())
    }

    /// The upload to go on with, or a new one; with the parts that the service has.
    async fn find_or_begin(
        &mut self,
        replaces: Option<&str>,
    ) -> Result<(MultipartUpload, Parts, Vec<Part>), UploadError> {
        let total = self.content.length();
        if let (Some(id), Some(bytes)) = (self.journal.state.upload_id.clone(), self.journal.state.part_bytes)
            && let Some(parts) = bytes.try_into().ok().and_then(|bytes| Parts::new(total, Some(bytes)))
        {
            if let Some(there) = self.client.parts(self.bucket, self.object, &id).await? {
                let upload =
                    MultipartUpload { object: self.object.to_owned(), upload_id: id, time_created: None };
                return Ok((upload, parts, there));
            }
            self.journal.state.upload_id = None;
        }
        let known = self.uploads().await?;
        if !self.request.no_resume {
            for upload in &known {
                if let Some((parts, there)) = self.adoptable(upload).await? {
                    self.remember(upload, parts);
                    return Ok((upload.clone(), parts, there));
                }
            }
        }
        let parts = Parts::wanted(total, self.request.part_size_bytes)?;
        // Before the request: a run that is killed now leaves an upload that the next one knows.
        self.journal.state.part_bytes = Some(parts.part_bytes);
        self.journal.state.is_beginning = true;
        self.journal.save();
        let upload = self.begin(parts, replaces, &known).await?;
        self.remember(&upload, parts);
        Ok((upload, parts, Vec::new()))
    }

    fn remember(&mut self, upload: &MultipartUpload, parts: Parts) {
        self.journal.state.upload_id = Some(upload.upload_id.clone());
        self.journal.state.part_bytes = Some(parts.part_bytes);
        self.journal.state.is_beginning = false;
        self.journal.save();
    }

    /// The uploads of this object, newest first.
    async fn uploads(&self) -> Result<Vec<MultipartUpload>, UploadError> {
        let mut all = self.client.multipart_uploads(self.bucket).await?;
        all.retain(|upload| upload.object == self.object);
        all.sort_by(|a, b| b.time_created.cmp(&a.time_created));
        Ok(all)
    }

    /// Whether an upload that no journal remembers has parts of this very file.
    async fn adoptable(&self, upload: &MultipartUpload) -> Result<Option<(Parts, Vec<Part>)>, UploadError> {
        let there = self.client.parts(self.bucket, self.object, &upload.upload_id).await?.unwrap_or_default();
        let total = self.content.length();
        if there.is_empty() && self.journal.state.is_beginning {
            let bytes = self.journal.state.part_bytes.and_then(|bytes| bytes.try_into().ok());
            return Ok(bytes.and_then(|bytes| Parts::new(total, Some(bytes))).map(|parts| (parts, there)));
        }
        let longest = there.iter().max_by_key(|part| part.size);
        let Some((longest, bytes)) = longest.and_then(|part| Some((part, part.size.try_into().ok()?))) else {
            return Ok(None);
        };
        let Some(parts) = Parts::new(total, Some(bytes)) else { return Ok(None) };
        let fits = |part: &Part| {
            parts.numbers().contains(&part.part_number) && part.size == parts.length(part.part_number)
        };
        if !there.iter().all(fits) {
            return Ok(None);
        }
        let here = self.checksums(parts, &[longest.part_number]).await?;
        Ok(here.iter().all(|(_, here)| here.md5_text() == longest.md5).then_some((parts, there)))
    }

    /// Begins an upload. When no answer comes it is looked for, so that none is left over.
    async fn begin(
        &self,
        parts: Parts,
        replaces: Option<&str>,
        known: &[MultipartUpload],
    ) -> Result<MultipartUpload, UploadError> {
        let known: BTreeSet<&str> = known.iter().map(|upload| upload.upload_id.as_str()).collect();
        let metadata = BTreeMap::from([(PART_BYTES.to_owned(), parts.part_bytes.to_string())]);
        let (mut attempt, mut wait) = (1, FIRST_WAIT);
        loop {
            let begun = self
                .client
                .create_multipart_upload(self.bucket, self.object, &metadata, self.with_crc32c, replaces)
                .await;
            match begun {
                Ok(upload) => return Ok(upload),
                Err(OracleError::Network { .. }) if attempt < ATTEMPTS_MAX => {
                    tokio::time::sleep(wait).await;
                    (attempt, wait) = (attempt + 1, wait * 2);
                    let new = self.uploads().await?;
                    if let Some(upload) = new.into_iter().find(|u| !known.contains(u.upload_id.as_str())) {
                        return Ok(upload);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn round(
        &mut self,
        upload: &MultipartUpload,
        parts: Parts,
        there: Vec<Part>,
        replaces: Option<&str>,
    ) -> Result<Round, UploadError> {
        let started = Instant::now();
        (self.events)(Event::Begin { stage: Stage::Upload, total_bytes: Some(parts.total_bytes) });
        let surplus: Vec<u32> =
            there.iter().map(|part| part.part_number).filter(|n| !parts.numbers().contains(n)).collect();
        let candidates: BTreeMap<u32, Part> = there
            .into_iter()
            .filter(|part| {
                parts.numbers().contains(&part.part_number) && part.size == parts.length(part.part_number)
            })
            .map(|part| (part.part_number, part))
            .collect();
        let mut checksums = self.checksums_of(parts, candidates.keys().copied()).await?;
        checksums
            .retain(|number, here| candidates.get(number).is_some_and(|part| part.md5 == here.md5_text()));
        let mut etags: BTreeMap<u32, String> = candidates
            .into_iter()
            .filter(|(number, _)| checksums.contains_key(number))
            .map(|(number, part)| (number, part.etag))
            .collect();
        let resumed_bytes: u64 = etags.keys().map(|number| parts.length(*number)).sum();
        if resumed_bytes > 0 {
            (self.events)(Event::Note(format!(
                "{} of {} parts are there already, and are not sent again",
                etags.len(),
                parts.count
            )));
        }
        let missing = batches(parts, parts.numbers().filter(|number| !etags.contains_key(number)));
        match self.send_parts(upload, parts, missing, resumed_bytes).await? {
            None => return Ok(Round::Again),
            Some(sent) => {
                for (number, (etag, here)) in sent {
                    etags.insert(number, etag);
                    checksums.insert(number, here);
                }
            }
        }
        if self.source.has_changed() {
            return Err(UploadError::FileChanged { path: self.source.path.clone() });
        }
        let expected = Checksums::of_object(checksums.values());
        let Some(etag) = self.commit(upload, &etags, &surplus, replaces, &expected).await? else {
            return Ok(Round::Again);
        };
        let elapsed = started.elapsed();
        (self.events)(Event::End { stage: Stage::Upload, elapsed, bytes: Some(parts.total_bytes) });
        Ok(Round::Done(Sent { etag, multipart_md5: expected.0, parts, resumed_bytes }))
    }

    /// Sends parts, as many at once as the line bears. None when the upload is gone.
    async fn send_parts(
        &self,
        upload: &MultipartUpload,
        parts: Parts,
        missing: Vec<Vec<u32>>,
        resumed_bytes: u64,
    ) -> Result<Option<BTreeMap<u32, (String, Checksums)>>, UploadError> {
        let meter = Arc::new(Meter {
            done: AtomicU64::new(resumed_bytes),
            sent: Arc::clone(&self.sent_bytes),
            events: Arc::clone(self.events),
        });
        (self.events)(Event::Bytes { stage: Stage::Upload, done_bytes: resumed_bytes });
        let throttle = Arc::new(Throttle::new(self.request.max_bytes_per_second));
        let started = Instant::now();
        let mut parallel = Parallel::new(self.request.parallel);
        let (mut in_flight, mut sent) = (FuturesUnordered::new(), BTreeMap::new());
        // The next parts are hashed while these are sent.
        let batches = futures_util::stream::iter(missing);
        let hashed =
            batches.map(|batch| async move { self.checksums(parts, &batch).await }).buffered(1).fuse();
        let (mut hashed, mut ready) = (std::pin::pin!(hashed), VecDeque::new());
        loop {
            while in_flight.len() < usize::try_from(parallel.limit()).unwrap_or(1)
                && let Some((number, here)) = ready.pop_front()
            {
                in_flight.push(self.send_part(upload, parts, number, here, &meter, &throttle));
            }
            tokio::select! {
                Some(batch) = hashed.next(), if ready.len() < LANES => ready.extend(batch?),
                Some(part) = in_flight.next() => match part? {
                    // Nobody shall wait an hour for what is known now.
                    _ if self.source.has_changed() => {
                        return Err(UploadError::FileChanged { path: self.source.path.clone() });
                    }
                    Either::Left((number, etag, here)) => {
                        sent.insert(number, (etag, here));
                        parallel.arrived(parts.length(number), started.elapsed());
                    }
                    Either::Right(()) => return Ok(None),
                },
                else => return Ok(Some(sent)),
            }
        }
    }

    /// Sends one part until the service has stored what was sent; nothing comes of it when the upload is gone.
    async fn send_part(
        &self,
        upload: &MultipartUpload,
        parts: Parts,
        number: u32,
        here: Checksums,
        meter: &Arc<Meter>,
        throttle: &Arc<Throttle>,
    ) -> Result<Either<(u32, String, Checksums), ()>, UploadError> {
        let range = parts.range(number);
        let in_flight = Arc::new(AtomicU64::new(0));
        let (mut here, mut reason) = (here, String::new());
        for attempt in 0..DAMAGED_MAX {
            if attempt > 0 {
                here = self.checksums(parts, &[number]).await?.first().map_or(here, |(_, again)| *again);
            }
            let crc32c = self.with_crc32c.then(|| here.crc32c_text());
            let body = {
                let (content, meter, throttle) =
                    (self.content.clone(), Arc::clone(meter), Arc::clone(throttle));
                let (in_flight, range) = (Arc::clone(&in_flight), range.clone());
                PartBody::new(parts.length(number), here.md5_text(), crc32c, move || {
                    meter.lost(&in_flight);
                    let (meter, throttle, in_flight) =
                        (Arc::clone(&meter), Arc::clone(&throttle), Arc::clone(&in_flight));
                    content
                        .stream(range.clone(), throttle.piece_bytes())
                        .and_then(move |piece| {
                            let (meter, throttle, in_flight) =
                                (Arc::clone(&meter), Arc::clone(&throttle), Arc::clone(&in_flight));
                            async move {
                                throttle.pass(piece.len() as u64).await;
                                meter.moved(&in_flight, piece.len() as u64);
                                Ok(piece)
                            }
                        })
                        .boxed()
                })
            };
            match self.client.upload_part(self.bucket, upload, number, &body).await {
                Ok(uploaded) => {
                    let pairs = [
                        ("MD5", Some(&body.md5), &uploaded.md5),
                        ("CRC-32C", body.crc32c.as_ref(), &uploaded.crc32c),
                    ];
                    let differs = pairs.into_iter().find_map(|(name, here, there)| {
                        let (here, there) = (here?, there.as_ref()?);
                        (here != there)
                            .then(|| format!("the {name} of part {number} is {here} here and {there} there"))
                    });
                    match differs {
                        None => return Ok(Either::Left((number, uploaded.etag, here))),
                        Some(differs) => {
                            (self.events)(Event::Warning(format!("{differs}; sending it again")));
                            reason = differs;
                        }
                    }
                }
                Err(error) if error.status() == Some(404) => return Ok(Either::Right(())),
                Err(error) => return Err(error.into()),
            }
        }
        Err(UploadError::NotAsSent { object: self.object.to_owned(), reason })
    }

    /// Makes the parts an object, and compares it. None when that has to be done anew: somebody else changed or ended the
    /// upload, or the object is damaged.
    async fn commit(
        &mut self,
        upload: &MultipartUpload,
        etags: &BTreeMap<u32, String>,
        surplus: &[u32],
        replaces: Option<&str>,
        (multipart_md5, crc32c): &(String, String),
    ) -> Result<Option<String>, UploadError> {
        self.has_committed = true;
        let (mut attempt, mut wait) = (1, FIRST_WAIT);
        let committed = loop {
            let done =
                self.client.commit_multipart_upload(self.bucket, upload, etags, surplus, replaces).await;
            match done {
                Ok(committed) => break committed,
                // It may have been done all the same.
                Err(OracleError::Network { .. }) if attempt < ATTEMPTS_MAX => {
                    tokio::time::sleep(wait).await;
                    (attempt, wait) = (attempt + 1, wait * 2);
                }
                Err(error) if matches!(error.status(), Some(404 | 409 | 412)) => return Ok(None),
                Err(error) if error.service().is_some_and(|e| e.code == "InvalidUploadPart") => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        };
        let Some(head) = self.client.head_object(self.bucket, self.object).await? else { return Ok(None) };
        if head.size_bytes == self.content.length() && is_as_sent(&head, multipart_md5, crc32c) {
            return Ok(Some(head.etag));
        }
        if head.etag == committed.etag {
            let there = (head.multipart_md5.unwrap_or_default(), head.crc32c.unwrap_or_default());
            (self.events)(Event::Warning(format!(
                "the object has the checksums {} and {} there, and {multipart_md5} and {crc32c} here; sending it anew",
                there.0, there.1
            )));
            self.client.delete_object(self.bucket, self.object, &head.etag).await?;
        }
        Ok(None)
    }
}

/// Parts in batches that are hashed at once: of one length, as only the last is shorter, and not too long.
fn batches(parts: Parts, numbers: impl Iterator<Item = u32>) -> Vec<Vec<u32>> {
    let most = usize::try_from(BATCH_BYTES / parts.part_bytes.max(1)).unwrap_or(LANES).clamp(1, LANES);
    let numbers: Vec<u32> = numbers.collect();
    let even = numbers.iter().take_while(|number| parts.length(**number) == parts.part_bytes).count();
    let (even, last) = numbers.split_at(even);
    even.chunks(most).chain(last.chunks(1)).map(<[u32]>::to_vec).collect()
}

/// Whether the service has what was sent, by all checksums that it tells.
fn is_as_sent(head: &ObjectHead, multipart_md5: &str, crc32c: &str) -> bool {
    head.multipart_md5.as_deref() == Some(multipart_md5)
        && head.crc32c.as_deref().is_none_or(|there| there == crc32c)
}
