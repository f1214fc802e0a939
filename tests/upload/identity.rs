//! Who uploads: every form of keys and profiles, and what is said to those who may not.

use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::cloud::{Bench, same};

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial("identity::every_profile", every_profile),
        bench.trial("identity::compartments", compartments),
        bench.trial("identity::clocks", clocks),
    ]
}

fn every_profile(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 1)?;
    let first = cloud.done(&file, &["-a", "amd64"])?;
    for profile in [
        "PKCS1",
        "LABELLED",
        "ENCRYPTED",
        "ENCRYPTED_LEGACY",
        "ENCRYPTED_GOKEY",
        "SHORTREGION",
        "SPACED",
        "SESSION",
    ] {
        let record = cloud.done(&file, &["-a", "amd64", "-p", profile])?;
        same(profile, &record["image"]["id"], &first["image"]["id"])?;
    }
    for (profile, code, words) in [
        ("ENCRYPTED_NOPASS", 2, "OCI_CLI_PASSPHRASE"),
        ("ENCRYPTED_WRONGPASS", 2, "the pass phrase does not open it"),
        ("UNREGISTERED", 3, "401 NotAuthenticated"),
        ("NOPERM", 3, "`Allow group GROUP to inspect compartments in tenancy`"),
        ("SESSION_EXPIRED", 3, "`oci session authenticate --profile-name SESSION_EXPIRED"),
        ("NOBODY", 2, "has no profile `NOBODY`"),
    ] {
        let ran = cloud.run(&mut cloud.command(&file, &["-a", "amd64", "-p", profile]))?;
        ran.ended(code).and_then(|ran| ran.says(words)).map_err(|e| format!("{profile}: {e:?}"))?;
    }
    Ok(())
}

fn compartments(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 1)?;
    for path in ["sandbox", "sandbox/images", "prod/images", "sandbox/images/nightly"] {
        let mut command = cloud.upload(&["-o", "json", "-a", "amd64", "-c", path, "-f"]);
        let ran = cloud.run(command.arg(&file))?.ended(0)?;
        let record: serde_json::Value = serde_json::from_str(&ran.stdout)?;
        same(path, &record["image"]["compartment_id"], &json!(cloud.compartment(path)))?;
    }
    for (path, code, words) in [
        (
            "nowhere",
            3,
            "there is no compartment `nowhere` in the root of the tenancy; it has: ManagedCompartmentForPaaS",
        ),
        ("nightly", 3, "there is `sandbox/images/nightly`"),
        ("leaving", 3, "there is no compartment `leaving`"),
        ("sandbox/images/deep", 3, "there is no compartment `deep` in `sandbox/images`; it has: nightly"),
        ("sandbox//images", 3, "is no compartment"),
    ] {
        let ran = cloud.run(cloud.upload(&["-a", "amd64", "-c", path, "-f"]).arg(&file))?;
        ran.ended(code).and_then(|ran| ran.says(words)).map_err(|e| format!("{path}: {e:?}"))?;
    }
    cloud
        .run(cloud.upload(&["-a", "amd64", "-f"]).arg(&file))?
        .ended(2)?
        .says("the compartment is not known")?;
    fs_err::create_dir_all(cloud.home.join(".ocne"))?;
    let settings =
        "providers:\n  oci:\n    compartment: prod/images\n    imageBucket: mine\n    profile: SPACED\n";
    fs_err::write(cloud.home.join(".ocne/defaults.yaml"), settings)?;
    let mut command = cloud.upload(&["-o", "json", "-a", "amd64", "-i", "configured", "-f"]);
    let record: serde_json::Value = serde_json::from_str(&cloud.run(command.arg(&file))?.ended(0)?.stdout)?;
    same("bucket", &record["object"]["bucket"], &json!("mine"))?;
    cloud.clean()
}

fn clocks(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 1)?;
    for (seconds, words) in [(3600, " s behind"), (-3600, " s ahead")] {
        cloud.faults(&json!([{ "op": "*", "action": "clock_skew", "seconds": seconds, "count": -1 }]))?;
        let ran = cloud.run(&mut cloud.command(&file, &["-a", "amd64"]))?.ended(3)?;
        ran.says("the clock of this machine is 3")?.says(words)?;
    }
    Ok(())
}
