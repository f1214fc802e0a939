//! Every transport to every other one; skopeo writes what is read, and reads what was written.

use std::path::Path;
use std::process::Command;

use ocne_container::{CopyOptions, Digest, FetchError, FetchOptions, ImageReference, Platform};
use serde_json::Value;

use crate::copy;
use crate::docker_registry::{Registry, have, run};
use crate::image::{Item, LayerFile, Layout, with_platform};

const TOOLS: [&str; 2] = ["skopeo", "docker-registry"];

/// A small image of two layers.
pub fn layout(path: &Path) -> Layout {
    let layer = |name: &str, bytes: &[u8]| LayerFile::gzip(&[Item::Folder("etc/"), Item::File(name, bytes)]);
    let layers = [layer("etc/a", &[1; 5000]), layer("etc/b", b"two")];
    Layout::single(path, &layers)
}

/// References of all six transports below a folder; without the last one where skopeo cannot use it.
pub fn references(folder: &Path, registry: &Registry, name: &str, with_storage: bool) -> Vec<String> {
    let path = folder.display();
    let mut all = vec![
        format!("docker://{}/test/{name}:1", registry.address),
        format!("oci:{path}/{name}.oci:name"),
        format!("oci-archive:{path}/{name}.oci.tar:name"),
        format!("docker-archive:{path}/{name}.docker.tar:example.com/{name}:1"),
        format!("dir:{path}/{name}.dir"),
    ];
    if with_storage {
        all.push(format!("containers-storage:[vfs@{path}/storage+{path}/run]localhost/{name}:1"));
    }
    all
}

fn skopeo_copy(more: &[&str], from: &str, to: &str) {
    let copy = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"];
    run("skopeo", &[&copy[..], more, &[from, to]].concat());
}

pub fn raw(reference: &str) -> Vec<u8> {
    run("skopeo", &["inspect", "--raw", "--tls-verify=false", reference])
}

pub fn config_of(manifest: &[u8]) -> Value {
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    manifest["config"]["digest"].clone()
}

#[test]
fn every_transport_to_every_other() {
    if !have("every_transport_to_every_other", &TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let original = layout(&dir.path().join("original")).reference();
    let storage = references(dir.path(), &registry, "from", true).pop().unwrap();
    let tried =
        Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &original, &storage]).output();
    let with_storage = tried.is_ok_and(|out| out.status.success());
    if !with_storage {
        eprintln_skipped("every_transport_to_every_other, containers-storage: skopeo cannot use it here");
    }
    let sources = references(dir.path(), &registry, "from", with_storage);
    for source in &sources[..5] {
        skopeo_copy(&[], &original, source);
    }
    let config = config_of(&raw(&original));
    let mut pairs = 0;
    for source in &sources {
        let manifest = raw(source);
        for to in references(dir.path(), &registry, "to", with_storage) {
            let (copied, _) = copy(dir.path(), source, &to, &CopyOptions::default(), FetchOptions::default());
            let copied = copied.unwrap_or_else(|e| panic!("{source} to {to}: {e:?}"));
            pairs += 1;
            let found = raw(&to);
            assert_eq!(config_of(&found), config, "{source} to {to}");
            let archived = |reference: &str| reference.starts_with("docker-archive:");
            let stored = |reference: &str| reference.starts_with("containers-storage:");
            let changes = archived(source) || archived(&to) || stored(source);
            assert_eq!(copied.changed.is_some(), changes, "{source} to {to}");
            if copied.changed.is_none() {
                assert_eq!((&found, copied.digest), (&manifest, Digest::of(&manifest)), "{source} to {to}");
            }
            if stored(&to) {
                continue;
            }
            // All of it is there, and what the configuration says: docker's archives have it unpacked and compared.
            let check = format!("docker-archive:{}:a:b", dir.path().join("check.tar").display());
            let _ = fs_err::remove_file(dir.path().join("check.tar"));
            skopeo_copy(&[], &to, &check);
            assert_eq!(config_of(&raw(&check)), config, "{source} to {to}");
        }
    }
    assert_eq!(pairs, if with_storage { 36 } else { 25 });
    assert_eq!(crate::image::leftovers(dir.path()), [""; 0].map(std::path::PathBuf::from));
}

pub fn eprintln_skipped(what: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIPPED {what}\n"));
}

#[test]
fn the_same_bytes_as_skopeo() {
    if !have("the_same_bytes_as_skopeo", &["skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let original = format!("oci-archive:{}", crate::sample().display());
    for form in ["oci", "dir"] {
        let name = if form == "oci" { ":name" } else { "" };
        let [ours, theirs] = ["ours", "theirs"].map(|who| dir.path().join(format!("{form}-{who}")));
        let reference = |path: &Path| format!("{form}:{}{name}", path.display());
        let (copied, _) =
            copy(dir.path(), &original, &reference(&ours), &CopyOptions::default(), FetchOptions::default());
        copied.unwrap();
        skopeo_copy(&[], &original, &reference(&theirs));
        run("diff", &["-r", ours.to_str().unwrap(), theirs.to_str().unwrap()]);
    }
}

/// An index for two architectures.
fn index(path: &Path) -> (Layout, Value) {
    let mut layout = Layout::new(path);
    let image = |architecture: &str| {
        let layer = LayerFile::gzip(&[Item::File("a", architecture.as_bytes())]);
        with_platform(layout.image(architecture, &[layer]), architecture, None)
    };
    let index = layout.nested_index(&[image("amd64"), image("arm64")]);
    layout.list(index.clone(), Some("all"));
    (layout, index)
}

#[test]
fn indexes_whole_or_one_of_their_images() {
    if !have("indexes_whole_or_one_of_their_images", &TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let (layout, index) = index(&dir.path().join("index"));
    let original = format!("{}:all", layout.reference());
    let all = CopyOptions { all: true, ..CopyOptions::default() };
    let references = references(dir.path(), &registry, "all", false);
    let mut source = original.clone();
    for to in &references {
        let (copied, _) = copy(dir.path(), &source, to, &all, FetchOptions::default());
        if to.starts_with("docker-archive:") {
            assert!(matches!(copied, Err(FetchError::TargetForm { .. })), "{copied:?}");
            continue;
        }
        assert_eq!(copied.unwrap().digest.to_string(), index["digest"], "{source} to {to}");
        // Both are there.
        let check = format!("dir:{}", dir.path().join("check").display());
        skopeo_copy(&["--all"], to, &check);
        assert_eq!(Digest::of(&raw(&check)).to_string(), index["digest"]);
        source.clone_from(to);
    }
    let to = format!("dir:{}", dir.path().join("one").display());
    for (architecture, is_there) in [("arm64", true), ("s390x", false)] {
        let platform = Some(Platform::linux(architecture));
        let one = CopyOptions { platform, ..CopyOptions::default() };
        let (copied, _) = copy(dir.path(), &original, &to, &one, FetchOptions::default());
        assert_eq!(copied.is_ok(), is_there, "{architecture}: {copied:?}");
    }
    let (copied, _) = copy(dir.path(), &original, &to, &CopyOptions::default(), FetchOptions::default());
    let error = copied.unwrap_err();
    assert!(error.to_string().contains("linux/amd64, linux/arm64"), "{error}");
    assert!(error.hint().unwrap().contains("`--all`"));
    // The wrong architecture of a single image is said as well.
    let wrong = CopyOptions { platform: Some(Platform::linux("amd64")), ..CopyOptions::default() };
    let arm64 = to.replace("one", "other");
    let (copied, _) = copy(dir.path(), &to, &arm64, &wrong, FetchOptions::default());
    assert!(matches!(copied, Err(FetchError::NoSuchPlatform { .. })), "{copied:?}");
}

#[test]
fn what_is_there_stays_or_is_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let first = layout(&dir.path().join("first")).reference();
    let second = Layout::single(dir.path().join("second"), &[LayerFile::plain(&[Item::File("x", b"y")])]);
    let second = second.reference();
    let copy =
        |from: &str, to: &str| copy(dir.path(), from, to, &CopyOptions::default(), FetchOptions::default()).0;
    let path = |name: &str| dir.path().join(name).display().to_string();
    // A layout gets one more image, and one of the same name is replaced.
    let layout = format!("oci:{}", path("layout"));
    let digests = [&first, &second].map(|from| copy(from, &format!("{layout}:a")).unwrap().digest);
    copy(&first, &format!("{layout}:b")).unwrap();
    let read = |name: &str| {
        let out = format!("dir:{}", path("out"));
        copy(&format!("{layout}:{name}"), &out).map(|copied| copied.digest)
    };
    assert_eq!((read("a").unwrap(), read("b").unwrap()), (digests[1], digests[0]));
    assert!(matches!(read("c"), Err(FetchError::NoSuchImage { .. })));
    // Something else is not touched.
    fs_err::create_dir(dir.path().join("mine")).unwrap();
    fs_err::write(dir.path().join("mine/letter"), "dear").unwrap();
    for to in [format!("dir:{}", path("mine")), format!("oci:{}", path("mine"))] {
        let error = copy(&first, &to).unwrap_err();
        assert!(matches!(error, FetchError::TargetInUse { .. }), "{error}");
    }
    let error = copy(&first, &format!("oci-archive:{}", path("mine"))).unwrap_err();
    assert!(matches!(error, FetchError::TargetForm { .. }), "{error}");
    assert_eq!(fs_err::read_dir(dir.path().join("mine")).unwrap().count(), 1);
    // Damage does not get a name, whatever the transport, and leaves none.
    let damaged = Layout::single(dir.path().join("damaged"), &[LayerFile::gzip(&[Item::File("x", b"y")])]);
    let manifest = fs_err::read(damaged.blob_path(damaged.index[0]["digest"].as_str().unwrap())).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layer = damaged.blob_path(manifest["layers"][0]["digest"].as_str().unwrap());
    let mut bytes = fs_err::read(&layer).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs_err::write(&layer, bytes).unwrap();
    let before = fs_err::read_dir(dir.path()).unwrap().count();
    for to in ["oci:", "dir:", "oci-archive:", "docker-archive:"] {
        let error = copy(&damaged.reference(), &format!("{to}{}", path("bad"))).unwrap_err();
        assert!(matches!(error, FetchError::DigestMismatch { .. }), "{to}: {error}");
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), before, "{to}");
    }
    assert!(matches!(
        ImageReference::parse("containers-storage:a b"),
        Err(ocne_container::ReferenceError { .. })
    ));
}
