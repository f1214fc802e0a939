//! `image create --type ostree` through the built program, judged by the fixtures' own checker.

#[path = "../../ocne-container/tests/docker_registry/mod.rs"]
mod docker_registry;
mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use docker_registry::{Registry, have};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Home, Ran, assert_schema, repository};

const COMMIT: &str = "6b1e342de244113994b4007c9f3e7b7cf940cc43a0d9ba87291148beb58e75be";
/// What the checker runs.
const JUDGES: [&str; 6] = ["python3", "skopeo", "ostree", "curl", "jq", "diff"];

fn fixtures() -> PathBuf {
    repository().join("tests/fixtures/ostree")
}

fn sample() -> String {
    format!("oci-archive:{}", fixtures().join("sample-encapsulated.ociarchive").display())
}

/// Runs a program of the fixtures to its end.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    Ran::of(Command::new(fixtures().join(program)).args(arguments).env("LC_ALL", "C.UTF-8")).ok()
}

/// A base image that has no nginx: good enough for whoever does not start it.
fn base(folder: &Path) -> String {
    let (layer, base) = (folder.join("layer.tar"), folder.join("base.ociarchive"));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(fixtures()).arg("-cf").arg(&layer).arg("README.md");
    Ran::of(&mut tar).ok();
    let paths = [layer.to_str().unwrap(), base.to_str().unwrap()];
    run("ociarchive.py", &["append", "-", paths[0], paths[1], "--gzip", "6", "--arch", "amd64"]);
    format!("oci-archive:{}", base.display())
}

fn create<'a>(image: &'a str, base: &'a str, output: &'a str) -> Vec<&'a str> {
    vec!["image", "create", "-t", "ostree", "-a", "amd64", "--image", image, "--base", base, "-o", output]
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The fixtures' checker, on an image of the sample.
#[track_caller]
fn check(image: &Path) {
    let (facts, tree) = (fixtures().join("sample-encapsulated.json"), fixtures().join("sample-tree.json"));
    let paths = [image, &facts, &tree].map(|p| p.to_str().unwrap());
    let said = Command::new(fixtures().join("check-archive-image.sh"))
        .args([paths[0], "--facts", paths[1], "--tree", paths[2], "--arch", "amd64", "--no-ctr"])
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}

#[test]
fn an_image_its_report_and_its_log() {
    if !have("an_image_its_report_and_its_log", &JUDGES) {
        return;
    }
    let home = Home::new();
    let (image, base) = (sample(), base(home.path()));
    let work = home.path().join("work");
    fs_err::create_dir(&work).unwrap();
    let output = work.join("ock-ostree.tar");
    let report = work.join("report.json");
    let mut arguments = create(&image, &base, output.to_str().unwrap());
    arguments.extend(["--report", report.to_str().unwrap(), "-v", "1.32"]);
    let ran = home.run(&arguments);
    assert_eq!(ran.stdout, "", "standard output is data");
    let said: Vec<&str> =
        ran.stderr.lines().map(|l| l.split_once("] ").map_or(l, |(_, text)| text)).collect();
    let saved = format!("Saved image to {}", output.display());
    let wanted = ["Generating container image: ok", "Saving container image: ok", saved.as_str()];
    assert_eq!(said, wanted);
    check(&output);
    let report: Value = serde_json::from_slice(&fs_err::read(report).unwrap()).unwrap();
    assert_schema("create-ostree-report.schema.json", &report);
    assert_eq!(report["commit"]["checksum"], COMMIT);
    assert_eq!(report["commit"]["files"], 468);
    let sum = Ran::of(Command::new("sha256sum").arg(&output)).ok();
    assert_eq!(report["output"]["sha256"], sum.split_whitespace().next().unwrap());
    assert_eq!(names(&work), ["ock-ostree.tar", "report.json"]);
}

#[test]
fn the_usual_name_and_the_same_bytes_from_anywhere() {
    if !have("the_usual_name_and_the_same_bytes_from_anywhere", &["python3", "skopeo", "tar"]) {
        return;
    }
    let home = Home::new();
    let base = base(home.path());
    let layout = format!("oci:{}:ock", home.path().join("layout").display());
    Ran::of(Command::new("skopeo").args(["copy", "-q", &sample(), &layout])).ok();
    let mut sums = Vec::new();
    for image in [sample(), layout.clone(), format!("ostree-unverified-image:{layout}")] {
        let mut arguments = create(&image, &base, "");
        arguments.truncate(arguments.len() - 2);
        arguments.push("-q");
        let ran = home.run(&arguments);
        let path = home.path().join(".ocne/images/ock-1.33-amd64-ostree.tar");
        assert_eq!(
            (ran.stderr.as_str(), ran.stdout.as_str()),
            ("", format!("{}\n", path.display()).as_str())
        );
        sums.push(Ran::of(Command::new("sha256sum").arg(&path)).ok());
        assert!(names(&home.path().join(".ocne/images")).iter().all(|n| !n.contains(".part")));
    }
    assert!(sums.iter().all(|s| *s == sums[0]), "{sums:?}");
}

#[test]
fn what_is_damaged_is_refused_and_nothing_is_left() {
    if !have("what_is_damaged_is_refused_and_nothing_is_left", &["python3", "zstd", "tar"]) {
        return;
    }
    let home = Home::new();
    let base = base(home.path());
    let work = home.path().join("work");
    fs_err::create_dir(&work).unwrap();
    let output = work.join("out.tar");
    let mutated = home.path().join("mutated.tar");
    let image = format!("oci-archive:{}", mutated.display());
    let list = run("ociarchive.py", &["mutate", "-", "-", "help"]);
    let mut seen = 0;
    for line in list.lines() {
        let mut words = line.split_whitespace();
        let (kind, expected) = (words.next().unwrap(), words.next().unwrap());
        let sample = sample();
        let path = sample.strip_prefix("oci-archive:").unwrap();
        run("ociarchive.py", &["mutate", path, mutated.to_str().unwrap(), kind]);
        let ran = home.run(&create(&image, &base, output.to_str().unwrap()));
        seen += 1;
        if expected == "accept" {
            ran.ok();
            fs_err::remove_file(&output).unwrap();
        } else {
            let said = ran.failed(1);
            assert!(
                said.contains("error: cannot serve the ostree commit in `oci-archive:"),
                "{kind}: {said}"
            );
            assert!(said.contains("cause: ") || said.lines().count() > 1, "{kind}: no reason in {said}");
        }
        assert_eq!(names(&work), [""; 0], "{kind}");
    }
    assert_eq!(seen, 27);
}

#[test]
fn what_cannot_be_is_said() {
    let home = Home::new();
    let image = sample();
    let mut arguments = create(&image, &image, "out.tar");
    arguments[5] = "arm64";
    let said = home.run(&arguments).failed(1);
    assert!(said.contains("has no image for linux/arm64; it has: linux/amd64"), "{said}");
    // An image that holds no commit, and none at all.
    let boot = support::small_image();
    let said = home.run(&create(&boot, &image, "out.tar")).failed(1);
    assert!(said.contains("the image holds no ostree commit"), "{said}");
    let said = home.run(&create("oci-archive:nowhere.tar", &image, "out.tar")).failed(1);
    assert!(said.contains("nowhere.tar"), "{said}");
    // Something to serve it with is missing.
    let mut ocne = home.ocne(&create(&image, "none", "out.tar"));
    let said = Ran::of(ocne.env("OCNE_AGENT_DIR", home.path())).failed(1);
    assert!(said.contains("the program `ocne-serve-amd64` is not there"), "{said}");
    assert!(said.contains("hint: `make serve` builds it"), "{said}");
    // Nobody has signed it; and what is no key is none.
    let key = home.path().join("key");
    fs_err::write(&key, "no key").unwrap();
    let mut arguments = create(&image, &image, "out.tar");
    arguments.extend(["--gpg-key", key.to_str().unwrap()]);
    let said = home.run(&arguments).failed(1);
    assert!(
        said.contains("cannot read GPG keys from") && said.contains("hint: `gpg --export KEY`"),
        "{said}"
    );
    fs_err::remove_file(&key).unwrap();
    // The source is never replaced.
    let copy = home.path().join("source.ociarchive");
    fs_err::copy(image.strip_prefix("oci-archive:").unwrap(), &copy).unwrap();
    let copied = format!("oci-archive:{}", copy.display());
    let said = home.run(&create(&copied, &image, copy.to_str().unwrap())).failed(1);
    assert!(said.contains("is the source"), "{said}");
    assert_eq!(names(home.path()), [".ocne", "source.ociarchive"]);
}

#[test]
fn a_commit_is_signed_by_a_key_that_was_given() {
    if !have("a_commit_is_signed_by_a_key_that_was_given", &["python3", "ostree", "gpg", "tar", "bash"]) {
        return;
    }
    let home = Home::new();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let script = "mkdir gnupg tree && chmod 700 gnupg && export GNUPGHOME=$PWD/gnupg && echo hello > tree/file
        for who in one two; do
            gpg --batch --quiet --pinentry-mode loopback --passphrase '' --quick-generate-key $who@example ed25519 sign never
            gpg --batch --quiet --export $who@example > $who.gpg
        done
        ostree init --repo=repo --mode=archive
        ostree commit --repo=repo -b ock --tree=dir=tree --subject=signed --gpg-sign=one@example --gpg-homedir=gnupg
        gpg --batch --with-colons --list-keys one@example | sed -n 's/^fpr:*\\([0-9A-F]*\\):$/\\1/p' > fingerprint
        gpgconf --kill all || true";
    let mut make = Command::new("bash");
    Ran::of(make.args(["-euc", script]).current_dir(home.path()).env("LC_ALL", "C.UTF-8")).ok();
    run("encapsulate.py", &[&path("repo"), "ock", &path("signed.ociarchive"), "--chunks", "0"]);
    let base = base(home.path());
    let (output, report) = (path("out.tar"), path("report.json"));
    let source = format!("ostree-image-signed:oci-archive:{}", path("signed.ociarchive"));
    let mut arguments = create(&source, &base, &output);
    // Without a key it is said that nothing is verified.
    let ran = home.run(&arguments);
    assert!(ran.stderr.contains("as no `--gpg-key` is given"), "{}", ran.stderr);
    ran.ok();
    fs_err::remove_file(&output).unwrap();
    let (one, two) = (path("one.gpg"), path("two.gpg"));
    arguments.extend(["--report", &report, "--gpg-key", &one]);
    let ran = home.run(&arguments);
    let fingerprint = fs_err::read_to_string(home.path().join("fingerprint")).unwrap();
    assert!(
        ran.stderr.contains(&format!("The commit is signed by {}", fingerprint.trim())),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("WARN"), "{}", ran.stderr);
    ran.ok();
    let said: Value = serde_json::from_slice(&fs_err::read(&report).unwrap()).unwrap();
    assert_schema("create-ostree-report.schema.json", &said);
    assert_eq!(said["commit"]["signed_by"], fingerprint.trim());
    // By nobody else, and nothing is left of that.
    fs_err::remove_file(&output).unwrap();
    *arguments.last_mut().unwrap() = &two;
    let said = home.run(&arguments).failed(1);
    assert!(
        said.contains("none of the commit's GPG signatures counts") && said.contains("is by no key in"),
        "{said}"
    );
    assert!(!Path::new(&output).exists());
    let image = sample();
    let position = arguments.iter().position(|a| *a == source).unwrap();
    arguments[position] = &image;
    let said = home.run(&arguments).failed(1);
    assert!(said.contains("the commit has no GPG signature"), "{said}");
}

#[test]
fn a_plan_writes_nothing() {
    let home = Home::new();
    let image = sample();
    let mut arguments = create(&image, &image, "out.tar");
    arguments.push("--plan");
    let said = home.run(&arguments).ok();
    assert!(said.contains(&format!("verify every object of the ostree commit {COMMIT}")), "{said}");
    assert!(said.contains("to be fetched: 1.2 MiB compressed"), "{said}");
    assert_eq!(names(home.path()), [".ocne"]);
}

/// Moments at which a run is ended, and by what.
const KILLS: u32 = 30;
const SIGNALS: [Signal; 5] = [Signal::KILL, Signal::INT, Signal::KILL, Signal::INT, Signal::TERM];

/// An encapsulated image that takes a moment to convert.
fn large(folder: &Path) -> String {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (tar, json, repo, image) =
        (path("tree.tar"), path("tree.json"), path("repo"), path("large.ociarchive"));
    run("mktree.py", &["--tar", &tar, "--manifest", &json, "--payload-mib", "6"]);
    let ostree = |arguments: &[&str]| {
        let mut ostree = Command::new("ostree");
        Ran::of(ostree.arg(format!("--repo={repo}")).args(arguments).env("LC_ALL", "C.UTF-8")).ok()
    };
    ostree(&["init", "--mode=archive"]);
    let tree = format!("--tree=tar={tar}");
    ostree(&[
        "commit",
        "--branch=ock",
        &tree,
        "--tar-autocreate-parents",
        "--fsync=false",
        "--subject=large",
    ]);
    run("encapsulate.py", &[&repo, "ock", &image]);
    format!("oci-archive:{image}")
}

#[test]
fn signals_at_random_moments_leave_nothing() {
    if !have("signals_at_random_moments_leave_nothing", &["python3", "ostree", "tar"]) {
        return;
    }
    let home = Home::new();
    let (image, base) = (large(home.path()), base(home.path()));
    let work = home.path().join("work");
    fs_err::create_dir(&work).unwrap();
    let output = work.join("out.tar");
    let arguments = create(&image, &base, output.to_str().unwrap());
    let sum = || Ran::of(Command::new("sha256sum").arg(&output)).ok();
    let started = Instant::now();
    home.run(&arguments).ok();
    let (whole, wanted) = (started.elapsed(), sum());
    for round in 0..KILLS {
        let signal = SIGNALS[usize::try_from(round % 5).unwrap()];
        let _ = fs_err::remove_file(&output);
        let child = home.ocne(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // The moment is what is tested: spread over the whole run, and a little beyond.
        std::thread::sleep(whole * ((round * 7 + 3) % 10) / 9);
        let _ = kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal);
        let out = child.wait_with_output().unwrap();
        if signal != Signal::KILL {
            let ended = out.status.signal() == Some(signal.as_raw());
            assert!(ended || matches!(out.status.code(), Some(0 | 130)), "{signal:?}: {out:?}");
            assert!(names(&work).iter().all(|n| n == "out.tar"), "{signal:?} left {:?}", names(&work));
        }
        if output.exists() {
            assert_eq!(sum(), wanted, "what has the name is whole");
        }
        home.run(&arguments).ok();
        assert_eq!((sum(), names(&work)), (wanted.clone(), vec!["out.tar".to_owned()]), "the next run");
    }
}

#[test]
fn source_and_base_come_from_a_registry() {
    if !have("source_and_base_come_from_a_registry", &["python3", "skopeo", "docker-registry", "tar"]) {
        return;
    }
    let home = Home::new();
    let base = base(home.path());
    let registry = Registry::start(home.path());
    let push = |from: &str, name: &str| {
        let to = format!("docker://{}/{name}", registry.address);
        Ran::of(Command::new("skopeo").args(["copy", "-q", "--dest-tls-verify=false", from, &to])).ok();
    };
    push(&sample(), "olcne/ock-ostree:1.33");
    push(&base, "olcne/nginx:1.17.7-1");
    // By the settings alone, as it is with the usual registry.
    let settings = format!(
        "registry: {0}\nosRegistry: ostree-unverified-registry:{0}/olcne/ock-ostree\n",
        registry.address
    );
    fs_err::create_dir(home.path().join(".ocne")).unwrap();
    fs_err::write(home.path().join(".ocne/defaults.yaml"), settings).unwrap();
    let arguments = ["image", "create", "-t", "ostree", "-a", "amd64", "-q", "--report", "report.json"];
    let path = home.run(&arguments).ok();
    assert!(path.ends_with("/ock-1.33-amd64-ostree.tar\n"), "{path}");
    let report: Value =
        serde_json::from_slice(&fs_err::read(home.path().join("report.json")).unwrap()).unwrap();
    assert_schema("create-ostree-report.schema.json", &report);
    assert_eq!(report["commit"]["checksum"], COMMIT);
    let name = format!("docker://{}/olcne/ock-ostree:1.33", registry.address);
    assert_eq!(report["source"]["reference"], name);
    // What was made goes into a registry, once.
    let copy = |more: &[&str]| {
        let source = format!("oci-archive:{}", path.trim_end());
        let to = format!("docker://{}/mine/ock-ostree:1.33", registry.address);
        home.run(&[&["image", "copy", source.as_str(), to.as_str()], more].concat())
    };
    let ran = copy(&["--digestfile", "digest"]);
    assert!(ran.stderr.contains("Copied image to docker://"), "{}", ran.stderr);
    ran.ok();
    let digest = fs_err::read_to_string(home.path().join("digest")).unwrap();
    assert_eq!(report["image"]["manifest_digest"], digest.as_str());
    assert_eq!(copy(&["-q"]).ok(), format!("{digest}\n"));
    let again = copy(&[]);
    assert!(again.stderr.contains("Copying container image: ok (0 B, "), "{}", again.stderr);
    // Layers are not kept: without a network that is said, and how to do without.
    let offline = [&arguments[..], &["--offline"]].concat();
    let said = home.run(&offline).failed(1);
    assert!(said.contains("are not in the cache") && said.contains("skopeo copy"), "{said}");
}

#[test]
fn an_upload_to_a_registry_that_asks_who_we_are() {
    let name = "an_upload_to_a_registry_that_asks_who_we_are";
    if !have(name, &["skopeo", "docker-registry", "htpasswd"]) {
        return;
    }
    let home = Home::new();
    let registry = Registry::with_password(home.path(), "me", "open:sesame");
    let host = registry.address.to_string();
    let to = format!("docker://{host}/mine/ock-ostree:1.33");
    let file = fixtures().join("sample-encapsulated.ociarchive");
    let upload = |more: &[&str]| {
        let usual = ["image", "upload", "-t", "ostree", "-f", file.to_str().unwrap(), "-d", &to];
        home.run(&[&usual[..], more].concat())
    };
    // There is no terminal, and nobody is logged in.
    let said = upload(&[]).failed(3);
    assert!(said.contains(&format!("hint: log in with `ocne registry login {host}`")), "{said}");
    let said = home.run(&["registry", "login", &host]).failed(2);
    assert!(said.contains("--password-stdin"), "{said}");
    let login = |password: &str| {
        let mut login = home.ocne(&["registry", "login", &host, "-u", "me", "--password-stdin"]);
        let mut login =
            login.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut login.stdin.take().unwrap(), password.as_bytes()).unwrap();
        login.wait_with_output().unwrap()
    };
    let wrong = login("secret-thing");
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(wrong.status.code() == Some(3) && !said.contains("secret-thing"), "{said}");
    home.run(&["registry", "whoami", &host]).failed(1);
    let right = login("open:sesame\n");
    assert!(right.status.success(), "{}", String::from_utf8_lossy(&right.stderr));
    assert_eq!(home.run(&["registry", "whoami", &host]).ok(), "me\n");
    // The wrong architecture is seen before anything is sent.
    let said = upload(&["-a", "arm64"]).failed(1);
    assert!(said.contains("has no image for linux/arm64; it has: linux/amd64"), "{said}");
    let ran = upload(&["-a", "amd64", "--digestfile", "digest"]);
    assert!(ran.stderr.contains("Copying container image: ok"), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("Copied image to {to}, digest sha256:")), "{}", ran.stderr);
    ran.ok();
    let digest = fs_err::read_to_string(home.path().join("digest")).unwrap();
    // What podman and skopeo write and read is the same.
    let authfile = home.path().join("run/containers/auth.json");
    let skopeo = |arguments: &[&str]| {
        let mut skopeo = Command::new("skopeo");
        Ran::of(skopeo.args(arguments).arg("--authfile").arg(&authfile).arg(&host))
    };
    assert_eq!(skopeo(&["login", "--tls-verify=false", "--get-login"]).ok(), "me\n");
    assert_eq!(upload(&["-q"]).ok(), format!("{digest}\n"));
    home.run(&["registry", "logout", &host]).ok();
    home.run(&["registry", "logout", &host]).failed(1);
    upload(&[]).failed(3);
    skopeo(&["login", "--tls-verify=false", "-u", "me", "-p", "open:sesame"]).ok();
    assert_eq!(upload(&["-q"]).ok(), format!("{digest}\n"));
    skopeo(&["logout"]).ok();
    // For once, without a file; the password is in no message.
    assert_eq!(upload(&["-q", "--creds", "me:open:sesame"]).ok(), format!("{digest}\n"));
    let said = upload(&["--creds", "me:secret-thing"]).failed(3);
    assert!(!said.contains("secret-thing"), "{said}");
    // For programs: a record, and progress of every blob.
    let ran = upload(&["-o", "json", "--progress", "json", "--creds", "me:open:sesame"]);
    let lines = ran.stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.for_each(|line| assert_schema("progress.schema.json", &line));
    let record: Value = serde_json::from_str(&ran.ok()).unwrap();
    assert_schema("copy-record.schema.json", &record);
    assert_eq!((&record["digest"], &record["sent_bytes"]), (&digest.as_str().into(), &0.into()));
    let source = format!("oci-archive:{}", file.display());
    let ran = home.run(&["image", "copy", "--progress", "json", &source, "dir:again"]);
    let parts = ran.stderr.lines().filter(|line| line.contains(r#""event":"part""#));
    let last = parts
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|p| p["done_bytes"] == p["total_bytes"]);
    let names: std::collections::BTreeSet<String> = last.map(|p| p["part"].to_string()).collect();
    assert_eq!(names.len(), 7, "six layers and the configuration: {names:?}");
    // Elsewhere, the same image.
    for other in ["dir:out", "oci:layout:x"] {
        assert_eq!(home.run(&["image", "copy", "-q", &source, other]).ok(), format!("{digest}\n"));
    }
    let ran = home.run(&["image", "copy", &source, "docker-archive:out.tar:a/b:1"]);
    assert!(ran.stderr.contains("The manifest is not the same as before: a docker-archive has no manifest"));
    ran.ok();
    at_a_terminal(&home, &host, &["image", "copy", &source, &to]);
    let said = home.run(&["image", "upload", "-f", "x", "-d", &to]).failed(2);
    assert!(said.contains("only an image of type ostree has a destination"), "{said}");
}

/// Answers questions on a terminal, which show on it what is typed unless it is a password.
const TERMINAL: &str = r#"
import json, os, pty, sys
command, answers = json.loads(sys.argv[1]), json.loads(sys.argv[2])
pid, fd = pty.fork()
if pid == 0:
    os.execv(command[0], command)
seen, asked = b"", 0
while True:
    try:
        data = os.read(fd, 4096)
    except OSError:
        break
    seen += data
    if asked < len(answers) and answers[asked][0].encode() in seen:
        os.write(fd, answers[asked][1].encode() + b"\n")
        asked += 1
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) or asked != len(answers))
"#;

/// Name and password are asked for where there is a terminal, and kept if that is wanted.
fn at_a_terminal(home: &Home, host: &str, push: &[&str]) {
    let run = |arguments: &[&str], answers: &[[&str; 2]]| {
        let ocne = home.ocne(arguments);
        let command: Vec<String> = [ocne.get_program()]
            .into_iter()
            .chain(ocne.get_args())
            .map(|a| a.to_str().unwrap().to_owned())
            .collect();
        let mut python = Command::new("python3");
        python
            .args(["-c", TERMINAL])
            .args([serde_json::json!(command), serde_json::json!(answers)].map(|j| j.to_string()));
        python.current_dir(home.path()).env_clear();
        python
            .envs(ocne.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("PATH", "/usr/bin:/bin");
        let ran = Ran::of(&mut python);
        assert!(!ran.stdout.contains("open:sesame"), "the password is shown: {}", ran.stdout);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.stdout
    };
    let name = format!("Name at {host}: ");
    let password = format!("Password of me at {host}: ");
    let said = run(&["registry", "login", host], &[[&name, "me"], [&password, "open:sesame"]]);
    assert!(said.contains(&format!("Logged in to {host}")), "{said}");
    assert_eq!(home.run(&["registry", "whoami", host]).ok(), "me\n");
    home.run(&["registry", "logout", host]).ok();
    // A push asks too, and only keeps what it was told if that is wanted.
    let keep = format!("Keep name and password for {host}");
    run(push, &[[&name, "me"], [&password, "open:sesame"], [&keep, "n"]]);
    home.run(&["registry", "whoami", host]).failed(1);
    run(push, &[[&name, "me"], [&password, "open:sesame"], [&keep, "y"]]);
    assert_eq!(home.run(&["registry", "whoami", host]).ok(), "me\n");
}

#[test]
fn copies_that_are_killed_leave_nothing_and_go_on() {
    let name = "copies_that_are_killed_leave_nothing_and_go_on";
    if !have(name, &["python3", "ostree", "skopeo", "docker-registry"]) {
        return;
    }
    let home = Home::new();
    let image = large(home.path());
    let registry = Registry::start(home.path());
    let work = home.path().join("work");
    fs_err::create_dir(&work).unwrap();
    let path = work.display();
    let places = [
        format!("docker://{}/a/large:1", registry.address),
        format!("oci-archive:{path}/a.tar"),
        format!("dir:{path}/dir"),
        format!("oci:{path}/layout:a"),
    ];
    let raw = |reference: &str| {
        Ran::of(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", reference]))
    };
    let wanted = raw(&image).ok();
    let started = Instant::now();
    home.run(&["image", "copy", &image, &format!("oci-archive:{path}/a.tar")]).ok();
    let whole = started.elapsed();
    fs_err::remove_file(work.join("a.tar")).unwrap();
    for round in 0..KILLS {
        let signal = SIGNALS[usize::try_from(round % 5).unwrap()];
        // Each round has a repository of its own, or all would be there already.
        let to = places[usize::try_from(round % 4).unwrap()].replace("large", &format!("large{round}"));
        let mut copy = home.ocne(&["image", "copy", "-q", &image, &to]);
        let child = copy.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // The moment is what is tested: spread over the whole run, and a little beyond.
        std::thread::sleep(whole * ((round * 7 + 3) % 10) / 9);
        let _ = kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal);
        let out = child.wait_with_output().unwrap();
        if signal != Signal::KILL {
            let ended = out.status.signal() == Some(signal.as_raw());
            assert!(ended || matches!(out.status.code(), Some(0 | 130)), "{signal:?}: {out:?}");
            assert!(names(&work).iter().all(|n| !n.contains(".part")), "{signal:?} left {:?}", names(&work));
        }
        // What has the name is whole.
        let found = raw(&to);
        assert!(found.code != Some(0) || found.stdout == wanted, "{signal:?} {to}: {found:?}");
        home.run(&["image", "copy", "-q", &image, &to]).ok();
        assert_eq!(raw(&to).ok(), wanted, "the next run: {to}");
        assert!(names(&work).iter().all(|n| !n.contains(".part")), "the next run left {:?}", names(&work));
    }
    let cache = names(&home.path().join(".ocne/images"));
    assert!(cache.iter().all(|n| !n.contains(".part")), "{cache:?}");
}
