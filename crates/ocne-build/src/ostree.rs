//! The build of an image that serves an ostree commit, in this process.
//!
//! The layers of the source, and of the base, come from wherever the image is on one side of a pipe; on the other they
//! are verified and written, in one pass and without anything between. What came is kept nowhere else.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ocne_bootimage::Architecture;
use ocne_container::{
    FetchError, FetchEvent, FetchOptions, Fetcher, Image, ImageReference, LayerSender, OstreeReference,
    OstreeTrust, Platform, layer_pipe,
};
use ocne_ostree::{
    Base, BaseImage, BaseLayer, Encapsulated, ImageOptions, Layers, OpenLayer, OstreeError, Written,
    verify_image, write_image,
};
use serde::Serialize;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::debug;

use crate::copy::{Digester, start_write_back};
use crate::create::Created;
use crate::error::BuildError;
use crate::event::{Event, Events, Stage};
use crate::output::{OutputFile, available_bytes};
use crate::plan::{Origin, Plan, existing};
use crate::program::program;
use crate::report::{OutputRecord, milliseconds};
use crate::request::{Destination, make_folder};
use crate::source::block_on;

/// How often a build looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);
/// How much is written before the kernel is asked to bring it to the disk.
const WRITE_BACK_BYTES: u64 = 16 << 20;
/// What the image is called in its archive, and so by `podman load`.
const IMAGE_NAME: &str = "localhost/ock-ostree:latest";
/// The ref that clients ask for.
const REF_NAME: &str = "ock";
/// The version of the report.
const REPORT_SCHEMA: &str = "ocne.image.create.ostree/1";

/// One server image to build, with every setting decided.
#[derive(Debug, Clone)]
pub struct OstreeRequest {
    /// Kubernetes version, for names and the report.
    pub kubernetes_version: String,
    /// The architecture that is taken of an image with several.
    pub architecture: Architecture,
    /// The image that holds the commit.
    pub source: OstreeReference,
    /// What serves it.
    pub base: OstreeBase,
    /// How images are fetched.
    pub fetch: Box<FetchOptions>,
    /// Where the new image goes.
    pub destination: Destination,
    /// Level of compression of the files in it, 1 to 9.
    pub level: u32,
    /// Where the report goes.
    pub report: Option<PathBuf>,
}

/// What serves a commit.
#[derive(Debug, Clone)]
pub enum OstreeBase {
    /// The nginx of an image.
    Image(ImageReference),
    /// Our own server, and nothing else.
    Server,
}

impl OstreeRequest {
    fn target(&self) -> PathBuf {
        match &self.destination {
            Destination::File(path) => path.clone(),
            Destination::Folder(folder) => {
                folder.join(format!("ock-{}-{}-ostree.tar", self.kubernetes_version, self.architecture))
            }
        }
    }

    /// The source's file, if it is one.
    fn source_file(&self) -> Option<&Path> {
        match &self.source.image {
            ImageReference::OciArchive { path, .. } | ImageReference::DockerArchive { path, .. } => {
                Some(path)
            }
            _ => None,
        }
    }
}

/// Makes a container image that serves an ostree commit.
///
/// Nothing has the output's name before all of it was written, synced and read back.
///
/// # Errors
/// See [`BuildError`]. Nothing is left of the output then.
pub fn create_ostree(
    request: &OstreeRequest,
    events: Events<'_>,
    cancel: &Arc<AtomicBool>,
) -> Result<Created, BuildError> {
    let started = Instant::now();
    make_folder(&request.destination)?;
    let target = request.target();
    if let Some(source) = request.source_file()
        && crate::request::same_file(source, &target)
    {
        return Err(BuildError::OutputIsSource { target });
    }
    // Opened before anything takes time: a folder that cannot be written is said at once.
    let output = OutputFile::create(&target)?;
    let report_file = request.report.as_deref().map(OutputFile::create).transpose()?;
    let mut timings = OstreeTimings::default();
    let made = generate(request, &output, events, cancel, &mut timings)?;
    let path = std::path::absolute(output.target())
        .map_err(|source| BuildError::Io { action: "find the present folder", source })?;
    let sha256 = save(request, &output, &made, events, cancel, &mut timings)?;
    timings.total = milliseconds(started.elapsed());
    if let Some(file) = &report_file {
        let output = OutputRecord {
            path: path.display().to_string(),
            sha256: sha256.unwrap_or_default(),
            size_bytes: made.written.size_bytes,
        };
        let mut text =
            serde_json::to_vec_pretty(&report(request, &made, output, timings)).unwrap_or_default();
        text.push(b'\n');
        file.write(&text)?;
    }
    let size_bytes = made.written.size_bytes;
    output.commit()?;
    if let Some(file) = report_file {
        file.commit()?;
    }
    Ok(Created { path, size_bytes })
}

/// What was made of what.
struct Made {
    written: Written,
    source: ImageRecord,
    base: Option<ImageRecord>,
}

/// A layer that is asked for: of which image, its number, and where it goes.
type Asked = (Which, usize, LayerSender);

#[derive(Debug, Clone, Copy)]
enum Which {
    Source,
    Base,
}

fn generate(
    request: &OstreeRequest,
    output: &OutputFile,
    events: Events<'_>,
    cancel: &Arc<AtomicBool>,
    timings: &mut OstreeTimings,
) -> Result<Made, BuildError> {
    let started = Instant::now();
    let refused = |source| BuildError::Ostree { reference: request.source.image.to_string(), source };
    let server = match &request.base {
        OstreeBase::Server => Some(program("ocne-serve", request.architecture)?),
        OstreeBase::Image(_) => None,
    };
    let fetcher = Fetcher::new((*request.fetch).clone())?;
    let platform = Platform::linux(request.architecture.name());
    let tell = |event: FetchEvent| tell(&event, events);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| BuildError::Io { action: "start the network", source })?;
    let find = |reference| runtime.block_on(fetcher.image(reference, &platform, &tell, cancel));
    let image = find(&request.source.image)?;
    let base_image = match &request.base {
        OstreeBase::Image(reference) => Some(find(reference)?),
        OstreeBase::Server => None,
    };
    let source = Encapsulated::parse(image.config()).map_err(refused)?;
    let total_bytes = size_of(&image);
    // What comes out is compressed about as well as what came in.
    output.check_space(total_bytes.saturating_add(base_image.as_ref().map_or(0, size_of)))?;
    events(Event::Begin { stage: Stage::Generate, total_bytes: Some(total_bytes) });
    if !matches!(request.source.trust, OstreeTrust::Unverified) {
        events(Event::Warning(format!(
            "no signature of `{}` is verified, only that every object is what the commit says",
            request.source
        )));
    }
    let options = ImageOptions {
        ref_name: REF_NAME.to_owned(),
        image_name: IMAGE_NAME.to_owned(),
        level: request.level,
        workers: thread::available_parallelism().map_or(1, std::num::NonZero::get),
        source: public_name(&request.source.image),
    };

    let stop: Arc<AtomicBool> = Arc::default();
    let (ask, mut asked) = unbounded_channel();
    let layers = Layers { sizes_bytes: sizes(&image), open: opener(Which::Source, ask.clone(), &stop) };
    let base = match (&base_image, server) {
        (Some(image), _) => Base::Image(BaseImage {
            config: image.config().to_vec(),
            layers: base_layers(image),
            open: opener(Which::Base, ask, &stop),
            name: image_name(&request.base),
            digest: image_name(&request.base).map(|_| image.digest().to_string()),
        }),
        (None, program) => {
            drop(ask);
            Base::Server { program: program.unwrap_or_default() }
        }
    };
    let (converted, sent) = thread::scope(|scope| {
        let converting = scope.spawn(|| {
            let mut flushed_bytes = 0;
            let mut progress = |done_bytes| {
                events(Event::Bytes { stage: Stage::Generate, done_bytes });
                write_back(output, &mut flushed_bytes);
            };
            let file = output.file().file();
            let result = write_image(&source, layers, base, &options, file, &mut progress, &stop);
            // The digest of all that comes explains damage best; anything else is reason enough to stop.
            if result.as_ref().is_err_and(|e| !may_be_damage(e)) {
                stop.store(true, Ordering::Relaxed);
            }
            result
        });
        let images = (&image, base_image.as_ref());
        let sent = runtime.block_on(async {
            tokio::select! {
                sent = send_all(images, &mut asked, &stop) => sent,
                () = stop_when(cancel, &stop) => Err(FetchError::Interrupted),
            }
        });
        // Whoever waits for a layer hears that none comes any more.
        drop(asked);
        (converting.join().unwrap_or_else(|panic| resume_unwind(panic)), sent)
    });
    if cancel.load(Ordering::Relaxed) {
        return Err(BuildError::Interrupted);
    }
    match sent {
        Err(e) if !matches!(e, FetchError::Interrupted) => return Err(e.into()),
        _ => {}
    }
    let written = converted.map_err(|e| match e {
        OstreeError::Interrupted => BuildError::Interrupted,
        OstreeError::Output { source, .. } => output.write_error(total_bytes, source),
        e => refused(e),
    })?;
    let elapsed = started.elapsed();
    timings.generate = milliseconds(elapsed);
    events(Event::End { stage: Stage::Generate, elapsed, bytes: None });
    Ok(Made { written, source: record(&image), base: base_image.as_ref().map(record) })
}

/// Has the kernel write what is there already, so that little is left for the sync at the end.
fn write_back(output: &OutputFile, flushed_bytes: &mut u64) {
    let Ok(end_bytes) = output.file().metadata().map(|m| m.len()) else { return };
    if end_bytes.saturating_sub(*flushed_bytes) >= WRITE_BACK_BYTES {
        start_write_back(output.file(), *flushed_bytes, end_bytes);
        *flushed_bytes = end_bytes;
    }
}

/// Whether it may be that the source is not what it was when it was made.
fn may_be_damage(error: &OstreeError) -> bool {
    matches!(error, OstreeError::Layer { .. } | OstreeError::Tar { .. } | OstreeError::BaseLayer { .. })
}

/// Sends the layers that are asked for, until nobody asks any more.
async fn send_all(
    (image, base): (&Image<'_>, Option<&Image<'_>>),
    asked: &mut UnboundedReceiver<Asked>,
    stop: &Arc<AtomicBool>,
) -> Result<(), FetchError> {
    while let Some((which, index, to)) = asked.recv().await {
        let image = match which {
            Which::Source => image,
            Which::Base => base.unwrap_or(image),
        };
        image.send(index, to, stop).await?;
    }
    Ok(())
}

/// Ends when `cancel` is set, and sets `stop` then.
async fn stop_when(cancel: &AtomicBool, stop: &AtomicBool) {
    while !cancel.load(Ordering::Relaxed) {
        tokio::time::sleep(TICK).await;
    }
    stop.store(true, Ordering::Relaxed);
}

/// What opens the layers of one of the images: it asks whoever has the network.
fn opener<'a>(which: Which, ask: UnboundedSender<Asked>, stop: &Arc<AtomicBool>) -> OpenLayer<'a> {
    let stop = Arc::clone(stop);
    Box::new(move |index| {
        let (sender, reader) = layer_pipe(&stop);
        ask.send((which, index, sender)).map_err(|_| std::io::Error::other("nothing is sent any more"))?;
        Ok(Box::new(reader))
    })
}

fn sizes(image: &Image<'_>) -> Vec<u64> {
    (0..image.layer_count()).filter_map(|i| image.layer(i)).map(|(_, size_bytes, _)| size_bytes).collect()
}

fn size_of(image: &Image<'_>) -> u64 {
    sizes(image).iter().fold(0, |sum, size| sum.saturating_add(*size))
}

fn base_layers(image: &Image<'_>) -> Vec<BaseLayer> {
    let layers = (0..image.layer_count()).filter_map(|i| image.layer(i));
    let layer = |(digest, size_bytes, media_type): (ocne_container::Digest, u64, Option<&str>)| BaseLayer {
        media_type: media_type.map(str::to_owned),
        digest: digest.to_string(),
        size_bytes,
    };
    layers.map(layer).collect()
}

/// The name of an image that other machines know it by. Paths of this one are nobody's business, and would make
/// every build different.
fn public_name(reference: &ImageReference) -> Option<String> {
    match reference {
        ImageReference::Registry(reference) => Some(reference.to_string()),
        _ => None,
    }
}

fn image_name(base: &OstreeBase) -> Option<String> {
    match base {
        OstreeBase::Image(reference) => public_name(reference),
        OstreeBase::Server => None,
    }
}

pub(crate) fn tell(event: &FetchEvent, events: Events<'_>) {
    match event {
        FetchEvent::Retry { attempt, wait, reason } => events(Event::Warning(format!(
            "{reason}; trying again in {:.1} s (attempt {attempt})",
            wait.as_secs_f64()
        ))),
        event => debug!(?event, "fetching"),
    }
}

/// Syncs the output and reads it back; its SHA-256 if a report wants it.
fn save(
    request: &OstreeRequest,
    output: &OutputFile,
    made: &Made,
    events: Events<'_>,
    cancel: &AtomicBool,
    timings: &mut OstreeTimings,
) -> Result<Option<String>, BuildError> {
    let started = Instant::now();
    let size_bytes = made.written.size_bytes;
    events(Event::Begin { stage: Stage::Save, total_bytes: None });
    output.file().sync_all().map_err(|e| output.write_error(size_bytes, e))?;
    let again = fs_err::File::open(output.temporary())
        .map_err(|source| BuildError::Io { action: "read the output back", source })?;
    verify_image(again.into_parts().0, &made.written, cancel).map_err(|e| match e {
        OstreeError::Interrupted => BuildError::Interrupted,
        OstreeError::NotAsWritten { reason } => {
            BuildError::NotAsWritten { path: output.temporary().to_owned(), reason }
        }
        source => BuildError::Ostree { reference: request.source.image.to_string(), source },
    })?;
    let mut sha256 = None;
    if request.report.is_some() {
        let mut digester = Digester::new(output.file(), true, cancel);
        digester.advance(size_bytes).map_err(|e| crate::create::read_error(e, "read the output back"))?;
        sha256 = digester.finish().sha256;
    }
    if cancel.load(Ordering::Relaxed) {
        return Err(BuildError::Interrupted);
    }
    let elapsed = started.elapsed();
    timings.save = milliseconds(elapsed);
    events(Event::End { stage: Stage::Save, elapsed, bytes: None });
    Ok(sha256)
}

/// Finds out what a build would do. Of the images, only manifests and configurations are fetched.
///
/// # Errors
/// When the source or the base is not there, or the source holds no commit.
pub fn plan_ostree(request: &OstreeRequest) -> Result<Plan, BuildError> {
    let fetcher = Fetcher::new((*request.fetch).clone())?;
    let platform = Platform::linux(request.architecture.name());
    let cancel = Arc::default();
    let find = |reference| block_on(fetcher.image(reference, &platform, &|_| {}, &cancel));
    let image = find(&request.source.image)??;
    let source = Encapsulated::parse(image.config())
        .map_err(|source| BuildError::Ostree { reference: request.source.image.to_string(), source })?;
    let (base, base_bytes) = match &request.base {
        OstreeBase::Image(reference) => {
            let base = find(reference)??;
            (format!("add it to {} ({})", base.reference(), base.digest()), size_of(&base))
        }
        OstreeBase::Server => (
            "add it to our own server, `ocne-serve`".to_owned(),
            program("ocne-serve", request.architecture)?.len() as u64,
        ),
    };
    let output = request.target();
    let commit = source.labels.get("ostree.commit").map_or_else(String::new, |c| format!(" {c}"));
    Ok(Plan {
        source: image.reference().to_owned(),
        origin: Origin::Fetch { digest: image.digest().to_string(), compressed_bytes: size_of(&image) },
        architecture: request.architecture.to_string(),
        replaces: output.exists(),
        needed_bytes: Some(size_of(&image).saturating_add(base_bytes)),
        available_bytes: available_bytes(existing(&output)).ok(),
        output,
        builder: vec!["in this process".to_owned()],
        changes: vec![
            format!("verify every object of the ostree commit{commit}"),
            format!("make an archive repository of them, with the ref `{REF_NAME}`"),
            base,
        ],
    })
}

/// The record of a build, for programs: `docs/schemas/create-ostree-report.schema.json`.
#[derive(Debug, Clone, Serialize)]
struct Report {
    schema: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    source: ImageRecord,
    base: Option<ImageRecord>,
    output: OutputRecord,
    image: NewImageRecord,
    architecture: Architecture,
    kubernetes_version: String,
    builder: &'static str,
    commit: CommitRecord,
    timings_ms: OstreeTimings,
}

#[derive(Debug, Clone, Serialize)]
struct ImageRecord {
    reference: String,
    digest: String,
}

#[derive(Debug, Clone, Serialize)]
struct NewImageRecord {
    name: &'static str,
    manifest_digest: String,
    config_digest: String,
    layer_digest: String,
}

#[derive(Debug, Clone, Serialize)]
struct CommitRecord {
    checksum: String,
    #[serde(rename = "ref")]
    ref_name: &'static str,
    version: Option<String>,
    timestamp_seconds: u64,
    has_signatures: bool,
    files: usize,
    folders: usize,
    content_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct OstreeTimings {
    generate: u64,
    save: u64,
    total: u64,
}

fn record(image: &Image<'_>) -> ImageRecord {
    ImageRecord { reference: image.reference().to_owned(), digest: image.digest().to_string() }
}

fn report(request: &OstreeRequest, made: &Made, output: OutputRecord, timings_ms: OstreeTimings) -> Report {
    let Written { imported, manifest, config, layer, .. } = &made.written;
    Report {
        schema: REPORT_SCHEMA,
        kind: "ostree",
        source: made.source.clone(),
        base: made.base.clone(),
        output,
        image: NewImageRecord {
            name: IMAGE_NAME,
            manifest_digest: manifest.checksum.digest(),
            config_digest: config.checksum.digest(),
            layer_digest: layer.checksum.digest(),
        },
        architecture: request.architecture,
        kubernetes_version: request.kubernetes_version.clone(),
        builder: "local",
        commit: CommitRecord {
            checksum: imported.checksum.hex(),
            ref_name: REF_NAME,
            version: imported.commit.version.clone(),
            timestamp_seconds: imported.commit.timestamp_seconds,
            has_signatures: imported.signed,
            files: imported.objects.files,
            folders: imported.objects.dirtrees,
            content_bytes: imported.content_bytes,
        },
        timings_ms,
    }
}
