//! Connections that break.

use std::error::Error;
use std::io::Read as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ocne_cluster::{Cluster, ClusterError, ConnectOptions};

use ocne_test_cluster::Proxy;

use crate::Test;
use crate::environment::Environment;
use crate::run::output;

pub const TESTS: &[(&str, Test)] = &[
    ("a_start_outlives_an_api_server_that_restarts", restart),
    ("a_connection_that_breaks_is_an_error_and_the_pod_lives", cut),
    ("a_session_that_says_nothing_outlives_a_proxy", silent),
    ("a_client_that_goes_ends_the_connection", dropped),
];

/// The cluster, over a line that can be cut.
fn over_proxy(environment: &Environment, name: &str) -> Result<(Proxy, Cluster), Box<dyn Error>> {
    let server = environment.cluster.server();
    let proxy = Proxy::to(server.trim_start_matches("https://").parse()?)?;
    let file = environment.test.folder.join(format!("{name}.kubeconfig"));
    let text = fs_err::read_to_string(&environment.test.kubeconfig)?;
    fs_err::write(&file, text.replace(server, &format!("https://{}", proxy.address)))?;
    let options = ConnectOptions { kubeconfig: Some(file), context: None };
    let cluster = environment.runtime.block_on(Cluster::connect(&options))?;
    Ok((proxy, cluster))
}

fn restart(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let (proxy, cluster) = over_proxy(environment, "restart")?;
    let spec = environment.spec("idle");
    let cancel = AtomicBool::new(false);
    environment.runtime.block_on(async {
        let outage = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            proxy.cut();
            tokio::time::sleep(Duration::from_secs(5)).await;
            proxy.mend();
        };
        let (pod, ()) = tokio::join!(cluster.start(&spec, &|_| (), &cancel), outage);
        pod?.remove().await
    })?;
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}

fn cut(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let (proxy, cluster) = over_proxy(environment, "cut")?;
    let spec = environment.spec("idle");
    let cancel = AtomicBool::new(false);
    let runtime = &environment.runtime;
    let pod = runtime.block_on(cluster.start(&spec, &|_| (), &cancel))?;
    let exec = runtime.block_on(pod.exec(&["sh", "-c", "cat /dev/zero; echo"]))?;
    let (mut reader, writer, _stderr, done) = exec.into_blocking(runtime.handle().clone());
    let mut buffer = vec![0; 1 << 20];
    reader.read_exact(&mut buffer)?;
    proxy.cut();
    let error = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    let end = runtime.block_on(done)?;
    assert!(matches!(end, Err(ClusterError::ConnectionLost { .. })), "{end:?}");
    drop(writer);
    proxy.mend();
    assert!(runtime.block_on(pod.explain_end()).is_none());
    assert_eq!(runtime.block_on(output(&pod, &["true"]))?.1, 0);
    runtime.block_on(pod.remove())?;
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}

/// A proxy drops what is idle for half a minute here, for a whole one mostly.
fn silent(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let (proxy, cluster) = over_proxy(environment, "silent")?;
    proxy.drop_idle(Duration::from_secs(30));
    let spec = environment.spec("idle");
    let cancel = AtomicBool::new(false);
    environment.runtime.block_on(async {
        let pod = cluster.start(&spec, &|_| (), &cancel).await?;
        let said = output(&pod, &["sh", "-c", "sleep 45; echo still here"]).await?;
        assert_eq!((said.0.as_slice(), said.1), (&b"still here\n"[..], 0));
        pod.remove().await?;
        Ok(())
    })
}

fn dropped(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let (proxy, cluster) = over_proxy(environment, "dropped")?;
    let spec = environment.spec("idle");
    let cancel = AtomicBool::new(false);
    environment.runtime.block_on(async {
        let pod = cluster.start(&spec, &|_| (), &cancel).await?;
        let mut exec = pod.exec(&["sh", "-c", "cat /dev/zero; echo"]).await?;
        assert!(exec.stdout.recv().await.is_some());
        exec.done.abort();
        drop(exec);
        // What was on its way arrives, and no more.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = proxy.passed_bytes();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(proxy.passed_bytes() - before < 1 << 20);
        pod.remove().await?;
        Ok(())
    })
}
