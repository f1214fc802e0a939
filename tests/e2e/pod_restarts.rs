//! Components of the cluster that restart in the middle of a transfer. These tests are run one at a time: nobody else
//! may need the cluster meanwhile.

use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::cluster::{Site, on_the_cluster};
use crate::pod_transfer::{seeded, sha256};
use crate::support::{Bench, must, text};

/// How long the cluster may take to be there again.
const BACK_WITHIN: Duration = Duration::from_mins(1);

pub fn trials(bench: &Bench) -> Vec<Trial> {
    on_the_cluster(
        bench,
        &[
            ("restart::of_the_api_server", |site| restart(site, "kube-apiserver")),
            ("restart::of_the_kubelet", |site| restart(site, "kubelet")),
            ("restart::a_node_that_is_lost", a_lost_node),
        ],
    )
}

/// A build whose image is on its way into a pod, and the digest of what it makes.
fn in_transfer(site: &Site) -> Result<(Site, Child, String), Failed> {
    // Large enough to be on its way for some seconds.
    let mut own = site.another(&format!("{}-large", site.namespace))?;
    own.case.make("--payload-mib 150")?;
    must(&mut seeded(&own, "local", &[]), "the build here")?;
    let wanted = sha256(&own)?;
    fs_err::remove_file(own.case.result())?;
    let child = seeded(&own, "cluster", &["--transfer", "full"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let begun = Instant::now();
    // From the moment on when the node has it: the agent is brought and the image sent.
    while !site.kubectl(&["get", "pods", "-n", &site.namespace])?.contains("Running") {
        if begun.elapsed() > BACK_WITHIN {
            return Err(format!("no pod runs: {}", text(&child.wait_with_output()?.stderr)).into());
        }
        sleep(Duration::from_millis(20));
    }
    sleep(Duration::from_millis(500)); // into the transfer; where in it does not matter
    Ok((own, child, wanted))
}

fn restart(site: &Site, component: &str) -> Result<(), Failed> {
    let (own, child, wanted) = in_transfer(site)?;
    site.cluster.restart(component, 2).map_err(|e| e.to_string())?;
    let out = child.wait_with_output()?;
    let said = text(&out.stderr);
    if !out.status.success() {
        return Err(format!("{}: {said}", out.status).into());
    }
    if sha256(&own)? != wanted {
        return Err(format!("another image: {said}").into());
    }
    is_back(site)?;
    site.assert_nothing_left()
}

/// The cluster answers again.
fn is_back(site: &Site) -> Result<(), Failed> {
    let begun = Instant::now();
    while site.cluster.kubectl(&["get", "--raw", "/readyz"]).is_err() {
        if begun.elapsed() > BACK_WITHIN {
            return Err("the cluster does not come back".into());
        }
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// A kubelet that does not come back is an error that names the node; its pod is gone when the node is there again.
fn a_lost_node(site: &Site) -> Result<(), Failed> {
    let (own, child, _) = in_transfer(site)?;
    std::thread::scope(|scope| {
        let outage = scope.spawn(|| site.cluster.restart("kubelet", 75).map_err(|e| e.to_string()));
        let out = child.wait_with_output()?;
        let said = text(&out.stderr);
        if out.status.code() != Some(4) || !said.contains("node") || !said.contains("hint: ") {
            return Err(Failed::from(format!("{}: {said}", out.status)));
        }
        if !own.case.left_over()?.is_empty() {
            return Err("something is left here".into());
        }
        Ok(outage.join().map_err(|_| "no outage")??)
    })?;
    is_back(site)?;
    site.assert_nothing_left()
}
