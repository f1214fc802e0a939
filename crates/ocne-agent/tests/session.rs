//! The built agent, spoken to as the client does it: the same conversion as in one process, in few rounds.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ocne_bootimage::{Conversion, ConvertOptions, ImageKind, convert};
use ocne_build::{RemoteError, RemoteWork, Way, convert_remotely};
use ocne_container::{FetchOptions, Fetcher, Platform};
use ocne_disk::{BlockDevice, DeviceError, Qcow2, ReadRequest};
use ocne_transfer::TransferError;
use ocne_xfs::Timestamp;

/// The boot image of the repository as a file.
fn boot_image(folder: &Path) -> PathBuf {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/ock-small.oci-archive");
    let reference = format!("oci-archive:{}", archive.display()).parse().unwrap();
    let options = FetchOptions { cache_dir: folder.to_owned(), ..FetchOptions::default() };
    let fetcher = Fetcher::new(options).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (platform, cancel) = (Platform::linux("amd64"), Arc::default());
    let disk = fetcher.disk(&reference, &platform, "disk/boot.qcow2", &|_| {}, &cancel);
    runtime.block_on(disk).unwrap().path
}

fn options() -> ConvertOptions {
    ConvertOptions {
        kind: ImageKind::Oci,
        ignition_provider: "oci".to_owned(),
        kernel_args: Some("a.b=1 quiet".to_owned()),
        boot_uuid: [0xb0; 16],
        root_uuid: [0x40; 16],
        now: Timestamp { seconds: 1_800_000_000, nanoseconds: 5 },
        seed: u64::MAX,
        architecture: None,
        preflight: true,
    }
}

fn agent(scratch: &Path) -> Child {
    session(Command::new(env!("CARGO_BIN_EXE_ocne-agent")), scratch)
}

/// Starts a session of an agent that this command runs.
fn session(mut agent: Command, scratch: &Path) -> Child {
    agent
        .arg("session")
        .env("OCNE_AGENT_SCRATCH", scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Ends an agent, and returns what it logged.
fn finish(mut agent: Child) -> (bool, String) {
    let mut log = String::new();
    agent.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (agent.wait().unwrap().success(), log)
}

/// The agent for arm64, static, as `make agent` builds it but for the profile, or why there is none.
fn arm64_agent() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_BIN_EXE_ocne-agent")).ancestors().nth(2).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/agent.sh");
    let mut build = Command::new(script);
    let output =
        build.arg("arm64").env("AGENT_PROFILE", "dev").env("CARGO_TARGET_DIR", target).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match said.lines().find_map(|line| line.strip_prefix("agent: not built for ")) {
        Some(missing) => Err(missing.to_owned()),
        None if output.status.success() => Ok(target.join("debug/ocne-agent-arm64")),
        None => panic!("{script}: {said}"),
    }
}

#[test]
fn the_same_conversion_as_here_in_few_rounds() {
    let dir = tempfile::tempdir().unwrap();
    check_conversion(agent(dir.path()), dir.path());
}

#[test]
fn the_arm64_agent_converts_as_well() {
    const EMULATOR: &str = "qemu-aarch64-static";
    let has_emulator = Command::new(EMULATOR).arg("--version").output().is_ok();
    let program = if has_emulator { arm64_agent() } else { Err(format!("{EMULATOR} is not installed")) };
    let program = match program {
        Ok(program) => program,
        Err(reason) => {
            let words = format!("SKIPPED session::the_arm64_agent_converts_as_well: {reason}\n");
            // Past the capture of tests that pass.
            let _ = std::io::stderr().write_all(words.as_bytes());
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let mut emulator = Command::new(EMULATOR);
    emulator.arg(program);
    check_conversion(session(emulator, dir.path()), dir.path());
}

/// The agent does what this process does, and says so as the client expects it.
fn check_conversion(mut agent: Child, dir: &Path) {
    let image = Qcow2::open(&boot_image(dir)).unwrap();
    let here = convert(&image, &options(), &|_| {}).unwrap();
    let (stdin, stdout) = (agent.stdin.take().unwrap(), agent.stdout.take().unwrap());
    let cancel = AtomicBool::new(false);
    let (there, work) = convert_remotely(stdout, stdin, &image, &options(), Way::Blocks, &cancel).unwrap();
    assert_eq!(there, here);
    assert!(work.rounds <= 40, "{work:?}");
    let (good, log) = finish(agent);
    assert!(good, "{log}");
    // Every line of its log is JSON for the client's log.
    assert!(log.lines().all(|l| l.starts_with("{\"level\":\"info\"")), "{log}");
    assert!(dir.join("heartbeat").exists());
}

/// A file that kills the agent when so much of it was sent, and what a session says then.
fn send_whole_file(
    dir: &Path,
    path: &Path,
    key: &str,
    kill_at_bytes: u64,
) -> Result<(Conversion, RemoteWork), RemoteError> {
    let (image, file) = (Qcow2::open(path).unwrap(), fs_err::File::open(path).unwrap());
    let mut agent = agent(dir);
    let (stdin, stdout) = (agent.stdin.take().unwrap(), agent.stdout.take().unwrap());
    let mut sent = |bytes| {
        if bytes >= kill_at_bytes {
            agent.kill().unwrap();
        }
    };
    let way = Way::Full { file: &file, key, sent: &mut sent };
    let result = convert_remotely(stdout, stdin, &image, &options(), way, &AtomicBool::new(false));
    agent.kill().unwrap();
    agent.wait().unwrap();
    result
}

#[test]
fn a_whole_image_is_sent_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = boot_image(dir.path());
    let here = convert(&Qcow2::open(&path).unwrap(), &options(), &|_| {}).unwrap();
    let size_bytes = fs_err::metadata(&path).unwrap().len();
    for kill_at_bytes in [1, size_bytes / 2, size_bytes] {
        let error = send_whole_file(dir.path(), &path, "a", kill_at_bytes).unwrap_err();
        assert!(matches!(&error, RemoteError::Transfer(TransferError::Lost(_))), "{error}");
    }
    let (there, work) = send_whole_file(dir.path(), &path, "a", u64::MAX).unwrap();
    assert_eq!(there, here);
    // All of it was there from the last session that was cut.
    assert!(work.traffic.sent_bytes < size_bytes / 2, "{work:?} of {size_bytes}");
    // What is there of another image is of no use: it is noticed, forgotten, and sent again.
    let mut other = fs_err::read(&path).unwrap();
    other.truncate(other.len() / 2);
    fs_err::write(dir.path().join("image.qcow2"), [other.as_slice(), &[1; 512]].concat()).unwrap();
    let error = send_whole_file(dir.path(), &path, "a", u64::MAX).unwrap_err();
    assert!(matches!(&error, RemoteError::Transfer(e) if e.is_transient()), "{error}");
    assert_eq!(send_whole_file(dir.path(), &path, "a", u64::MAX).unwrap().0, here);
}

#[test]
fn why_an_image_is_refused_is_said_here() {
    let dir = tempfile::tempdir().unwrap();
    let image = Qcow2::open(&boot_image(dir.path())).unwrap();
    let mut agent = agent(dir.path());
    let (stdin, stdout) = (agent.stdin.take().unwrap(), agent.stdout.take().unwrap());
    let wrong = ConvertOptions { architecture: Some(ocne_bootimage::Architecture::Arm64), ..options() };
    let here = convert(&image, &wrong, &|_| {}).unwrap_err();
    let there =
        convert_remotely(stdout, stdin, &image, &wrong, Way::Blocks, &AtomicBool::new(false)).unwrap_err();
    assert!(there.to_string().starts_with(&here.to_string()), "{there}");
    assert_eq!(there.hint().as_deref(), here.hint());
    assert!(!finish(agent).0);
}

/// A disk that kills the agent after some reads.
struct Killing<'a> {
    disk: &'a Qcow2,
    agent: Mutex<(Child, u32)>,
}

impl BlockDevice for Killing<'_> {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }
    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<(), DeviceError> {
        let mut agent = self.agent.lock().unwrap();
        if agent.1 == 0 {
            agent.0.kill().unwrap();
        }
        agent.1 = agent.1.saturating_sub(1);
        self.disk.read_batch(requests)
    }
}

#[test]
fn an_agent_that_dies_is_an_error_that_may_pass() {
    let dir = tempfile::tempdir().unwrap();
    let image = Qcow2::open(&boot_image(dir.path())).unwrap();
    for reads in [0, 1, 7] {
        let mut agent = agent(dir.path());
        let (stdin, stdout) = (agent.stdin.take().unwrap(), agent.stdout.take().unwrap());
        let device = Killing { disk: &image, agent: Mutex::new((agent, reads)) };
        let e = convert_remotely(stdout, stdin, &device, &options(), Way::Blocks, &AtomicBool::new(false))
            .unwrap_err();
        assert!(matches!(&e, RemoteError::Transfer(TransferError::Lost(_))), "{e}");
        device.agent.into_inner().unwrap().0.wait().unwrap();
    }
}

#[test]
fn a_pod_ends_when_nobody_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_ocne-agent"))
        .args(["wait", "--idle-timeout", "1"])
        .env("OCNE_AGENT_SCRATCH", dir.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no client was heard"));
}

#[test]
fn a_pod_that_is_told_to_end_has_not_ended_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_ocne-agent"))
        .arg("wait")
        .env("OCNE_AGENT_SCRATCH", dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(agent.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("waiting for a client"));
    assert!(Command::new("kill").arg(agent.id().to_string()).status().unwrap().success());
    assert_eq!(agent.wait().unwrap().code(), Some(1));
    assert!(lines.next().unwrap().unwrap().contains("told to end"));
}
