//! What comes before a conversion: the source, the pod that it is to run in, and the copy that begins meanwhile.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Run;
use crate::cluster::{PodBuilder, Transfer};
use crate::error::{BuildError, FailureKind};
use crate::event::{Event, Events};
use crate::output::OutputFile;
use crate::pod_note::PodNote;
use crate::report::{Timings, milliseconds};
use crate::request::{Builder, CreateRequest};
use crate::source::{BootSource, look_up};

/// How often two things that run at once look at each other.
const TICK: Duration = Duration::from_millis(50);
/// What a pod's scratch volume gets for an image whose size nobody here knows.
const SCRATCH_UNKNOWN_BYTES: u64 = 4 << 30;

/// A source, and what may have started beside it.
pub(super) struct Prepared {
    pub pod: Option<PodBuilder>,
    pub source: BootSource,
    pub ahead_bytes: u64,
}

/// Fetches the image, and begins to copy it, while the pod starts if there is to be one. When one of the two fails, the
/// other is ended: nobody wants to wait for a download to hear that the cluster refuses the pod, nor the other way round.
pub(super) fn prepare(run: &Run<'_>, timings: &mut Timings) -> Result<Prepared, BuildError> {
    let mut request = run.request.clone();
    let mut first = None;
    match &mut request.builder {
        Builder::Local => {
            let source = run.fetch(run.cancel, timings)?;
            return Ok(Prepared { pod: None, source, ahead_bytes: 0 });
        }
        Builder::Cluster(settings) | Builder::Auto(settings) if settings.transfer == Transfer::Full => {
            // How large the pod's volume has to be is known when the image is here.
            let source = run.fetch(run.cancel, timings)?;
            settings.make_room(source.identity()?.size_bytes);
            first = Some(source);
        }
        Builder::Cluster(_) | Builder::Auto(_) => {}
    }
    let stop: Arc<AtomicBool> = Arc::default();
    let over = AtomicBool::new(false);
    let (pod, milliseconds, source) = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if run.cancel.load(Ordering::Relaxed) {
                    stop.store(true, Ordering::Relaxed);
                }
                thread::sleep(TICK);
            }
        });
        let pod = scope.spawn(|| {
            let started = Instant::now();
            let pod = start_pod(&request.builder, run.output, run.events, &stop);
            stop.fetch_or(pod.is_err(), Ordering::Relaxed);
            (pod, milliseconds(started.elapsed()))
        });
        let source = first.map_or_else(|| run.fetch(&stop, timings), Ok).and_then(|source| {
            let is_enough = || pod.is_finished() || stop.load(Ordering::Relaxed);
            run.copy_ahead(&source, is_enough).map(|ahead_bytes| (source, ahead_bytes))
        });
        stop.fetch_or(source.is_err(), Ordering::Relaxed);
        let (pod, milliseconds) = pod.join().unwrap_or_else(|panic| resume_unwind(panic));
        over.store(true, Ordering::Relaxed);
        (pod, milliseconds, source)
    });
    run.look()?;
    match (pod, source) {
        (Ok(pod), Ok((source, ahead_bytes))) => {
            timings.pod = pod.as_ref().map(|_| milliseconds);
            Ok(Prepared { pod, source, ahead_bytes })
        }
        // The one that was ended says only that.
        (Err(e), Err(other)) if e.kind() == FailureKind::Interrupted => Err(other),
        (Err(e), _) | (Ok(_), Err(e)) => Err(e),
    }
}

/// A request whose pod fetches the image, with a scratch volume that takes it; none if this machine fetches it.
pub(super) fn pulling(request: &CreateRequest) -> Option<CreateRequest> {
    if !request.pulls() {
        return None;
    }
    // The size is known when the registry can be asked from here too. A layer is a little smaller than the disk in it.
    let size_bytes = match look_up(&request.source) {
        Ok(Some(found)) => found.size_bytes.saturating_add(found.size_bytes / 4),
        _ => SCRATCH_UNKNOWN_BYTES,
    };
    let mut request = request.clone();
    if let Builder::Cluster(settings) | Builder::Auto(settings) = &mut request.builder {
        settings.make_room(size_bytes);
    }
    Some(request)
}

/// Starts the pod of a build, if it is to be in one.
pub(crate) fn start_pod(
    builder: &Builder,
    output: &OutputFile,
    events: Events<'_>,
    cancel: &AtomicBool,
) -> Result<Option<PodBuilder>, BuildError> {
    let note = PodNote::of(output);
    match builder {
        Builder::Local => Ok(None),
        Builder::Cluster(settings) => PodBuilder::start(settings, note, events, cancel).map(Some),
        Builder::Auto(settings) => match PodBuilder::start(settings, note, events, cancel) {
            Ok(pod) => Ok(Some(pod)),
            Err(e) if e.kind() == FailureKind::Interrupted => Err(e),
            Err(e) => {
                events(Event::Note(format!("Building in this process: {e}")));
                Ok(None)
            }
        },
    }
}
