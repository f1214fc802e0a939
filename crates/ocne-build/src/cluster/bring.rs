//! The agent's program, brought into a pod that has a shell only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ocne_cluster::{BuilderPod, ClusterError, Exec, unless_cancelled};
use sha2::{Digest as _, Sha256};
use tracing::debug;

use super::{ATTEMPTS_MAX, KILLED, PATIENCE, PAUSE, PodBuilder};
use crate::copy::hex;
use crate::error::BuildError;
use crate::remote::RemoteError;

/// Bringing a few MB into a pod takes longer only where nothing moves.
const BRING_TIMEOUT: Duration = Duration::from_mins(1);
/// How much of what a shell says is kept.
const OUTPUT_BYTES_MAX: usize = 4 << 10;
/// What the agent's program is sent in.
const PIECE_BYTES: usize = 1 << 20;
/// Brings the agent's program into the pod. The shell keeps both outputs open: some container runtimes cut the input
/// short when one is closed.
const BRING: &str =
    "cat >/scratch/ocne-agent && chmod 755 /scratch/ocne-agent && exec /scratch/ocne-agent wake \"$0\"";

impl PodBuilder {
    /// Brings the agent's program into a pod that has a shell only, has it prove its digest there, and starts it.
    pub(super) fn bring(&self, program: &[u8], cancel: &AtomicBool) -> Result<(), BuildError> {
        let pod = self.pod()?;
        let digest = hex(&Sha256::digest(program));
        let mut attempt = 1;
        let begun = Instant::now();
        loop {
            let command = ["sh", "-c", BRING, digest.as_str()];
            let result = self.runtime.block_on(unless_cancelled(cancel, async {
                let bringing = run_with_input(pod, &command, program);
                tokio::time::timeout(BRING_TIMEOUT, bringing).await.unwrap_or_else(|_| {
                    let reason =
                        format!("the agent's program has not arrived after {} s", BRING_TIMEOUT.as_secs());
                    Err(ClusterError::ConnectionLost { pod: pod.name().to_owned(), reason })
                })
            }));
            if cancel.load(Ordering::Relaxed) {
                return Err(BuildError::Interrupted);
            }
            // A connection that is lost says nothing, and may be back soon; a shell that cannot do it says why.
            let is_lost = match &result {
                Ok(said) => said.errors.is_empty() && !said.is_killed,
                Err(e) => e.is_transient(),
            };
            let reason = match result {
                Ok(said) if said.out.starts_with(digest.as_bytes()) => return Ok(()),
                Ok(said) if said.is_killed && attempt >= ATTEMPTS_MAX => {
                    let source = RemoteError::Killed { memory_mib: self.memory_mib() };
                    return Err(BuildError::Remote { pod: self.place(), source });
                }
                Ok(said) => String::from_utf8_lossy(&said.errors).trim().to_owned(),
                Err(e) if e.is_transient() => e.to_string(),
                Err(e) => return Err(e.into()),
            };
            if (attempt >= ATTEMPTS_MAX && !is_lost) || begun.elapsed() > PATIENCE {
                return Err(self.runtime.block_on(pod.explain_end()).map_or_else(
                    || BuildError::AgentNotStarted { pod: self.place(), reason },
                    BuildError::from,
                ));
            }
            attempt += 1;
            debug!(reason, attempt, "bringing the agent again");
            self.runtime.block_on(unless_cancelled(cancel, async {
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }))?;
        }
    }
}

/// The beginning of what a program in a pod said.
struct Said {
    out: Vec<u8>,
    errors: Vec<u8>,
    is_killed: bool,
}

/// Runs a program in a pod with this input; the beginning of what it says on its outputs.
async fn run_with_input(pod: &BuilderPod, command: &[&str], input: &[u8]) -> Result<Said, ClusterError> {
    let Exec { stdin, mut stdout, mut stderr, done, .. } = pod.exec(command).await?;
    for piece in input.chunks(PIECE_BYTES) {
        // A program that ended early says why.
        if stdin.send(piece.to_vec()).await.is_err() {
            break;
        }
    }
    drop(stdin);
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    while let Some(bytes) = stderr.recv().await {
        errors.extend(bytes);
        errors.truncate(OUTPUT_BYTES_MAX);
    }
    while let Some(bytes) = stdout.recv().await {
        out.extend(bytes);
        out.truncate(OUTPUT_BYTES_MAX);
    }
    // Its status proves nothing; only that it was killed explains what nobody else does.
    let is_killed = matches!(done.await, Ok(Ok(status)) if status.exit_code == KILLED);
    Ok(Said { out, errors, is_killed })
}
