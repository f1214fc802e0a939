//! One session with a client on standard input and output.

use std::error::Error;
use std::io::{self, Read};

use ocne_bootimage::{ConvertError, ConvertOptions, convert};
use ocne_transfer::messages::{Failure, Job, Mode};
use ocne_transfer::{Channel, TransferError, agent};

use crate::heartbeat::Heartbeat;
use crate::log;

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
    let options: ConvertOptions = match serde_json::from_value(job.options) {
        Ok(options) => options,
        Err(e) => {
            let message = format!("the options of the conversion make no sense to {PROGRAM}: {e}");
            channel.give_up(&Failure { code: "options".into(), message: message.clone(), hint: None });
            return Err(TransferError::Protocol { reason: message });
        }
    };
    if job.mode != Mode::Blocks {
        let message = format!("{PROGRAM} cannot take a whole image");
        channel.give_up(&Failure { code: "mode".into(), message: message.clone(), hint: None });
        return Err(TransferError::Protocol { reason: message });
    }
    let device = agent::RemoteDevice::new(channel, job.size_bytes);
    let converted = convert(&device, &options, &|event| log::info(&format!("{event:?}")));
    let mut channel = device.into_channel();
    match converted {
        Ok(conversion) => {
            let report = serde_json::to_value(&conversion)
                .map_err(|e| TransferError::Protocol { reason: format!("the report: {e}") })?;
            agent::deliver(&mut channel, &conversion.changes, report)
        }
        Err(error) => {
            channel.give_up(&failure(&error));
            Err(TransferError::Peer { code: "convert".into(), message: with_causes(&error), hint: None })
        }
    }
}

fn failure(error: &ConvertError) -> Failure {
    Failure { code: "convert".into(), message: with_causes(error), hint: error.hint().map(str::to_owned) }
}

/// An error with everything that led to it, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let line = e.to_string();
        // Some errors have their cause in their own words.
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = e.source();
    }
    text
}
