//! The build of one image in this process.

mod prepare;

use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use ocne_bootimage::{Architecture, Conversion, ConvertOptions};
use ocne_container::Delegation;
use ocne_disk::{
    BlockDevice as _, BlockWrite as _, CommitPlan, CompressOptions, CompressSummary, ContentChecksums, Qcow2,
    Qcow2Error, write_compressed,
};
use ocne_transfer::TransferError;
use tracing::debug;

pub(crate) use self::prepare::start_pod;
use self::prepare::{prepare, pulling};
use crate::cluster::{PodBuilder, Subject};
use crate::copy::{
    CHUNK_BYTES, ChunkChecksums, CopyError, Digester, FileDigest, Forget, copy_ahead, first_difference,
    patched_copy, start_write_back,
};
use crate::error::BuildError;
use crate::event::{Event, Events, Stage};
use crate::identifiers::Identifiers;
use crate::output::OutputFile;
use crate::remote::{PulledImage, RemoteError};
use crate::report::{
    ClusterRecord, OutputRecord, REPORT_SCHEMA, Report, SourceRecord, Timings, milliseconds,
};
use crate::request::CreateRequest;
use crate::source::{BootSource, delegate, discard, obtain};
use crate::verify;

/// A finished build.
#[derive(Debug, Clone)]
pub struct Created {
    /// The image, by its absolute path.
    pub path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
}

/// Builds an image.
///
/// Nothing has the output's name before all of it was written, synced, read back and opened. `cancel` is
/// looked at every few MiB.
///
/// # Errors
/// See [`BuildError`]. Nothing is left of the output then.
pub fn create(
    request: &CreateRequest,
    events: Events<'_>,
    cancel: &Arc<AtomicBool>,
) -> Result<Created, BuildError> {
    let started = Instant::now();
    let architecture = request.resolved_architecture()?;
    request.make_folder()?;
    // Opened before anything takes time: a folder that cannot be written is said at once.
    let output = OutputFile::create(&request.target(architecture)?)?;
    let report_file = request.report.as_deref().map(OutputFile::create).transpose()?;
    let mut timings = Timings::default();
    let mut run = Run { request, architecture, output: &output, events, cancel, pod: None, ahead_bytes: 0 };
    let built = run.all(&mut timings)?;
    run.look()?;
    let size_bytes = built.size_bytes;
    let path = std::path::absolute(output.target())
        .map_err(|source| BuildError::Io { action: "find the present folder", source })?;
    timings.total = milliseconds(started.elapsed());
    if let Some(file) = &report_file {
        let record = run.report(&path, &built, timings);
        let mut text = serde_json::to_vec_pretty(&record).unwrap_or_default();
        text.push(b'\n');
        file.write(&text)?;
    }
    let pod = run.pod.take();
    drop(run);
    output.commit()?;
    if let Some(file) = report_file {
        file.commit()?;
    }
    if let Some(pod) = pod {
        pod.finish(events);
    }
    Ok(Created { path, size_bytes })
}

/// What all steps of one build share.
struct Run<'a> {
    request: &'a CreateRequest,
    architecture: Architecture,
    output: &'a OutputFile,
    events: Events<'a>,
    cancel: &'a Arc<AtomicBool>,
    /// Where it is converted, if not in this process.
    pod: Option<PodBuilder>,
    /// How much of the source the output has already, from its start.
    ahead_bytes: u64,
}

/// A conversion, staged.
struct Converted {
    conversion: Conversion,
    qcow2: Qcow2,
    cluster: Option<ClusterRecord>,
}

/// An output that was written, synced and verified.
struct Built {
    conversion: Conversion,
    cluster: Option<ClusterRecord>,
    size_bytes: u64,
    source: SourceRecord,
    /// SHA-256 of the output, if a report wants it.
    output_sha256: Option<String>,
}

/// An output that was written and synced.
struct Written {
    conversion: Conversion,
    cluster: Option<ClusterRecord>,
    size_bytes: u64,
    how: How,
}

/// How an output was written, with what its verification needs.
enum How {
    /// As a copy of the source: what was read back of it, and the chunks that differ from the source.
    Copied { digest: FileDigest, changed: ChunkChecksums },
    /// As a new image of a disk with this content.
    Recompressed(ContentChecksums),
}

impl Run<'_> {
    /// Everything up to the verified output, here or in a pod.
    fn all(&mut self, timings: &mut Timings) -> Result<Built, BuildError> {
        if let Some(request) = pulling(self.request) {
            // Before the pod, that nobody waits for one that can do nothing.
            let delegation = delegate(&self.request.source)?;
            let started = Instant::now();
            self.pod = start_pod(&request.builder, self.output, self.events, self.cancel)?;
            timings.pod = self.pod.as_ref().map(|_| milliseconds(started.elapsed()));
            if let Some(pod) = &self.pod {
                return self.pull(pod, &delegation, timings);
            }
        }
        let built = self.prepare_and_build(timings);
        let Err(BuildError::CacheDamaged { path, .. }) = &built else { return built };
        (self.events)(Event::Warning(format!(
            "the cached image `{}` is damaged, and is fetched again",
            path.display()
        )));
        discard(&self.request.source, path)?;
        self.pod = None;
        self.prepare_and_build(timings)
    }

    fn prepare_and_build(&mut self, timings: &mut Timings) -> Result<Built, BuildError> {
        let source;
        if self.request.pulls() {
            source = self.fetch(self.cancel, timings)?;
        } else {
            let prepared = prepare(self, timings)?;
            (self.pod, source, self.ahead_bytes) = (prepared.pod, prepared.source, prepared.ahead_bytes);
        }
        self.build(&source, timings)
    }

    /// Copies of the source what the output may get already; nothing if the output is not a copy.
    fn copy_ahead(&self, source: &BootSource, is_enough: impl Fn() -> bool) -> Result<u64, BuildError> {
        if self.request.recompress.is_some() {
            return Ok(0);
        }
        let size_bytes = source.identity()?.size_bytes;
        self.output.check_space(size_bytes)?;
        copy_ahead(&source.file, self.output.file(), is_enough).map_err(|e| self.copy_error(size_bytes, e))
    }

    /// Has the pod fetch the image and convert it, and takes the output from it.
    fn pull(
        &self,
        pod: &PodBuilder,
        delegation: &Delegation,
        timings: &mut Timings,
    ) -> Result<Built, BuildError> {
        let options = self.options()?;
        let mut made = None;
        // Fetch, conversion and writing overlap; the time of all is the fetch's.
        self.stage(Stage::Fetch, None, &mut timings.fetch, || {
            let pulled = pod.pull(delegation, self.output, &options, self.events, self.cancel);
            let pulled = pulled.map_err(|e| match e {
                BuildError::Remote { source: RemoteError::Transfer(TransferError::File(e)), .. } => {
                    self.output.write_error(0, e)
                }
                e => e,
            })?;
            made = Some(pulled);
            Ok(())
        })?;
        let Some(PulledImage { conversion, pulled, output, work }) = made else {
            return Err(BuildError::Interrupted);
        };
        for finding in &conversion.findings {
            (self.events)(Event::Warning(finding.message.clone()));
        }
        let (path, size_bytes) = (self.output.temporary(), output.size_bytes);
        self.stage(Stage::Verify, None, &mut timings.verify, || {
            // What the disk has, not what came over the line.
            let mut digester = Digester::new(self.output.file(), true, self.cancel);
            digester.advance(size_bytes).map_err(|e| read_error(e, "read the output back"))?;
            let found = digester.finish().sha256;
            if found.as_ref() == Some(&output.sha256) {
                return Ok(());
            }
            let reason = format!("its SHA-256 is not {}, as the pod says", output.sha256);
            Err(BuildError::NotAsWritten { path: path.to_owned(), reason })
        })?;
        let source = SourceRecord {
            reference: pulled.reference,
            digest: pulled.manifest_digest,
            disk_sha256: pulled.disk_sha256,
        };
        let (cluster, output_sha256) = (Some(pod.record(&work)), Some(output.sha256));
        Ok(Built { conversion, cluster, size_bytes, source, output_sha256 })
    }

    /// What is to be made of an image.
    fn options(&self) -> Result<ConvertOptions, BuildError> {
        let identifiers = Identifiers::new(self.request.seed.as_deref(), self.request.timestamp_seconds)?;
        Ok(ConvertOptions {
            kind: self.request.kind,
            ignition_provider: self.request.ignition_provider.clone(),
            kernel_args: self.request.kernel_args.clone(),
            boot_uuid: identifiers.boot_uuid,
            root_uuid: identifiers.root_uuid,
            now: identifiers.now,
            seed: identifiers.number,
            architecture: Some(self.architecture),
            preflight: self.request.preflight,
        })
    }

    fn look(&self) -> Result<(), BuildError> {
        if self.cancel.load(Ordering::Relaxed) { Err(BuildError::Interrupted) } else { Ok(()) }
    }

    fn stage<T>(
        &self,
        stage: Stage,
        total_bytes: Option<u64>,
        timing: &mut u64,
        work: impl FnOnce() -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        self.look()?;
        let started = Instant::now();
        (self.events)(Event::Begin { stage, total_bytes });
        let result = work()?;
        *timing = milliseconds(started.elapsed());
        (self.events)(Event::End { stage, elapsed: started.elapsed(), bytes: total_bytes });
        Ok(result)
    }

    fn fetch(&self, cancel: &Arc<AtomicBool>, timings: &mut Timings) -> Result<BootSource, BuildError> {
        self.stage(Stage::Fetch, None, &mut timings.fetch, || {
            obtain(&self.request.source, self.events, cancel)
        })
    }

    /// Converts the source and writes the output, while the source is read for its digests.
    fn build(&self, source: &BootSource, timings: &mut Timings) -> Result<Built, BuildError> {
        let before = source.identity()?;
        let (digest, written) = thread::scope(|scope| {
            let digest = scope.spawn(|| {
                let mut digester = Digester::new(&source.file, self.request.report.is_some(), self.cancel);
                if source.unverified() {
                    digester = digester.with_blake3();
                }
                digester.advance(before.size_bytes).map(|()| digester.finish())
            });
            let written = self.convert(source, timings).and_then(|c| self.write(source, c, timings));
            (digest.join().unwrap_or_else(|panic| resume_unwind(panic)), written)
        });
        let digest = digest.map_err(|e| read_error(e, "read the source"));
        if let (Some(expected), Ok(FileDigest { blake3: Some(actual), .. })) = (&source.blake3, &digest) {
            // Said first: it explains whatever else went wrong.
            if expected != actual {
                let (path, expected, actual) = (source.path.clone(), expected.clone(), actual.clone());
                return Err(BuildError::CacheDamaged { path, expected, actual });
            }
        }
        let (written, digest) = (written?, digest?);
        if source.identity()? != before {
            return Err(BuildError::SourceChanged { path: source.path.clone() });
        }
        self.stage(Stage::Verify, None, &mut timings.verify, || self.verify(&digest, &written))?;
        let output_sha256 = match written.how {
            How::Copied { digest, .. } => digest.sha256,
            How::Recompressed(_) if self.request.report.is_some() => {
                self.output_sha256(written.size_bytes)?
            }
            How::Recompressed(_) => None,
        };
        let disk_sha256 = digest.sha256.unwrap_or_default();
        let source = SourceRecord {
            reference: source.reference.clone(),
            digest: source.manifest_digest.clone().unwrap_or_else(|| format!("sha256:{disk_sha256}")),
            disk_sha256,
        };
        Ok(Built {
            source,
            output_sha256,
            conversion: written.conversion,
            cluster: written.cluster,
            size_bytes: written.size_bytes,
        })
    }

    /// Converts in memory.
    fn convert(&self, source: &BootSource, timings: &mut Timings) -> Result<Converted, BuildError> {
        let options = self.options()?;
        let refused = |e| BuildError::Image { path: source.path.clone(), source: e };
        self.stage(Stage::Convert, None, &mut timings.convert, || {
            let mut qcow2 = Qcow2::open(&source.path).map_err(refused)?;
            let (conversion, cluster) = match &self.pod {
                Some(pod) => {
                    let subject =
                        Subject { device: &qcow2, file: &source.file, key: source.key()?, options: &options };
                    let (conversion, work) = pod.convert(&subject, self.events, self.cancel)?;
                    debug!(?work, "converted in the pod");
                    let record = pod.record(&work);
                    pod.begin_removal();
                    (conversion, Some(record))
                }
                None => ocne_bootimage::convert(&qcow2, &options, &|event| debug!(?event, "converting"))
                    .map(|conversion| (conversion, None))
                    .map_err(|e| BuildError::Convert { path: source.path.clone(), source: Box::new(e) })?,
            };
            for finding in &conversion.findings {
                (self.events)(Event::Warning(finding.message.clone()));
            }
            for (&at, bytes) in &conversion.changes {
                qcow2.write_at(at, bytes).map_err(|e| refused(e.into()))?;
            }
            Ok(Converted { conversion, qcow2, cluster })
        })
    }

    /// Writes the output and syncs it.
    fn write(
        &self,
        source: &BootSource,
        Converted { conversion, mut qcow2, cluster }: Converted,
        timings: &mut Timings,
    ) -> Result<Written, BuildError> {
        let refused = |e| BuildError::Image { path: source.path.clone(), source: e };
        if let Some(options) = &self.request.recompress {
            let size_bytes = qcow2.size_bytes();
            let written = self.stage(Stage::Write, Some(size_bytes), &mut timings.write, || {
                self.recompress(source, &qcow2, options)
            })?;
            return Ok(Written {
                conversion,
                cluster,
                size_bytes: written.file_size_bytes,
                how: How::Recompressed(written.content),
            });
        }
        let plan = qcow2.plan_commit().map_err(refused)?;
        let size_bytes = plan.file_size_bytes;
        self.output.check_space(size_bytes.saturating_sub(self.ahead_bytes))?;
        let (digest, changed) =
            self.stage(Stage::Write, Some(size_bytes), &mut timings.write, || self.copy(source, &plan))?;
        Ok(Written { conversion, cluster, size_bytes, how: How::Copied { digest, changed } })
    }

    /// Writes all of the converted disk compressed anew.
    fn recompress(
        &self,
        source: &BootSource,
        disk: &Qcow2,
        options: &CompressOptions,
    ) -> Result<CompressSummary, BuildError> {
        let file = self.output.file();
        let flushed_bytes = AtomicU64::new(0);
        let progress = |done_bytes| {
            let end_bytes = file.metadata().map_or(0, |m| m.len());
            start_write_back(file, flushed_bytes.swap(end_bytes, Ordering::Relaxed), end_bytes);
            (self.events)(Event::Bytes { stage: Stage::Write, done_bytes });
            if self.cancel.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        // Nobody knows before how small it will get; as large as the source is a good guess.
        let needed_bytes = disk.info().file_size_bytes;
        match write_compressed(disk, file, options, &progress) {
            Ok(summary) => {
                file.sync_all().map_err(|e| self.output.write_error(needed_bytes, e))?;
                Ok(summary)
            }
            Err(Qcow2Error::Interrupted) => Err(BuildError::Interrupted),
            Err(Qcow2Error::Io { source, .. }) => Err(self.output.write_error(needed_bytes, source)),
            Err(e) => Err(BuildError::Image { path: source.path.clone(), source: e }),
        }
    }

    /// Copies the source with the plan's writes on top, and reads the copy back behind the writing.
    fn copy(
        &self,
        source: &BootSource,
        plan: &CommitPlan,
    ) -> Result<(FileDigest, ChunkChecksums), BuildError> {
        let file = self.output.file();
        let size_bytes = plan.file_size_bytes;
        let (changed, digest) = thread::scope(|scope| {
            let (written, to_read) = mpsc::channel();
            let digest = scope.spawn(move || {
                let mut digester = Digester::new(file, self.request.report.is_some(), self.cancel);
                let mut forget = Forget::new(file);
                to_read.iter().try_for_each(|end_bytes| {
                    digester.advance(end_bytes).map(|()| forget.behind(end_bytes))
                })?;
                Ok(digester.finish())
            });
            let (patches, ahead_bytes) = (plan.patches(), self.ahead_bytes);
            let done = |done_bytes| {
                (self.events)(Event::Bytes { stage: Stage::Write, done_bytes });
                let _ = written.send(done_bytes); // a reader that failed says so itself
            };
            let changed =
                patched_copy(&source.file, file, &patches, size_bytes, ahead_bytes, self.cancel, done);
            let changed = changed.and_then(|c| file.sync_all().map(|()| c).map_err(CopyError::Write));
            drop(written);
            (changed, digest.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        let failed = |e| self.copy_error(size_bytes, e);
        Ok((digest.map_err(failed)?, changed.map_err(failed)?))
    }

    fn copy_error(&self, size_bytes: u64, error: CopyError) -> BuildError {
        match error {
            CopyError::Write(e) => self.output.write_error(size_bytes, e),
            e => read_error(e, "copy the image"),
        }
    }

    fn output_sha256(&self, size_bytes: u64) -> Result<Option<String>, BuildError> {
        let mut digester = Digester::new(self.output.file(), true, self.cancel);
        digester.advance(size_bytes).map_err(|e| read_error(e, "read the output back"))?;
        Ok(digester.finish().sha256)
    }

    /// Compares what was read back with what it has to be, and opens it as the image that it is.
    fn verify(&self, source: &FileDigest, written: &Written) -> Result<(), BuildError> {
        let path = self.output.temporary();
        let differs = |reason| BuildError::NotAsWritten { path: path.to_owned(), reason };
        match &written.how {
            How::Copied { digest, changed } => {
                if let Some(chunk) = first_difference(&source.checksums, changed, &digest.checksums) {
                    return Err(differs(format!("bytes from {} on differ", chunk * CHUNK_BYTES)));
                }
                verify::changes(path, &written.conversion.changes).map_err(differs)
            }
            How::Recompressed(content) => verify::whole(path, content, self.cancel).map_err(differs),
        }
    }

    fn report(&self, path: &Path, built: &Built, timings: Timings) -> Report {
        Report {
            schema: REPORT_SCHEMA,
            source: built.source.clone(),
            output: OutputRecord {
                path: path.display().to_string(),
                sha256: built.output_sha256.clone().unwrap_or_default(),
                size_bytes: built.size_bytes,
            },
            kind: self.request.kind,
            architecture: self.architecture,
            kubernetes_version: self.request.kubernetes_version.clone(),
            builder: if built.cluster.is_some() { "cluster" } else { "local" },
            cluster: built.cluster.clone(),
            filesystems: built.conversion.filesystems.clone(),
            entries: built.conversion.entries.clone(),
            files: built.conversion.files.clone(),
            findings: built.conversion.findings.clone(),
            timings_ms: timings,
        }
    }
}

pub(crate) fn read_error(error: CopyError, action: &'static str) -> BuildError {
    match error {
        CopyError::Interrupted => BuildError::Interrupted,
        CopyError::Read(source) | CopyError::Write(source) => BuildError::Io { action, source },
    }
}
