//! The whole way, judged by programs that share no code with it.

mod support;

use ocne_ostree::Base;
use support::{Image, can_run, check, convert, judge, options, run, sample, server};

const JUDGES: [&str; 5] = ["python3", "skopeo", "ostree", "curl", "diff"];

#[test]
fn the_sample_is_as_it_was_and_the_same_every_time() {
    if !can_run("the_sample_is_as_it_was_and_the_same_every_time", &JUDGES) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = Image::read(&sample());
    let first = dir.path().join("first.tar");
    let written = convert(&source, server(), &options(), &first).unwrap();
    assert_eq!(written.imported.objects.files, 468);
    assert_eq!(written.imported.objects.dirtrees, 32);
    assert_eq!(written.imported.objects.dirmetas, 14);
    assert_eq!(written.imported.commit.ref_binding.as_deref(), Some(&["ock".to_owned()][..]));
    check(&first, &["--arch", "amd64", "--no-ctr"]);
    for workers in [1, 2, 16] {
        let other = dir.path().join("other.tar");
        let mut options = options();
        options.workers = workers;
        assert_eq!(convert(&source, server(), &options, &other).unwrap(), written);
        assert!(fs_err::read(&first).unwrap() == fs_err::read(&other).unwrap(), "{workers} workers");
    }
    let other = dir.path().join("other.tar");
    convert(&source, server(), &ocne_ostree::ImageOptions { level: 1, ..options() }, &other).unwrap();
    check(&other, &["--no-ctr"]);
}

#[test]
fn labels_and_annotations_say_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.tar");
    convert(&Image::read(&sample()), server(), &options(), &output).unwrap();
    let image = Image::read(&output);
    let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
    let commit = "6b1e342de244113994b4007c9f3e7b7cf940cc43a0d9ba87291148beb58e75be";
    let labels = &config["config"]["Labels"];
    assert_eq!(labels["ostree.commit"], commit);
    assert_eq!(labels["org.opencontainers.image.version"], "8.10-test");
    assert_eq!(labels["ostree.linux"], "5.15.0-test");
    assert!(labels["ostree.final-diffid"].is_null(), "it holds no encapsulated commit");
    assert_eq!(image.manifest["annotations"]["org.opencontainers.image.revision"], commit);
    assert_eq!(config["created"], image.manifest["annotations"]["org.opencontainers.image.created"]);
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), image.descriptors().len());
    assert_eq!(config["history"].as_array().unwrap().len(), image.descriptors().len());
    assert!(config["config"]["ExposedPorts"]["80/tcp"].is_object());
}

#[test]
fn a_base_keeps_its_layers_and_settings() {
    if !can_run("a_base_keeps_its_layers_and_settings", &JUDGES) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (layer, base) = (dir.path().join("layer.tar"), dir.path().join("base.tar"));
    let mut tar = tar::Builder::new(fs_err::File::create(&layer).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    tar.append_data(&mut header, "etc/base", &b"base\n"[..]).unwrap();
    drop(tar.into_inner().unwrap());
    let made = run(
        "ociarchive.py",
        &[
            &"append",
            &"-",
            &layer,
            &base,
            &"--gzip",
            &"6",
            &"--config",
            &r#"Env=["A=B"]"#,
            &"--config",
            &r#"Entrypoint=["/start"]"#,
        ],
    );
    assert!(made.status.success());
    let base = Image::read(&base);
    let output = dir.path().join("out.tar");
    let sample = Image::read(&sample());
    let written = convert(&sample, Base::Image(base.base()), &options(), &output).unwrap();
    check(&output, &["--no-ctr"]);
    let image = Image::read(&output);

    // As does who knows the base, and has the image from somebody else.
    let source = ocne_ostree::Encapsulated::parse(&sample.config).unwrap();
    let options = options();
    let documents = |base: Base<'_>| ocne_ostree::check_documents(&source, base, &options, &written);
    documents(Base::Image(base.base())).unwrap();
    let mut other = base.base();
    other.layers[0].digest = image.descriptors()[1]["digest"].as_str().unwrap().to_owned();
    documents(Base::Image(other)).unwrap_err();
    let mut other = base.base();
    other.config = String::from_utf8(base.config.clone()).unwrap().replace("A=B", "LD_PRELOAD=x").into();
    documents(Base::Image(other)).unwrap_err();
    documents(server()).unwrap_err();

    assert_eq!(image.descriptors()[0], base.descriptors()[0]);
    assert_eq!(image.blob(0), base.blob(0));
    let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
    assert_eq!(config["config"]["Env"][0], "A=B");
    assert!(config["config"]["Entrypoint"].is_null());
    assert_eq!(config["config"]["Cmd"][0], "nginx");
    assert_eq!(
        image.manifest["annotations"]["org.opencontainers.image.base.name"],
        "registry.example/nginx:1"
    );
}

#[test]
fn large_files_and_long_attributes_come_back() {
    if !can_run("large_files_and_long_attributes_come_back", &JUDGES) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (tar, tree, repo, image) = (path("tree.tar"), path("tree.json"), path("repo"), path("image.tar"));
    let ok = |output: std::process::Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // A file of more than 8 MiB, which is compressed in pieces, and a header of more than 65,535 bytes.
    let what: [&dyn AsRef<std::ffi::OsStr>; 5] =
        [&"--payload-mib", &"1", &"--large-mib", &"8", &"--huge-xattr"];
    ok(run("mktree.py", &[&[&"--tar" as _, &tar as _, &"--manifest" as _, &tree as _], &what[..]].concat()));
    let ostree = |arguments: &[&str]| {
        let mut ostree = std::process::Command::new("ostree");
        ok(ostree.arg(format!("--repo={repo}")).args(arguments).env("LC_ALL", "C.UTF-8").output().unwrap());
    };
    ostree(&["init", "--mode=archive"]);
    let source = format!("--tree=tar={tar}");
    ostree(&[
        "commit",
        "--branch=ock",
        &source,
        "--tar-autocreate-parents",
        "--fsync=false",
        "--subject=large",
    ]);
    let commit = ok(run("encapsulate.py", &[&repo, &"ock", &image]));
    let output = dir.path().join("out.tar");
    let written = convert(&Image::read(image.as_ref()), server(), &options(), &output).unwrap();
    assert_eq!(written.imported.checksum.hex(), commit.trim());
    judge(&output, &["--commit", commit.trim(), "--tree", &tree, "--no-ctr", "--client-mode", "archive"]);
}

#[test]
fn an_image_of_somebody_else_is_audited() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.tar");
    let written = convert(&Image::read(&sample()), server(), &options(), &output).unwrap();
    let cancel = std::sync::atomic::AtomicBool::new(false);
    let audit = |path: &std::path::Path| {
        ocne_ostree::audit_image(fs_err::File::open(path).unwrap().into_parts().0, "ock", &cancel)
    };
    assert_eq!(audit(&output).unwrap(), written);
    let source = ocne_ostree::Encapsulated::parse(&Image::read(&sample()).config).unwrap();
    ocne_ostree::check_documents(&source, server(), &options(), &written).unwrap();
    let other = Base::Server { program: b"#!/bin/true\n".to_vec() };
    ocne_ostree::check_documents(&source, other, &options(), &written).unwrap_err();
    // Each with all digests made right again.
    let other = dir.path().join("other.tar");
    let changes: [(&str, Change); 7] = [
        ("content", |name, content| flip(name, content, ".filez", usize::MAX)),
        ("owner", |name, content| flip(name, content, ".filez", 19)),
        ("size", |name, content| flip(name, content, ".filez", 15)),
        ("folder", |name, content| flip(name, content, ".dirtree", 3)),
        ("ref", |name, content| flip(name, content, "heads/ock", 3)),
        ("config", |name, content| flip(name, content, "ostree/config", 3)),
        ("missing", |name, _| !name.ends_with(".dirmeta")),
    ];
    for (what, change) in changes {
        support::rewrite(&output, &other, &mut |name, content| change(name, content));
        let error = audit(&other).unwrap_err();
        assert!(!matches!(error, ocne_ostree::OstreeError::Output { .. }), "{what}: {error}");
    }
    support::rewrite(&output, &other, &mut |_, _| true);
    assert_eq!(audit(&other).unwrap().imported, written.imported);
    let bytes = fs_err::read(&output).unwrap();
    for len in [0, 511, 512, bytes.len() / 2, bytes.len() - 3000] {
        fs_err::write(&other, &bytes[..len]).unwrap();
        assert!(audit(&other).is_err(), "cut to {len} bytes");
    }
}

/// What becomes of a file, and whether it stays.
type Change = fn(&str, &mut Vec<u8>) -> bool;

/// Changes a bit of a file of this kind; the last byte if it is shorter.
fn flip(name: &str, content: &mut [u8], end: &str, at: usize) -> bool {
    if name.ends_with(end) {
        let at = at.min(content.len() - 1);
        content[at] ^= 1;
    }
    true
}
