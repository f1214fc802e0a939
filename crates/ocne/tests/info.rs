//! `image info` and `image cache` through the built program, on the committed boot image.

mod support;

use serde_json::Value;
use support::{Home, assert_schema, small_image};

fn archive() -> String {
    small_image().strip_prefix("oci-archive:").unwrap().to_owned()
}

#[test]
fn an_archive_is_an_image_too() {
    let home = Home::new();
    let info: Value = serde_json::from_str(
        &home.run(&["image", "info", "--file", &archive(), "--arch", "amd64", "--check", "-o", "json"]).ok(),
    )
    .unwrap();
    assert_schema("image-info.schema.json", &info);
    let labels: Vec<&Value> = info["partitions"].as_array().unwrap().iter().map(|p| &p["label"]).collect();
    assert_eq!(labels, ["EFI-SYSTEM", "boot", "root"]);
    assert!(
        info["check"].as_array().unwrap().iter().all(|c| c["problems"] == Value::Array(Vec::new())),
        "{info:#}"
    );
    let text =
        home.run(&["image", "info", "--image", &small_image(), "--arch", "amd64", "--label", "boot"]).ok();
    assert!(text.contains("15.0 GiB (16106127360 bytes)") && text.contains("xfs `boot`"), "{text}");
    assert!(!text.contains("EFI-SYSTEM"), "{text}");
}

#[test]
fn files_and_folders() {
    let home = Home::new();
    let archive = archive();
    let info = |more: &[&str]| home.run(&[&["image", "info", "-a", "amd64", "-f", &archive], more].concat());
    let listing = info(&["--label", "boot", "--path", "/loader", "--recursive"]).ok();
    let entry = listing.split_whitespace().find(|w| w.starts_with("entries/ostree-")).unwrap();
    let content = info(&["--path", &format!("/loader/{entry}")]).ok();
    assert!(content.contains("\noptions ") || content.starts_with("options "), "{content}");
    assert_eq!(content, info(&["-L", "boot", "-p", &format!("loader/{entry}")]).ok());
    let efi: Value =
        serde_json::from_str(&info(&["-L", "EFI-SYSTEM", "-p", "/", "-r", "-o", "json"]).ok()).unwrap();
    assert_eq!(efi["partition"], "EFI-SYSTEM");
    assert!(efi["entries"].as_array().unwrap().iter().any(|e| e["kind"] == "file"), "{efi:#}");
    let missing = info(&["--path", "/nothing/here"]).failed(1);
    assert!(missing.contains("`/nothing/here`"), "{missing}");
    let missing = info(&["--label", "data"]).failed(1);
    assert!(missing.contains("`data`; there are: `EFI-SYSTEM`, `boot`, `root`"), "{missing}");
}

#[test]
fn what_is_no_image() {
    let home = Home::new();
    fs_err::write(home.path().join("text"), "hello").unwrap();
    let stderr = home.run(&["image", "info", "--file", "text"]).failed(1);
    assert!(stderr.contains("`text`") && stderr.contains("not a qcow2 image"), "{stderr}");
    let stderr = home.run(&["image", "info", "--file", "nowhere"]).failed(1);
    assert!(stderr.contains("`nowhere`"), "{stderr}");
}

#[test]
fn the_cache_is_listed_and_emptied() {
    let home = Home::new();
    let list = || -> Value {
        serde_json::from_str(&home.run(&["image", "cache", "list", "-o", "json"]).ok()).unwrap()
    };
    assert_eq!(list()["images"], Value::Array(Vec::new()));
    home.run(&["image", "info", "-a", "amd64", "-f", &archive()]).ok();
    let images = list();
    assert_eq!(images["images"].as_array().unwrap().len(), 1, "{images:#}");
    assert!(images["images"][0]["size_bytes"].as_u64().unwrap() > 100_000);
    home.run(&["image", "cache", "prune", "--unused-for", "1"]).ok();
    assert_eq!(list()["images"].as_array().unwrap().len(), 1);
    home.run(&["image", "cache", "prune"]).ok();
    assert_eq!(list()["images"], Value::Array(Vec::new()));
}
