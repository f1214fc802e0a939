//! One session with a client on standard input and output.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ocne_bootimage::{Conversion, ConvertError, ConvertEvent, ConvertOptions, convert};
use ocne_disk::{BlockWrite as _, PatchedFile, Qcow2};
use ocne_transfer::messages::{Failure, Job, Mode, Pulled};
use ocne_transfer::{
    CODE_AGAIN, Channel, TransferError, agent, receive_whole, send_whole, sha256_of, with_causes,
};

use crate::heartbeat::{Heartbeat, SCRATCH_HINT, scratch_folder};
use crate::image_file::ImageFile;
use crate::log;
use crate::pull::pull;

/// Name and version, for the client's log.
const PROGRAM: &str = concat!("ocne-agent ", env!("CARGO_PKG_VERSION"));

/// Standard input; whatever comes from it is a sign of the client's life.
struct Input {
    stdin: io::Stdin,
    heartbeat: Heartbeat,
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stdin.read(into)?;
        self.heartbeat.touch();
        Ok(count)
    }
}

/// Does what one client wants.
pub fn run() -> Result<(), String> {
    let mut heartbeat = Heartbeat::new();
    heartbeat.touch();
    let mut channel = Channel::new(Input { stdin: io::stdin(), heartbeat }, io::stdout());
    let job = agent::accept(&mut channel, PROGRAM).map_err(|e| with_causes(&e))?;
    serve(channel, job).map_err(|e| with_causes(&e))
}

fn serve<R, W>(mut channel: Channel<R, W>, job: Job) -> Result<(), TransferError>
where
    R: Read + Send,
    W: io::Write + Send,
{
    if job.mode == Mode::Ostree {
        return crate::ostree::make(channel, job);
    }
    let options: ConvertOptions = match serde_json::from_value(job.options.clone()) {
        Ok(options) => options,
        Err(e) => {
            let message = format!("the options of the conversion make no sense to {PROGRAM}: {e}");
            return Err(give_up(&mut channel, Failure { code: "options".into(), message, hint: None }));
        }
    };
    match job.mode {
        Mode::Blocks => {
            let device = agent::RemoteDevice::new(channel, job.size_bytes);
            let converted = convert(&device, &options, &tell);
            let mut channel = device.into_channel();
            match converted {
                Ok(conversion) => {
                    agent::deliver(&mut channel, &conversion.changes, report(&conversion)?, None)
                }
                Err(error) => Err(give_up(&mut channel, failure(&error))),
            }
        }
        Mode::Full => {
            let mut image = match ImageFile::open(&scratch_folder(), &job.key.unwrap_or_default()) {
                Ok(image) => image,
                Err(failure) => return Err(give_up(&mut channel, failure)),
            };
            let never = AtomicBool::new(false); // this program ends with its input
            match receive_whole(&mut channel, &mut image.file, job.size_bytes, &never, &mut |_| {}) {
                Err(TransferError::NotAsSent) => {
                    image.file.set_len(0).map_err(TransferError::File)?;
                    let (code, message) = (CODE_AGAIN.into(), TransferError::NotAsSent.to_string());
                    return Err(give_up(&mut channel, Failure { code, message, hint: None }));
                }
                Err(error @ TransferError::File(_)) => {
                    let hint = Some(SCRATCH_HINT.to_owned());
                    let message = with_causes(&error);
                    return Err(give_up(&mut channel, Failure { code: "scratch".into(), message, hint }));
                }
                Err(error @ TransferError::Protocol { .. }) => {
                    let (code, message) = ("protocol".into(), with_causes(&error));
                    return Err(give_up(&mut channel, Failure { code, message, hint: None }));
                }
                received => received?,
            };
            let converted = Qcow2::open(&image.path)
                .map_err(|e| refused(&e))
                .and_then(|qcow2| convert(&qcow2, &options, &tell).map_err(|e| failure(&e)));
            match converted {
                Ok(conversion) => {
                    agent::deliver(&mut channel, &conversion.changes, report(&conversion)?, None)
                }
                Err(failure) => Err(give_up(&mut channel, failure)),
            }
        }
        // It has no such options, and was taken above.
        Mode::Ostree => Err(TransferError::Protocol { reason: "an order without its options".to_owned() }),
        Mode::Pull => {
            let image = match pull(&mut channel, job.source.unwrap_or_default()) {
                Ok(image) => image,
                Err(failure) => return Err(give_up(&mut channel, failure)),
            };
            let made =
                ConvertedFile::new(&image.path, &options).and_then(|c| Ok((sha256_of_file(&image.path)?, c)));
            let (disk_sha256, converted) = match made {
                Ok(made) => made,
                Err(failure) => return Err(give_up(&mut channel, failure)),
            };
            let (reference, manifest_digest) = (image.reference, image.manifest_digest);
            let pulled = Pulled { reference, manifest_digest, disk_sha256 };
            let report = report(&converted.conversion)?;
            agent::deliver(&mut channel, &BTreeMap::new(), report, Some(pulled))?;
            let whole = converted.whole().map_err(TransferError::File)?;
            send_whole(&mut channel, &whole, &AtomicBool::new(false), &mut |_| {}).map(drop)
        }
    }
}

/// An image file with its conversion on top; the file stays as it is.
struct ConvertedFile {
    conversion: Conversion,
    file: fs_err::File,
    patches: BTreeMap<u64, Vec<u8>>,
    size_bytes: u64,
}

impl ConvertedFile {
    fn new(path: &Path, options: &ConvertOptions) -> Result<Self, Failure> {
        let mut qcow2 = Qcow2::open(path).map_err(|e| refused(&e))?;
        let conversion = convert(&qcow2, options, &tell).map_err(|e| failure(&e))?;
        for (&at, bytes) in &conversion.changes {
            qcow2.write_at(at, bytes).map_err(|e| refused(&e))?;
        }
        let plan = qcow2.plan_commit().map_err(|e| refused(&e))?;
        let file = fs_err::File::open(path).map_err(|e| refused(&e))?;
        Ok(Self { conversion, file, patches: plan.patches(), size_bytes: plan.file_size_bytes })
    }

    /// The new image file.
    fn whole(&self) -> io::Result<PatchedFile<'_>> {
        PatchedFile::new(&self.file, &self.patches, self.size_bytes)
    }
}

fn sha256_of_file(path: &Path) -> Result<String, Failure> {
    let file = fs_err::File::open(path).map_err(|e| refused(&e))?;
    let size_bytes = file.metadata().map_err(|e| refused(&e))?.len();
    let nothing = BTreeMap::new();
    let whole = PatchedFile::new(&file, &nothing, size_bytes).map_err(|e| refused(&e))?;
    sha256_of(&whole, &AtomicBool::new(false)).map_err(|e| refused(&e))
}

fn refused(error: &dyn Error) -> Failure {
    Failure { code: "image".into(), message: with_causes(error), hint: None }
}

fn report(conversion: &Conversion) -> Result<serde_json::Value, TransferError> {
    serde_json::to_value(conversion)
        .map_err(|e| TransferError::Protocol { reason: format!("the report: {e}") })
}

fn tell(event: ConvertEvent) {
    log::info(&format!("{event:?}"));
}

/// Tells the client why this ends.
fn give_up<R: Read, W: io::Write>(channel: &mut Channel<R, W>, failure: Failure) -> TransferError {
    channel.give_up(&failure);
    failure.into()
}

fn failure(error: &ConvertError) -> Failure {
    Failure { code: "convert".into(), message: with_causes(error), hint: error.hint().map(str::to_owned) }
}
