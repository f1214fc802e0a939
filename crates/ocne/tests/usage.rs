//! Wrong usage: exit status 2, a reason, the nearest name; and settings with their origins.

mod support;

use serde_json::Value;
use support::{Home, Ran};

#[track_caller]
fn refused(arguments: &[&str], expected: &str) {
    let stderr = Home::new().run(arguments).failed(2);
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(stderr.contains(expected), "{expected:?} is not in {stderr}");
}

#[test]
fn the_nearest_name_is_suggested() {
    refused(&["imgae"], "'image'");
    refused(&["image", "creat"], "'create'");
    refused(&["image", "create", "--recompres", "zlib"], "'--recompress'");
    refused(&["image", "create", "--type", "oic"], "possible values: oci");
}

#[test]
fn values_that_cannot_be_meant() {
    let create = |flag: &'static str, value: &'static str| ["image", "create", flag, value];
    refused(&create("--output", "-"), "cannot go to standard output");
    refused(&create("--output", ""), "it needs a name");
    refused(&create("--builder", "libvirt"), "comes with a later release");
    refused(&create("--builder", "pod"), "possible values: auto, local, cluster");
    refused(&create("--pod-memory", "0"), "16..=1048576");
    refused(&create("--idle-timeout", "0"), "1..=604800");
    refused(&create("--toleration", "a=b:Sometimes"), "Sometimes");
    refused(&create("--scratch", "disk"), "disk");
    refused(&create("--kernel-args", "a\nb"), "one line");
    refused(&create("--ignition-provider", "a b"), "one word");
    refused(&create("--ignition-provider", ""), "one word");
    refused(&create("--version", "newest"), "two or three numbers");
    refused(&create("--version", "../1"), "two or three numbers");
    refused(&create("--recompress", "lzma"), "zlib, zstd");
    refused(&create("--recompress", "zstd:99"), "levels of zstd are 1 to 19");
    refused(&create("--compression", "0"), "1..=9");
    refused(&create("--compression", "6"), "`--compression` is for images of type `ostree`");
    refused(&create("--base", "none"), "`--base` is for images of type `ostree`");
    let ostree = |flag, value| [&create(flag, value)[..], &["--type", "ostree"]].concat();
    refused(&ostree("--pull", "pod"), "`--pull pod` needs a cluster");
    refused(&create("--gpg-key", "a"), "`--gpg-key` is for images of type `ostree`");
    refused(&ostree("--file", "a.qcow2"), "`--file` is for boot images");
    refused(&ostree("--seed", "a"), "`--seed` is for boot images");
    refused(&ostree("--image", "ostree-remote-image:x"), "name of a remote is missing");
    refused(&ostree("--base", "oci:"), "the path is empty");
    refused(&["image", "create", "--file", "a", "--image", "b"], "cannot be used with");
    refused(&create("--pull", "pod"), "`--pull pod` needs a cluster");
    refused(&["image", "create", "--pull", "pod", "--file", "a"], "cannot be used with");
    refused(&["image", "info", "--recursive"], "--path");
    refused(&["image", "copy", "oci:a", "http://b"], "this transport is not supported");
    refused(&["image", "copy", "oci:a", "oci:b", "--all", "--arch", "arm64"], "cannot be used with");
    refused(&["image", "upload", "-t", "ostree", "-f", "a"], "--destination");
    refused(&["registry", "login", "a/b"], "a registry is a host name");
    refused(&["image", "copy", "oci:a", "r.example/b", "--offline"], "without a network");
}

#[test]
fn settings_and_where_they_come_from() {
    let home = Home::new();
    fs_err::create_dir(home.path().join(".ocne")).unwrap();
    fs_err::write(
        home.path().join(".ocne/defaults.yaml"),
        "registry: one.example\nkubernetesVersion: 1.31\nsomething: {else: [1, 2]}\nproviders:\n  oci:\n    profile: P\n",
    )
    .unwrap();
    fs_err::write(home.path().join("two.yaml"), "registry: two.example\nproxy: {httpsProxy: p1}\n").unwrap();
    let mut command = home.ocne(&["config", "show", "-c", "two.yaml", "-k", "mine", "-o", "json"]);
    command.env("https_proxy", "p2").env("KUBECONFIG", "other");
    let shown: Value = serde_json::from_str(&Ran::of(&mut command).ok()).unwrap();
    let find = |key: &str| {
        let all = shown["settings"].as_array().unwrap();
        let one = all.iter().find(|s| s["key"] == key).unwrap_or_else(|| panic!("{key}"));
        format!("{} {} {}", one["value"], one["origin"], one["origin_name"]).replace('"', "")
    };
    let defaults = home.path().join(".ocne/defaults.yaml").display().to_string();
    assert_eq!(find("registry"), "two.example file two.yaml");
    assert_eq!(find("kubernetesVersion"), format!("1.31 file {defaults}"));
    assert_eq!(find("providers.oci.profile"), format!("P file {defaults}"));
    assert_eq!(find("providers.oci.imageBucket"), "ocne-images default null");
    assert_eq!(find("proxy.httpsProxy"), "p2 environment https_proxy");
    assert_eq!(find("kubeconfig"), "mine flag --kubeconfig");
    assert_eq!(shown["schema"], "ocne.config/1");

    fs_err::write(home.path().join("three.yaml"), "registry: three.example\n").unwrap();
    let text = Ran::of(home.ocne(&["config", "show"]).env("OCNE_DEFAULTS", "three.yaml")).ok();
    let line = text.lines().find(|l| l.starts_with("registry ")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        ["registry", "three.example", "#", "file", "three.yaml"]
    );
}

#[test]
fn wrong_settings_name_file_line_and_key() {
    let home = Home::new();
    fs_err::write(home.path().join("bad.yaml"), "providers:\n  libvirt:\n    smm: 7\n").unwrap();
    insta::assert_snapshot!(home.run(&["config", "show", "--config", "bad.yaml"]).failed(2), @r"
    error: cannot read the configuration file `bad.yaml`
      caused by: line 3, key `providers.libvirt.smm`: invalid boolean
    ");
    let missing = home.run(&["image", "create", "--config", "none.yaml"]).failed(2);
    assert!(missing.contains("`none.yaml`"), "{missing}");
    let missing = Ran::of(home.ocne(&["config", "show"]).env("OCNE_DEFAULTS", "nowhere")).failed(2);
    assert!(missing.contains("`nowhere`"), "{missing}");
}

#[test]
fn the_version_for_programs() {
    let home = Home::new();
    let version: Value = serde_json::from_str(&home.run(&["version", "-o", "json"]).ok()).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(home.run(&["version"]).ok(), format!("ocne {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let home = Home::new();
    let status = std::process::Command::new("sh")
        .args(["-c", "{ \"$0\" completion bash; echo \"status $?\" >&2; } | head -c 10 >/dev/null"])
        .arg(env!("CARGO_BIN_EXE_ocne"))
        .env("HOME", home.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&status.stderr), "status 0\n");
}
