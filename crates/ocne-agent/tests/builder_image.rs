//! The image of builder pods, as `scripts/builder-image.py` assembles it: the same bytes each time, read by other
//! programs, with nothing in it that does not belong there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What stands for the agent; it says which compiler made it, as any Rust program does.
const AGENT: &[u8] = b"#!not a program\0rustc version 1.2.3 (0123456789 2026-01-02)\0";

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn skipped(words: &str) {
    // Past the capture of tests that pass.
    let _ = std::io::stderr().write_all(format!("SKIPPED builder_image::{words}\n").as_bytes());
}

/// The architectures whose C library is here.
fn architectures() -> Vec<&'static str> {
    let all = [("amd64", "x86_64-linux-gnu-gcc"), ("arm64", "aarch64-linux-gnu-gcc")];
    let has = |gcc: &str| Command::new(gcc).arg("--version").output().is_ok();
    let (here, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, gcc)| has(gcc));
    for (arch, gcc) in missing {
        skipped(&format!("{arch}: {gcc} is not installed"));
    }
    here.into_iter().map(|(arch, _)| arch).collect()
}

/// Assembles the image in a folder, made from an agent there.
fn assemble(folder: &Path, seconds: u64) -> PathBuf {
    let (agent, out) = (folder.join("agent"), folder.join("ocne-builder.oci-archive"));
    fs_err::write(&agent, AGENT).unwrap();
    let mut script = Command::new(format!("{ROOT}/scripts/builder-image.py"));
    script.arg(&out).env("SOURCE_DATE_EPOCH", seconds.to_string());
    script.args(architectures().iter().map(|arch| format!("{arch}={}", agent.display())));
    run(&mut script);
    out
}

/// An unpacked archive.
struct Image(tempfile::TempDir);

impl Image {
    fn of(archive: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(dir.path()));
        Self(dir)
    }

    fn blob(&self, descriptor: &Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let path = self.0.path().join("blobs/sha256").join(digest);
        let content = fs_err::read(&path).unwrap();
        let mut found = String::new();
        for byte in Sha256::digest(&content) {
            write!(found, "{byte:02x}").unwrap();
        }
        assert_eq!((found.as_str(), content.len() as u64), (digest, descriptor["size"].as_u64().unwrap()));
        path
    }

    fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&fs_err::read(self.blob(descriptor)).unwrap()).unwrap()
    }

    fn index(&self) -> Value {
        let top: Value =
            serde_json::from_slice(&fs_err::read(self.0.path().join("index.json")).unwrap()).unwrap();
        assert_eq!(top["manifests"].as_array().unwrap().len(), 1);
        self.json(&top["manifests"][0])
    }
}

#[test]
fn the_same_agents_give_the_same_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assemble(a.path(), 1_700_000_000);
    assemble(b.path(), 1_700_000_000);
    let mut names = BTreeSet::new();
    for entry in fs_err::read_dir(a.path()).unwrap() {
        let name = entry.unwrap().file_name();
        let both = [&a, &b].map(|dir| fs_err::read(dir.path().join(&name)).unwrap());
        assert!(both[0] == both[1], "{name:?} differs");
        names.insert(name.into_string().unwrap());
    }
    let mut expected = BTreeSet::from(["agent".to_owned(), "ocne-builder.oci-archive".to_owned()]);
    expected.extend(architectures().iter().map(|arch| format!("ocne-builder-{arch}.tar.gz")));
    assert_eq!(names, expected);
}

#[test]
fn what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let archive = assemble(dir.path(), 1_700_000_000);
    let image = Image::of(&archive);
    let index = image.index();
    let platforms: Vec<_> = index["manifests"].as_array().unwrap().iter().map(|m| &m["platform"]).collect();
    let expected: Vec<_> =
        architectures().iter().map(|arch| json!({"architecture": arch, "os": "linux"})).collect();
    assert_eq!(platforms, expected.iter().collect::<Vec<_>>());
    for descriptor in index["manifests"].as_array().unwrap() {
        let manifest = image.json(descriptor);
        let config = image.json(&manifest["config"]);
        assert_eq!(config["architecture"], descriptor["platform"]["architecture"]);
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Entrypoint"], json!(["/ocne-agent"]));
        assert_eq!(config["config"]["Cmd"], json!(["wait"]));
        let labels = &config["config"]["Labels"];
        for (label, value) in [("version", env!("CARGO_PKG_VERSION")), ("title", "ocne-agent")] {
            assert_eq!(labels[format!("org.opencontainers.image.{label}")], value);
        }
        assert_eq!(&manifest["annotations"], labels);
        assert_eq!(&index["annotations"], labels);

        let layer = image.blob(&manifest["layers"][0]);
        let list = run(Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(&layer));
        let list = String::from_utf8(list).unwrap();
        let entries: Vec<_> = list
            .lines()
            .map(|line| {
                let mut words = line.split_whitespace();
                let (mode, owner) = (words.next().unwrap(), words.next().unwrap());
                format!("{mode} {owner} {}", words.last().unwrap())
            })
            .collect();
        assert_eq!(
            entries,
            [
                "drwxr-xr-x 0/0 etc/",
                "-rw-r--r-- 0/0 etc/group",
                "-rw-r--r-- 0/0 etc/passwd",
                "-rwxr-xr-x 0/0 ocne-agent",
                "drwx------ 65532/65532 scratch/",
                "drwxr-xr-x 0/0 usr/",
                "drwxr-xr-x 0/0 usr/share/",
                "drwxr-xr-x 0/0 usr/share/sbom/",
                "-rw-r--r-- 0/0 usr/share/sbom/ocne-agent.cdx.json",
            ]
        );
        let member = |name: &str| run(Command::new("tar").args(["-xOzf"]).arg(&layer).arg(name));
        assert_eq!(member("ocne-agent"), AGENT);
        check_sbom(&serde_json::from_slice(&member("usr/share/sbom/ocne-agent.cdx.json")).unwrap());
    }
}

fn check_sbom(sbom: &Value) {
    assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&json!("CycloneDX"), &json!("1.6")));
    assert_eq!(sbom["metadata"]["component"]["name"], "ocne-agent");
    let components = sbom["components"].as_array().unwrap();
    let names: BTreeSet<_> = components.iter().map(|c| c["name"].as_str().unwrap()).collect();
    for name in ["ocne-xfs", "ocne-transfer", "reqwest", "zstd-sys", "libdeflate-sys", "rust-std", "glibc"] {
        assert!(names.contains(name), "{name} is missing");
    }
    // Of tests, of builds, and what only other programs of the workspace link.
    for name in ["ocne-agent", "proptest", "tempfile", "cc", "syn", "serde_derive", "kube", "clap"] {
        assert!(!names.contains(name), "{name} is in no agent");
    }
    for component in components {
        let (name, version) = (component["name"].as_str().unwrap(), component["version"].as_str().unwrap());
        let of = if matches!(name, "rust-std" | "glibc") { "generic" } else { "cargo" };
        assert_eq!(component["purl"], format!("pkg:{of}/{name}@{}", version.replace('+', "%2B")));
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        let ours = name.starts_with("ocne-") || of == "generic";
        let digest = component["hashes"][0]["content"].as_str().unwrap_or_default();
        assert_eq!(digest.len(), if ours { 0 } else { 64 }, "{component}");
    }
    // Every reference leads somewhere.
    let subject = &sbom["metadata"]["component"];
    let known: BTreeSet<_> =
        components.iter().chain([subject]).map(|c| c["bom-ref"].as_str().unwrap()).collect();
    for edge in sbom["dependencies"].as_array().unwrap() {
        let to = edge["dependsOn"].as_array().unwrap().iter().chain([&edge["ref"]]);
        assert!(to.into_iter().all(|purl| known.contains(purl.as_str().unwrap())), "{edge}");
    }
}

#[test]
fn other_programs_read_it() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        return skipped("other_programs_read_it: skopeo is not installed");
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = format!("oci-archive:{}", assemble(dir.path(), 0).display());
    for arch in architectures() {
        let copy = format!("dir:{}", dir.path().join(arch).display());
        run(Command::new("skopeo").args(["copy", "-q", "--override-arch", arch, &archive, &copy]));
        let config = run(Command::new("skopeo").args(["inspect", "--config", &copy]));
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(
            (&config["architecture"], &config["config"]["User"]),
            (&json!(arch), &json!("65532:65532"))
        );
    }
}

#[test]
fn the_containerfile_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::of(&assemble(dir.path(), 0));
    let manifest = image.json(&image.index()["manifests"][0]);
    let config = image.json(&manifest["config"])["config"].clone();
    let text = fs_err::read_to_string(format!("{ROOT}/deploy/Containerfile")).unwrap().replace("\\\n", " ");
    let of = |instruction: &str| text.lines().find_map(|line| line.strip_prefix(instruction)).unwrap().trim();
    assert_eq!(of("USER"), config["User"]);
    assert_eq!(of("WORKDIR"), config["WorkingDir"]);
    assert_eq!(serde_json::from_str::<Value>(of("ENTRYPOINT")).unwrap(), config["Entrypoint"]);
    assert_eq!(serde_json::from_str::<Value>(of("CMD")).unwrap(), config["Cmd"]);
    // When and of which commit, only who builds knows.
    for (name, value) in config["Labels"].as_object().unwrap() {
        let varies = name.ends_with(".created") || name.ends_with(".revision");
        assert!(varies || of("LABEL").contains(&format!("{name}={value}")), "{name} differs");
    }
    assert_eq!(of("ADD"), "ocne-builder-${TARGETARCH}.tar.gz /");
}

#[test]
fn an_agent_that_is_not_there_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("ocne-builder.oci-archive");
    let mut script = Command::new(format!("{ROOT}/scripts/builder-image.py"));
    let output = script.arg(&out).arg("arm64=/nowhere/ocne-agent-arm64").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no agent for arm64 at /nowhere/ocne-agent-arm64\nhint: "), "{said}");
    assert!(!out.exists());
}
