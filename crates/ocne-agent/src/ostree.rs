//! Making an image that serves an ostree commit, of images that are fetched here or that the client sends.
//!
//! Both what was sent and what was made stay in the scratch folder, so that a new session goes on where one was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fs_err as fs;
use ocne_container::{FetchError, FetchEvent, Fetcher, Image, ImageReference, Platform, SentImage};
use ocne_disk::PatchedFile;
use ocne_ostree_image::{Images, Input, MakeError, Order, OrderFile, make as make_image};
use ocne_transfer::frame::FrameKind;
use ocne_transfer::messages::{Failure, Job};
use ocne_transfer::{Channel, TransferError, agent, receive_whole, send_whole, with_causes};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::heartbeat::{Heartbeat, SCRATCH_HINT, scratch_folder};
use crate::image_file::{lock, unusable};
use crate::pull::for_the_client;

/// How often the client hears how far it is; and so, how soon it is noticed that there is none.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Makes what the job orders, and sends it.
pub fn make<R, W>(mut channel: Channel<R, W>, job: Job) -> Result<(), TransferError>
where
    R: Read + Send,
    W: Write + Send,
{
    let folder = scratch_folder().join("ostree");
    let made = prepare(&mut channel, job, &folder);
    let (made, report) = match made {
        Ok(made) => made,
        Err(Stop::Lost(error)) => return Err(error),
        Err(Stop::Failed(failure)) => {
            channel.give_up(&failure);
            return Err(failure.into());
        }
    };
    agent::deliver(&mut channel, &BTreeMap::new(), report, None)?;
    let file = fs::File::open(&made).map_err(TransferError::File)?;
    let size_bytes = file.metadata().map_err(TransferError::File)?.len();
    let nothing = BTreeMap::new();
    let whole = PatchedFile::new(&file, &nothing, size_bytes).map_err(TransferError::File)?;
    send_whole(&mut channel, &whole, &AtomicBool::new(false), &mut |_| {}).map(drop)
}

/// Why nothing is sent.
enum Stop {
    /// The client is to hear it.
    Failed(Failure),
    /// There is no client any more.
    Lost(TransferError),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The image's file, and what it was made of.
fn prepare<R, W>(channel: &mut Channel<R, W>, job: Job, folder: &Path) -> Result<(PathBuf, Value), Stop>
where
    R: Read + Send,
    W: Write + Send,
{
    let key = job.key.unwrap_or_default();
    // The message would show the secret in it.
    let senseless = |_| failure("options", "what is to be made makes no sense to this agent".to_owned());
    let order: Order = serde_json::from_value(job.source.unwrap_or_default()).map_err(senseless)?;
    let _lock = lock(&scratch_folder())?;
    if fs::read_to_string(folder.join("key")).ok().as_deref() != Some(&key) {
        // In this order: what belongs to one order never gets the key of another.
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).map_err(unusable)?;
        fs::write(folder.join("key"), &key).map_err(unusable)?;
    }
    let (made, report) = (folder.join("made.tar"), folder.join("made.json"));
    let known = fs::read(&report).ok().and_then(|text| serde_json::from_slice(&text).ok());
    receive_files(channel, &order, folder, known.is_some())?;
    if let Some(known) = known {
        return Ok((made, known));
    }
    let found = generate(channel, order, folder, &made)?;
    // Last: who finds it knows that the image is whole.
    let half = folder.join("made.json.part");
    fs::write(&half, found.to_string()).and_then(|()| fs::rename(&half, &report)).map_err(unusable)?;
    Ok((made, found))
}

/// Gets the files of the order that are not there yet; none when the image is made already.
fn receive_files<R: Read, W: Write>(
    channel: &mut Channel<R, W>,
    order: &Order,
    folder: &Path,
    is_made: bool,
) -> Result<(), Stop> {
    let files = order.files();
    let mut names = BTreeSet::new();
    let is_wanted = |name: &str| !is_made && !folder.join(name).exists();
    let wanted: Vec<usize> = (0..files.len())
        .filter(|&number| {
            let name = files[number].1.hex();
            is_wanted(&name) && names.insert(name)
        })
        .collect();
    channel.send_json(FrameKind::Want, &wanted).map_err(Stop::Lost)?;
    let never = AtomicBool::new(false); // this program ends with its input
    for number in wanted {
        let (_, digest, size_bytes) = files[number];
        let (name, part) = (folder.join(digest.hex()), folder.join(format!("{}.part", digest.hex())));
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&part);
        match receive_whole(channel, &mut file.map_err(unusable)?, size_bytes, &never, &mut |_| {}) {
            Ok(whole) if whole.size_bytes == size_bytes => fs::rename(&part, &name).map_err(unusable)?,
            Ok(_) | Err(TransferError::NotAsSent) => {
                let _ = fs::remove_file(&part);
                let message = TransferError::NotAsSent.to_string();
                return Err(failure(ocne_transfer::CODE_AGAIN, message).into());
            }
            Err(error @ TransferError::File(_)) => {
                let hint = Some(SCRATCH_HINT.to_owned());
                return Err(Failure { hint, ..failure("scratch", with_causes(&error)) }.into());
            }
            Err(error) => return Err(Stop::Lost(error)),
        }
    }
    Ok(())
}

/// Makes the image; what it was made of.
fn generate<R, W>(
    channel: &mut Channel<R, W>,
    order: Order,
    folder: &Path,
    made: &Path,
) -> Result<Value, Failure>
where
    R: Read + Send,
    W: Write + Send,
{
    let server = order
        .files()
        .iter()
        .find(|(what, ..)| *what == OrderFile::Server)
        .map(|(_, digest, _)| fs::read(folder.join(digest.hex())));
    let server = server.transpose().map_err(unusable)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| failure("fetch", format!("cannot start the network: {e}")))?;
    let client = Mutex::new((channel, Heartbeat::new(), Instant::now()));
    let cancel = Arc::new(AtomicBool::new(false));
    let tell = |event: &Value| {
        let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
        match client.0.send_json(FrameKind::Event, event) {
            Ok(()) => client.1.touch(),
            Err(_) => cancel.store(true, Ordering::Relaxed),
        }
        client.2 = Instant::now();
    };
    let fetch_event = |event: FetchEvent| {
        if let (FetchEvent::Retry { .. }, Some(event)) = (&event, for_the_client(&event)) {
            tell(&event);
        }
    };
    let source = Opened::new(order.source)?;
    let base = order.base.map(Opened::new).transpose()?;
    let images = Images {
        source: source.image(folder, &runtime, &fetch_event, &cancel)?,
        base: match &base {
            Some(base) => Some(base.image(folder, &runtime, &fetch_event, &cancel)?),
            None => None,
        },
    };
    let record =
        |image: &Image<'_>| json!({ "reference": image.reference(), "digest": image.digest().to_string() });
    let report = json!({ "source": record(&images.source), "base": images.base.as_ref().map(record) });
    tell(&json!({ "fetch": { "total_bytes": images.size_bytes() } }));
    let mut progress = |done_bytes: u64| {
        let is_time = client.lock().unwrap_or_else(PoisonError::into_inner).2.elapsed() >= TELL_EVERY;
        if is_time {
            tell(&json!({ "fetch": { "done_bytes": done_bytes } }));
        }
    };
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(made).map_err(unusable)?;
    let made = make_image(&images, server, &order.recipe, file.file(), &runtime, &mut progress, &cancel);
    match made {
        Ok(_) => Ok(report),
        Err(MakeError::Fetch(e)) => Err(refused(&e)),
        Err(MakeError::Ostree(e)) => {
            let hint = e.hint().map(str::to_owned);
            Err(Failure { hint, ..failure("ostree", with_causes(&e)) })
        }
        Err(e) => Err(failure(ocne_transfer::CODE_AGAIN, with_causes(&e))),
    }
}

/// An image of the order, with what fetches it if the client does not send it.
enum Opened {
    Sent(SentImage),
    Fetched(Box<Fetcher>, ImageReference, Platform),
}

impl Opened {
    fn new(input: Input) -> Result<Self, Failure> {
        match input {
            Input::Sent(image) => Ok(Self::Sent(image)),
            Input::Fetch(delegation) => {
                let opened = delegation.fetcher(scratch_folder().join("images"));
                let (fetcher, reference, platform) = opened.map_err(|e| refused(&e))?;
                Ok(Self::Fetched(Box::new(fetcher), reference, platform))
            }
        }
    }

    fn image<'a>(
        &'a self,
        folder: &Path,
        runtime: &Runtime,
        tell: &'a dyn Fn(FetchEvent),
        cancel: &Arc<AtomicBool>,
    ) -> Result<Image<'a>, Failure> {
        let found = match self {
            Self::Sent(image) => image.clone().open(folder),
            Self::Fetched(fetcher, reference, platform) => {
                runtime.block_on(fetcher.image(reference, platform, tell, cancel))
            }
        };
        found.map_err(|e| refused(&e))
    }
}

fn refused(error: &FetchError) -> Failure {
    Failure { hint: error.hint(), ..failure("fetch", with_causes(error)) }
}

fn failure(code: &str, message: String) -> Failure {
    Failure { code: code.to_owned(), message, hint: None }
}
