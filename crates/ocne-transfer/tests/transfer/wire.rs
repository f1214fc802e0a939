//! One direction of a connection, with what may happen to it.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

/// What a wire does to what is written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Readers get so many bytes at a time at most.
    Split(usize),
    /// It ends after so many bytes.
    Cut(u64),
    /// The byte at this place arrives with other bits.
    Flip(u64, u8),
    /// The byte at this place does not arrive.
    Drop(u64),
}

impl Fault {
    pub fn damages(self) -> bool {
        !matches!(self, Self::None | Self::Split(_))
    }
}

pub fn any_fault() -> impl Strategy<Value = Fault> {
    let place = || prop_oneof![0_u64..400, 0_u64..400_000];
    prop_oneof![
        3 => Just(Fault::None),
        2 => (1_usize..5000).prop_map(Fault::Split),
        1 => place().prop_map(Fault::Cut),
        2 => (place(), 1_u8..).prop_map(|(at, bits)| Fault::Flip(at, bits)),
        1 => place().prop_map(Fault::Drop),
    ]
}

/// How long a reader waits, as the reader of a real connection does: on a faulty wire, and on one that is not.
const TIMEOUTS: [Duration; 2] = [Duration::from_millis(200), Duration::from_mins(1)];

/// A wire; its reading end sees the end of it when the writing end is dropped.
pub fn wire(fault: Fault) -> (WireReader, WireWriter) {
    let (sender, receiver) = sync_channel(16);
    (WireReader { receiver, here: Vec::new(), fault, at: 0 }, WireWriter(sender))
}

#[derive(Debug)]
pub struct WireWriter(SyncSender<Vec<u8>>);

impl Write for WireWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub struct WireReader {
    receiver: Receiver<Vec<u8>>,
    /// What came and was not read, backwards.
    here: Vec<u8>,
    fault: Fault,
    at: u64,
}

impl WireReader {
    fn next(&mut self) -> io::Result<()> {
        while self.here.is_empty() {
            let mut bytes = match self.receiver.recv_timeout(TIMEOUTS[usize::from(!self.fault.damages())]) {
                Ok(bytes) => bytes,
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let range = self.at..self.at + bytes.len() as u64;
            self.at = range.end;
            let index = |place: u64| usize::try_from(place - range.start).unwrap();
            match self.fault {
                Fault::Flip(place, bits) if range.contains(&place) => bytes[index(place)] ^= bits,
                Fault::Drop(place) if range.contains(&place) => _ = bytes.remove(index(place)),
                Fault::Cut(end) => bytes.truncate(index(end.clamp(range.start, range.end))),
                _ => {}
            }
            bytes.reverse();
            self.here = bytes;
            if matches!(self.fault, Fault::Cut(end) if self.at >= end) {
                break;
            }
        }
        Ok(())
    }
}

impl Read for WireReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        self.next()?;
        let most = if let Fault::Split(most) = self.fault { most } else { usize::MAX };
        let count = most.min(into.len()).min(self.here.len());
        for (to, from) in into.iter_mut().zip(self.here.drain(self.here.len() - count..).rev()) {
            *to = from;
        }
        Ok(count)
    }
}

/// Where a client writes that nobody hears.
#[derive(Debug)]
pub struct Sink(pub Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
