//! Images of ostree content made in builder pods: the same bytes as here, whoever fetches the source, over connections that
//! break.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::{Failed, Trial};
use ocne_test_cluster::Proxy;

use crate::cluster::{Site, on_the_cluster};
use crate::pod_transfer::{node_proxy, over_proxy, sha256};
use crate::support::{Bench, fixtures, must, text};

/// Connections that are cut, one after the other.
const CUTS: u64 = 4;

pub fn trials(bench: &Bench) -> Vec<Trial> {
    on_the_cluster(
        bench,
        &[
            ("ostree_pod::made_of_what_is_sent", made_of_what_is_sent),
            ("ostree_pod::made_of_what_the_pod_fetches", made_of_what_the_pod_fetches),
        ],
    )
}

/// The sample, where the ordinary user may read it; and our own server beside the agent.
fn prepare(site: &Site) -> Result<PathBuf, Failed> {
    let target = Path::new(env!("CARGO_BIN_EXE_ocne")).ancestors().nth(2).ok_or("no build folder")?;
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/serve.sh"));
    let mut serve_sh = Command::new(script);
    must(serve_sh.arg("amd64").env("AGENT_PROFILE", "dev").env("CARGO_TARGET_DIR", target), "serve.sh")?;
    // Another test may have it open.
    let (program, part) = (site.means.agents.join("ocne-serve-amd64"), site.case.dir.join("ocne-serve"));
    fs_err::copy(target.join("debug/ocne-serve-amd64"), &part)?;
    fs_err::set_permissions(&part, std::fs::Permissions::from_mode(0o755))?;
    fs_err::rename(&part, &program)?;
    let source = site.case.dir.join("sample.ociarchive");
    fs_err::copy(fixtures().join("ostree/sample-encapsulated.ociarchive"), &source)?;
    Ok(source)
}

/// A build, ready to start.
fn create(site: &Site, builder: &str, image: &str, base: &str) -> Command {
    let mut c = site.case.ocne(&["image", "create", "--type", "ostree", "--arch", "amd64"]);
    c.args(["--builder", builder, "--image", image, "--base", base]);
    c.arg("--output").arg(site.case.result()).arg("--report").arg(site.case.report());
    site.in_cluster(&mut c, &site.means.shell_image);
    c
}

fn made_of_what_is_sent(site: &Site) -> Result<(), Failed> {
    let image = format!("oci-archive:{}", prepare(site)?.display());
    // Any image can be a base.
    let base = format!("docker://{}", site.means.shell_image);
    for base in ["none", &base] {
        must(&mut create(site, "local", &image, base), "the build here")?;
        let (wanted, local) = (sha256(site)?, site.report()?);
        let line = over_proxy(site)?;
        let said = text(&must(&mut create(site, "cluster", &image, base), "the build in the pod")?.stderr);
        let whole_bytes = line.passed_bytes();
        if sha256(site)? != wanted {
            return Err(format!("{base}: another image: {said}").into());
        }
        let report = site.report()?;
        if report["builder"] != "cluster" || !report["cluster"]["pod"].is_string() {
            return Err(format!("the report says {report:#}").into());
        }
        for part in ["source", "base", "commit", "image"] {
            if report[part] != local[part] {
                return Err(format!("{part}: {} instead of {}", report[part], local[part]).into());
            }
        }
        site.assert_nothing_left()?;
        // Once for the one with more to send.
        let cuts = if base == "none" { 0 } else { CUTS };
        for cut in 1..=cuts {
            let line = over_proxy(site)?;
            line.cut_at(whole_bytes * cut / (CUTS + 1));
            fs_err::remove_file(site.case.result())?;
            let about = format!("{base}, cut after {cut} of {} parts", CUTS + 1);
            must(&mut create(site, "cluster", &image, base), &about)?;
            if sha256(site)? != wanted {
                return Err(format!("{about}: another image").into());
            }
            site.assert_nothing_left()?;
        }
    }
    Ok(())
}

fn made_of_what_the_pod_fetches(site: &Site) -> Result<(), Failed> {
    let archive = prepare(site)?;
    let name = format!("{}/ostree:1", site.namespace);
    let to = format!("docker://{}/{name}", site.cluster.registry);
    let from = format!("oci-archive:{}", archive.display());
    must(Command::new("skopeo").args(["copy", "-q", "--dest-tls-verify=false", &from, &to]), "skopeo")?;
    let registry: Proxy = node_proxy(site)?;
    let address = registry.address.to_string();
    let image = format!("ostree-unverified-registry:{address}/{name}");
    let shell = site.means.shell_image.split_once('/').ok_or("no registry")?.1;
    let base = format!("docker://{address}/{shell}");
    let pulled = |image: &str| {
        let mut c = create(site, "cluster", image, &base);
        c.args(["--pull", "pod", "--insecure-registry", &address]);
        c
    };
    must(create(site, "local", &image, &base).args(["--insecure-registry", &address]), "the build here")?;
    let (wanted, local) = (sha256(site)?, site.report()?);
    let line = over_proxy(site)?;
    let said = text(&must(&mut pulled(&image), "the build in the pod")?.stderr);
    let report = site.report()?;
    if sha256(site)? != wanted || report["source"] != local["source"] || report["base"] != local["base"] {
        return Err(format!("another image: {said} {report:#}").into());
    }
    let whole_bytes = line.passed_bytes();
    let line = over_proxy(site)?;
    line.cut_at(whole_bytes * 9 / 10);
    must(&mut pulled(&image), "a build over a line that is cut")?;
    if sha256(site)? != wanted {
        return Err("another image after a cut".into());
    }
    // The pod says why it cannot fetch it, and nothing is left anywhere.
    fs_err::remove_file(site.case.result())?;
    let out = pulled(&format!("{image}-not")).stdin(Stdio::null()).output()?;
    let said = text(&out.stderr);
    if out.status.code() != Some(1) || !said.contains("ostree:1-not") || site.case.result().exists() {
        return Err(format!("{}: {said}", out.status).into());
    }
    // A file is nothing that a pod can fetch.
    let out = pulled(&from).stdin(Stdio::null()).output()?;
    if out.status.success() || !text(&out.stderr).contains("hint: ") {
        return Err(format!("{}: {}", out.status, text(&out.stderr)).into());
    }
    site.assert_nothing_left()
}
