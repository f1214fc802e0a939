//! A converted image boots: a small real system in the layout of the boot image, under QEMU, by its own loader entry
//! and through firmware and GRUB, twice in a row, with the host name from a metadata service.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::support::{Bench, Case, fixtures, must, text};

const HOST_NAME: &str = "ocne-e2e-host";

pub fn trials(bench: &Bench) -> Vec<Trial> {
    let tools = ["qemu-system-x86_64", "mmdebstrap", "grub-mkimage", "zstd", "cpio"];
    vec![bench.trial("boot::converted_image_boots", &tools, converted_image_boots)]
}

/// Where what is made of Debian's packages is kept between runs.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache")))
        .unwrap_or_else(|| "/var/tmp".into());
    base.join("ocne-tests")
}

fn converted_image_boots(bench: &Bench) -> Result<(), Failed> {
    let case = bench.case("boot")?;
    let bootable = fixtures().join("bootable");
    must(
        Command::new(bootable.join("make-bootable.sh"))
            .arg("--out")
            .arg(&case.boot)
            .arg("--cache")
            .arg(cache())
            .arg("--work-dir")
            .arg(&case.dir),
        "make-bootable.sh",
    )?;
    must(&mut case.create(&case.boot, &[]), "ocne image create")?;
    case.check("")?;

    let imds = case.dir.join("imds");
    fs_err::create_dir(&imds)?;
    fs_err::write(
        imds.join("instance.json"),
        format!(r#"{{"hostname": "{HOST_NAME}", "displayName": "other"}}"#),
    )?;
    fs_err::write(imds.join("vnics.json"), "[]")?;

    let original = boot(&case, &case.boot, &[])?;
    let direct = boot(
        &case,
        &case.result(),
        &[
            "--reboots",
            "1",
            "--expect-new-machine-id",
            "--imds",
            &imds.display().to_string(),
            "--expect-hostname",
            HOST_NAME,
        ],
    )?;
    for which in ["boot", "root"] {
        if original["uuid"][which] == direct["uuid"][which] {
            return Err(format!("the {which} file system kept its UUID").into());
        }
    }
    let id = |r: &Value| r["boots"][0]["report"]["machine_id"].clone();
    if id(&original) == id(&direct) {
        return Err("the converted system has the machine-id of the original".into());
    }
    boot(&case, &case.result(), &["--uefi", "--expect-new-machine-id"])?;
    Ok(())
}

fn boot(case: &Case, image: &Path, options: &[&str]) -> Result<Value, Failed> {
    // The result belongs to the ordinary user; QEMU's overlay only reads it.
    fs_err::set_permissions(&case.out, PermissionsExt::from_mode(0o755))?;
    let out = Command::new(fixtures().join("bootable/boot-test.sh"))
        .arg(image)
        .args(["--timeout", "400", "--work-dir"])
        .arg(&case.dir)
        .args(options)
        .output()?;
    if !out.status.success() {
        return Err(format!("{options:?}: {}: {}{}", out.status, text(&out.stdout), text(&out.stderr)).into());
    }
    Ok(serde_json::from_slice(&out.stdout)?)
}
