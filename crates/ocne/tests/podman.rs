//! Podman takes our images and logins, and we take its.

#[path = "../../ocne-container/tests/docker_registry/mod.rs"]
mod docker_registry;
mod support;

use std::path::Path;
use std::process::Command;

use docker_registry::{Registry, have};
use serde_json::Value;
use support::{Home, Ran, repository};

fn sample() -> String {
    let fixtures = repository().join("tests/fixtures/ostree");
    format!("oci-archive:{}", fixtures.join("sample-encapsulated.ociarchive").display())
}

/// Podman with a storage below a folder, and nothing else of this machine.
fn podman(home: &Home, arguments: &[&str]) -> Ran {
    let mut podman = Command::new("podman");
    podman.args(["--storage-driver", "vfs", "--root"]).arg(home.path().join("storage"));
    podman.arg("--runroot").arg(home.path().join("runroot")).args(arguments).current_dir(home.path());
    podman.env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path().join("run"));
    Ran::of(podman.env_remove("REGISTRY_AUTH_FILE"))
}

/// Whether it can be used here; says why not.
fn usable(test: &str, home: &Home, more: &[&str]) -> bool {
    if !have(test, &[&["podman"], more].concat()) {
        return false;
    }
    fs_err::create_dir(home.path().join("run")).unwrap();
    let info = podman(home, &["info"]);
    let works = info.code == Some(0);
    if !works {
        let why = info.stderr.lines().last().unwrap_or_default().to_owned();
        let line = format_args!("SKIPPED {test}: podman cannot be used here: {why}\n");
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
    }
    works
}

/// A folder with no program but this one.
fn only(folder: &Path, program: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|f| f.join(program)).find(|f| f.is_file()).unwrap();
    fs_err::create_dir(folder).unwrap();
    fs_err::os::unix::fs::symlink(found, folder.join(program)).unwrap();
}

#[test]
fn podman_loads_what_was_made() {
    let home = Home::new();
    if !usable("podman_loads_what_was_made", &home, &["tar", "python3"]) {
        return;
    }
    // Any image can be a base for who does not start it.
    let base = support::small_image();
    let create = ["image", "create", "-t", "ostree", "-a", "amd64", "-q", "--report", "report.json"];
    let image = sample();
    home.run(&[&create[..], &["--image", &image, "--base", &base, "-o", "out.tar"]].concat()).ok();
    let said = podman(&home, &["load", "--input", "out.tar"]).ok();
    assert!(said.contains("Loaded image: localhost/ock-ostree:latest"), "{said}");
    let said = podman(&home, &["image", "inspect", "localhost/ock-ostree:latest"]).ok();
    let found: Value = serde_json::from_str::<Value>(&said).unwrap()[0].take();
    let report: Value =
        serde_json::from_slice(&fs_err::read(home.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(found["Digest"], report["image"]["manifest_digest"]);
    assert_eq!(found["Labels"]["ostree.commit"], report["commit"]["checksum"]);
    assert_eq!(found["Config"]["ExposedPorts"], serde_json::json!({ "80/tcp": {}, "443/tcp": {} }));
    assert_eq!((&found["Architecture"], &found["Os"]), (&"amd64".into(), &"linux".into()));
}

#[test]
fn storage_without_skopeo() {
    let home = Home::new();
    if !usable("storage_without_skopeo", &home, &["skopeo"]) {
        return;
    }
    let programs = home.path().join("programs");
    only(&programs, "podman");
    let folder = home.path().display();
    let stored = format!("containers-storage:[vfs@{folder}/storage+{folder}/runroot]localhost/sample:1");
    let copy = |path: &Path, more: &[&str]| {
        let mut copy = home.ocne(&[&["image", "copy", "-q"], more].concat());
        Ran::of(copy.env("PATH", path))
    };
    copy(&programs, &[&sample(), &stored]).ok();
    let listed = podman(&home, &["images", "--noheading", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    assert_eq!(listed, "localhost/sample:1\n");
    // Out of it by podman alone is the same as out of it by skopeo.
    let config = |name: &str| {
        let manifest = fs_err::read(home.path().join(name).join("manifest.json")).unwrap();
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["config"]["digest"].take()
    };
    copy(&programs, &[&stored, "dir:by-podman"]).ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    copy(Path::new(&path), &[&stored, "dir:by-skopeo"]).ok();
    copy(&programs, &[&sample(), "dir:before"]).ok();
    assert_eq!((config("by-podman"), config("by-skopeo")), (config("before"), config("before")));
    // Neither of them; and not all images of an index.
    let said = copy(home.path(), &[&sample(), &stored]).failed(1);
    assert!(said.contains("neither `skopeo` nor") && said.contains("hint: install skopeo"), "{said}");
}

#[test]
fn logins_are_the_same_as_podmans() {
    let name = "logins_are_the_same_as_podmans";
    let home = Home::new();
    if !usable(name, &home, &["docker-registry", "htpasswd"]) {
        return;
    }
    let registry = Registry::with_password(home.path(), "me", "open:sesame");
    let host = registry.address.to_string();
    podman(&home, &["login", "--tls-verify=false", "-u", "me", "-p", "open:sesame", &host]).ok();
    assert_eq!(home.run(&["registry", "whoami", &host]).ok(), "me\n");
    let (source, to) = (sample(), format!("docker://{host}/mine/sample:1"));
    home.run(&["image", "copy", "-q", &source, &to]).ok();
    home.run(&["registry", "logout", &host]).ok();
    let said = podman(&home, &["login", "--get-login", &host]);
    assert_ne!(said.code, Some(0), "{said:?}");
    let mut login = home.ocne(&["registry", "login", &host, "-u", "me", "--password-stdin"]);
    fs_err::write(home.path().join("password"), "open:sesame").unwrap();
    login.stdin(fs_err::File::open(home.path().join("password")).unwrap().into_parts().0);
    Ran::of(&mut login).ok();
    assert_eq!(podman(&home, &["login", "--get-login", &host]).ok(), "me\n");
    podman(&home, &["pull", "--quiet", "--tls-verify=false", &to]).ok();
    podman(&home, &["logout", &host]).ok();
    home.run(&["registry", "whoami", &host]).failed(1);
}
