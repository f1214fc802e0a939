//! Every transport to every other one; podman writes what is read, and reads what was written.

use std::process::Command;

use ocne_container::{CopyOptions, Digest, FetchOptions};

use crate::copy;
use crate::docker_registry::{Registry, have, run};
use crate::transports::{config_of, layout, raw, references};

const NAME: &str = "podman_writes_and_reads_every_transport";

/// Podman with a storage of its own.
fn podman(storage: &str, arguments: &[&str]) -> String {
    let root = format!("{storage}/storage");
    let run_root = format!("{storage}/run");
    let own = ["--storage-driver", "vfs", "--root", &root, "--runroot", &run_root];
    String::from_utf8(run("podman", &[&own[..], arguments].concat())).unwrap().trim().to_owned()
}

#[test]
fn podman_writes_and_reads_every_transport() {
    if !have(NAME, &["podman", "skopeo", "docker-registry"]) {
        return;
    }
    // Podman makes a name of the path of a layout, and names have no capital letters.
    let name = format!("ocne-podman-{}", std::process::id());
    let dir = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let mut tried = Command::new("podman");
    let tried = tried.args(["--storage-driver", "vfs", "--root", &path("storage")]);
    let tried = tried.args(["--runroot", &path("run"), "info"]).output().unwrap();
    if !tried.status.success() {
        crate::transports::eprintln_skipped(&format!(
            "{NAME}: podman cannot be used here: {}",
            String::from_utf8_lossy(&tried.stderr).lines().last().unwrap_or_default()
        ));
        return;
    }
    let registry = Registry::start(dir.path());
    let original = layout(&dir.path().join("original")).reference();
    let config = config_of(&raw(&original));
    let id = config.as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let sources = references(dir.path(), &registry, "from", true);
    let (here, check) = (dir.path().display().to_string(), path("check"));
    assert_eq!(podman(&here, &["pull", "--quiet", &original]), id);
    podman(&here, &["tag", &id, "localhost/from:1"]);
    for source in &sources[..5] {
        podman(&here, &["push", "--quiet", "--tls-verify=false", "localhost/from:1", source]);
    }
    let mut pairs = 0;
    for source in &sources {
        let manifest = raw(source);
        for to in references(dir.path(), &registry, "to", true) {
            let (copied, _) = copy(dir.path(), source, &to, &CopyOptions::default(), FetchOptions::default());
            let copied = copied.unwrap_or_else(|e| panic!("{source} to {to}: {e:?}"));
            pairs += 1;
            if to.starts_with("containers-storage:") {
                let found = podman(&here, &["image", "inspect", "--format", "{{.Id}}", "localhost/to:1"]);
                assert_eq!(found, id, "{source} to {to}");
                continue;
            }
            if copied.changed.is_none() {
                assert_eq!((raw(&to), copied.digest), (manifest.clone(), Digest::of(&manifest)));
            }
            // Podman does not read layers that it has; every transport is read whole once, which takes it long.
            if (pairs - 1) % 7 == 0 {
                podman(&check, &["rmi", "--all", "--force"]);
            }
            let found = podman(&check, &["pull", "--quiet", "--tls-verify=false", &to]);
            assert_eq!(found, id, "{source} to {to}");
        }
    }
    assert_eq!(pairs, 36);
    assert_eq!(crate::image::leftovers(dir.path()), [""; 0].map(std::path::PathBuf::from));
}
