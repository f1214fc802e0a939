//! Pods that do not run, or not for long, and how that is explained.

use std::error::Error;
use std::time::{Duration, Instant};

use ocne_cluster::{ClusterError, ClusterEvent};

use crate::Test;
use crate::environment::Environment;

pub const TESTS: &[(&str, Test)] = &[
    ("an_image_that_is_not_there_is_named", image),
    ("no_node_of_the_architecture", architecture),
    ("a_program_that_crashes", crash),
    ("a_pod_that_is_deleted_while_a_program_runs", deleted),
];

fn image(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let mut spec = environment.spec("idle");
    spec.image = format!("{}/nothing:1", environment.test.registry);
    let start = Instant::now();
    let (pod, events) = environment.start(&spec);
    let error = pod.unwrap_err();
    assert!(
        matches!(&error, ClusterError::Image { image, reason, .. } if *image == spec.image && reason.contains("not found")),
        "{error}"
    );
    assert!(!error.to_string().contains("rpc error"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(25));
    let is_told = |event: &ClusterEvent| matches!(event, ClusterEvent::Waiting { reason } if reason.contains("cannot pull"));
    assert_eq!(events.iter().filter(|event| is_told(event)).count(), 1, "{events:?}");
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}

fn architecture(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let mut spec = environment.spec("idle");
    "arm64".clone_into(&mut spec.node_architecture);
    spec.pod_wait = Duration::from_secs(4);
    let plan = environment.runtime.block_on(environment.cluster.preflight(&spec))?;
    assert_eq!(plan.nodes.map(|nodes| (nodes.all, nodes.suitable)), Some((1, 0)));
    let error = environment.start(&spec).0.unwrap_err();
    assert!(matches!(&error, ClusterError::Unschedulable { .. }), "{error}");
    assert!(error.to_string().contains("0/1 nodes are available: 1 node(s) didn't match"), "{error}");
    assert!(error.hint().unwrap().contains("kubernetes.io/arch"));
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}

fn crash(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let spec = environment.spec("crash");
    let error = match environment.start(&spec).0 {
        Err(error) => error,
        Ok(pod) => environment.runtime.block_on(pod.explain_end()).ok_or("no explanation")?,
    };
    assert!(matches!(&error, ClusterError::Ended { exit_code: 3, .. }), "{error}");
    assert!(error.to_string().ends_with("exit code 3: the sky is falling"), "{error}");
    Ok(())
}

fn deleted(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let spec = environment.spec("idle");
    let pod = environment.start(&spec).0?;
    environment.runtime.block_on(async {
        let mut exec = pod.exec(&["sh", "-c", "echo there; cat; echo"]).await?;
        assert_eq!(exec.stdout.recv().await, Some(b"there\n".to_vec()));
        environment.test.kubectl(&["delete", "pod", pod.name(), "-n", pod.namespace(), "--wait=false"])?;
        let end = tokio::time::timeout(Duration::from_secs(30), exec.done).await??;
        // The cluster may say that all went well, or that it was killed; it is never the whole story.
        assert!(!matches!(&end, Ok(status) if status.exit_code == 0), "{end:?}");
        let error = pod.explain_end().await.ok_or("no explanation")?;
        assert!(matches!(&error, ClusterError::Deleted { .. }), "{error}");
        pod.remove().await?;
        Ok::<(), Box<dyn Error>>(())
    })?;
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}
