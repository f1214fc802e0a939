//! The build of an image that serves an ostree commit, in this process or in a pod: `ocne-ostree-image` makes it.

mod pod;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ocne_bootimage::Architecture;
use ocne_container::{
    FetchEvent, FetchOptions, Fetcher, Image, ImageReference, OstreeReference, OstreeTrust, Platform,
};
use ocne_ostree::{Encapsulated, Imported, OstreeError, Written, verify_image};
use ocne_ostree_image::{IMAGE_NAME, Images, MakeError, REF_NAME, Recipe, make, size_of};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tracing::debug;

use self::pod::in_a_pod;
use crate::cluster::{PodBuilder, Transfer};
use crate::copy::{Digester, start_write_back};
use crate::create::{Created, start_pod};
use crate::error::BuildError;
use crate::event::{Event, Events, Stage};
use crate::output::{OutputFile, available_bytes};
use crate::plan::{Origin, Plan, existing};
use crate::program::program;
use crate::report::{ClusterRecord, OutputRecord, milliseconds};
use crate::request::{Builder, Destination, make_folder};
use crate::signature::Keys;
use crate::source::block_on;

/// How much is written before the kernel is asked to bring it to the disk.
const WRITE_BACK_BYTES: u64 = 16 << 20;
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
    /// File with the keys of whom the commit has to be signed by.
    pub gpg_keys: Option<PathBuf>,
    /// Where the new image goes.
    pub destination: Destination,
    /// Where it is made.
    pub builder: Builder,
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
    let mut run = Run { request, output: &output, events, cancel, pod: None };
    let keys = request.gpg_keys.as_deref().map(Keys::read).transpose()?;
    let mut made = run.generate(&mut timings)?;
    if let Some(keys) = &keys {
        let Imported { commit, signatures, .. } = &made.written.imported;
        let signer = keys.verify(&commit.bytes, signatures).map_err(|source| BuildError::Signature {
            reference: request.source.image.to_string(),
            source,
        })?;
        events(Event::Note(format!("The commit is signed by {signer}")));
        made.signed_by = Some(signer);
    }
    let path = std::path::absolute(output.target())
        .map_err(|source| BuildError::Io { action: "find the present folder", source })?;
    let sha256 = save(request, &output, &made, events, cancel, &mut timings)?;
    let pod = run.pod.take();
    timings.total = milliseconds(started.elapsed());
    let size_bytes = made.written.size_bytes;
    if let Some(file) = &report_file {
        let output =
            OutputRecord { path: path.display().to_string(), sha256: sha256.unwrap_or_default(), size_bytes };
        let mut text = serde_json::to_vec_pretty(&report(request, made, output, timings)).unwrap_or_default();
        text.push(b'\n');
        file.write(&text)?;
    }
    output.commit()?;
    if let Some(file) = report_file {
        file.commit()?;
    }
    if let Some(pod) = pod {
        pod.finish(events);
    }
    Ok(Created { path, size_bytes })
}

/// What was made of what.
struct Made {
    written: Written,
    source: ImageRecord,
    base: Option<ImageRecord>,
    cluster: Option<ClusterRecord>,
    /// Fingerprint of the key that vouches for the commit.
    signed_by: Option<String>,
}

/// What all steps of one build share.
struct Run<'a> {
    request: &'a OstreeRequest,
    output: &'a OutputFile,
    events: Events<'a>,
    cancel: &'a Arc<AtomicBool>,
    /// Where it is made, if not in this process.
    pod: Option<PodBuilder>,
}

impl OstreeRequest {
    fn refused(&self, source: OstreeError) -> BuildError {
        BuildError::Ostree { reference: self.source.image.to_string(), source }
    }
}

impl Run<'_> {
    /// Makes the image, here or in a pod.
    fn generate(&mut self, timings: &mut OstreeTimings) -> Result<Made, BuildError> {
        let (request, events, cancel) = (self.request, self.events, self.cancel);
        let started = Instant::now();
        let server = match &request.base {
            OstreeBase::Server => Some(program("ocne-serve", request.architecture)?),
            OstreeBase::Image(_) => None,
        };
        if !matches!(request.source.trust, OstreeTrust::Unverified) && request.gpg_keys.is_none() {
            events(Event::Warning(format!(
                "no signature of `{}` is verified, as no `--gpg-key` is given; only that every object is what the commit says",
                request.source
            )));
        }
        let fetcher = Fetcher::new((*request.fetch).clone())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| BuildError::Io { action: "start the network", source })?;
        let is_pulled = match &request.builder {
            Builder::Local => false,
            Builder::Cluster(s) | Builder::Auto(s) => s.transfer == Transfer::Pull,
        };
        let tell = |event: FetchEvent| tell(&event, events);
        let platform = Platform::linux(request.architecture.name());
        let find = || -> Result<Images<'_>, BuildError> {
            let find = |reference| runtime.block_on(fetcher.image(reference, &platform, &tell, cancel));
            let source = find(&request.source.image)?;
            let base = match &request.base {
                OstreeBase::Image(reference) => Some(find(reference)?),
                OstreeBase::Server => None,
            };
            Encapsulated::parse(source.config()).map_err(|e| request.refused(e))?;
            Ok(Images { source, base })
        };
        let recipe = Recipe {
            level: request.level,
            source_name: public_name(&request.source.image),
            base_name: image_name(&request.base),
        };
        // What the pod is to fetch may be out of reach from here; if it is not, the pod is not taken by its word.
        let known = match find() {
            Err(e) if is_pulled && !matches!(e, BuildError::Ostree { .. } | BuildError::Interrupted) => {
                events(Event::Warning(format!(
                    "source and base will be what the pod says that they are, as they cannot be looked at from here: {e}"
                )));
                None
            }
            found => Some(found?),
        };
        if !matches!(request.builder, Builder::Local) {
            let sent = known.as_ref().filter(|_| !is_pulled);
            let order = pod::Ordered::new(request, &fetcher, sent, server.as_deref(), recipe.clone())?;
            let builder = order.builder(request, known.as_ref().map(Images::size_bytes));
            self.pod = start_pod(&builder, self.output, events, cancel)?;
            if let Some(pod) = &self.pod {
                let made = in_a_pod(self, pod, &order, sent, known.as_ref(), &runtime)?;
                let elapsed = started.elapsed();
                timings.generate = milliseconds(elapsed);
                events(Event::End { stage: Stage::Generate, elapsed, bytes: None });
                return Ok(made);
            }
        }
        let images = match known {
            Some(images) => images,
            None => find()?,
        };
        let made = self.here(&images, server, &recipe, &runtime)?;
        let elapsed = started.elapsed();
        timings.generate = milliseconds(elapsed);
        events(Event::End { stage: Stage::Generate, elapsed, bytes: None });
        Ok(made)
    }

    /// Makes the image in this process.
    fn here(
        &self,
        images: &Images<'_>,
        server: Option<Vec<u8>>,
        recipe: &Recipe,
        runtime: &Runtime,
    ) -> Result<Made, BuildError> {
        let (output, events) = (self.output, self.events);
        // What comes out is compressed about as well as what came in.
        output.check_space(images.size_bytes())?;
        let total_bytes = size_of(&images.source);
        events(Event::Begin { stage: Stage::Generate, total_bytes: Some(total_bytes) });
        let mut flushed_bytes = 0;
        let mut progress = |done_bytes| {
            events(Event::Bytes { stage: Stage::Generate, done_bytes });
            write_back(output, &mut flushed_bytes);
        };
        let file = output.file().file();
        let written = make(images, server, recipe, file, runtime, &mut progress, self.cancel);
        let written = written.map_err(|e| match e {
            MakeError::Fetch(e) => e.into(),
            MakeError::Ostree(OstreeError::Output { source, .. }) => output.write_error(total_bytes, source),
            MakeError::Ostree(e) => self.request.refused(e),
            _ => BuildError::Interrupted,
        })?;
        let base = images.base.as_ref().map(record);
        Ok(Made { written, source: record(&images.source), base, cluster: None, signed_by: None })
    }
}

/// Has the kernel write what is there already, so that little is left for the sync at the end.
fn write_back(output: &OutputFile, flushed_bytes: &mut u64) {
    let Ok(end_bytes) = output.file().metadata().map(|m| m.len()) else { return };
    if end_bytes.saturating_sub(*flushed_bytes) >= WRITE_BACK_BYTES {
        start_write_back(output.file(), *flushed_bytes, end_bytes);
        *flushed_bytes = end_bytes;
    }
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
        builder: crate::plan::builder(&request.builder)?,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterRecord>,
    commit: CommitRecord,
    timings_ms: OstreeTimings,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
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
    signed_by: Option<String>,
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

fn report(request: &OstreeRequest, made: Made, output: OutputRecord, timings_ms: OstreeTimings) -> Report {
    let Written { imported, manifest, config, layer, .. } = made.written;
    Report {
        schema: REPORT_SCHEMA,
        kind: "ostree",
        source: made.source,
        base: made.base,
        output,
        image: NewImageRecord {
            name: IMAGE_NAME,
            manifest_digest: manifest.checksum.digest(),
            config_digest: config.checksum.digest(),
            layer_digest: layer.checksum.digest(),
        },
        architecture: request.architecture,
        kubernetes_version: request.kubernetes_version.clone(),
        builder: if made.cluster.is_some() { "cluster" } else { "local" },
        cluster: made.cluster,
        commit: CommitRecord {
            checksum: imported.checksum.hex(),
            ref_name: REF_NAME,
            version: imported.commit.version,
            timestamp_seconds: imported.commit.timestamp_seconds,
            has_signatures: !imported.signatures.is_empty(),
            signed_by: made.signed_by,
            files: imported.objects.files,
            folders: imported.objects.dirtrees,
            content_bytes: imported.content_bytes,
        },
        timings_ms,
    }
}
