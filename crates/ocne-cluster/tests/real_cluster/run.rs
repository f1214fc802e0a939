//! Pods that run, and are gone afterwards.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ocne_cluster::{BuilderPod, ClusterError, ClusterEvent, PodEntry};

use crate::Test;
use crate::environment::Environment;

pub const TESTS: &[(&str, Test)] = &[
    ("a_pod_runs_programs_and_leaves_nothing", runs),
    ("a_shell_becomes_the_agent_that_is_brought", shell),
    ("nothing_is_left_of_a_start_that_is_cancelled", cancelled),
    ("eight_pods_at_once", eight),
    ("the_exit_code_and_unread_output_do_not_stop_a_program", unread),
    ("a_memory_scratch_takes_files", memory),
    ("what_is_left_is_listed_and_removed", leftovers),
];

/// What a program says on its standard output, and its exit code.
pub async fn output(pod: &BuilderPod, command: &[&str]) -> Result<(Vec<u8>, i32), ClusterError> {
    let mut exec = pod.exec(command).await?;
    drop(exec.stdin);
    let mut all = Vec::new();
    while let Some(piece) = exec.stdout.recv().await {
        all.extend(piece);
    }
    let status = exec.done.await.unwrap()?;
    Ok((all, status.exit_code))
}

/// Bytes that do not repeat soon.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(count).collect()
}

fn runs(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let spec = environment.spec("idle");
    let plan = environment.runtime.block_on(environment.cluster.preflight(&spec))?;
    assert_eq!(plan.namespace, ocne_cluster::NamespaceState::WillBeMade);
    assert_eq!(plan.nodes.map(|nodes| nodes.suitable), Some(1));
    let (pod, events) = environment.start(&spec);
    let pod = pod?;
    assert!(events.contains(&ClusterEvent::NamespaceCreated(spec.namespace.clone())), "{events:?}");
    assert!(matches!(events.last(), Some(ClusterEvent::PodRunning { .. })), "{events:?}");
    let plan = environment.runtime.block_on(environment.cluster.preflight(&spec))?;
    let enforce = Some("restricted".to_owned());
    assert_eq!(plan.namespace, ocne_cluster::NamespaceState::Exists { enforce });
    assert!(plan.access.iter().all(|check| check.is_allowed));
    assert!(plan.changes.is_empty() && plan.not_asked.is_empty(), "{plan:?}");

    let data = noise(8 << 20);
    let exec = environment.runtime.block_on(pod.exec(&["sh", "-c", "cat; echo"]))?;
    let (mut reader, mut writer, mut stderr, done) = exec.into_blocking(environment.runtime.handle().clone());
    let sent = data.clone();
    let writing = std::thread::spawn(move || {
        // Pieces that do not fall together with messages.
        sent.chunks(300_007).try_for_each(|chunk| writer.write_all(chunk))?;
        writer.flush()
    });
    let mut back = Vec::new();
    reader.read_to_end(&mut back)?;
    writing.join().unwrap()?;
    assert_eq!(back.pop(), Some(b'\n'));
    assert!(back == data, "{} bytes came back, or others", back.len());
    assert_eq!(environment.runtime.block_on(done)??.exit_code, 0);
    assert_eq!(stderr.blocking_recv(), None);
    assert!(environment.runtime.block_on(pod.explain_end()).is_none());

    environment.runtime.block_on(pod.remove())?;
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}

fn shell(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let mut spec = environment.spec("idle");
    spec.entry = PodEntry::Shell;
    let pod = environment.start(&spec).0?;
    environment.runtime.block_on(async {
        let mut exec = pod
            .exec(&["sh", "-c", "cat >/scratch/ocne-agent && chmod 700 /scratch/ocne-agent; echo there"])
            .await?;
        let agent = "#!/bin/sh\necho $* >/scratch/arguments\ntrap exit TERM\nsleep 1000 & wait\n";
        exec.stdin.send(agent.as_bytes().to_vec()).await?;
        drop(exec.stdin);
        assert_eq!(exec.stdout.recv().await, Some(b"there\n".to_vec()));
        exec.done.await??;
        assert_eq!(output(&pod, &["sh", "-c", "echo >/proc/1/fd/0"]).await?.1, 0);
        let wait = "while ! cat /scratch/arguments 2>/dev/null; do sleep 0.1; done";
        let (said, _) = output(&pod, &["sh", "-c", wait]).await?;
        assert_eq!(String::from_utf8_lossy(&said), "wait --idle-timeout 300\n");
        pod.remove().await?;
        Ok::<(), Box<dyn Error>>(())
    })?;
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}

fn cancelled(environment: &Environment) -> Result<(), Box<dyn Error>> {
    for after_ms in [0, 20, 60, 150, 400, 900] {
        let spec = environment.spec("idle");
        let cancel = AtomicBool::new(false);
        let result = environment.runtime.block_on(async {
            let timer = async {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                cancel.store(true, Ordering::Relaxed);
            };
            tokio::join!(environment.cluster.start(&spec, &|_| (), &cancel), timer).0
        });
        match result {
            Err(ClusterError::Interrupted) => {}
            Ok(pod) => environment.runtime.block_on(pod.remove())?,
            Err(error) => return Err(error.into()),
        }
        assert_eq!(environment.left_in(&spec.namespace)?, "", "after {after_ms} ms");
    }
    Ok(())
}

fn eight(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let spec = environment.spec("idle");
    let cancel = AtomicBool::new(false);
    let one = || async {
        let pod = environment.cluster.start(&spec, &|_| (), &cancel).await?;
        let (said, _) = output(&pod, &["sh", "-c", "echo $HOSTNAME"]).await?;
        assert_eq!(String::from_utf8_lossy(&said).trim(), pod.name());
        pod.remove().await
    };
    let all = (0..8).map(|_| one());
    environment.runtime.block_on(futures_util::future::try_join_all(all))?;
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}

fn unread(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let pod = environment.start(&environment.spec("idle")).0?;
    environment.runtime.block_on(async {
        assert_eq!(output(&pod, &["sh", "-c", "exit 7"]).await?.1, 7);
        // Standard error is full and nobody reads it: standard output comes all the same.
        let exec = pod.exec(&["sh", "-c", "head -c 50000000 /dev/zero >&2; echo done"]).await?;
        let mut stdout = exec.stdout;
        assert_eq!(stdout.recv().await, Some(b"done\n".to_vec()));
        assert_eq!(exec.done.await??.exit_code, 0);
        // Standard output is full while standard input is taken; it is read later, and nothing is missing.
        let count = 20_000_000;
        let program = format!("head -c {count} /dev/zero & cat >/scratch/in; wait; cat /scratch/in");
        let exec = pod.exec(&["sh", "-c", &program]).await?;
        for piece in noise(4 << 20).chunks(1 << 20) {
            tokio::time::timeout(Duration::from_secs(20), exec.stdin.send(piece.to_vec())).await??;
        }
        drop(exec.stdin);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (mut stdout, mut found) = (exec.stdout, 0);
        while let Some(piece) = stdout.recv().await {
            found += piece.len();
        }
        assert_eq!(found, count + (4 << 20));
        let missing = pod.exec(&["/no/such/program"]).await?.done.await?;
        assert!(matches!(missing, Err(ClusterError::Exec { .. })), "{missing:?}");
        pod.remove().await?;
        Ok(())
    })
}

fn memory(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let mut spec = environment.spec("idle");
    spec.scratch = "memory".parse()?;
    let pod = environment.start(&spec).0?;
    environment.runtime.block_on(async {
        let fill = "head -c 40000000 /dev/zero >/scratch/f && cat /scratch/f | sha256sum >/dev/null";
        assert_eq!(output(&pod, &["sh", "-c", fill]).await?.1, 0);
        let overfill = "head -c 90000000 /dev/zero >/scratch/g";
        assert_ne!(output(&pod, &["sh", "-c", overfill]).await?.1, 0);
        pod.remove().await?;
        Ok(())
    })
}

fn leftovers(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let spec = environment.spec("idle");
    let pod = environment.start(&spec).0?;
    environment.runtime.block_on(async {
        let found = environment.cluster.leftovers(Some(&spec.namespace)).await?;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].job.as_deref(), Some(pod.job()));
        assert_eq!(found[0].pod.as_deref(), Some(pod.name()));
        assert_eq!(found[0].created_by, "tests");
        assert_eq!(found[0].phase, "Running");
        let everywhere = environment.cluster.leftovers(None).await?;
        assert!(everywhere.iter().any(|leftover| leftover.job == found[0].job));
        let start = Instant::now();
        environment.cluster.remove(&found[0]).await?;
        assert!(start.elapsed() < Duration::from_secs(30));
        assert_eq!(environment.cluster.leftovers(Some(&spec.namespace)).await?, []);
        Ok(())
    })
}
