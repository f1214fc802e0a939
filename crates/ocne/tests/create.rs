//! `image create` through the built program, on the committed boot image.

mod support;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{Home, Ran, assert_schema, repository, small_image};

/// The arguments of a create of the committed image, with more of them.
fn create<'a>(image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["image", "create", "--arch", "amd64", "--builder", "local", "--image", image], more].concat()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}

fn sha256sum(path: &Path) -> String {
    let out = Ran::of(Command::new("sha256sum").arg(path)).ok();
    out.split_whitespace().next().unwrap().to_owned()
}

/// The image says of itself that all of it is sound, and so does qemu-img if it is there.
fn assert_sound(home: &Home, image: &Path) -> Value {
    let path = image.to_str().unwrap();
    let info: Value =
        serde_json::from_str(&home.run(&["image", "info", "--file", path, "--check", "-o", "json"]).ok())
            .unwrap();
    assert_schema("image-info.schema.json", &info);
    match Command::new("qemu-img").args(["check", "-q", path]).status() {
        Ok(status) => assert!(status.success(), "qemu-img check"),
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED qemu-img check of {path}: {e}");
        }
    }
    info
}

#[test]
fn an_image_and_its_report() {
    let home = Home::new();
    let image = small_image();
    let arguments = create(
        &image,
        &[
            "-o",
            "boot.oci",
            "--report",
            "report.json",
            "-K",
            "quiet  console=tty1",
            "-v",
            "1.33",
            "-i",
            "oci",
        ],
    );
    let ran = home.run(&arguments);
    assert_eq!(ran.stdout, "", "standard output is data");
    let stderr = ran.stderr.clone();
    ran.ok();
    let lines: Vec<&str> = stderr.lines().map(|l| l.split_once("] ").map_or(l, |(_, text)| text)).collect();
    assert_eq!(lines.first(), Some(&"Creating Image"), "{stderr}");
    let path = home.path().join("boot.oci");
    let last = format!("New boot image was created successfully at {}", path.display());
    assert_eq!(lines.last(), Some(&last.as_str()), "{stderr}");
    assert!(stderr.lines().all(|l| l.starts_with("INFO[20") || l.starts_with("WARN[20")), "{stderr}");

    let report = json(&home.path().join("report.json"));
    assert_schema("create-report.schema.json", &report);
    assert_eq!(report["output"]["path"], path.to_str().unwrap());
    assert_eq!(report["output"]["sha256"], sha256sum(&path).as_str());
    assert_eq!(report["output"]["size_bytes"], fs_err::metadata(&path).unwrap().len());
    assert_eq!(report["source"]["reference"], image.as_str());
    for fs in report["filesystems"].as_array().unwrap() {
        assert_ne!(fs["uuid_before"], fs["uuid_after"]);
    }
    assert_eq!(report["filesystems"].as_array().unwrap().len(), 2);
    for entry in report["entries"].as_array().unwrap() {
        let options = entry["options_after"].as_str().unwrap();
        assert!(options.ends_with(" quiet  console=tty1"), "{options}");
        assert!(options.contains("ignition.platform.id=oci"), "{options}");
    }
    assert!(!report["entries"].as_array().unwrap().is_empty());
    assert!(report["files"].as_array().unwrap().iter().any(|f| f["change"] == "added"));
    assert_sound(&home, &path);
    assert_eq!(names(home.path()), [".ocne", "boot.oci", "report.json"]);
}

#[test]
fn the_usual_name_and_nothing_but_the_path() {
    let home = Home::new();
    let image = small_image();
    let path = home.path().join(".ocne/images/boot.qcow2-1.31-amd64.oci");
    let ran = home.run(&create(&image, &["--quiet", "--version", "1.31"]));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (format!("{}\n", path.display()).as_str(), ""));
    assert!(path.is_file());
    // Again, into a folder, from the cache, without a network.
    let ran = home.run(&create(&image, &["-q", "--offline", "-o", "folder/"]));
    assert_eq!(ran.ok(), format!("{}\n", home.path().join("folder/boot.qcow2-1.33-amd64.oci").display()));
}

#[test]
fn a_file_tells_its_architecture() {
    let home = Home::new();
    let first = home.path().join("first.oci");
    home.run(&create(&small_image(), &["-o", first.to_str().unwrap()])).ok();
    let before = sha256sum(&first);
    let convert = ["image", "create", "--file", "first.oci", "--type", "olvm", "-q", "-o", "."];
    assert_eq!(
        home.run(&convert).ok(),
        format!("{}\n", home.path().join("boot.qcow2-1.33-amd64.olvm").display())
    );
    assert_eq!(sha256sum(&first), before, "the source was changed");
    let wrong =
        home.run(&["image", "create", "--file", "first.oci", "--arch", "arm64", "-o", "x.oci"]).failed(1);
    assert!(wrong.contains("arm64") && wrong.contains("amd64"), "{wrong}");
    let same = home.run(&["image", "create", "--file", "first.oci", "-o", "first.oci"]).failed(1);
    assert!(same.contains("is the source"), "{same}");
    assert_eq!(names(home.path()), [".ocne", "boot.qcow2-1.33-amd64.olvm", "first.oci"]);
}

#[test]
fn a_plan_changes_nothing() {
    let home = Home::new();
    let plan = home.run(&create(&small_image(), &["--plan", "-K", "quiet", "-o", "boot.oci"])).ok();
    for expected in [small_image().as_str(), "boot.oci", "amd64", "free", "`quiet`", "UUID"] {
        assert!(plan.contains(expected), "{expected} is not in {plan}");
    }
    assert!(!home.path().join("boot.oci").exists());
    let mut todo = vec![home.path().to_owned()];
    while let Some(folder) = todo.pop() {
        for name in names(&folder) {
            assert!(folder.join(&name).is_dir(), "{name} was written");
            todo.push(folder.join(name));
        }
    }
}

#[test]
fn progress_for_programs() {
    let home = Home::new();
    let ran = home.run(&create(&small_image(), &["--progress", "json", "-o", "boot.oci"]));
    let stderr = ran.stderr.clone();
    ran.ok();
    let records: Vec<Value> = stderr.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for record in &records {
        assert_schema("progress.schema.json", record);
    }
    for stage in ["fetch", "convert", "write", "verify"] {
        for event in ["begin", "end"] {
            assert!(
                records.iter().any(|r| r["stage"] == stage && r["event"] == event),
                "{stage} {event}: {stderr}"
            );
        }
    }
    let failed = home.run(&create("oci-archive:none", &["--progress", "json", "-o", "x.oci"])).failed(1);
    let last: Value = serde_json::from_str(failed.lines().last().unwrap()).unwrap();
    assert_schema("progress.schema.json", &last);
    assert_eq!((&last["event"], &last["exit_code"]), (&"error".into(), &1.into()));
}

#[test]
fn compressed_anew() {
    let home = Home::new();
    for (format, name) in [("zstd:5", "zstd"), ("zlib", "zlib")] {
        home.run(&create(&small_image(), &["--recompress", format, "-o", name, "--report", "report.json"]))
            .ok();
        let info = assert_sound(&home, &home.path().join(name));
        assert_eq!(info["compression"], name);
        let report = json(&home.path().join("report.json"));
        assert_schema("create-report.schema.json", &report);
        assert_eq!(report["output"]["sha256"], sha256sum(&home.path().join(name)).as_str());
    }
}

#[test]
fn a_damaged_cache_heals() {
    let home = Home::new();
    home.run(&create(&small_image(), &["-o", "one.oci"])).ok();
    let mut todo = vec![home.path().join(".ocne")];
    let mut damaged = 0;
    while let Some(folder) = todo.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if fs_err::metadata(&path).unwrap().len() > 100_000 {
                let mut bytes = fs_err::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x10;
                fs_err::write(&path, bytes).unwrap();
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);
    let ran = home.run(&create(&small_image(), &["-o", "two.oci"]));
    assert!(ran.stderr.contains("damaged"), "{}", ran.stderr);
    ran.ok();
    assert_sound(&home, &home.path().join("two.oci"));
}

#[test]
fn refusals_leave_nothing() {
    let home = Home::new();
    let image = small_image();
    let refused = |arguments: &[&str], expected: &str| {
        let stderr = home.run(arguments).failed(1);
        assert!(stderr.contains("error: ") && stderr.contains(expected), "{expected:?} is not in {stderr}");
    };
    refused(&create(&image, &["-o", "missing/boot.oci"]), "`missing`");
    refused(&create("oci-archive:none.tar", &["-o", "boot.oci"]), "none.tar");
    refused(&["image", "create", "--arch", "arm64", "--image", &image, "-o", "boot.oci"], "arm64");
    let other = repository().join("Cargo.toml");
    refused(&["image", "create", "--file", other.to_str().unwrap(), "-o", "boot.oci"], "not a qcow2");
    fs_err::write(home.path().join("empty"), "").unwrap();
    refused(&["image", "create", "--file", "empty", "-o", "boot.oci"], "empty");
    fs_err::create_dir(home.path().join("folder.oci")).unwrap();
    let left: Vec<String> = names(home.path()).into_iter().filter(|n| !n.starts_with(".ocne")).collect();
    assert_eq!(left, ["empty", "folder.oci"]);
}

/// No pod could fetch it, so no cluster is asked for one.
#[test]
fn an_archive_is_for_no_pod_to_fetch() {
    let home = Home::new();
    let image = small_image();
    let said = home
        .run(&[
            "image",
            "create",
            "--arch",
            "amd64",
            "--builder",
            "cluster",
            "--pull",
            "pod",
            "--image",
            &image,
        ])
        .failed(1);
    assert!(said.contains("is not in a registry") && said.contains("hint: leave `--pull pod` out"), "{said}");
}

#[test]
fn two_runs_to_one_output() {
    let home = Home::new();
    let held = fs_err::File::create(home.path().join(".boot.oci.part")).unwrap();
    rustix::fs::flock(held.file(), rustix::fs::FlockOperation::LockExclusive).unwrap();
    let stderr = home.run(&create(&small_image(), &["-o", "boot.oci"])).failed(1);
    assert!(stderr.contains("another run is writing `boot.oci`"), "{stderr}");
    drop(held);
    home.run(&create(&small_image(), &["-o", "boot.oci"])).ok();
    assert_eq!(names(home.path()), [".ocne", "boot.oci"]);
}
