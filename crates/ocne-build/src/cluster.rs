//! A conversion in a pod: the pod starts while the image is fetched, and is gone when the build ends, however it ends.

mod bring;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fs_err::File;
use ocne_bootimage::{Architecture, Conversion, ConvertOptions};
use ocne_cluster::{
    BuilderPod, Cluster, ClusterError, ClusterEvent, ConnectOptions, Exec, ExecReader, ExecWriter, Leftover,
    PodEntry, PodSpec, unless_cancelled,
};
use ocne_container::Delegation;
use ocne_disk::BlockDevice;
use ocne_transfer::{Channel, TransferError, with_causes};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::agent_log::AgentLog;
use crate::copy::hex;
use crate::error::BuildError;
use crate::event::{Event, Events, Stage};
use crate::output::OutputFile;
use crate::pod_note::PodNote;
use crate::program::program;
use crate::remote::{PulledImage, RemoteError, RemoteWork, Way, convert_remotely, pull_remotely};
use crate::report::ClusterRecord;

/// How often the agent's program is brought again.
const ATTEMPTS_MAX: u32 = 5;
/// How long a conversion is tried over new connections when nothing gets on: an API server that restarts is back by then.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long it waits before the next connection; twice as long each time, up to a limit.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long the cluster may take to say how a lost session ended.
const STATUS_WAIT: Duration = Duration::from_secs(1);
/// The exit code of a program that got SIGKILL.
const KILLED: i32 = 128 + 9;
/// How often a running session looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);
/// What a pod needs on its scratch volume beside an image: the agent's program and small files.
const SCRATCH_SPARE_BYTES: u64 = 64 << 20;
/// The container image that has a shell only.
pub const SHELL_IMAGE: &str = "container-registry.oracle.com/os/oraclelinux:8";
/// Builder images are known by the last part of their name.
const AGENT_IMAGE_NAME: &str = "ocne-agent";
/// Where conversions in a cluster run, and how.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// Which cluster, and as whom.
    pub connect: ConnectOptions,
    /// What the pod has to be.
    pub pod: PodSpec,
    /// The size of the pod's scratch volume was asked for; otherwise it follows from the image.
    pub scratch_is_fixed: bool,
    /// How the image gets into the pod.
    pub transfer: Transfer,
    /// Leave the pod when the build ends.
    pub keep_pod: bool,
}

/// How an image gets into a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transfer {
    /// Only the blocks that the conversion reads, a MB or so.
    #[default]
    Blocks,
    /// All of it.
    Full,
    /// The pod fetches it; the whole result comes back.
    Pull,
}

/// What is converted, for one session after the other.
pub(crate) struct Subject<'a> {
    /// The disk in the image.
    pub device: &'a dyn BlockDevice,
    /// The image file.
    pub file: &'a File,
    /// Tells the file from others.
    pub key: String,
    pub options: &'a ConvertOptions,
}

impl ClusterSettings {
    /// A pod of this container image on nodes of this machine's architecture.
    pub fn new(connect: ConnectOptions, image: &str) -> Self {
        let architecture =
            if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::Amd64 };
        let mut pod = PodSpec::new(image, architecture.name());
        let repository = image.split_once('@').map_or(image, |(name, _)| name);
        let last = repository.rsplit('/').next().unwrap_or(repository);
        let has_agent = last.split(':').next() == Some(AGENT_IMAGE_NAME);
        pod.entry = if has_agent { PodEntry::Agent } else { PodEntry::Shell };
        Self { connect, pod, scratch_is_fixed: false, transfer: Transfer::default(), keep_pod: false }
    }

    /// Sizes the pod's scratch volume for an image that it keeps, unless somebody did.
    pub(crate) fn make_room(&mut self, image_bytes: u64) {
        if !self.scratch_is_fixed {
            self.pod.scratch_bytes = image_bytes.saturating_add(SCRATCH_SPARE_BYTES);
        }
    }
}

/// A pod that is ready to convert. Dropping it removes the pod.
pub(crate) struct PodBuilder {
    runtime: Runtime,
    pod: Option<BuilderPod>,
    settings: ClusterSettings,
    /// Tells the next run of this build of the pod, until it is gone.
    note: PodNote,
    /// A removal that began already.
    removal: Mutex<Option<JoinHandle<Result<(), ClusterError>>>>,
}

impl PodBuilder {
    /// Starts a pod with an agent in it, or takes that of a run of the same build that was killed.
    ///
    /// # Errors
    /// When the cluster does not answer or does not allow it; nothing is left there then.
    pub fn start(
        settings: &ClusterSettings,
        note: PodNote,
        events: Events<'_>,
        cancel: &AtomicBool,
    ) -> Result<Self, BuildError> {
        let runtime = runtime()?;
        let shell = settings.pod.entry == PodEntry::Shell;
        // Read before anything is made in the cluster.
        let program = shell.then(|| program("ocne-agent", architecture(&settings.pod))).transpose()?;
        events(Event::Note("Preparing pod used to create image".to_owned()));
        let digest = program.as_deref().map(|program| hex(&Sha256::digest(program)));
        let purpose = PodNote::purpose(&(settings.transfer, &settings.pod, digest));
        let (server, pod, is_old) = runtime.block_on(async {
            let connecting = Cluster::connect(&settings.connect);
            let cluster = Box::pin(unless_cancelled(cancel, connecting)).await?;
            let server = cluster.server().to_owned();
            if let Some(pod) = left_pod(&cluster, &note, &purpose).await {
                return Ok((server, pod, true));
            }
            // This makes nothing, so it may be left in the middle.
            let found = Box::pin(unless_cancelled(cancel, cluster.preflight(&settings.pod))).await?;
            debug!(?found, server, "the cluster allows it");
            let listen = |event| {
                if let ClusterEvent::JobCreated { namespace, job } = &event {
                    // Of no use to anybody yet; but known, so that it is removed.
                    noted(&note, &server, namespace, job, "");
                }
                tell(event, events);
            };
            match cluster.start(&settings.pod, &listen, cancel).await {
                Ok(pod) => Ok((server, pod, false)),
                Err(e) => {
                    note.remove();
                    Err(e)
                }
            }
        })?;
        let (pod, settings) = (Some(pod), settings.clone());
        let builder = Self { runtime, pod, settings, note, removal: Mutex::default() };
        if is_old {
            let place = builder.place();
            events(Event::Note(format!("Going on in the pod {place} of a run that was killed")));
        } else if let Some(program) = program {
            builder.bring(&program, cancel)?;
        }
        let pod = builder.pod()?;
        noted(&builder.note, &server, pod.namespace(), pod.job(), &purpose);
        events(Event::Note(format!("Waiting for pod {} to be ready: ok", builder.place())));
        Ok(builder)
    }

    /// Namespace and name of the pod.
    pub fn place(&self) -> String {
        let pod = self.pod.as_ref().map_or("", |p| p.name());
        format!("{}/{pod}", self.settings.pod.namespace)
    }

    /// What the report says of it.
    pub fn record(&self, work: &RemoteWork) -> ClusterRecord {
        let pod = self.pod.as_ref();
        ClusterRecord {
            namespace: self.settings.pod.namespace.clone(),
            pod: pod.map_or_else(String::new, |p| p.name().to_owned()),
            node: pod.map_or_else(String::new, |p| p.node().to_owned()),
            agent: work.agent.clone(),
            rounds: work.rounds,
            sent_bytes: work.traffic.sent_bytes,
            received_bytes: work.traffic.received_bytes,
        }
    }

    /// Has the agent convert an image that stays here.
    ///
    /// # Errors
    /// When the agent refuses the image, the pod ended, or the connection is lost again and again.
    pub fn convert(
        &self,
        subject: &Subject<'_>,
        events: Events<'_>,
        cancel: &AtomicBool,
    ) -> Result<(Conversion, RemoteWork), BuildError> {
        let done = self.sessions(events, cancel, |reader, writer, got_to| {
            let mut sent = |done_bytes| {
                events(Event::Bytes { stage: Stage::Convert, done_bytes });
                got_to(done_bytes);
            };
            let way = match self.settings.transfer {
                Transfer::Full => Way::Full { file: subject.file, key: &subject.key, sent: &mut sent },
                Transfer::Blocks | Transfer::Pull => Way::Blocks,
            };
            convert_remotely(reader, writer, subject.device, subject.options, way, cancel)
        })?;
        // As the reference says it; both have happened when the result is here.
        for what in ["Uploading boot image to", "Downloading boot image from"] {
            events(Event::Note(format!("{what} pod {}: ok", self.place())));
        }
        Ok(done)
    }

    /// Has the agent fetch an image, convert it and send the new one into `output`.
    ///
    /// # Errors
    /// As [`PodBuilder::convert`]; also when the agent cannot fetch it.
    pub fn pull(
        &self,
        source: &Delegation,
        output: &OutputFile,
        options: &ConvertOptions,
        events: Events<'_>,
        cancel: &AtomicBool,
    ) -> Result<PulledImage, BuildError> {
        let done = self.sessions(events, cancel, |reader, writer, got_to| {
            let stage = Stage::Fetch;
            let fetched = |event: Value| {
                let bytes = |name: &str| event["fetch"][name].as_u64();
                if let Some(total_bytes) = bytes("total_bytes") {
                    events(Event::Begin { stage, total_bytes: Some(total_bytes) });
                } else if let Some(done_bytes) = bytes("done_bytes") {
                    events(Event::Bytes { stage, done_bytes });
                } else if let Some(reason) = event["fetch"]["retry"].as_str() {
                    events(Event::Warning(format!("in the pod: {reason}; trying again")));
                }
            };
            let mut received = |done_bytes| {
                events(Event::Bytes { stage: Stage::Write, done_bytes });
                got_to(done_bytes);
            };
            let channel = Channel::new(reader, writer);
            pull_remotely(channel, source, output, options, &fetched, &mut received, cancel)
        })?;
        events(Event::Note(format!("Downloading boot image from pod {}: ok", self.place())));
        Ok(done)
    }

    /// Runs a session with the agent. A lost connection is made anew as long as the pod runs and the transfer gets on:
    /// the session says how far it is.
    ///
    /// # Errors
    /// As [`PodBuilder::convert`].
    pub fn sessions<T>(
        &self,
        events: Events<'_>,
        cancel: &AtomicBool,
        mut session: impl FnMut(ExecReader, ExecWriter, &mut (dyn FnMut(u64) + Send)) -> Result<T, RemoteError>,
    ) -> Result<T, BuildError> {
        let pod = self.pod()?;
        let mut pause = PAUSE;
        let mut attempt = 1;
        // How much of the image was ever there, and when it last got more.
        let (mut there_bytes, mut got_on) = (0, Instant::now());
        loop {
            let mut got_to = |done_bytes| {
                if done_bytes > there_bytes {
                    (there_bytes, got_on, pause) = (done_bytes, Instant::now(), PAUSE);
                }
            };
            let command = match self.settings.pod.entry {
                PodEntry::Agent => ["/ocne-agent", "session"],
                PodEntry::Shell => ["/scratch/ocne-agent", "session"],
            };
            let result = match self.runtime.block_on(pod.exec(&command)) {
                Ok(exec) => self.session(exec, cancel, |reader, writer| session(reader, writer, &mut got_to)),
                Err(e) if e.is_transient() => {
                    Err(RemoteError::Transfer(TransferError::Lost(std::io::Error::other(e))))
                }
                Err(e) => return Err(e.into()),
            };
            let error = match result {
                Ok(done) => return Ok(done),
                Err(_) if cancel.load(Ordering::Relaxed) => return Err(BuildError::Interrupted),
                Err(error) => error,
            };
            let lost = matches!(&error, RemoteError::Transfer(e) if e.is_transient());
            let killed = matches!(&error, RemoteError::Killed { .. });
            if (lost || killed)
                && let Some(end) = self.runtime.block_on(pod.explain_end())
            {
                return Err(end.into());
            }
            if !lost || got_on.elapsed() > PATIENCE {
                return Err(BuildError::Remote { pod: self.place(), source: error });
            }
            attempt += 1;
            let (seconds, why) = (pause.as_secs_f64(), with_causes(&error));
            events(Event::Warning(format!("{why}; trying again in {seconds:.1} s (attempt {attempt})")));
            self.runtime.block_on(unless_cancelled(cancel, async {
                tokio::time::sleep(pause).await;
                Ok(())
            }))?;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One session over one connection.
    fn session<T>(
        &self,
        exec: Exec,
        cancel: &AtomicBool,
        work: impl FnOnce(ExecReader, ExecWriter) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let (reader, writer, mut stderr, mut done) = exec.into_blocking(self.runtime.handle().clone());
        let log = self.runtime.spawn(async move {
            let mut log = AgentLog::default();
            while let Some(bytes) = stderr.recv().await {
                log.take(&bytes);
            }
        });
        let over = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if cancel.load(Ordering::Relaxed) {
                        done.abort();
                        return;
                    }
                    thread::sleep(TICK);
                }
            });
            let result = work(reader, writer);
            over.store(true, Ordering::Relaxed);
            result
        });
        // Its status proves nothing; only that it was killed explains an end that nobody else does.
        if matches!(&result, Err(RemoteError::Transfer(e)) if e.is_transient()) {
            let status = self.runtime.block_on(async { tokio::time::timeout(STATUS_WAIT, &mut done).await });
            if matches!(status, Ok(Ok(Ok(status))) if status.exit_code == KILLED) {
                return Err(RemoteError::Killed { memory_mib: self.memory_mib() });
            }
        }
        done.abort();
        log.abort();
        result
    }

    fn memory_mib(&self) -> u64 {
        self.settings.pod.memory_limit_bytes() >> 20
    }

    fn pod(&self) -> Result<&BuilderPod, BuildError> {
        self.pod.as_ref().ok_or(BuildError::Interrupted)
    }

    /// Lets the cluster remove the pod while its result is written. What comes of that is said at the end.
    pub fn begin_removal(&self) {
        if let (Some(pod), false) = (&self.pod, self.settings.keep_pod) {
            let pod = pod.clone();
            let removal = self.runtime.spawn(async move { pod.remove().await });
            *self.removal.lock().unwrap_or_else(PoisonError::into_inner) = Some(removal);
        }
    }

    /// Removes the pod, or says how to look into it.
    pub fn finish(mut self, events: Events<'_>) {
        match self.close() {
            Closed::Removed => {}
            Closed::Kept(words) => events(Event::Note(words)),
            Closed::Left(words) => events(Event::Warning(words)),
        }
    }

    fn close(&mut self) -> Closed {
        let Some(pod) = self.pod.take() else { return Closed::Removed };
        let (namespace, name) = (pod.namespace(), pod.name());
        if self.settings.keep_pod {
            self.note.remove();
            return Closed::Kept(format!(
                "The pod is kept: `kubectl --namespace {namespace} logs {name}`, `kubectl --namespace {namespace} exec -it {name} -- sh`; `ocne gc --yes --running` removes it",
            ));
        }
        let removal = self.removal.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let removed = self.runtime.block_on(async {
            match removal {
                Some(removal) => removal.await.unwrap_or_else(|panic| resume_unwind(panic.into_panic())),
                None => pod.remove().await,
            }
        });
        match removed {
            Ok(()) => {
                self.note.remove();
                Closed::Removed
            }
            Err(e) => Closed::Left(format!(
                "the pod {namespace}/{name} could not be removed: {e}; it ends by itself when it hears nobody for {} s",
                self.settings.pod.idle_timeout.as_secs(),
            )),
        }
    }
}

/// Notes a pod. Without a note it is removed all the same, but only when it has heard nobody for a while.
fn noted(note: &PodNote, server: &str, namespace: &str, job: &str, purpose: &str) {
    if let Err(e) = note.write(server, namespace, job, purpose) {
        debug!(error = %e, "the pod is not noted");
    }
}

/// The pod of a run that was killed, if it is of use now; if it is not, it is removed.
async fn left_pod(cluster: &Cluster, note: &PodNote, purpose: &str) -> Option<BuilderPod> {
    let noted = note.read().filter(|noted| noted.server == cluster.server())?;
    debug!(?noted, purpose, "a run was killed");
    let found = async {
        let pod = cluster.resume(&noted.namespace, &noted.job).await?;
        match pod {
            Some(pod) if noted.purpose != purpose => pod.remove().await.map(|()| None),
            pod => Ok(pod),
        }
    };
    found.await.unwrap_or_else(|e| {
        warn!("the pod of a run that was killed is left to itself: {e}");
        None
    })
}

/// What became of a pod.
enum Closed {
    Removed,
    Kept(String),
    Left(String),
}

impl Drop for PodBuilder {
    /// Removes the pod of a build that failed, or says how to look into it.
    fn drop(&mut self) {
        match self.close() {
            Closed::Removed => {}
            Closed::Kept(words) => info!("{words}"),
            Closed::Left(words) => warn!("{words}"),
        }
    }
}

/// Lists what builds have left in a cluster, in one namespace or in all.
///
/// # Errors
/// When the cluster does not answer, or does not allow it.
pub fn leftovers(connect: &ConnectOptions, namespace: Option<&str>) -> Result<Vec<Leftover>, BuildError> {
    let found = runtime()?.block_on(async { Cluster::connect(connect).await?.leftovers(namespace).await });
    Ok(found?)
}

/// Removes one of them, and waits until it is gone.
///
/// # Errors
/// As [`leftovers`].
pub fn remove_leftover(connect: &ConnectOptions, leftover: &Leftover) -> Result<(), BuildError> {
    let removed = runtime()?.block_on(async { Cluster::connect(connect).await?.remove(leftover).await });
    Ok(removed?)
}

/// Where a build in a cluster would run, and what the cluster says to it. Nothing is made.
///
/// # Errors
/// When the cluster does not answer, or does not allow it.
pub(crate) fn ask(settings: &ClusterSettings) -> Result<Vec<String>, BuildError> {
    let (server, found) = runtime()?.block_on(async {
        let cluster = Cluster::connect(&settings.connect).await?;
        let found = Box::pin(cluster.preflight(&settings.pod)).await?;
        Ok::<_, ClusterError>((cluster.server().to_owned(), found))
    })?;
    let pod = &settings.pod;
    let agent = match pod.entry {
        PodEntry::Agent => "which has the agent".to_owned(),
        PodEntry::Shell => {
            let bytes = program("ocne-agent", architecture(pod))?.len();
            format!("the agent ({bytes} bytes, {}) is sent into its shell", pod.node_architecture)
        }
    };
    let mut lines = vec![
        format!("a pod in the namespace `{}` of {server}", pod.namespace),
        format!("of the image {}; {agent}", pod.image),
    ];
    lines.extend(found.lines());
    Ok(lines)
}

/// What moves bytes to and from a cluster, while the caller's threads wait or compute.
fn runtime() -> Result<Runtime, BuildError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|source| BuildError::Io { action: "start the network", source })
}

fn architecture(pod: &PodSpec) -> Architecture {
    if pod.node_architecture == Architecture::Arm64.name() {
        Architecture::Arm64
    } else {
        Architecture::Amd64
    }
}

fn tell(event: ClusterEvent, events: Events<'_>) {
    match event {
        ClusterEvent::NamespaceCreated(name) => events(Event::Note(format!("Created the namespace {name}"))),
        ClusterEvent::Waiting { reason } => events(Event::Note(format!("Waiting for the pod: {reason}"))),
        ClusterEvent::Retrying { reason } => {
            events(Event::Warning(format!("the cluster does not answer, and is asked again: {reason}")));
        }
        event => debug!(?event, "in the cluster"),
    }
}
