//! Every fault of the emulator's table on what an upload does, one by one, and hundreds at random.

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::cloud::{Bench, Cloud};

/// Faults that strike at random in one test.
const RANDOM_FAULTS: u64 = 500;

pub fn trials(bench: &Bench) -> Vec<Trial> {
    let mut trials: Vec<Trial> = OPERATIONS
        .iter()
        .map(|operation| bench.trial(&format!("faults::{operation}"), move |b, name| on(b, name, operation)))
        .collect();
    trials.push(bench.trial("faults::parts_that_are_damaged", damaged));
    trials.push(bench.trial("faults::at_random", at_random));
    trials
}

const OPERATIONS: [&str; 16] = [
    "ListCompartments",
    "GetNamespace",
    "ListImages",
    "ListRegions",
    "GetBucket",
    "CreateBucket",
    "HeadObject",
    "ListMultipartUploads",
    "CreateMultipartUpload",
    "UploadPart",
    "CommitMultipartUpload",
    "CreateImage",
    "GetWorkRequest",
    "GetImage",
    "ListImageShapeCompatibilityEntries",
    "DeleteObject",
];

/// What may happen to any request and pass.
fn actions() -> Vec<Value> {
    vec![
        json!({ "action": "status", "status": 500, "code": "InternalServerError" }),
        json!({ "action": "status", "status": 503, "code": "ServiceUnavailable", "count": 2 }),
        json!({ "action": "status", "status": 429, "code": "TooManyRequests", "retry_after": 1 }),
        json!({ "action": "incorrect_state" }),
        json!({ "action": "reset" }),
        json!({ "action": "lost_response" }),
        json!({ "action": "truncate" }),
        json!({ "action": "delay", "seconds": 1 }),
        json!({ "action": "hang", "seconds": 1 }),
    ]
}

fn on(bench: &Bench, name: &str, operation: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let mut actions = actions();
    if operation == "UploadPart" {
        actions.push(json!({ "action": "slow", "bytes_per_sec": 200_000 }));
    }
    for (number, action) in actions.into_iter().enumerate() {
        let mut rule = action.clone();
        rule["op"] = json!(operation);
        cloud.faults(&json!([rule]))?;
        let struck = |cloud: &Cloud| -> Result<u64, Failed> {
            Ok(cloud.requests()?.iter().filter(|r| !r["fault"].is_null()).count().try_into()?)
        };
        let before = struck(&cloud)?;
        let told = |e: Failed| Failed::from(format!("{action}: {e:?}"));
        one_upload(&cloud, u64::try_from(number)?, &[]).map_err(told)?;
        // A bucket is made once, and what has no body is not cut.
        let cannot = operation == "CreateBucket"
            || (action["action"] == "truncate" && ["HeadObject", "DeleteObject"].contains(&operation));
        if struck(&cloud)? == before && !cannot {
            return Err(format!("{action} never struck").into());
        }
    }
    cloud.clean()
}

fn one_upload(cloud: &Cloud, number: u64, more: &[&str]) -> Result<(), Failed> {
    let image_name = format!("image-{number}");
    let file = cloud.image(&image_name, 1, number)?;
    let record =
        cloud.done(&file, &[&["-a", "amd64", "--part-size", "256K", "-i", &image_name], more].concat())?;
    cloud.imported(&record, &file)?;
    Ok(fs_err::remove_file(file)?)
}

/// Damage in the store and on the way, seen by MD5; and what MD5 does not show, by CRC-32C.
fn damaged(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    for (number, mode) in ["stored", "transit", "hidden"].into_iter().enumerate() {
        cloud.faults(&json!([{ "op": "UploadPart", "action": "corrupt", "mode": mode, "count": 3 }]))?;
        one_upload(&cloud, u64::try_from(number)?, &[]).map_err(|e| format!("{mode}: {e:?}"))?;
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
