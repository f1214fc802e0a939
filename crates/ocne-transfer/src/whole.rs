//! A whole file from one side to the other, from where the receiver has it already.

use std::fmt;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::channel::Channel;
use crate::error::TransferError;
use crate::frame::{FrameKind, MAX_PAYLOAD_BYTES};
use crate::messages::{WholeFile, hex};

/// A file that can be read anywhere.
pub trait ReadAt {
    /// Its size.
    fn size_bytes(&self) -> u64;
    /// Fills a buffer from an offset on.
    ///
    /// # Errors
    /// When the file cannot be read, or ends before that.
    fn read_exact_at(&self, into: &mut [u8], offset_bytes: u64) -> std::io::Result<()>;
}

impl ReadAt for ocne_disk::PatchedFile<'_> {
    fn size_bytes(&self) -> u64 {
        self.size_bytes()
    }

    fn read_exact_at(&self, into: &mut [u8], offset_bytes: u64) -> std::io::Result<()> {
        self.read_exact_at(into, offset_bytes)
    }
}

/// A file that comes once, from its start to its end.
pub struct InOrder<R> {
    input: Mutex<(R, u64)>,
    size_bytes: u64,
}

impl<R> fmt::Debug for InOrder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InOrder").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

impl<R: Read> InOrder<R> {
    /// A file of this size.
    pub fn new(input: R, size_bytes: u64) -> Self {
        Self { input: Mutex::new((input, 0)), size_bytes }
    }
}

impl<R: Read> ReadAt for InOrder<R> {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, into: &mut [u8], offset_bytes: u64) -> std::io::Result<()> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let (reader, at_bytes) = &mut *input;
        if offset_bytes != *at_bytes {
            return Err(std::io::Error::other("a file that comes once is not read anywhere"));
        }
        reader.read_exact(into)?;
        *at_bytes += into.len() as u64;
        Ok(())
    }
}

/// SHA-256 of a file, in hexadecimal digits.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_of(file: &dyn ReadAt, cancel: &AtomicBool) -> Result<String, TransferError> {
    let mut hasher = Sha256::new();
    for_pieces(file, 0, file.size_bytes(), cancel, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(hex(&hasher.finalize()))
}

/// Sends a file: the receiver says what it has, gets the rest and the digest of the whole, and confirms it.
///
/// `sent` hears how much of the file is there.
///
/// # Errors
/// See [`TransferError`].
pub fn send_whole<R: Read, W: Write>(
    channel: &mut Channel<R, W>,
    file: &dyn ReadAt,
    cancel: &AtomicBool,
    sent: &mut dyn FnMut(u64),
) -> Result<WholeFile, TransferError> {
    let size_bytes = file.size_bytes();
    let have_bytes = offset(channel.expect(FrameKind::Durable)?)?;
    if have_bytes > size_bytes {
        return Err(TransferError::protocol(format!(
            "{have_bytes} bytes of a file of {size_bytes} are there"
        )));
    }
    let mut hasher = Sha256::new();
    for_pieces(file, 0, have_bytes, cancel, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    let mut at_bytes = have_bytes;
    for_pieces(file, have_bytes, size_bytes, cancel, |piece| {
        hasher.update(piece);
        channel.send_data(piece)?;
        at_bytes += piece.len() as u64;
        sent(at_bytes);
        Ok(())
    })?;
    let whole = WholeFile { size_bytes, sha256: hex(&hasher.finalize()) };
    channel.send_json(FrameKind::Sent, &whole)?;
    if offset(channel.expect(FrameKind::Durable)?)? != size_bytes {
        return Err(TransferError::protocol("no agreement on the size of the file"));
    }
    Ok(whole)
}

/// Receives a file into `into`, which has the beginning of it, or nothing. It may get `max_bytes` long.
///
/// # Errors
/// See [`TransferError`]. After [`TransferError::NotAsSent`] what is there is of no use.
pub fn receive_whole<R: Read, W: Write, F: Read + Write + Seek>(
    channel: &mut Channel<R, W>,
    into: &mut F,
    max_bytes: u64,
    cancel: &AtomicBool,
    received: &mut dyn FnMut(u64),
) -> Result<WholeFile, TransferError> {
    let mut hasher = Sha256::new();
    into.seek(SeekFrom::Start(0)).map_err(TransferError::File)?;
    let mut buffer = vec![0; MAX_PAYLOAD_BYTES];
    let mut at_bytes = 0;
    loop {
        look(cancel)?;
        let count = into.read(&mut buffer).map_err(TransferError::File)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        at_bytes += count as u64;
        if at_bytes > max_bytes {
            return Err(TransferError::NotAsSent);
        }
    }
    drop(buffer);
    channel.send(FrameKind::Durable, &at_bytes.to_le_bytes())?;
    loop {
        look(cancel)?;
        match channel.receive()? {
            (FrameKind::Data, bytes) => {
                at_bytes += bytes.len() as u64;
                if at_bytes > max_bytes {
                    return Err(TransferError::protocol(format!("a file of more than {max_bytes} bytes")));
                }
                into.write_all(bytes).map_err(TransferError::File)?;
                hasher.update(bytes);
                received(at_bytes);
            }
            (FrameKind::Sent, payload) => {
                let whole: WholeFile = serde_json::from_slice(payload)
                    .map_err(|e| TransferError::protocol(format!("the JSON of a Sent frame: {e}")))?;
                if whole != (WholeFile { size_bytes: at_bytes, sha256: hex(&hasher.finalize()) }) {
                    return Err(TransferError::NotAsSent);
                }
                channel.send(FrameKind::Durable, &at_bytes.to_le_bytes())?;
                return Ok(whole);
            }
            (kind, _) => return Err(TransferError::protocol(format!("an unexpected {kind:?} frame"))),
        }
    }
}

fn offset(payload: &[u8]) -> Result<u64, TransferError> {
    <[u8; 8]>::try_from(payload)
        .map(u64::from_le_bytes)
        .map_err(|_| TransferError::protocol("a Durable frame without an offset"))
}

fn look(cancel: &AtomicBool) -> Result<(), TransferError> {
    if cancel.load(Ordering::Relaxed) { Err(TransferError::Interrupted) } else { Ok(()) }
}

fn for_pieces(
    file: &dyn ReadAt,
    start_bytes: u64,
    end_bytes: u64,
    cancel: &AtomicBool,
    mut take: impl FnMut(&[u8]) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let mut buffer = vec![0; MAX_PAYLOAD_BYTES];
    let mut at_bytes = start_bytes;
    while at_bytes < end_bytes {
        look(cancel)?;
        let len = usize::try_from(end_bytes - at_bytes).unwrap_or(usize::MAX).min(buffer.len());
        let piece = &mut buffer[..len];
        file.read_exact_at(piece, at_bytes).map_err(TransferError::File)?;
        take(piece)?;
        at_bytes += len as u64;
    }
    Ok(())
}
