//! The official clients read what we have made, and each side reads the other's configuration.

use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::cloud::{Bench, Cloud, same};

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial_with_clients("clients::oci_reads_what_we_made", reads_ours),
        bench.trial_with_clients("clients::every_profile_is_read_alike", profiles),
    ]
}

/// Oracle's command line, ready to start; what it prints is JSON.
pub fn oci(cloud: &Cloud, arguments: &[&str]) -> Result<Value, Failed> {
    let mut command = Command::new(cloud.clients().join("oci"));
    command.args(["--endpoint", cloud.text("endpoint")]).args(arguments).env_clear();
    command.env("HOME", &cloud.home).env("OCI_CLI_CONFIG_FILE", cloud.text("config"));
    command.env("OCI_CLI_SUPPRESS_FILE_PERMISSIONS_WARNING", "True").env("LC_ALL", "C.UTF-8");
    let ran = cloud.run(&mut command)?.ended(0)?;
    Ok(serde_json::from_str(&ran.stdout)?)
}

fn reads_ours(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--upload-rate", "256K"])?;
    let file = cloud.image("boot.oci", 2, 1)?;
    let arguments = ["-a", "arm64", "--part-size", "128K", "--parallel", "16", "--keep-object"];
    // An upload that was left is listed.
    let run = cloud.start(&mut cloud.command(&file, &["-a", "arm64", "--part-size", "128K"]))?;
    for _ in 0..600 {
        if cloud.metrics()?["part_uploads_ok"].as_u64() > Some(0) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    run.signal(rustix::process::Signal::KILL)?;
    run.end(&cloud)?;
    let listed = oci(&cloud, &["os", "multipart", "list", "--bucket-name", "ocne-images"])?;
    same("upload", &listed["data"][0]["object"], &json!("ocne_boot.oci"))?;
    let record = cloud.done(&file, &arguments)?;
    cloud.imported(&record, &file)?;
    let id = record["image"]["id"].as_str().ok_or("no image")?;
    let image = oci(&cloud, &["compute", "image", "get", "--image-id", id])?;
    same("state", &image["data"]["lifecycle-state"], &json!("AVAILABLE"))?;
    same("launch mode", &image["data"]["launch-mode"], &json!("PARAVIRTUALIZED"))?;
    same("firmware", &image["data"]["launch-options"]["firmware"], &json!("UEFI_64"))?;
    same("tags", &image["data"]["freeform-tags"], &record["image"]["freeform_tags"])?;
    let head =
        oci(&cloud, &["os", "object", "head", "--bucket-name", "ocne-images", "--name", "ocne_boot.oci"])?;
    same("checksum", &head["opc-multipart-md5"], &record["object"]["multipart_md5"])?;
    same("length", &head["content-length"], &json!(record["object"]["size_bytes"].to_string()))?;
    cloud.clean()
}

/// The SDK is asked who each profile is, and so are we.
fn profiles(bench: &Bench, name: &str) -> Result<(), Failed> {
    const ASK: &str = "
import json, oci, sys
config, endpoint, *names = sys.argv[1:]
found = {}
for name in names:
    read = oci.config.from_file(config, name)
    kind = {}
    if read.get('security_token_file'):
        key = oci.signer.load_private_key_from_file(read['key_file'])
        kind['signer'] = oci.auth.signers.SecurityTokenSigner(open(read['security_token_file']).read(), key)
    storage = oci.object_storage.ObjectStorageClient(read, service_endpoint=endpoint, **kind)
    found[name] = {'namespace': storage.get_namespace().data, 'region': oci.regions.get_region_from_short_name(read['region'])}
json.dump(found, sys.stdout)
";
    let cloud = bench.cloud(name, &[])?;
    let names =
        ["DEFAULT", "PKCS1", "LABELLED", "ENCRYPTED", "ENCRYPTED_LEGACY", "SHORTREGION", "SPACED", "SESSION"];
    let mut ask = Command::new(cloud.clients().join("python"));
    ask.args(["-c", ASK, cloud.text("config"), cloud.text("endpoint")]).args(names).env("HOME", &cloud.home);
    let theirs: Value = serde_json::from_str(&cloud.run(&mut ask)?.ended(0)?.stdout)?;
    // And a profile of ours, with a key that the service knows, is read by their program.
    let identities: Value = serde_json::from_slice(&fs_err::read(cloud.dir.join("cloud/identities.json"))?)?;
    let key = identities["profiles"]["DEFAULT"]["key_file"].as_str().ok_or("no key")?;
    let config = cloud.home.join("config");
    let mut setup = cloud.ocne(&["oci", "setup", "-p", "OURS", "--user", cloud.text("user"), "--tenancy"]);
    setup
        .args([cloud.text("tenancy"), "--region", "us-ashburn-1", "--key-file", key, "--oci-config"])
        .arg(&config);
    cloud.run(&mut setup)?.ended(0)?;
    let namespace = oci(
        &cloud,
        &["--config-file", config.to_str().ok_or("no text")?, "--profile", "OURS", "os", "ns", "get"],
    )?;
    same("namespace by our profile", &namespace["data"], &json!(cloud.text("namespace")))?;
    for profile in names {
        let mut command = cloud.ocne(&["oci", "whoami", "-o", "json", "-p", profile]);
        let ours: Value = serde_json::from_str(&cloud.run(&mut command)?.ended(0)?.stdout)?;
        for key in ["namespace", "region"] {
            same(&format!("{profile}, {key}"), &ours[key], &theirs[profile][key])?;
        }
    }
    Ok(())
}
