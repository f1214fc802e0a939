//! The streams of a program in the pod, for synchronous code in a thread of its own.

use std::io::{self, Read, Write};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::ClusterError;
use crate::exec::{Broken, Exec};
use crate::exec_status::ExecStatus;

/// Small writes are gathered up to this; [`Write::flush`] sends what there is.
const GATHER_BYTES: usize = 1 << 20;

/// Standard output of a program in the pod. Reading blocks; a broken connection is an error, never the end.
#[derive(Debug)]
pub struct ExecReader {
    runtime: Handle,
    stdout: mpsc::Receiver<Vec<u8>>,
    broken: Broken,
    piece: io::Cursor<Vec<u8>>,
}

/// Standard input of a program in the pod. Writing blocks while the program does not read. Dropping it sends what was
/// gathered if there is room, and ends the stream as [`Exec`] says; call [`Write::flush`] before to be sure.
#[derive(Debug)]
pub struct ExecWriter {
    runtime: Handle,
    stdin: mpsc::Sender<Vec<u8>>,
    broken: Broken,
    gathered: Vec<u8>,
}

/// What [`Exec::into_blocking`] gives: standard output, input and error, and how it ended.
pub type BlockingEnds =
    (ExecReader, ExecWriter, mpsc::Receiver<Vec<u8>>, JoinHandle<Result<ExecStatus, ClusterError>>);

impl Exec {
    /// Ends for synchronous code. They must not be used on the runtime's own threads, which they would block.
    pub fn into_blocking(self, runtime: Handle) -> BlockingEnds {
        let Self { stdin, stdout, stderr, done, broken } = self;
        let reader = ExecReader {
            runtime: runtime.clone(),
            stdout,
            broken: broken.clone(),
            piece: io::Cursor::default(),
        };
        (reader, ExecWriter { runtime, stdin, broken, gathered: Vec::new() }, stderr, done)
    }
}

impl Read for ExecReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.runtime.block_on(self.stdout.recv()) {
                Some(piece) => self.piece = io::Cursor::new(piece),
                None => match self.broken.get() {
                    Some(reason) => {
                        return Err(io::Error::new(io::ErrorKind::ConnectionReset, reason.clone()));
                    }
                    None => return Ok(0),
                },
            }
        }
    }
}

impl Write for ExecWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() + bytes.len() > GATHER_BYTES {
            self.flush()?;
        }
        let count = bytes.len().min(GATHER_BYTES);
        self.gathered.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.gathered);
        self.runtime.block_on(self.stdin.send(piece)).map_err(|_| {
            let reason = self.broken.get().cloned().unwrap_or_else(|| "the program has ended".to_owned());
            io::Error::new(io::ErrorKind::BrokenPipe, reason)
        })
    }
}

impl Drop for ExecWriter {
    fn drop(&mut self) {
        if !self.gathered.is_empty() {
            let _ = self.stdin.try_send(std::mem::take(&mut self.gathered));
        }
    }
}
