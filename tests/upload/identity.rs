//! Who uploads: every form of keys and profiles, and what is said to those who may not.

use std::thread::sleep;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;
use serde_json::json;

use crate::cloud::{Bench, inside, same};

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial("identity::every_profile", every_profile),
        bench.trial("identity::compartments", compartments),
        bench.trial("identity::resource_principal", resource_principal),
        bench.trial("identity::resources", resources),
        bench.trial("identity::in_a_users_name", in_a_users_name),
        bench.trial("identity::setup", setup),
        bench.trial("identity::whoami", whoami),
        bench.trial("identity::asked_at_a_terminal", asked_at_a_terminal),
        bench.trial("identity::instance_principal", instance_principal),
        bench.trial("identity::workload_identity", workload_identity),
        bench.trial("identity::a_session_that_is_renewed_meanwhile", renewed_meanwhile),
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

/// A function has a token and a key in the environment, and no configuration file.
fn resource_principal(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 1)?;
    let keys = cloud.dir.join("cloud/keys");
    let mut command = cloud.command(&file, &["-a", "amd64"]);
    command.env_remove("OCI_CLI_CONFIG_FILE");
    command.env("OCI_RESOURCE_PRINCIPAL_VERSION", "2.2").env("OCI_RESOURCE_PRINCIPAL_REGION", "us-ashburn-1");
    command.env("OCI_RESOURCE_PRINCIPAL_RPST", keys.join("session_token"));
    command.env("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM", keys.join("session.pem"));
    let record = serde_json::from_str(&cloud.run(&mut command)?.ended(0)?.stdout)?;
    cloud.imported(&record, &file)?;
    cloud.clean()
}

/// Resources that get their tokens themselves, in each of the ways that there are.
fn resources(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 5)?;
    let endpoint = cloud.text("endpoint").to_owned();
    let keys = cloud.dir.join("cloud/keys");
    let key = keys.join("default.pem").display().to_string();
    let own = |end: &str, version: &str| -> Vec<(String, String)> {
        [
            ("VERSION", version),
            ("REGION", "iad"),
            ("RPT_ENDPOINT", &endpoint),
            ("RPST_ENDPOINT", &endpoint),
            ("RESOURCE_ID", "ocid1.resource.fake"),
            ("TENANCY_ID", cloud.text("tenancy")),
            ("PRIVATE_PEM", &key),
        ]
        .map(|(name, value)| (format!("OCI_RESOURCE_PRINCIPAL_{name}{end}"), value.to_owned()))
        .to_vec()
    };
    let nested = |version: &str, url: &str| {
        let mut all = own("_FOR_LEAF_RESOURCE", version);
        for (name, value) in [
            ("VERSION", "3.0"),
            ("RPT_URL_FOR_PARENT_RESOURCE", url),
            ("RPST_ENDPOINT_FOR_PARENT_RESOURCE", &endpoint),
        ] {
            all.push((format!("OCI_RESOURCE_PRINCIPAL_{name}"), value.to_owned()));
        }
        all
    };
    let resource = |variables: Vec<(String, String)>, image: &str| {
        let mut command = cloud.command(&file, &["-a", "amd64", "--auth", "resource_principal", "-i", image]);
        command.env_remove("OCI_CLI_CONFIG_FILE");
        command.env("OCI_METADATA_BASE_URL", format!("{endpoint}/opc/v2")).envs(variables);
        command
    };
    let grandparents = format!("{endpoint}/parents/3");
    let ways = [
        own("", "1.1"),
        own("", "2.1"),
        own("", "2.1.1"),
        own("", "2.1.2"),
        nested("1.1", &grandparents),
        nested("2.1.1", &grandparents),
    ];
    for (number, variables) in ways.into_iter().enumerate() {
        let told = |e: Failed| Failed::from(format!("{:?}: {e:?}", variables[0]));
        let ran = cloud.run(&mut resource(variables.clone(), &number.to_string()))?.ended(0).map_err(told)?;
        cloud.imported(&serde_json::from_str(&ran.stdout)?, &file)?;
    }
    // One of its own each, and in the last two ways three of parents.
    same("tokens", &cloud.metrics()?["by_op"]["ResourceToken"], &json!(4 + 2 * 4))?;
    let circle = nested("2.1", &format!("{endpoint}/parents/0"));
    cloud.run(&mut resource(circle, "x"))?.ended(3)?.says("more parents than there can be")?;
    let elsewhere = nested("2.1", "http://example.com/parent");
    cloud.run(&mut resource(elsewhere, "x"))?.ended(3)?.says("has no TLS")?;
    cloud.run(&mut resource(own("", "9"), "x"))?.ended(2)?.says("this program knows 1.1, 2.1")?;
    let missing = own("", "2.1").into_iter().filter(|(name, _)| !name.ends_with("RESOURCE_ID")).collect();
    cloud
        .run(&mut resource(missing, "x"))?
        .ended(2)?
        .says("OCI_RESOURCE_PRINCIPAL_RESOURCE_ID is not set")?;
    cloud.clean()
}

/// An instance in the name of a user, as the Cloud Shell has it.
fn in_a_users_name(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 6)?;
    let (config, token) = (cloud.dir.join("config"), cloud.dir.join("cloud/keys/delegation_token"));
    let shell = |more: &[&str]| {
        let mut command = cloud.command(&file, &[&["-a", "amd64"], more].concat());
        command.env("OCI_CLI_CONFIG_FILE", &config);
        command.env("OCI_METADATA_BASE_URL", format!("{}/opc/v2", cloud.text("endpoint")));
        command
    };
    let user = "[DEFAULT]\nregion=us-ashburn-1\n";
    fs_err::write(&config, user)?;
    let ran = cloud.run(&mut shell(&["--auth", "instance_obo_user"]))?.ended(2)?;
    ran.says("has no `delegation_token_file`")?;
    let kind = "authentication_type=delegation_token_with_instance_principal\n";
    fs_err::write(&config, format!("{user}{kind}delegation_token_file={}\n", token.display()))?;
    for more in [&["-i", "one"][..], &["-i", "two", "--auth", "instance_obo_user"]] {
        let ran = cloud.run(&mut shell(more))?.ended(0)?;
        cloud.imported(&serde_json::from_str(&ran.stdout)?, &file)?;
    }
    let requests = cloud.requests()?;
    let is_users = |request: &&serde_json::Value| request["in_the_name_of_a_user"] == true;
    same("in the user's name", &json!(requests.iter().filter(is_users).count()), &json!(requests.len()))?;
    cloud.clean()
}

/// The token is refused in the middle of an upload, and was renewed by somebody else.
fn renewed_meanwhile(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 1, 2)?;
    let keys = cloud.dir.join("cloud/keys");
    // A token that the service does not know, and that has not ended by its own words.
    let (token, good) = (cloud.dir.join("token"), fs_err::read_to_string(keys.join("session_token"))?);
    let unknown = good.trim().to_owned() + "x";
    fs_err::write(&token, unknown)?;
    let mut command = cloud.command(&file, &["-a", "amd64", "-p", "SESSION"]);
    command.env("OCI_CLI_SECURITY_TOKEN_FILE", &token);
    cloud.run(&mut command)?.ended(3)?.says("`oci session authenticate")?;
    // The service stands still until the program has read the old token and the new one is there.
    cloud.signal(Signal::STOP)?;
    let mut command = cloud.command(&file, &["-a", "amd64", "-p", "SESSION"]);
    command.env("OCI_CLI_SECURITY_TOKEN_FILE", &token);
    let run = cloud.start(&mut command)?;
    sleep(Duration::from_millis(500));
    fs_err::write(&token, good)?;
    cloud.signal(Signal::CONT)?;
    let ran = run.end(&cloud)?.ended(0)?;
    cloud.imported(&serde_json::from_str(&ran.stdout)?, &file)
}

/// An instance has a certificate, and no configuration file. Its tokens end every second, as it were, and one is refused.
fn instance_principal(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--session-seconds", "61"])?;
    let file = cloud.image("boot.oci", 2, 3)?;
    let instance = |more: &[&str]| {
        let mut command = cloud.command(
            &file,
            &[&["-a", "amd64", "--part-size", "128K", "--max-bandwidth", "1M"], more].concat(),
        );
        command.env_remove("OCI_CLI_CONFIG_FILE");
        command.env("OCI_METADATA_BASE_URL", format!("{}/opc/v2", cloud.text("endpoint")));
        command
    };
    cloud.faults(
        &json!([{ "op": "GetBucket", "action": "status", "status": 401, "code": "NotAuthenticated" }]),
    )?;
    let ran = cloud.run(&mut instance(&["--auth", "instance_principal"]))?.ended(0)?;
    cloud.imported(&serde_json::from_str(&ran.stdout)?, &file)?;
    let tokens = cloud.metrics()?["by_op"]["Federate"].as_u64().unwrap_or_default();
    if !(3..20).contains(&tokens) {
        return Err(format!("{tokens} tokens were fetched").into());
    }
    // Without a configuration file it is what there is. Refused for good, it says what is missing.
    cloud.faults(&json!([{ "op": "GetNamespace", "action": "status", "status": 401, "code": "NotAuthenticated", "count": -1 }]))?;
    cloud.run(&mut instance(&[]))?.ended(3)?.says("as by a dynamic group")?;
    let asked = cloud.requests()?.iter().filter(|r| r["status"] == 401 && r["op"] == "GetNamespace").count();
    same("attempts", &json!(asked), &json!(2))?;
    let mut nowhere = instance(&["--auth", "instance_principal"]);
    nowhere.env("OCI_METADATA_BASE_URL", "http://127.0.0.1:1/opc/v2");
    cloud.run(&mut nowhere)?.ended(3)?.says("cannot authenticate as an instance")?;
    cloud.clean()
}

/// A pod has what Kubernetes gives it.
fn workload_identity(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--tls-port", "12250"])?;
    let file = cloud.image("boot.oci", 1, 4)?;
    let pod = |folder: &std::path::Path| {
        let mut command = cloud.command(&file, &["-a", "amd64", "--auth", "oke_workload_identity"]);
        command.env_remove("OCI_CLI_CONFIG_FILE").env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
        command.env("OCI_RESOURCE_PRINCIPAL_REGION", "us-ashburn-1");
        command.env("OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH", folder.join("ca.crt"));
        command
    };
    let folder = cloud.dir.join("cloud/pod");
    let ran = cloud.run(&mut pod(&folder))?.ended(0)?;
    cloud.imported(&serde_json::from_str(&ran.stdout)?, &file)?;
    fs_err::write(folder.join("token"), "another")?;
    cloud.run(&mut pod(&folder))?.ended(3)?.says("cannot authenticate as a pod")?.says("it answers 403")?;
    cloud.clean()
}

/// Keys and profiles are made, never overwritten, and refused before anything is asked.
fn setup(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let config = cloud.home.join(".oci/config");
    let run = |more: &[&str]| {
        let mut command = cloud.ocne(&[&["oci", "setup"], more].concat());
        command.env_remove("OCI_CLI_CONFIG_FILE");
        command
    };
    let who = ["--user", cloud.text("user"), "--tenancy", cloud.text("tenancy"), "--region", "iad"];
    let ran = cloud.run(&mut run(&[&who[..], &["--no-pass-phrase"]].concat()))?.ended(0)?;
    let fingerprint = ran.stdout.lines().next().and_then(|line| line.strip_prefix("Fingerprint: "));
    let fingerprint = fingerprint.ok_or("no fingerprint")?.to_owned();
    same("public key", &json!(ran.stdout.contains("BEGIN PUBLIC KEY")), &json!(true))?;
    let key = cloud.home.join(".oci/oci_api_key.pem");
    let openssl = std::process::Command::new("openssl")
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(&key)
        .output()?;
    fs_err::write(cloud.dir.join("public.der"), openssl.stdout)?;
    let digest = std::process::Command::new("openssl")
        .args(["md5", "-c"])
        .arg(cloud.dir.join("public.der"))
        .output()?;
    same(
        "openssl's",
        &json!(String::from_utf8(digest.stdout)?.trim().ends_with(&fingerprint)),
        &json!(true),
    )?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs_err::metadata(&key)?.permissions()) & 0o777;
    same("mode", &json!(mode), &json!(0o600))?;
    let before = fs_err::read_to_string(&config)?;
    cloud.run(&mut run(&who))?.ended(1)?.says("has a profile `DEFAULT` already")?;
    cloud
        .run(&mut run(&[&who[..], &["-p", "WORK"]].concat()))?
        .ended(1)?
        .says("oci_api_key.pem` is there already")?;
    let mut locked = run(&[&who[..], &["-p", "WORK", "--key-name", "work", "--store-pass-phrase"]].concat());
    cloud.run(locked.env("OCI_CLI_PASSPHRASE", "open sesame"))?.ended(0)?;
    same("kept", &json!(fs_err::read_to_string(&config)?.starts_with(&before)), &json!(true))?;
    same(
        "pass phrase",
        &json!(fs_err::read_to_string(&config)?.contains("pass_phrase=open sesame")),
        &json!(true),
    )?;
    // The service does not know the key yet, and the hint says which it is.
    let mut command = cloud.ocne(&["oci", "whoami"]);
    cloud.run(command.env_remove("OCI_CLI_CONFIG_FILE"))?.ended(3)?.says(&fingerprint)?;
    let mut command = cloud.ocne(&["oci", "whoami", "-p", "WORK"]);
    cloud.run(command.env_remove("OCI_CLI_CONFIG_FILE"))?.ended(3)?.says("401 NotAuthenticated")?;
    cloud.run(&mut run(&["-p", "MORE", "--key-name", "more", "--no-pass-phrase"]))?.ended(2)?;
    Ok(())
}

/// The pass phrase of a key is asked for at a terminal, where it is not seen.
fn asked_at_a_terminal(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let identities: serde_json::Value =
        serde_json::from_slice(&fs_err::read(cloud.dir.join("cloud/identities.json"))?)?;
    let right = identities["pass_phrase"].as_str().ok_or("no pass phrase")?;
    let question = "encrypted.pem`: ";
    for (answer, code, words) in [
        (right, 0, "Namespace"),
        ("something else", 2, "the pass phrase does not open it"),
        ("", 2, "there is no pass phrase for it"),
    ] {
        let mut outer = std::process::Command::new("python3");
        outer.arg(
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/upload/at-a-terminal.py"),
        );
        outer.args([&format!("{question}={answer}"), "--"]);
        let command = cloud.ocne(&["oci", "whoami", "-p", "ENCRYPTED_NOPASS", "-l", "trace"]);
        let ran = cloud.run(&mut inside(outer, &command))?.ended(code)?;
        // The terminal has shown both streams, and nothing that was typed.
        for (text, wanted) in [(question, true), (words, true), ("something else", false)] {
            same(text, &json!(ran.stdout.contains(text)), &json!(wanted))?;
        }
    }
    Ok(())
}

fn whoami(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let ask = |more: &[&str]| -> Result<serde_json::Value, Failed> {
        let mut command =
            cloud.ocne(&[&["oci", "whoami", "-o", "json", "-c", "sandbox/images"], more].concat());
        cloud.run(&mut command)?.ended(0)?.record("whoami")
    };
    let found = ask(&[])?;
    same("user", &found["user"], &json!(cloud.text("user")))?;
    same("tenancy", &found["tenancy"], &json!(cloud.text("tenancy")))?;
    same("home region", &found["home_region"], &json!("us-ashburn-1"))?;
    same("namespace", &found["namespace"], &json!(cloud.text("namespace")))?;
    let allowed = |found: &serde_json::Value, wanted: &serde_json::Value| {
        let rights = found["rights"].as_array().map(Vec::as_slice).unwrap_or_default();
        rights.iter().filter(|right| right["allowed"] == *wanted).count()
    };
    // Without a bucket and an image there is little to try it on.
    same("unknown", &json!(allowed(&found, &json!(null))), &json!(4))?;
    same("refused", &json!(allowed(&found, &json!(false))), &json!(0))?;
    let file = cloud.image("boot.oci", 1, 1)?;
    cloud.done(&file, &["-a", "amd64"])?;
    let found = ask(&[])?;
    same("rights", &json!(allowed(&found, &json!(true))), &json!(10))?;
    same("unknown", &json!(allowed(&found, &json!(null))), &json!(1))?;
    // Nothing was changed by asking.
    let before = cloud.ask("GET", "state", &serde_json::Value::Null)?;
    ask(&[])?;
    same("state", &cloud.ask("GET", "state", &serde_json::Value::Null)?, &before)?;
    cloud.faults(&json!([{ "op": "ListImages", "action": "status", "status": 404, "code": "NotAuthorizedOrNotFound", "count": -1 }]))?;
    same("refused", &json!(allowed(&ask(&[])?, &json!(false))), &json!(1))?;
    let ran = cloud.run(&mut cloud.ocne(&["oci", "whoami", "-c", "sandbox/images"]))?.ended(0)?;
    same(
        "table",
        &json!(ran.stdout.contains("no           read instance-images in compartment")),
        &json!(true),
    )
}
