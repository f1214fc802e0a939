//! Uploads that nothing disturbs.

use std::path::Path;
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::cloud::{Bench, same};

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial("whole::a_boot_image_for_amd64", a_boot_image),
        bench.trial("whole::both_formats_for_arm64", both_formats),
        bench.trial("whole::an_exported_image_as_it_is", an_exported_image),
        bench.trial("whole::the_same_file_twice", twice),
        bench.trial("whole::objects_of_the_same_name", same_name),
        bench.trial("whole::tls", tls),
        bench.trial("whole::private_cloud_appliance", appliance),
    ]
}

/// The image that `ocne image create` makes of the committed one, sent as the documentation shows it.
fn a_boot_image(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.dir.join("boot.qcow2-1.33-amd64.oci");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/ock-small.oci-archive");
    let mut create = Command::new(env!("CARGO_BIN_EXE_ocne"));
    create.args(["image", "create", "-t", "oci", "-a", "amd64", "--image"]);
    create.arg(format!("oci-archive:{}", source.display())).arg("-o").arg(&file).env("HOME", &cloud.home);
    let report = cloud.dir.join("boot.qcow2-1.33-amd64.oci.report.json");
    create.args(["-v", "1.32", "--report"]).arg(&report);
    cloud.run(&mut create)?.ended(0)?;
    let mut upload =
        cloud.upload(&["--arch", "amd64", "--type", "oci", "--compartment", "sandbox/images", "--file"]);
    let ran = cloud.run(upload.arg(&file))?.ended(0)?;
    let ran = ran
        .says("Uploading image to object storage: ok")?
        .says("Importing compute image: [##########]: ok")?
        .says("Image OCID is ocid1.image.oc1.iad.")?;
    same("standard output", &json!(ran.stdout), &json!(""))?;
    // Again, for the record: nothing is sent.
    let record = cloud.done(&file, &[])?;
    same("already there", &record["already_there"], &json!(true))?;
    cloud.imported(&record, &file)?;
    same("architecture", &record["image"]["freeform_tags"]["ocne/architecture"], &json!("amd64"))?;
    same("version of the report", &record["image"]["freeform_tags"]["ocne/kubernetes"], &json!("1.32"))?;
    // A report of another image: not used when it is only beside this one, an error when it was named.
    let mut wrong: Value = serde_json::from_slice(&fs_err::read(&report)?)?;
    wrong["output"]["sha256"] = json!("0".repeat(64));
    fs_err::write(&report, wrong.to_string())?;
    cloud.run(&mut cloud.command(&file, &[]))?.ended(0)?.says("is of another image, and is not used")?;
    let named = ["--report", report.to_str().ok_or("no text")?];
    cloud.run(&mut cloud.command(&file, &named))?.ended(1)?.says("cannot use the report")?;
    same("compartment", &record["image"]["compartment_id"], &json!(cloud.compartment("sandbox/images")))?;
    same("system", &record["image"]["operating_system"], &json!("Oracle Linux"))?;
    cloud.run(&mut cloud.command(&file, &["-a", "arm64"]))?.ended(1)?.says("is for amd64, not for arm64")?;
    let state = cloud.ask("GET", "state", &Value::Null)?;
    if state.to_string().contains("ocne_boot.qcow2-1.33-amd64.oci\"")
        && cloud.metrics()?["by_op"]["DeleteObject"] != 1
    {
        return Err("the object is still there".into());
    }
    cloud.clean()
}

fn both_formats(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 3, 1)?;
    let common = ["-a", "arm64", "--part-size", "1M", "--tag", "team=a", "-v", "1.32"];
    let archive = cloud.done(&file, &[&common[..], &["-i", "one"]].concat())?;
    let bare = cloud.done(&file, &[&common[..], &["-i", "two", "--format", "qcow2"]].concat())?;
    for record in [&archive, &bare] {
        cloud.imported(record, &file)?;
        let wanted = json!(["BM.Standard.A1.160", "VM.Standard.A1.Flex", "VM.Standard.A2.Flex"]);
        let shapes = record["image"]["shapes"].as_array().ok_or("no shapes")?;
        let named: Vec<&Value> =
            shapes.iter().filter(|s| !s.as_str().unwrap_or_default().contains("Generic")).collect();
        same("shapes", &json!(named), &wanted)?;
        same("tag", &record["image"]["freeform_tags"]["team"], &json!("a"))?;
        same("object kept", &record["object"]["kept"], &json!(false))?;
        same("parts", &record["object"]["parts"], &json!(4))?;
        same("sent", &record["sent_bytes"], &record["object"]["size_bytes"])?;
    }
    for key in ["firmware", "launch_mode", "operating_system", "operating_system_version", "architecture"] {
        same(key, &archive["image"][key], &bare["image"][key])?;
    }
    same("checksums", &cloud.metrics()?["parts_without_checksum"], &json!(0))?;
    cloud.clean()
}

fn an_exported_image(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.qcow2", 1, 2)?;
    // The archive that the program itself made, kept and fetched, is an exported image.
    let record = cloud.done(&file, &["-a", "amd64", "--keep-object"])?;
    cloud.imported(&record, &file)?;
    let archive = cloud.dir.join("exported.oci");
    let inner = cloud.dir.join("output.QCOW2");
    fs_err::copy(&file, &inner)?;
    fs_err::write(cloud.dir.join("image_metadata.json"), metadata())?;
    let tar = Command::new("tar")
        .args(["-czf"])
        .arg(&archive)
        .arg("-C")
        .arg(&cloud.dir)
        .args(["image_metadata.json", "output.QCOW2"])
        .status()?;
    if !tar.success() {
        return Err("tar failed".into());
    }
    cloud.run(&mut cloud.command(&archive, &[]))?.ended(2)?.says("--arch amd64")?;
    let record = cloud.done(&archive, &["-a", "amd64", "-i", "exported"])?;
    same("state", &record["image"]["state"], &json!("AVAILABLE"))?;
    same("firmware", &record["image"]["firmware"], &json!("UEFI_64"))?;
    cloud.run(&mut cloud.command(&archive, &["-a", "amd64", "--format", "qcow2"]))?.ended(2)?;
    cloud.clean()
}

fn metadata() -> String {
    json!({
        "version": 2,
        "externalLaunchOptions": {
            "firmware": "UEFI_64", "networkType": "VFIO", "bootVolumeType": "ISCSI",
            "remoteDataVolumeType": "PARAVIRTUALIZED", "localDataVolumeType": "VFIO",
            "launchOptionsSource": "NATIVE", "pvAttachmentVersion": 1,
            "pvEncryptionInTransitEnabled": false, "consistentVolumeNamingEnabled": false,
        },
        "imageCapabilityData": "", "imageCapsFormatVersion": null,
        "operatingSystem": "Oracle Linux", "operatingSystemVersion": "8",
        "additionalMetadata": { "sourcePublicImageId": null, "shapeCompatibilities": [] },
    })
    .to_string()
}

fn twice(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 2, 3)?;
    let first = cloud.done(&file, &["-a", "amd64"])?;
    let sent = cloud.metrics()?["bytes_in"].as_u64().unwrap_or_default();
    let second = cloud.done(&file, &["-a", "amd64"])?;
    same("image", &second["image"]["id"], &first["image"]["id"])?;
    same("sent", &second["sent_bytes"], &json!(0))?;
    let more = cloud.metrics()?["bytes_in"].as_u64().unwrap_or_default() - sent;
    if more > 10_000 {
        return Err(format!("{more} bytes were sent again").into());
    }
    let quiet =
        cloud.run(cloud.upload(&["-q", "-c", "sandbox/images", "-a", "amd64", "-f"]).arg(&file))?.ended(0)?;
    same("standard output", &json!(quiet.stdout.trim()), &first["image"]["id"])?;
    same("standard error", &json!(quiet.stderr), &json!(""))?;
    // By force it is another image, and by another name too.
    let forced = cloud.done(&file, &["-a", "amd64", "--force"])?;
    let named = cloud.done(&file, &["-a", "amd64", "-i", "other"])?;
    for record in [&forced, &named] {
        if record["image"]["id"] == first["image"]["id"] {
            return Err("it is the same image".into());
        }
        cloud.imported(record, &file)?;
    }
    cloud.clean_but("duplicate_image")
}

fn same_name(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let (one, two) = (cloud.image("one", 2, 4)?, cloud.image("two", 2, 5)?);
    let common = ["-a", "amd64", "--object", "boot/a b+c", "--part-size", "512K"];
    let kept = cloud.done(&one, &[&common[..], &["--keep-object"]].concat())?;
    same("kept", &kept["object"]["kept"], &json!(true))?;
    // The same object: nothing is sent, whatever part size is asked for.
    let again =
        cloud.done(&one, &[&common[..4], &["--keep-object", "--force", "--part-size", "1M"]].concat())?;
    same("sent", &again["sent_bytes"], &json!(0))?;
    cloud.imported(&again, &one)?;
    let ran = cloud.run(&mut cloud.command(&two, &common))?.ended(1)?;
    ran.says("has another object `boot/a b+c`")?.says("`--overwrite` replaces it")?;
    let other = cloud.done(&two, &[&common[..], &["--overwrite"]].concat())?;
    cloud.imported(&other, &two)?;
    cloud.clean_but("duplicate_image")
}

fn tls(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--tls-port", "0"])?;
    let file = cloud.image("boot.oci", 1, 6)?;
    let mut command = cloud.command(&file, &["-a", "amd64"]);
    command.env("OCI_CLI_ENDPOINT", cloud.text("tls_endpoint"));
    cloud.run(&mut command)?.ended(1)?.says("is not trusted")?.says("--ca-file")?;
    let mut command = cloud.command(&file, &["-a", "amd64", "--ca-file", cloud.text("ca")]);
    command.env("OCI_CLI_ENDPOINT", cloud.text("tls_endpoint"));
    let record: Value = serde_json::from_str(&cloud.run(&mut command)?.ended(0)?.stdout)?;
    cloud.imported(&record, &file)?;
    cloud.clean()
}

fn appliance(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--pca"])?;
    let file = cloud.image("boot.oci", 1, 7)?;
    let record = cloud.done(&file, &["-a", "amd64"])?;
    same("launch mode", &record["image"]["launch_mode"], &json!("CUSTOM"))?;
    same("firmware", &record["image"]["firmware"], &json!("UEFI_64"))?;
    cloud.clean()
}
