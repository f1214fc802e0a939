//! Imports: waited for, not waited for, refused, interrupted.

use std::thread::sleep;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cloud::{Bench, Cloud, same};

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial("import::no_wait_and_wait", no_wait),
        bench.trial("import::ctrl_c_and_timeout", interrupted),
        bench.trial("import::failed", failed),
        bench.trial("import::by_a_url", by_a_url),
        bench.trial("import::killed_by_a_url", killed_by_a_url),
        bench.trial("import::refused_files", refused_files),
        bench.trial("import::list_show_and_delete", list_show_delete),
    ]
}

fn no_wait(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--import-seconds", "2"])?;
    let file = cloud.image("boot.oci", 1, 1)?;
    let ran =
        cloud.run(cloud.upload(&["-q", "-a", "arm64", "-c", "sandbox", "--no-wait", "-f"]).arg(&file))?;
    let work_request = ran.ended(0)?.stdout.trim().to_owned();
    if !work_request.starts_with("ocid1.coreservicesworkrequest.") {
        return Err(format!("no work request: {work_request}").into());
    }
    let ran = cloud.run(&mut cloud.upload(&["--wait", &work_request, "-o", "json"]))?.ended(0)?;
    let ran = ran.says("Importing compute image: [##########]: ok")?;
    let record: Value = serde_json::from_str(&ran.stdout)?;
    cloud.imported(&record, &file)?;
    // The same command finds the image, and removes the object that was left for the import.
    let again =
        cloud.run(cloud.upload(&["-q", "-a", "arm64", "-c", "sandbox", "-f"]).arg(&file))?.ended(0)?;
    same("image", &json!(again.stdout.trim()), &record["image"]["id"])?;
    same("objects removed", &cloud.metrics()?["by_op"]["DeleteObject"], &json!(1))?;
    cloud.run(&mut cloud.upload(&["--wait", "ocid1.coreservicesworkrequest.oc1..none"]))?.ended(3)?;
    cloud.run(&mut cloud.upload(&["--wait", "hello"]))?.ended(2)?;
    cloud.clean()
}

fn interrupted(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--import-seconds", "6"])?;
    let file = cloud.image("boot.oci", 1, 2)?;
    let run = cloud.start(&mut cloud.command(&file, &["-a", "amd64"]))?;
    for _ in 0..200 {
        if cloud.metrics()?["by_op"]["GetWorkRequest"].is_u64() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    run.signal(Signal::INT)?;
    let ran = run.end(&cloud)?.ended(4)?;
    ran.says("the import goes on in the cloud")?.says("`ocne image upload --wait ocid1.")?;
    let ran = cloud.run(&mut cloud.command(&file, &["-a", "amd64", "--timeout", "1s"]))?.ended(4)?;
    ran.says("the import is not done after")?;
    // The same command waits for the same import.
    let record = cloud.done(&file, &["-a", "amd64"])?;
    cloud.imported(&record, &file)?;
    let metrics = cloud.metrics()?;
    same("imports", &metrics["by_op"]["CreateImage"], &json!(1))?;
    same("commits", &metrics["by_op"]["CommitMultipartUpload"], &json!(1))?;
    cloud.clean()
}

fn failed(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 3)?;
    cloud.faults(&json!([{ "op": "CreateImage", "action": "fail_import", "code": "InvalidImage", "message": "It is cursed." }]))?;
    let ran = cloud.run(&mut cloud.command(&file, &["-a", "amd64"]))?.ended(1)?;
    ran.says("the import failed: InvalidImage: It is cursed")?;
    // Once more: the object is there, so nothing is sent, and it is another import.
    let record = cloud.done(&file, &["-a", "amd64"])?;
    same("sent", &record["sent_bytes"], &json!(0))?;
    cloud.imported(&record, &file)?;
    cloud.clean()
}

/// Identities that may not name the object give a URL of it, which ends with the import.
fn by_a_url(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 6)?;
    let ended = |cloud: &Cloud, count: u64| -> Result<(), Failed> {
        let by_op = &cloud.metrics()?["by_op"];
        same("made", &by_op["CreatePreauthenticatedRequest"], &json!(count))?;
        same("ended", &by_op["DeletePreauthenticatedRequest"], &json!(count))
    };
    let record = cloud.done(&file, &["-a", "amd64", "--from-url"])?;
    cloud.imported(&record, &file)?;
    ended(&cloud, 1)?;
    cloud.faults(&json!([{ "op": "CreateImage", "action": "status", "status": 400, "code": "InvalidParameter", "message": "Invalid bucketName" }]))?;
    let record = cloud.done(&file, &["-a", "arm64", "-i", "other", "--format", "qcow2"])?;
    cloud.imported(&record, &file)?;
    ended(&cloud, 2)?;
    // Also when it fails.
    cloud
        .faults(&json!([{ "op": "CreateImage", "action": "fail_import", "code": "X", "message": "No." }]))?;
    cloud.run(&mut cloud.command(&file, &["-a", "amd64", "-i", "third", "--from-url"]))?.ended(1)?;
    ended(&cloud, 3)?;
    cloud.done(&file, &["-a", "amd64", "-i", "third"])?;
    cloud.clean()
}

/// A run that is killed when its import by a URL has begun, and does not know it yet: the next one finds it, and neither
/// begins another nor ends the URL that the first one is read by.
fn killed_by_a_url(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--import-seconds", "3"])?;
    let file = cloud.image("boot.oci", 1, 7)?;
    let arguments = ["-a", "amd64", "--from-url"];
    cloud.faults(&json!([{ "op": "CreateImage", "action": "delay", "seconds": 30 }]))?;
    let run = cloud.start(&mut cloud.command(&file, &arguments))?;
    let made = || -> Result<usize, Failed> {
        let metrics = cloud.metrics()?;
        Ok(metrics["images"].as_array().into_iter().flatten().filter(|i| i["displayName"] == "ock").count())
    };
    for _ in 0..600 {
        if made()? > 0 {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    run.signal(Signal::KILL)?;
    run.end(&cloud)?;
    let record = cloud.done(&file, &arguments)?;
    cloud.imported(&record, &file)?;
    same("images", &json!(made()?), &json!(1))?;
    let by_op = &cloud.metrics()?["by_op"];
    same("URLs", &by_op["CreatePreauthenticatedRequest"], &json!(1))?;
    same("ended", &by_op["DeletePreauthenticatedRequest"], &json!(1))?;
    cloud.clean()
}

/// What the import would refuse is refused before a byte is sent.
fn refused_files(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 4)?;
    let bad = cloud.dir.join("bad.oci");
    let bytes = fs_err::read(&file)?;
    for (content, words) in [
        (&b"hello"[..], "is neither a qcow2 image nor an exported image"),
        (&bytes[..bytes.len() / 2], "cannot upload"),
        (&[&bytes[..72], &1_u64.to_be_bytes()[..], &bytes[80..]].concat()[..], "cannot upload"),
    ] {
        fs_err::write(&bad, content)?;
        cloud.run(&mut cloud.command(&bad, &["-a", "amd64"]))?.ended(1)?.says(words)?;
    }
    cloud.run(&mut cloud.command(&file, &[]))?.ended(2)?.says("--arch amd64")?;
    let none = cloud.dir.join("none");
    cloud.run(&mut cloud.command(&none, &["-a", "amd64"]))?.ended(1)?.says("hint: `ocne image create")?;
    cloud
        .run(&mut cloud.command(&file, &["-a", "amd64", "--part-size", "1"]))?
        .ended(2)?
        .says("too small")?;
    same("buckets", &cloud.metrics()?["by_op"]["CreateBucket"], &Value::Null)?;
    same("parts", &cloud.metrics()?["part_uploads_ok"], &json!(0))?;
    Ok(())
}

/// Images are listed, shown and removed; those of others are left alone.
fn list_show_delete(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 5)?;
    let arm = cloud.done(&file, &["-a", "arm64", "-i", "arm"])?;
    let amd = cloud.done(&file, &["-a", "amd64", "-i", "amd"])?;
    let listed = |more: &[&str]| -> Result<Vec<Value>, Failed> {
        let mut command =
            cloud.image_command(&[&["list", "-c", "sandbox/images", "-o", "json"], more].concat());
        let record = cloud.run(&mut command)?.ended(0)?.record("images")?;
        Ok(record["images"].as_array().ok_or("no list")?.clone())
    };
    // The platform images, which others have made, are not among them.
    same("images", &json!(listed(&[])?.len()), &json!(2))?;
    same("arm64", &listed(&["-a", "arm64"])?[0]["id"], &arm["image"]["id"])?;
    let id = amd["image"]["id"].as_str().ok_or("no id")?;
    let ran = cloud.run(&mut cloud.image_command(&["show", id, "-o", "json"]))?.ended(0)?;
    let shown = ran.record("images")?;
    same("shapes", &shown["image"]["shapes"], &amd["image"]["shapes"])?;
    cloud.run(&mut cloud.image_command(&["show", id]))?.ended(0)?;
    let ran = cloud.run(&mut cloud.image_command(&["delete", id]))?.ended(0)?;
    same("removed", &json!(ran.stdout), &json!(format!("removed  amd  {id}\n")))?;
    same("images", &json!(listed(&[])?.len()), &json!(1))?;
    let state = cloud.ask("GET", "state", &Value::Null)?;
    let others =
        state["images"].as_array().into_iter().flatten().find(|image| image["compartmentId"].is_null());
    if let Some(others) = others.and_then(|image| image["id"].as_str()) {
        cloud
            .run(&mut cloud.image_command(&["delete", others]))?
            .ended(1)?
            .says("was made by something else")?;
    }
    cloud.run(&mut cloud.image_command(&["show", "ocid1.image.oc1.iad.none"]))?.ended(3)?;
    cloud.clean()
}
