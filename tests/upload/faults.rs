//! Every fault of the emulator's table on what an upload does, one by one, and hundreds at random.

use std::collections::BTreeSet;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::cloud::{Bench, Cloud, same};

/// Faults that strike at random in one test.
const RANDOM_FAULTS: u64 = 500;

pub fn trials(bench: &Bench) -> Vec<Trial> {
    let mut trials: Vec<Trial> = ACTIONS
        .iter()
        .map(|(title, action)| {
            bench.trial(&format!("faults::{title}"), move |b, name| on_all(b, name, action))
        })
        .collect();
    trials.push(bench.trial("faults::a_clock_that_is_wrong_for_one_request", clock_skew));
    trials.push(bench.trial("faults::parts_that_are_damaged", damaged));
    trials.push(bench.trial("faults::at_random", at_random));
    trials
}

/// What may happen to any request, and the name of its test.
const ACTIONS: [(&str, &str); 12] = [
    ("status_500", r#"{"action":"status","status":500,"code":"InternalServerError"}"#),
    ("status_503_twice", r#"{"action":"status","status":503,"code":"ServiceUnavailable","count":2}"#),
    ("status_429", r#"{"action":"status","status":429,"code":"TooManyRequests","retry_after":1}"#),
    ("incorrect_state", r#"{"action":"incorrect_state"}"#),
    ("reset", r#"{"action":"reset"}"#),
    ("lost_response", r#"{"action":"lost_response"}"#),
    ("truncate", r#"{"action":"truncate"}"#),
    ("delay", r#"{"action":"delay","seconds":0.3}"#),
    ("delay_before", r#"{"action":"delay","seconds":0.3,"phase":"before"}"#),
    ("hang", r#"{"action":"hang","seconds":0.3}"#),
    ("slow", r#"{"action":"slow","bytes_per_sec":200000}"#),
    ("corrupt", r#"{"action":"corrupt"}"#),
];
/// Actions that have a test of their own: the one here, and that of imports that fail.
const ELSEWHERE: [&str; 2] = ["clock_skew", "fail_import"];

/// One action on every operation that uploads make, found by an upload to which nothing happens.
fn on_all(bench: &Bench, name: &str, action: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let operations = operations(&cloud)?;
    let action: Value = serde_json::from_str(action)?;
    strike(&cloud, &operations, &action, true)?;
    uploads(&cloud, 2, &["-b", "another"])?;
    let is_whole = |operation: &str| {
        // What has no answer but its status is not cut.
        action["action"] == "truncate" && operation.starts_with(['H', 'D', 'A'])
    };
    let told = cloud.ask("GET", "faults", &Value::Null)?;
    for rule in told["faults"].as_array().ok_or("no rules")? {
        let operation = rule["op"].as_str().unwrap_or_default();
        if rule["fired"] == 0 && !is_whole(operation) {
            return Err(format!("it never struck {operation}").into());
        }
    }
    // Every action that the emulator has is somewhere.
    for known in told["actions"].as_array().ok_or("no actions")? {
        let known = known.as_str().unwrap_or_default();
        let quoted = format!("\"action\":\"{known}\"");
        if !ELSEWHERE.contains(&known) && !ACTIONS.iter().any(|(_, action)| action.contains(&quoted)) {
            return Err(format!("there is no test of {known}").into());
        }
    }
    cloud.clean()
}

/// A part that is refused for good, twice, so that there is something to go on with and something to drop; then one
/// rule for each operation.
fn strike(cloud: &Cloud, operations: &BTreeSet<String>, action: &Value, stops: bool) -> Result<(), Failed> {
    let mut rules = Vec::new();
    if stops {
        rules.push(json!({ "op": "UploadPart", "match": { "part": 2, "object": "ocne_stops*" },
            "action": "status", "status": 400, "code": "InvalidParameter", "count": 2 }));
    }
    for operation in operations {
        let mut rule = action.clone();
        rule["op"] = json!(operation);
        rules.push(rule);
    }
    cloud.faults(&json!(rules))
}

/// The operations of uploads to which nothing happens but two stops.
fn operations(cloud: &Cloud) -> Result<BTreeSet<String>, Failed> {
    strike(cloud, &BTreeSet::new(), &Value::Null, true)?;
    uploads(cloud, 1, &[])?;
    let made = cloud.requests()?;
    let made: BTreeSet<String> = made.iter().filter_map(|r| Some(r["op"].as_str()?.to_owned())).collect();
    if made.len() < 20 {
        return Err(format!("few operations: {made:?}").into());
    }
    Ok(made)
}

/// Uploads that together make every kind of request: stopped, gone on with, begun anew; of an archive and bare, by name and by URL.
fn uploads(cloud: &Cloud, seed: u64, more: &[&str]) -> Result<(), Failed> {
    let file = cloud.image(&format!("stops-{seed}"), 1, seed)?;
    let image_name = format!("stops-{seed}");
    let arguments = |last: &[&'static str]| {
        [&["-a", "amd64", "--part-size", "256K", "--parallel", "1", "-i", &image_name], more, last].concat()
    };
    for _ in 0..2 {
        cloud.run(&mut cloud.command(&file, &arguments(&[])))?.ended(1)?;
    }
    let record = cloud.done(&file, &arguments(&["--no-resume"]))?;
    cloud.imported(&record, &file)?;
    fs_err::remove_file(file)?;
    let bare = ["--format", "qcow2", "--from-url"];
    one_upload(cloud, 10 + seed, &[&bare[..], more, &["-a", "arm64"]].concat())
}

/// The clock is off for one request after the other: each is told, nothing is sent twice, and the next run goes on.
fn clock_skew(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let mut operations = operations(&cloud)?;
    operations.remove("AbortMultipartUpload");
    strike(&cloud, &operations, &json!({ "action": "clock_skew" }), false)?;
    let file = cloud.image("boot", 1, 3)?;
    let arguments =
        ["-b", "another", "-a", "arm64", "-i", "skewed", "--part-size", "256K", "--parallel", "1"];
    for _ in 0..40 {
        let bare = ["--format", "qcow2", "--from-url"];
        let ran = cloud.run(&mut cloud.command(&file, &[&arguments[..], &bare].concat()))?;
        if ran.code == Some(0) {
            cloud.imported(&ran.record("upload-record")?, &file)?;
            let requests = cloud.requests()?;
            let arrived = requests.iter().filter(|r| r["object"] == "ocne_boot" && r["status"] == 200);
            let parts: Vec<u64> = arrived.filter_map(|r| r["part"].as_u64()).collect();
            let once: BTreeSet<u64> = parts.iter().copied().collect();
            same("parts", &json!(parts.len()), &json!(once.len()))?;
            return cloud.clean_but("not_authenticated");
        }
        ran.ended(3)?.says("the clock of this machine is 3")?;
    }
    Err("it never ends".into())
}

fn one_upload(cloud: &Cloud, number: u64, more: &[&str]) -> Result<(), Failed> {
    let image_name = format!("image-{number}");
    let file = cloud.image(&image_name, 1, number)?;
    let record = cloud.done(&file, &[&["--part-size", "256K", "-i", &image_name], more].concat())?;
    cloud.imported(&record, &file)?;
    Ok(fs_err::remove_file(file)?)
}

/// Damage in the store and on the way, seen by MD5; and what MD5 does not show, by CRC-32C.
fn damaged(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    for (number, mode) in ["stored", "transit", "hidden"].into_iter().enumerate() {
        cloud.faults(&json!([{ "op": "UploadPart", "action": "corrupt", "mode": mode, "count": 3 }]))?;
        one_upload(&cloud, u64::try_from(number)?, &["-a", "amd64"]).map_err(|e| format!("{mode}: {e:?}"))?;
    }
    // A part that is damaged each time is an error, not an image.
    cloud
        .faults(&json!([{ "op": "UploadPart", "action": "corrupt", "match": { "part": 2 }, "count": -1 }]))?;
    let file = cloud.image("cursed", 1, 9)?;
    let ran = cloud.run(&mut cloud.command(&file, &["-a", "amd64", "--part-size", "256K"]))?.ended(1)?;
    ran.says("is not what was sent: the MD5 of part 2")?;
    cloud.faults(&json!([]))?;
    let record = cloud.done(&file, &["-a", "amd64"])?;
    cloud.imported(&record, &file)?;
    cloud.clean()
}

/// Hundreds of faults over many uploads; each ends with the right image.
fn at_random(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let part = |action: Value, probability: f64| {
        let mut rule = action;
        (rule["op"], rule["probability"], rule["count"]) =
            (json!("UploadPart"), json!(probability), json!(-1));
        rule
    };
    let mut rules = vec![
        part(json!({ "action": "status", "status": 503 }), 0.06),
        part(json!({ "action": "status", "status": 500, "after_body": true }), 0.05),
        part(json!({ "action": "reset", "after_bytes": 5000 }), 0.06),
        part(json!({ "action": "lost_response" }), 0.05),
        part(json!({ "action": "truncate" }), 0.03),
        part(json!({ "action": "corrupt" }), 0.04),
        part(json!({ "action": "corrupt", "mode": "transit" }), 0.03),
        part(json!({ "action": "corrupt", "mode": "hidden" }), 0.03),
    ];
    let small = "List*|Get*|Head*|Create*|Commit*|Delete*".split('|').collect::<Vec<_>>();
    for (action, probability) in [
        (json!({ "action": "status", "status": 503 }), 0.05),
        (json!({ "action": "lost_response" }), 0.05),
        (json!({ "action": "reset" }), 0.05),
    ] {
        let mut rule = action;
        (rule["op"], rule["probability"], rule["count"]) = (json!(small), json!(probability), json!(-1));
        rules.push(rule);
    }
    cloud.faults(&json!(rules))?;
    let mut struck = 0;
    for number in 0.. {
        let image_name = format!("image-{number}");
        let file = cloud.image(&image_name, 2, 100 + number)?;
        let record = cloud
            .done(&file, &["-a", "amd64", "--part-size", "16K", "--parallel", "16", "-i", &image_name])?;
        cloud.imported(&record, &file).map_err(|e| format!("after {struck} faults: {e:?}"))?;
        fs_err::remove_file(file)?;
        struck = cloud.requests()?.iter().filter(|r| !r["fault"].is_null()).count().try_into()?;
        if struck >= RANDOM_FAULTS {
            break;
        }
    }
    cloud.clean()
}
