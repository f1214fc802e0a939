//! Interruptions: what was sent is not sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cloud::{Bench, Cloud, Random, same};

/// The parts of the images here.
const PART: &str = "128K";
const PART_BYTES: u64 = 128 << 10;
/// What an archive adds to an image of a few MiB: headers, padding, and 5 bytes for each 64 KiB.
const ARCHIVE_BYTES: u64 = 8 << 10;
/// Moments at which a run is killed.
const KILLS: u64 = 40;

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial("resume::kill_9_at_random_moments", kills),
        bench.trial("resume::a_journal_that_is_lost", journal_lost),
        bench.trial("resume::a_journal_that_cannot_be_kept", journal_unkept),
        bench.trial("resume::ctrl_c_abort_and_no_resume", abort),
        bench.trial("resume::two_runs_at_once", two_at_once),
        bench.trial("resume::a_file_that_changes", file_changes),
        bench.trial("resume::an_upload_ended_by_somebody_else", ended_by_others),
    ]
}

/// Starts an upload, and ends it with a signal after a time.
fn interrupted(
    cloud: &Cloud,
    file: &Path,
    arguments: &[&str],
    signal: Signal,
    after: Duration,
) -> Result<Option<i32>, Failed> {
    let run = cloud.start(&mut cloud.command(file, arguments))?;
    sleep(after); // the moment is what is being tested
    run.signal(signal)?;
    Ok(run.end(cloud)?.code)
}

/// Waits until the emulator has so many parts.
fn until_parts(cloud: &Cloud, count: u64) -> Result<(), Failed> {
    for _ in 0..600 {
        if cloud.metrics()?["part_uploads_ok"].as_u64().unwrap_or_default() >= count {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    Err("the parts did not arrive".into())
}

/// Starts an upload, and kills it when the emulator has so many parts.
fn killed_after(cloud: &Cloud, command: &mut Command, parts: u64) -> Result<(), Failed> {
    let run = cloud.start(command)?;
    until_parts(cloud, parts)?;
    run.signal(Signal::KILL)?;
    run.end(cloud)?;
    cloud.idle()
}

/// Parts that arrived whole, by upload.
fn arrived(requests: &[Value]) -> BTreeMap<String, BTreeSet<u64>> {
    let mut parts: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for request in requests.iter().filter(|r| r["op"] == "UploadPart" && r["status"] == 200) {
        let upload = request["upload_id"].as_str().unwrap_or_default().to_owned();
        parts.entry(upload).or_default().insert(request["part"].as_u64().unwrap_or_default());
    }
    parts
}

/// 40 moments over uploads and imports. Whatever arrived is never sent again, and each image is whole.
fn kills(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--upload-rate", "1M"])?;
    let mut random = Random::new(5);
    let (mut killed, mut number) = (0, 0);
    while killed < KILLS {
        number += 1;
        let file = cloud.image(&format!("boot-{number}"), 3, number)?;
        let image_name = format!("image-{number}");
        let arguments = ["-a", "amd64", "--part-size", PART, "--parallel", "4", "-i", &image_name];
        let object = format!("ocne_boot-{number}");
        // An upload takes about a second and an import half of one.
        for _ in 0..4 {
            let before = progress(&cloud, &object)?;
            let after = Duration::from_millis(50 + random.below(900));
            interrupted(&cloud, &file, &arguments, Signal::KILL, after)?;
            cloud.idle()?;
            sent_once(&cloud, &object, &file, &before)?;
            killed += 1;
        }
        let before = progress(&cloud, &object)?;
        let record = cloud.done(&file, &arguments)?;
        sent_once(&cloud, &object, &file, &before)?;
        cloud.imported(&record, &file).map_err(|e| format!("image {number}: {e:?}"))?;
        fs_err::remove_file(file)?;
    }
    cloud.clean()
}

/// What the emulator's log says of an object: the bytes that came for it, and those of parts that it has.
struct Progress {
    came: u64,
    kept: u64,
}

fn progress(cloud: &Cloud, object: &str) -> Result<Progress, Failed> {
    let mut kept = BTreeMap::new();
    let mut came = 0;
    for request in cloud.requests()?.iter().filter(|r| r["op"] == "UploadPart") {
        if !request["path"].as_str().unwrap_or_default().ends_with(&format!("/{object}")) {
            continue;
        }
        let bytes = request["bytes_in"].as_u64().unwrap_or_default();
        came += bytes;
        if request["status"] == 200 {
            kept.insert((request["upload_id"].to_string(), request["part"].to_string()), bytes);
        }
    }
    Ok(Progress { came, kept: kept.values().sum() })
}

/// A run sends at most what was missing, and one part for each in flight: those that a killed run had nearly sent.
fn sent_once(cloud: &Cloud, object: &str, file: &Path, before: &Progress) -> Result<(), Failed> {
    let total = fs_err::metadata(file)?.len() + ARCHIVE_BYTES;
    let sent = progress(cloud, object)?.came - before.came;
    let most = total.saturating_sub(before.kept) + if before.kept >= total { 0 } else { 4 * PART_BYTES };
    if sent > most {
        return Err(format!(
            "{sent} bytes were sent of {object}, of which {} of {total} were there",
            before.kept
        )
        .into());
    }
    Ok(())
}

/// With the state gone, the upload is found on the service, and its parts are used.
fn journal_lost(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--upload-rate", "512K"])?;
    let file = cloud.image("boot.oci", 6, 1)?;
    let arguments = ["-a", "amd64", "--part-size", PART, "--parallel", "4"];
    killed_after(&cloud, &mut cloud.command(&file, &arguments), 10)?;
    let (before, sent_before) = (arrived(&cloud.requests()?), part_bytes(&cloud)?);
    let there = before.values().map(BTreeSet::len).sum::<usize>();
    fs_err::remove_dir_all(cloud.home.join(".local"))?;
    // Another part size does not matter: what is there decides.
    let record = cloud.done(&file, &["-a", "amd64", "--part-size", "1M", "--parallel", "4"])?;
    cloud.imported(&record, &file)?;
    let after = arrived(&cloud.requests()?);
    same("uploads", &json!(after.len()), &json!(1))?;
    let total = record["object"]["size_bytes"].as_u64().ok_or("no size")?;
    let resumed = record["resumed_bytes"].as_u64().ok_or("no bytes")?;
    if resumed + 4 * PART_BYTES < u64::try_from(there)? * PART_BYTES {
        return Err(format!("{there} parts were there, {resumed} bytes were used").into());
    }
    // What the second run sent is at most what was missing and one part for each in flight.
    let sent = part_bytes(&cloud)? - sent_before;
    if sent > total - resumed + 4 * PART_BYTES {
        return Err(format!("{sent} bytes were sent, {} were missing", total - resumed).into());
    }
    cloud.clean()
}

fn part_bytes(cloud: &Cloud) -> Result<u64, Failed> {
    let requests = cloud.requests()?;
    Ok(requests.iter().filter(|r| r["op"] == "UploadPart").filter_map(|r| r["bytes_in"].as_u64()).sum())
}

fn journal_unkept(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 2)?;
    let mut command = cloud.command(&file, &["-a", "amd64"]);
    // No space on this device, and no folder either.
    command.env("XDG_STATE_HOME", "/dev/full");
    let ran = cloud.run(&mut command)?.ended(0)?.says("cannot keep the state of the upload")?;
    cloud.imported(&serde_json::from_str(&ran.stdout)?, &file)?;
    cloud.clean()
}

fn abort(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--upload-rate", "256K"])?;
    let file = cloud.image("boot.oci", 4, 3)?;
    let arguments = ["-a", "amd64", "--part-size", PART];
    let mut command = cloud.command(&file, &arguments);
    let run = cloud.start(&mut command)?;
    until_parts(&cloud, 4)?;
    run.signal(Signal::INT)?;
    let ran = run.end(&cloud)?.ended(130)?;
    ran.says("the same command goes on where this one stopped")?;
    cloud.run(&mut cloud.command(&file, &["--abort"]))?.ended(0)?.says("Dropped what was sent: 1 upload")?;
    cloud.run(&mut cloud.command(&file, &["--abort"]))?.ended(0)?.says("Nothing was sent of it")?;
    cloud.clean()?;
    // What nobody aborts, `gc` finds; it may be under way for a day.
    killed_after(&cloud, &mut cloud.command(&file, &arguments), 6)?;
    for (more, words) in [
        (&[][..], "recent   ocne-images/ocne_boot.oci"),
        (&["--yes"], "recent "),
        (&["--yes", "--running"], "removed "),
    ] {
        let ran = cloud.run(&mut cloud.ocne(&[&["gc", "--uploads"], more].concat()))?.ended(0)?;
        same(words, &json!(ran.stdout.starts_with(words)), &json!(true))?;
    }
    same("left", &cloud.metrics()?["dangling_multipart_uploads"], &json!([]))?;
    killed_after(&cloud, &mut cloud.command(&file, &arguments), 10)?;
    let record = cloud.done(&file, &[&arguments[..], &["--no-resume"]].concat())?;
    same("resumed", &record["resumed_bytes"], &json!(0))?;
    same("sent", &record["sent_bytes"], &record["object"]["size_bytes"])?;
    cloud.imported(&record, &file)?;
    cloud.clean()
}

/// The second run waits for the first, and finds its image; one with another state folder takes part in it.
fn two_at_once(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--upload-rate", "1M"])?;
    let file = cloud.image("boot.oci", 3, 4)?;
    let arguments = ["-a", "amd64", "--part-size", PART];
    let start = || cloud.start(&mut cloud.command(&file, &arguments));
    let (first, second) = (start()?, start()?);
    let (first, second) = (first.end(&cloud)?.ended(0)?, second.end(&cloud)?.ended(0)?);
    let records: Vec<Value> =
        [&first, &second].iter().map(|ran| serde_json::from_str(&ran.stdout)).collect::<Result<_, _>>()?;
    same("images", &records[0]["image"]["id"], &records[1]["image"]["id"])?;
    cloud.imported(&records[0], &file)?;
    cloud.clean()?;
    // As from two machines.
    let other = cloud.image("other.oci", 3, 5)?;
    let start = |state: &str| {
        let mut command = cloud.command(&other, &[&arguments[..], &["-i", state, "--keep-object"]].concat());
        cloud.start(command.env("XDG_STATE_HOME", cloud.dir.join(state)))
    };
    let (first, second) = (start("a")?, start("b")?);
    for run in [first, second] {
        let ran = run.end(&cloud)?.ended(0)?;
        cloud.imported(&serde_json::from_str(&ran.stdout)?, &other)?;
    }
    cloud.clean()
}

fn file_changes(bench: &Bench, name: &str) -> Result<(), Failed> {
    // What would take 12 seconds ends when the file is changed.
    let cloud = bench.cloud(name, &["--upload-rate", "64K"])?;
    let file = cloud.image("boot.oci", 3, 6)?;
    let run =
        cloud.start(&mut cloud.command(&file, &["-a", "amd64", "--part-size", PART, "--parallel", "4"]))?;
    until_parts(&cloud, 4)?;
    let bytes = fs_err::read(&file)?;
    fs_err::write(&file, [&bytes[..], b"more"].concat())?;
    let ran = run.end(&cloud)?.ended(1)?;
    ran.says("was changed by somebody else while it was sent")?;
    let metrics = cloud.metrics()?;
    same("uploads that are left", &metrics["dangling_multipart_uploads"], &json!([]))?;
    same("images", &metrics["by_op"]["CreateImage"], &Value::Null)?;
    if metrics["part_uploads_ok"].as_u64().unwrap_or_default() > 16 {
        return Err(format!("it was noticed after {} parts", metrics["part_uploads_ok"]).into());
    }
    fs_err::write(&file, bytes)?;
    let record = cloud.done(&file, &["-a", "amd64", "--part-size", PART, "--parallel", "32"])?;
    cloud.imported(&record, &file)?;
    cloud.clean()
}

/// Uploads that vanish under the program are begun again.
fn ended_by_others(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--upload-rate", "128K"])?;
    let file = cloud.image("boot.oci", 3, 7)?;
    let run = cloud.start(&mut cloud.command(&file, &["-a", "amd64", "--part-size", PART]))?;
    until_parts(&cloud, 4)?;
    // Somebody else with another state folder drops it.
    let mut abort = cloud.command(&file, &["--abort"]);
    abort.env("XDG_STATE_HOME", cloud.dir.join("other"));
    cloud.run(&mut abort)?.ended(0)?.says("Dropped what was sent: 1 upload")?;
    let ran = run.end(&cloud)?.ended(0)?;
    cloud.imported(&serde_json::from_str(&ran.stdout)?, &file)?;
    cloud.clean()
}
