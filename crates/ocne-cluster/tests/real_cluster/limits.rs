//! Limits that a running pod comes up against.

use std::error::Error;
use std::time::{Duration, Instant};

use ocne_cluster::{BuilderPod, ClusterError};

use crate::Test;
use crate::environment::Environment;
use crate::run::output;

pub const TESTS: &[(&str, Test)] = &[
    ("too_little_memory_is_named_with_its_limit", memory),
    ("a_scratch_volume_that_overflows_is_an_eviction", scratch),
    ("a_deadline_that_passes", deadline),
];

/// Waits until the pod has ended, and why.
async fn end_of(pod: &BuilderPod) -> Result<ClusterError, Box<dyn Error>> {
    let start = Instant::now();
    loop {
        if let Some(error) = pod.explain_end().await {
            return Ok(error);
        }
        assert!(start.elapsed() < Duration::from_mins(2), "the pod still runs");
    }
}

fn memory(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let mut spec = environment.spec("hungry");
    spec.memory_bytes = 24 << 20;
    let error = match environment.start(&spec).0 {
        Err(error) => error,
        Ok(pod) => environment.runtime.block_on(end_of(&pod))?,
    };
    assert!(matches!(&error, ClusterError::OutOfMemory { limit, .. } if limit == "24Mi"), "{error}");
    Ok(())
}

fn scratch(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let mut spec = environment.spec("idle");
    spec.scratch_bytes = 8 << 20;
    let pod = environment.start(&spec).0?;
    environment.runtime.block_on(async {
        output(&pod, &["sh", "-c", "head -c 30000000 /dev/zero >/scratch/f"]).await?;
        let error = end_of(&pod).await?;
        assert!(matches!(&error, ClusterError::Evicted { .. }), "{error}");
        assert!(
            error.to_string().contains("scratch") && error.hint().unwrap().contains("--scratch"),
            "{error}"
        );
        pod.remove().await?;
        Ok::<(), Box<dyn Error>>(())
    })?;
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}

fn deadline(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let mut spec = environment.spec("idle");
    spec.deadline = Duration::from_secs(4);
    spec.ttl_after_finished = Duration::from_mins(1);
    let pod = environment.start(&spec).0?;
    environment.runtime.block_on(async {
        let error = end_of(&pod).await?;
        assert!(matches!(&error, ClusterError::Deadline { .. }), "{error}");
        pod.remove().await?;
        Ok::<(), Box<dyn Error>>(())
    })?;
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}
