//! What travels to a builder pod and back: the same image whichever way it is made, over connections that break.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use ocne_test_cluster::Proxy;

use crate::cluster::{Site, on_the_cluster};
use crate::pod_refusals::refused;
use crate::support::{Bench, Random, must, text};
use crate::variants;

/// Every third of the variants that are converted, for each of the three tests of them.
const VARIANTS: usize = 15;
/// Connections that are cut, in each of two tests.
const CUTS: u64 = 15;

pub fn trials(bench: &Bench) -> Vec<Trial> {
    on_the_cluster(
        bench,
        &[
            ("transfer::variants_are_the_same_1", |site| variants_are_the_same(site, 0)),
            ("transfer::variants_are_the_same_2", |site| variants_are_the_same(site, 1)),
            ("transfer::variants_are_the_same_3", |site| variants_are_the_same(site, 2)),
            ("transfer::connections_that_are_cut_1", |site| connections_that_are_cut(site, 1)),
            ("transfer::connections_that_are_cut_2", |site| connections_that_are_cut(site, 2)),
            ("transfer::by_a_proxy", by_a_proxy),
            ("transfer::a_pod_that_is_deleted", a_pod_that_is_deleted),
            ("transfer::a_client_that_is_killed", a_client_that_is_killed),
            ("transfer::the_pod_fetches_the_image", the_pod_fetches_the_image),
            ("transfer::two_versions", two_versions),
        ],
    )
}

/// A build that can be repeated, ready to start; the seed is the namespace's, because no machine mounts two file systems
/// with one UUID at the same time, as checkers of several tests would.
pub fn seeded(site: &Site, builder: &str, extra: &[&str]) -> Command {
    let mut c = site.create(builder, &["--seed", &site.namespace, "--kernel-args", "e2e.karg=1"]);
    c.args(extra).env("SOURCE_DATE_EPOCH", "1800000000");
    c
}

pub fn sha256(site: &Site) -> Result<String, Failed> {
    let said = must(Command::new("sha256sum").arg(site.case.result()), "sha256sum")?;
    Ok(text(&said.stdout).chars().take(64).collect())
}

fn variants_are_the_same(site: &Site, part: usize) -> Result<(), Failed> {
    let converted: Vec<_> = variants::all().into_iter().filter(|v| !v.refuse).collect();
    let step = converted.len() / VARIANTS;
    for variant in converted.iter().step_by(step).skip(part).step_by(3) {
        let mut own = site.another(&format!("{}-{}", site.namespace, variant.name))?;
        own.case.make(&variant.options)?;
        must(&mut seeded(&own, "local", &[]), "the build here")?;
        let here = sha256(&own)?;
        own.case.check("e2e.karg=1")?;
        for way in ["blocks", "full"] {
            fs_err::remove_file(own.case.result())?;
            let said = must(&mut seeded(&own, "cluster", &["--transfer", way]), way)?;
            let there = sha256(&own)?;
            if here != there {
                let said = text(&said.stderr);
                return Err(format!("{}, {way}: {there} instead of {here}: {said}", variant.name).into());
            }
        }
    }
    site.assert_nothing_left()
}

/// A build whose image the pod fetches from a registry that it reaches, ready to start.
fn pulled(site: &Site, reference: &str) -> Command {
    let mut c =
        site.case.ocne(&["image", "create", "--type", "oci", "--arch", "amd64", "--builder", "cluster"]);
    c.args(["--pull", "pod", "--image", reference]).arg("--output").arg(site.case.result());
    c.arg("--report").arg(site.case.report()).args([
        "--seed",
        &site.namespace,
        "--kernel-args",
        "e2e.karg=1",
    ]);
    site.in_cluster(&mut c, &site.means.shell_image);
    c.env("SOURCE_DATE_EPOCH", "1800000000");
    c
}

/// The boot image in the tests' registry, at an address that pods reach; the line to it has to be kept.
fn in_a_registry(site: &Site) -> Result<(Proxy, String), Failed> {
    let name = format!("{}/ock:1", site.namespace);
    let (from, to) = (site.case.archive.display(), format!("docker://{}/{name}", site.cluster.registry));
    must(
        Command::new("skopeo").args([
            "copy",
            "-q",
            "--dest-tls-verify=false",
            &format!("oci-archive:{from}"),
            &to,
        ]),
        "skopeo",
    )?;
    let proxy = node_proxy(site)?;
    let reference = format!("docker://{}/{name}", proxy.address);
    Ok((proxy, reference))
}

/// The tests' registry at an address that pods reach.
pub fn node_proxy(site: &Site) -> Result<Proxy, Failed> {
    let address = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
    let node = site.kubectl(&["get", "nodes", "-o", address])?;
    let registry = site.cluster.registry.replace("localhost", "127.0.0.1");
    Ok(Proxy::at(node.parse()?, registry.parse()?)?)
}

fn the_pod_fetches_the_image(site: &Site) -> Result<(), Failed> {
    must(&mut seeded(site, "local", &[]), "the build here")?;
    let wanted = sha256(site)?;
    let (registry, reference) = in_a_registry(site)?;
    let insecure = ["--insecure-registry", &registry.address.to_string()];
    let said = text(&must(pulled(site, &reference).args(insecure), "the build in the pod")?.stderr);
    if sha256(site)? != wanted {
        return Err(format!("another image: {said}").into());
    }
    site.case.check("e2e.karg=1")?;
    let report = site.report()?;
    let source = &report["source"];
    if source["reference"] != reference.as_str() || report["output"]["sha256"] != wanted.as_str() {
        return Err(format!("the report says {report:#}").into());
    }
    let disk = must(Command::new("sha256sum").arg(&site.case.boot), "sha256sum")?;
    if !text(&disk.stdout).starts_with(source["disk_sha256"].as_str().unwrap_or("no digest")) {
        return Err(format!("not the digest of the boot image: {source}").into());
    }
    site.assert_nothing_left()?;

    // A line that is cut: what arrived is kept.
    for at_bytes in [400_000, 1_200_000] {
        let proxy = over_proxy(site)?;
        must(pulled(site, &reference).args(insecure), "a build over a line that is whole")?;
        proxy.cut_at(proxy.passed_bytes() + at_bytes);
        must(pulled(site, &reference).args(insecure), "a build over a line that is cut")?;
        if sha256(site)? != wanted {
            return Err("another image over a line that is cut".into());
        }
        site.assert_nothing_left()?;
    }

    // The pod says why it cannot fetch it.
    fs_err::remove_file(site.case.result())?;
    let out = pulled(site, &format!("{reference}-not")).args(insecure).stdin(Stdio::null()).output()?;
    let said = text(&out.stderr);
    if out.status.code() != Some(1) || !said.contains("ock:1-not") {
        return Err(format!("{}: {said}", out.status).into());
    }
    if site.case.result().exists() {
        return Err("something was written".into());
    }
    site.assert_nothing_left()
}

/// By the proxy that the kubeconfig names, and not by one of the environment: the cluster is on this machine.
fn by_a_proxy(site: &Site) -> Result<(), Failed> {
    let config = site.kubectl(&["config", "view", "--raw", "--flatten"])?;
    let server = config.lines().find_map(|l| l.trim().strip_prefix("server: https://")).ok_or("no server")?;
    let proxy = Proxy::to(server.parse()?)?;
    proxy.expect_connect();
    let nobody = [("HTTPS_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "127.0.0.1")];
    must(seeded(site, "cluster", &[]).env(nobody[0].0, nobody[0].1), "the build without a proxy")?;
    if proxy.passed_bytes() != 0 {
        return Err("a proxy that nobody named was used".into());
    }
    let named = format!("    proxy-url: http://{}\n    server: https://{server}", proxy.address);
    site.write_kubeconfig(&config.replace(&format!("    server: https://{server}"), &named))?;
    must(seeded(site, "cluster", &[]).envs(nobody), "the build by a proxy")?;
    if proxy.passed_bytes() == 0 {
        return Err("the proxy was not used".into());
    }
    site.assert_nothing_left()
}

/// The same over a line to the API server that this test has in its hand.
pub fn over_proxy(site: &Site) -> Result<Proxy, Failed> {
    let config = site.kubectl(&["config", "view", "--raw", "--flatten"])?;
    let server = config.lines().find_map(|l| l.trim().strip_prefix("server: https://"));
    let server = server.ok_or("no server")?.to_owned();
    let proxy = Proxy::to(server.parse()?)?;
    site.write_kubeconfig(&config.replace(&server, &proxy.address.to_string()))?;
    Ok(proxy)
}

fn connections_that_are_cut(site: &Site, seed: u64) -> Result<(), Failed> {
    must(&mut seeded(site, "local", &[]), "the build here")?;
    let wanted = sha256(site)?;
    let ways = ["blocks", "full"];
    // How much travels when nothing is cut.
    let mut whole_bytes = [0; 2];
    for (way, whole_bytes) in ways.iter().zip(&mut whole_bytes) {
        let proxy = over_proxy(site)?;
        must(&mut seeded(site, "cluster", &["--transfer", way]), way)?;
        *whole_bytes = proxy.passed_bytes();
    }
    let mut random = Random::new(seed);
    for cut in 0..CUTS {
        let n = usize::try_from(cut % 2)?;
        let at_bytes = random.below(whole_bytes[n]) + 1;
        let proxy = over_proxy(site)?;
        proxy.cut_at(at_bytes);
        fs_err::remove_file(site.case.result())?;
        let about = format!("{}, cut at {at_bytes} of {}", ways[n], whole_bytes[n]);
        must(&mut seeded(site, "cluster", &["--transfer", ways[n]]), &about)?;
        if sha256(site)? != wanted {
            return Err(format!("{about}: another image").into());
        }
        site.assert_nothing_left().map_err(|e| format!("{about}: {}", e.message().unwrap_or_default()))?;
    }
    Ok(())
}

/// The same command again goes on in the pod of the killed one; a pod that is of no use is removed.
fn a_client_that_is_killed(site: &Site) -> Result<(), Failed> {
    must(&mut seeded(site, "local", &[]), "the build here")?;
    let wanted = sha256(site)?;
    let full = |extra: &[&str]| seeded(site, "cluster", &[&["--transfer", "full"], extra].concat());
    let line = over_proxy(site)?;
    must(&mut full(&[]), "a build that is left alone")?;
    let whole_bytes = line.passed_bytes();
    for (extra, goes_on) in [(&[][..], true), (&["--pod-memory", "300"], false)] {
        let line = over_proxy(site)?;
        let pod = killed_while_it_has_a_pod(site, &line, || full(&[]))?;
        let before_bytes = line.passed_bytes();
        let said = text(&must(&mut full(extra), "the next run")?.stderr);
        if said.contains(&pod) != goes_on {
            return Err(format!("the pod `{pod}` was left: {said}").into());
        }
        // The agent's program alone is most of it.
        if goes_on && line.passed_bytes() - before_bytes > whole_bytes / 2 {
            return Err("what was there was sent again".into());
        }
        if sha256(site)? != wanted {
            return Err(format!("another image: {said}").into());
        }
        if !site.case.left_over()?.is_empty() {
            return Err("something was left beside the output".into());
        }
        site.assert_nothing_left()?;
    }
    Ok(())
}

/// Kills a build between the note of its pod and the pod's removal; the pod's name. A build that is too quick for that is
/// made again.
fn killed_while_it_has_a_pod(
    site: &Site,
    line: &Proxy,
    build: impl Fn() -> Command,
) -> Result<String, Failed> {
    for _ in 0..10 {
        let _ = fs_err::remove_file(site.case.result());
        let mut child = build().stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let note = site.case.out.join(".boot.oci.pod");
        while child.try_wait()?.is_none()
            && !fs_err::read_to_string(&note)
                .is_ok_and(|text| text.contains("purpose") && !text.contains("\"purpose\":\"\""))
        {
            sleep(Duration::from_millis(1));
        }
        line.halt();
        child.kill()?;
        child.wait()?;
        line.cut();
        line.mend();
        let running = "jsonpath={.items[*].metadata.deletionTimestamp}{.items[*].metadata.name}";
        let pod = site.kubectl(&["get", "pods", "-n", &site.namespace, "-o", running])?;
        let jobs = site.kubectl(&["get", "jobs", "-n", &site.namespace, "-o", "name"])?;
        if pod.starts_with("ocne-image-builder-") && !jobs.is_empty() {
            return Ok(pod);
        }
        must(&mut build(), "a build after one that was killed at its end")?;
    }
    Err("every build was too quick".into())
}

/// The same program as of a release that speaks another version of the protocol.
fn of_another_release(program: &Path, to: &Path) -> Result<(), Failed> {
    let mut sed = Command::new("sed");
    // Compilers cut the name of the protocol, `ocne-transfer/1`, into words of eight bytes.
    sed.env("LC_ALL", "C").arg("s|ansfer/1|ansfer/2|g").arg(program);
    let other = must(&mut sed, "sed")?.stdout;
    if other == fs_err::read(program)? {
        return Err(format!("no protocol in {}", program.display()).into());
    }
    fs_err::write(to, other)?;
    Ok(fs_err::set_permissions(to, PermissionsExt::from_mode(0o755))?)
}

/// Programs of two releases: each brings its own agent, knows a builder image of the other, and cleans up after it.
fn two_versions(site: &Site) -> Result<(), Failed> {
    must(&mut seeded(site, "local", &[]), "the build here")?;
    let wanted = sha256(site)?;
    fs_err::remove_file(site.case.result())?;
    let mut other = site.another(&format!("{}-other", site.namespace))?;
    let (program, agent) = (other.case.dir.join("ocne"), "ocne-agent-amd64");
    of_another_release(site.case.program(), &program)?;
    of_another_release(&site.means.agents.join(agent), &other.case.dir.join(agent))?;
    other.case.boot.clone_from(&site.case.boot);
    other.case.take_program(program);
    let of_other = |other: &Site, extra: &[&str]| {
        let mut c = seeded(other, "cluster", extra);
        c.env("OCNE_AGENT_DIR", &other.case.dir);
        c
    };

    // At once, in one namespace.
    let mut child = seeded(site, "cluster", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    must(&mut of_other(&other, &[]), "the build of the other release")?;
    if !child.wait()?.success() || sha256(site)? != wanted || sha256(&other)? != wanted {
        return Err("two releases at once are in each other's way".into());
    }
    site.assert_nothing_left()?;

    fs_err::remove_file(other.case.result())?;
    let mut c = other.case.create_by("cluster", &site.case.boot, &[]);
    other.in_cluster(&mut c, &site.means.agent_image);
    refused(&other, "agent_of_another_release", 1, c)?;

    // The program was replaced after a run of it had been killed.
    let line = over_proxy(site)?;
    other.write_kubeconfig(&fs_err::read_to_string(&site.kubeconfig)?)?;
    other.case.out.clone_from(&site.case.out);
    let pod = killed_while_it_has_a_pod(site, &line, || seeded(site, "cluster", &["--transfer", "full"]))?;
    let said = text(&must(&mut of_other(&other, &["--transfer", "full"]), "the next run")?.stderr);
    if said.contains(&pod) || sha256(site)? != wanted {
        return Err(format!("after {pod}: {said}").into());
    }
    site.assert_nothing_left()
}

fn a_pod_that_is_deleted(site: &Site) -> Result<(), Failed> {
    let child = seeded(site, "cluster", &["--transfer", "full"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let begun = Instant::now();
    while !site.left()?.contains("pod/") {
        if begun.elapsed() > Duration::from_secs(30) {
            return Err("no pod was seen".into());
        }
        sleep(Duration::from_millis(20)); // it may be anywhere in its work when it is deleted
    }
    site.kubectl(&["delete", "pods", "--all", "--now", "-n", &site.namespace])?;
    let out = child.wait_with_output()?;
    let said = text(&out.stderr);
    if out.status.code() != Some(1) || !said.contains("hint: ") || !said.contains("has been deleted") {
        return Err(format!("{}: {said}", out.status).into());
    }
    if site.case.result().exists() || !site.case.left_over()?.is_empty() {
        return Err("something was written".into());
    }
    site.assert_nothing_left()
}
