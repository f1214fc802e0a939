//! A program in the pod, and its three streams.
//!
//! kube's own loop stops on unread output, sends 4 KiB at a time and keeps errors for itself, so this is another one
//! on its connection: one task reads, one writes. The protocol is `v5.channel.k8s.io` (or v4): binary messages whose
//! first byte is the channel (`k8s.io/apimachinery/pkg/util/remotecommand`, `…/util/httpstream/wsstream`).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::api::causes;
use crate::error::ClusterError;
use crate::exec_status::ExecStatus;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// Of v5: the channel named by the next byte ends.
const CLOSE: u8 = 255;

/// Largest piece of standard input in one message. Bigger ones are not faster.
const MESSAGE_BYTES: usize = 1 << 20;
/// Pieces that wait in a stream: enough to keep it moving, little enough to hold in memory.
const PENDING: usize = 4;
/// The same for standard error, whose pieces are small.
const PENDING_STDERR: usize = 256;
/// Proxies drop what is idle for a minute. Pings are answered, so after some of them nobody is there.
const PULSE: Pulse = Pulse { ping: Duration::from_secs(20), silence: Duration::from_secs(90) };
/// When writing has failed, what is on its way from the other end still comes, or does not.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A program that runs in the pod.
///
/// - Dropping `stdin` ends the program's standard input with protocol v5. With v4 that cannot be said, so programs
///   must know by themselves when they have all.
/// - `stdout` holds the program up when it is not read; drop it if it does not matter.
/// - `stderr` never holds anything up: of a program that says more than is read, the rest is lost.
/// - `done` has the program's status, which comes after all output. A connection that ends without one is an error.
///   Aborting it ends the connection.
#[derive(Debug)]
pub struct Exec {
    /// Standard input, in pieces of any size.
    pub stdin: mpsc::Sender<Vec<u8>>,
    /// Standard output, in pieces as they come. It ends with the program, or with the connection: `done` tells.
    pub stdout: mpsc::Receiver<Vec<u8>>,
    /// Standard error.
    pub stderr: mpsc::Receiver<Vec<u8>>,
    /// How it ended.
    pub done: JoinHandle<Result<ExecStatus, ClusterError>>,
    /// Why the connection broke, set before the streams end.
    pub(crate) broken: Broken,
}

/// Why a connection broke, for those who only see its streams.
pub(crate) type Broken = Arc<OnceLock<String>>;

/// Which program it is, for messages.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) pod: String,
    pub(crate) command: String,
}

/// How it is known that the other end is there.
#[derive(Debug, Clone, Copy)]
struct Pulse {
    /// How often it is asked.
    ping: Duration,
    /// How long it may say nothing at all.
    silence: Duration,
}

impl Exec {
    /// Starts the tasks that move the streams of an open connection.
    pub(crate) fn over<S>(socket: WebSocketStream<S>, can_close: bool, program: Program) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::with_pulse(socket, can_close, program, PULSE)
    }

    fn with_pulse<S>(socket: WebSocketStream<S>, can_close: bool, program: Program, pulse: Pulse) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sink, source) = socket.split();
        let (stdin, from_caller) = mpsc::channel(PENDING);
        let (to_stdout, stdout) = mpsc::channel(PENDING);
        let (to_stderr, stderr) = mpsc::channel(PENDING_STDERR);
        let broken = Broken::default();
        let reason = Arc::clone(&broken);
        let done = tokio::spawn(async move {
            let mut writing = Writing(tokio::spawn(write(sink, from_caller, can_close, pulse.ping)));
            // The ends of the streams are dropped after the reason is set, so that who sees the end finds it.
            let result =
                both(read(source, &to_stdout, &to_stderr, pulse.silence), &mut writing.0, &program).await;
            if let Err(error) = &result {
                let _ = reason.set(error.to_string());
            }
            result
        });
        Self { stdin, stdout, stderr, done, broken }
    }
}

/// The writing task, which goes with the reading one.
struct Writing(JoinHandle<Result<(), String>>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What reading found, unless writing fails and nothing more comes.
async fn both(
    reading: impl Future<Output = Result<Vec<u8>, String>>,
    writing: &mut JoinHandle<Result<(), String>>,
    program: &Program,
) -> Result<ExecStatus, ClusterError> {
    let mut reading = std::pin::pin!(reading);
    let lost = |reason: String| ClusterError::ConnectionLost { pod: program.pod.clone(), reason };
    let status = tokio::select! {
        status = &mut reading => status,
        written = writing => match written.unwrap_or_else(|e| Err(e.to_string())) {
            Ok(()) => reading.await,
            Err(reason) => tokio::time::timeout(LAST_WORDS, reading).await.unwrap_or(Err(reason)),
        },
    };
    ExecStatus::parse(&status.map_err(lost)?).map_err(|reason| ClusterError::Exec {
        pod: program.pod.clone(),
        command: program.command.clone(),
        reason,
    })
}

/// Hands output on until the status comes.
async fn read<S>(
    mut source: SplitStream<WebSocketStream<S>>,
    stdout: &mpsc::Sender<Vec<u8>>,
    stderr: &mpsc::Sender<Vec<u8>>,
    silence: Duration,
) -> Result<Vec<u8>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let message = match tokio::time::timeout(silence, source.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Err(causes(&error)),
            Ok(None) => return Err("the connection ended without a status".to_owned()),
            Err(_) => return Err(format!("nothing has been heard for {} s", silence.as_secs())),
        };
        let Message::Binary(bytes) = message else { continue };
        match bytes.split_first() {
            Some((&STATUS, json)) if !json.is_empty() => return Ok(json.to_vec()),
            // An empty message on each channel opens the connection. A receiver that is gone does not want it.
            Some((&STDOUT, output)) if !output.is_empty() => {
                let _ = stdout.send(output.to_vec()).await;
            }
            Some((&STDERR, output)) if !output.is_empty() => {
                if let Err(mpsc::error::TrySendError::Full(output)) = stderr.try_send(output.to_vec()) {
                    tracing::warn!(bytes = output.len(), "standard error of the pod is not read: dropped");
                }
            }
            _ => {}
        }
    }
}

/// Sends standard input and pings, until the connection or its owner ends.
async fn write<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut stdin: mpsc::Receiver<Vec<u8>>,
    can_close: bool,
    period: Duration,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ping = tokio::time::interval_at(Instant::now() + period, period);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_open = true;
    loop {
        let messages = tokio::select! {
            _ = ping.tick() => vec![Message::Ping(Bytes::new())],
            piece = stdin.recv(), if is_open => if let Some(bytes) = piece {
                bytes.chunks(MESSAGE_BYTES).map(|chunk| on_channel(STDIN, chunk)).collect()
            } else {
                is_open = false;
                if can_close { vec![on_channel(CLOSE, &[STDIN])] } else { Vec::new() }
            },
        };
        for message in messages {
            sink.send(message).await.map_err(|error| causes(&error))?;
        }
    }
}

fn on_channel(channel: u8, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::binary(message)
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
