//! The way back: images become files.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cloud::{Bench, Cloud, same, sha256};

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial("export::there_and_back", there_and_back),
        bench.trial("export::faults_and_kills", faults_and_kills),
    ]
}

fn export(cloud: &Cloud, id: &str, file: &str, more: &[&str]) -> Command {
    cloud.image_command(&[&["export", id, "-f", file, "-o", "json", "-l", "trace"], more].concat())
}

fn there_and_back(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 3, 1)?;
    let record = cloud.done(&file, &["-a", "arm64"])?;
    let id = record["image"]["id"].as_str().ok_or("no image")?;
    let ran = cloud.run(&mut export(&cloud, id, "back.qcow2", &["--format", "qcow2"]))?.ended(0)?;
    let done = ran.record("export-record")?;
    let back = cloud.home.join("back.qcow2");
    same("the same bytes", &json!(sha256(&back)?), &json!(sha256(&file)?))?;
    same("digest", &done["sha256"], &json!(sha256(&file)?))?;
    same("verified", &done["verified"], &json!(true))?;
    same("object", &done["object_kept"], &json!(false))?;
    cloud.run(&mut export(&cloud, id, "back.qcow2", &[]))?.ended(1)?.says("--overwrite")?;
    // The archive goes up again, as the service gave it.
    cloud.run(&mut export(&cloud, id, "back.oci", &[]))?.ended(0)?;
    let again = cloud.done(&cloud.home.join("back.oci"), &["-a", "arm64", "-i", "again"])?;
    same("launch mode", &again["image"]["launch_mode"], &record["image"]["launch_mode"])?;
    same("shapes", &again["image"]["shapes"], &record["image"]["shapes"])?;
    cloud.run(&mut export(&cloud, "ocid1.image.oc1.iad.none", "none", &[]))?.ended(3)?;
    let state = cloud.ask("GET", "state", &Value::Null)?;
    same("objects left", &state["buckets"][0]["objects"], &json!([]))?;
    left_nothing(&cloud)
}

fn left_nothing(cloud: &Cloud) -> Result<(), Failed> {
    for entry in fs_err::read_dir(&cloud.home)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.contains(".part") {
            return Err(format!("`{name}` is left").into());
        }
    }
    cloud.clean()
}

/// Whatever happens to any request, and whenever the program is killed: the same command ends with the same bytes, and
/// what was fetched before is not fetched again.
fn faults_and_kills(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 40, 2)?;
    let record = cloud.done(&file, &["-a", "amd64"])?;
    let id = record["image"]["id"].as_str().ok_or("no image")?;
    let fault = |operation: &str, action: &str| json!({ "op": operation, "action": action, "count": 1 });
    cloud.faults(&json!([
        fault("ExportImage", "lost_response"),
        fault("GetObject", "truncate"),
        fault("GetObject", "reset"),
    ]))?;
    cloud.run(&mut export(&cloud, id, "a.qcow2", &["--format", "qcow2"]))?.ended(0)?;
    same("bytes", &json!(sha256(&cloud.home.join("a.qcow2"))?), &json!(sha256(&file)?))?;
    // Ranges come slowly, and the program is killed when some are there.
    cloud.faults(
        &json!([{ "op": "GetObject", "action": "delay", "phase": "before", "seconds": 0.3, "count": -1 }]),
    )?;
    let fetched = |cloud: &Cloud| -> Result<u64, Failed> {
        Ok(cloud.metrics()?["by_op"]["GetObject"].as_u64().unwrap_or_default())
    };
    let before = fetched(&cloud)?;
    let run = cloud.start(&mut export(&cloud, id, "b.qcow2", &["--format", "qcow2"]))?;
    for _ in 0..600 {
        if fetched(&cloud)? >= before + 4 {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    // Until the journal knows of them.
    for _ in 0..600 {
        let journal = fs_err::read_to_string(cloud.home.join("b.qcow2.part.json")).unwrap_or_default();
        let journal: Value = serde_json::from_str(&journal).unwrap_or_default();
        if journal["ranges"].as_array().is_some_and(|ranges| !ranges.is_empty()) {
            break;
        }
        sleep(Duration::from_millis(5));
    }
    run.signal(Signal::KILL)?;
    run.end(&cloud)?;
    cloud.idle()?;
    cloud.faults(&json!([]))?;
    let ran = cloud.run(&mut export(&cloud, id, "b.qcow2", &["--format", "qcow2"]))?.ended(0)?;
    let done = ran.record("export-record")?;
    same("bytes", &json!(sha256(&cloud.home.join("b.qcow2"))?), &json!(sha256(&file)?))?;
    if done["resumed_bytes"].as_u64().unwrap_or_default() < 1 << 20 {
        return Err(format!("nothing was resumed: {done}").into());
    }
    let exports = cloud.requests()?;
    let exports =
        exports.iter().filter(|r| r["op"] == "ExportImage" && r["status"] == 200 && r["fault"].is_null());
    same("exports", &json!(exports.count()), &json!(2))?;
    left_nothing(&cloud)
}
