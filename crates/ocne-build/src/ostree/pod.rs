//! The image made in a builder pod: what the pod gets, and what is taken from it.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ocne_container::{Digest, Fetcher, Image, ImageReference, Platform, SentFile};
use ocne_ostree::{OstreeError, audit_image};
use ocne_ostree_image::{Images, Input, Openers, Order, OrderFile, REF_NAME, Recipe, check};
use ocne_transfer::client::{Order as ClientOrder, OrderOutcome, Task, order_ostree};
use ocne_transfer::{Channel, InOrder, ReadAt, TransferError};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use super::{ImageRecord, Made, OstreeBase, OstreeRequest, Run, record};
use crate::cluster::{PodBuilder, Transfer};
use crate::copy::hex;
use crate::error::BuildError;
use crate::event::{Event, Events, Stage};
use crate::output::OutputFile;
use crate::remote::{PROGRAM, RemoteError, RemoteWork};
use crate::request::Builder;
use crate::source::block_on;

/// No image that a pod sends is larger.
const MADE_BYTES_MAX: u64 = 256 << 30;
/// What a pod's scratch volume gets for images whose size nobody here knows.
const SCRATCH_UNKNOWN_BYTES: u64 = 8 << 30;

/// What is ordered of a pod.
pub(super) struct Ordered<'a> {
    order: Order,
    server: Option<&'a [u8]>,
    /// Tells the order from others; nothing secret is in it.
    key: String,
}

impl<'a> Ordered<'a> {
    /// Of each image, which files are sent, or what is needed to fetch it: unless the pod is to fetch them, when
    /// nothing is known here.
    pub fn new(
        request: &OstreeRequest,
        fetcher: &Fetcher,
        images: Option<&Images<'_>>,
        server: Option<&'a [u8]>,
        recipe: Recipe,
    ) -> Result<Self, BuildError> {
        let platform = Platform::linux(request.architecture.name());
        let mut key = Sha256::new();
        let mut input =
            |reference: &ImageReference, image: Option<&Image<'_>>| -> Result<Input, BuildError> {
                if let Some(image) = image {
                    key.update(image.digest().to_string());
                    return Ok(Input::Sent(image.describe()));
                }
                key.update(reference.to_string());
                Ok(Input::Fetch(Box::new(block_on(fetcher.delegation(reference, &platform, ""))??)))
            };
        let source = input(&request.source.image, images.map(|i| &i.source))?;
        let base = match &request.base {
            OstreeBase::Image(reference) => Some(input(reference, images.and_then(|i| i.base.as_ref()))?),
            OstreeBase::Server => None,
        };
        let server_file =
            server.map(|program| SentFile { digest: Digest::of(program), size_bytes: program.len() as u64 });
        key.update(format!("{recipe:?} {server_file:?} {platform}"));
        let key = hex(&key.finalize());
        Ok(Self { order: Order { source, base, server: server_file, recipe }, server, key })
    }

    /// The request's builder, with a scratch volume that takes what is sent and what is made.
    pub fn builder(&self, request: &OstreeRequest, size_bytes: Option<u64>) -> Builder {
        let sent_bytes = self.order.files().iter().fold(0_u64, |sum, (.., size)| sum.saturating_add(*size));
        let scratch_bytes = size_bytes.map_or(SCRATCH_UNKNOWN_BYTES, |size_bytes| {
            // What comes out is compressed about as well as what came in.
            sent_bytes.saturating_add(size_bytes).saturating_add(size_bytes / 4)
        });
        let mut builder = request.builder.clone();
        if let Builder::Cluster(settings) | Builder::Auto(settings) = &mut builder {
            settings.make_room(scratch_bytes);
            if settings.transfer != Transfer::Pull {
                settings.transfer = Transfer::Full;
            }
        }
        builder
    }
}

/// Has a pod make the image of what is `sent` or of what it fetches, takes it from there, and verifies all of it, against
/// what is `known` here of source and base.
pub(super) fn in_a_pod(
    run: &Run<'_>,
    pod: &PodBuilder,
    ordered: &Ordered<'_>,
    sent: Option<&Images<'_>>,
    known: Option<&Images<'_>>,
    runtime: &Runtime,
) -> Result<Made, BuildError> {
    let (output, events, cancel) = (run.output, run.events, run.cancel);
    let outcome = pod.sessions(events, cancel, |reader, writer, got_to| {
        let got_to = Mutex::new(got_to);
        let transfer =
            Transferring { ordered, configs: configs(sent), output, events, cancel, got_to: &got_to };
        let Some(images) = sent else { return Ok(transfer.run(reader, writer, None)?) };
        let stop: Arc<AtomicBool> = Arc::default();
        let done = images.with_layers(runtime, cancel, &stop, |layers| {
            let done = transfer.run(reader, writer, Some(layers));
            // Nobody wants what is on its way any more.
            stop.store(true, Ordering::Relaxed);
            done
        });
        Ok(done.map_err(|e| RemoteError::Fetch(Box::new(e)))??)
    });
    let outcome = outcome.map_err(|e| match e {
        BuildError::Remote { source: RemoteError::Fetch(e), .. } => (*e).into(),
        BuildError::Remote { source: RemoteError::Transfer(TransferError::File(e)), .. } => {
            output.write_error(0, e)
        }
        e => e,
    })?;
    events(Event::Note(format!("Downloading image from pod {}: ok", pod.place())));
    pod.begin_removal();
    let OrderOutcome { report, agent, traffic, .. } = outcome;
    let report: Report = serde_json::from_value(report)
        .map_err(|e| BuildError::Remote { pod: pod.place(), source: RemoteError::Report(e) })?;
    let again = fs_err::File::open(output.temporary())
        .map_err(|source| BuildError::Io { action: "read the output back", source })?;
    // Nothing of what the pod says is taken for granted.
    let written = audit_image(again.into_parts().0, REF_NAME, cancel)
        .and_then(|written| match known {
            Some(images) => {
                let server = ordered.server.map(<[u8]>::to_vec);
                check(images, server, &ordered.order.recipe, &written).map(|()| written)
            }
            None => Ok(written),
        })
        .map_err(|e| match e {
            OstreeError::Interrupted => BuildError::Interrupted,
            OstreeError::NotAsWritten { reason } => {
                BuildError::NotAsWritten { path: output.temporary().to_owned(), reason }
            }
            e => run.request.refused(e),
        })?;
    let cluster = Some(pod.record(&RemoteWork { agent, rounds: 0, traffic }));
    let (source, base) = match known {
        Some(images) => (record(&images.source), images.base.as_ref().map(record)),
        None => (report.source, report.base),
    };
    Ok(Made { written, source, base, cluster, signed_by: None })
}

/// What the agent says of what it made.
#[derive(Deserialize)]
struct Report {
    source: ImageRecord,
    base: Option<ImageRecord>,
}

/// The configurations of the source and of the base, if they are known here.
fn configs<'i>(images: Option<&'i Images<'_>>) -> [&'i [u8]; 2] {
    let base = images.and_then(|i| i.base.as_ref());
    [images.map_or(&[], |i| i.source.config()), base.map_or(&[], |b| b.config())]
}

/// One session.
struct Transferring<'s, 'g> {
    ordered: &'s Ordered<'s>,
    configs: [&'s [u8]; 2],
    output: &'s OutputFile,
    events: Events<'s>,
    cancel: &'s AtomicBool,
    /// Hears how far it is.
    got_to: &'s Mutex<&'g mut (dyn FnMut(u64) + Send)>,
}

impl Transferring<'_, '_> {
    fn run(
        &self,
        reader: impl Read,
        writer: impl Write,
        mut layers: Option<Openers>,
    ) -> Result<OrderOutcome, TransferError> {
        let Self { ordered, output, events, cancel, .. } = *self;
        let source = serde_json::to_value(&ordered.order).map_err(|e| TransferError::File(e.into()))?;
        let files = ordered.order.files();
        let total_bytes = files.iter().fold(0_u64, |sum, (.., size)| sum.saturating_add(*size));
        let got_to = |done_bytes| (self.got_to.lock().unwrap_or_else(PoisonError::into_inner))(done_bytes);
        let open = &mut |number: usize| -> Result<Box<dyn ReadAt + '_>, TransferError> {
            let none = || TransferError::File(io::Error::other("there is no such file"));
            let (what, _, size_bytes) = *files.get(number).ok_or_else(none)?;
            let input: Box<dyn Read + Send + '_> = match (what, &mut layers) {
                (OrderFile::Server, _) => Box::new(ordered.server.unwrap_or_default()),
                (OrderFile::SourceConfig, _) => Box::new(self.configs[0]),
                (OrderFile::BaseConfig, _) => Box::new(self.configs[1]),
                (OrderFile::SourceLayer(index), Some(layers)) => {
                    (layers.source)(index).map_err(TransferError::File)?
                }
                (OrderFile::BaseLayer(index), Some(layers)) => {
                    (layers.base)(index).map_err(TransferError::File)?
                }
                _ => return Err(none()),
            };
            Ok(Box::new(InOrder::new(input, size_bytes)))
        };
        let is_told = AtomicBool::new(false);
        let begun = |stage, total_bytes| {
            if !is_told.swap(true, Ordering::Relaxed) {
                events(Event::Begin { stage, total_bytes });
            }
        };
        let told = |event: Value| {
            let bytes = |name: &str| event["fetch"][name].as_u64();
            if let Some(total_bytes) = bytes("total_bytes") {
                is_told.store(false, Ordering::Relaxed);
                events(Event::Begin { stage: Stage::Generate, total_bytes: Some(total_bytes) });
            } else if let Some(done_bytes) = bytes("done_bytes") {
                events(Event::Bytes { stage: Stage::Generate, done_bytes });
                got_to(total_bytes.saturating_add(done_bytes));
            } else if let Some(reason) = event["fetch"]["retry"].as_str() {
                events(Event::Warning(format!("in the pod: {reason}; trying again")));
            }
        };
        let mut sent = |done_bytes| {
            begun(Stage::Push, Some(total_bytes));
            events(Event::Bytes { stage: Stage::Push, done_bytes });
            got_to(done_bytes);
        };
        let mut received = |done_bytes: u64| {
            events(Event::Bytes { stage: Stage::Save, done_bytes });
            // Behind all that was sent, and all that was read to make it.
            got_to(MADE_BYTES_MAX.saturating_add(done_bytes));
        };
        let order = ClientOrder {
            source,
            key: ordered.key.clone(),
            files: files.len(),
            open,
            max_bytes: MADE_BYTES_MAX,
        };
        let task = Task { program: PROGRAM, options: Value::Null, events: &told, cancel };
        let mut channel = Channel::new(reader, writer);
        let made = order_ostree(&mut channel, order, &mut output.file(), task, &mut sent, &mut received);
        if matches!(made, Err(TransferError::NotAsSent)) {
            output.file().set_len(0).map_err(TransferError::File)?;
        }
        made
    }
}
