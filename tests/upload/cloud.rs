//! The emulator, images, and the program that uploads them.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What all tests share: an identity with keys in every form, and images.
#[derive(Clone)]
pub struct Bench(Arc<Shared>);

struct Shared {
    dir: tempfile::TempDir,
    python: PathBuf,
    missing: Option<String>,
}

fn peer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/oracle-cloud")
}

/// The programs of Oracle's own clients.
fn clients() -> PathBuf {
    let venv =
        std::env::var_os("OCI_CLIENT_VENV").map_or_else(|| peer().join(".venv-clients"), PathBuf::from);
    venv.join("bin")
}

/// What the tests need and this machine does not have.
fn missing(python: &Path) -> Option<String> {
    if !python.exists() {
        return Some("the emulator's environment (`make setup`)".to_owned());
    }
    let tools = ["qemu-img", "tar", "sha256sum"];
    tools.into_iter().find(|tool| Command::new(tool).arg("--version").output().is_err()).map(str::to_owned)
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ocne-upload.").tempdir().expect("a work folder");
        let venv = std::env::var_os("FAKEOCI_VENV").map_or_else(|| peer().join(".venv"), PathBuf::from);
        let python = venv.join("bin/python");
        let missing = missing(&python).or_else(|| {
            // Keys take seconds to make; they are the same for all tests.
            let identity = dir.path().join("identity");
            let mut init = Command::new(&python);
            let made = init.arg(peer().join("fakeoci.py")).arg("init").arg("--dir").arg(identity).output();
            let made = made.expect("the emulator");
            (!made.status.success()).then(|| String::from_utf8_lossy(&made.stderr).into_owned())
        });
        Self(Arc::new(Shared { dir, python, missing }))
    }

    /// A test of the name; ignored, with the reason said, when the emulator cannot run.
    pub fn trial(
        &self,
        name: &str,
        test: impl FnOnce(&Self, &str) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        let (bench, folder) = (self.clone(), name.replace("::", "-"));
        if let Some(missing) = &self.0.missing {
            let _ = writeln!(std::io::stderr(), "SKIPPED {name}: needs {missing} (ignored)");
        }
        Trial::test(name, move || test(&bench, &folder)).with_ignored_flag(self.0.missing.is_some())
    }

    /// The same for a test that needs a mount namespace of its own and a port below 1024.
    pub fn trial_as_root(
        &self,
        name: &str,
        test: impl FnOnce(&Self, &str) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        let can = Command::new("unshare").args(["-m", "true"]).output().is_ok_and(|out| out.status.success());
        if !can && self.0.missing.is_none() {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED {name}: needs a mount namespace, as root has it (ignored)"
            );
            return Trial::test(name, || Ok(())).with_ignored_flag(true);
        }
        self.trial(name, test)
    }

    /// The same for a test that needs Oracle's own clients.
    pub fn trial_with_clients(
        &self,
        name: &str,
        test: impl FnOnce(&Self, &str) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        if !clients().join("oci").exists() && self.0.missing.is_none() {
            let _ = writeln!(std::io::stderr(), "SKIPPED {name}: needs oci-cli (`make setup`) (ignored)");
            return Trial::test(name, || Ok(())).with_ignored_flag(true);
        }
        self.trial(name, test)
    }

    /// Starts an emulator for one test.
    pub fn cloud(&self, name: &str, options: &[&str]) -> Result<Cloud, Failed> {
        Cloud::serve(self, name, options)
    }
}

/// One emulator with a home folder for the program. Dropping it ends and removes both.
pub struct Cloud {
    server: Child,
    pub dir: PathBuf,
    pub home: PathBuf,
    pub ready: Value,
    secrets: Vec<String>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        if std::env::var_os("OCNE_KEEP").is_none() {
            let _ = fs_err::remove_dir_all(&self.dir);
        }
    }
}

impl Cloud {
    fn serve(bench: &Bench, name: &str, options: &[&str]) -> Result<Self, Failed> {
        let dir = bench.0.dir.path().join(name);
        fs_err::create_dir(&dir)?;
        let (state, home) = (dir.join("cloud"), dir.join("home"));
        fs_err::create_dir(&home)?;
        let copied =
            Command::new("cp").arg("-a").arg(bench.0.dir.path().join("identity")).arg(&state).status()?;
        if !copied.success() {
            return Err("cannot copy the identity".into());
        }
        let mut server = Command::new(&bench.0.python)
            .arg(peer().join("fakeoci.py"))
            .args(["serve", "--import-seconds", "0.3", "--exit-after", "1200", "--dir"])
            .arg(&state)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs_err::File::create(dir.join("emulator.log"))?.into_parts().0)
            .spawn()?;
        let mut line = String::new();
        BufReader::new(server.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).map_err(|e| {
            let log = fs_err::read_to_string(dir.join("emulator.log")).unwrap_or_default();
            format!("the emulator did not start: {e}: {log}")
        })?;
        let mut secrets = vec![
            "BEGIN RSA PRIVATE".to_owned(),
            "BEGIN PRIVATE".to_owned(),
            "signature=\"".to_owned(),
            "partoken-".to_owned(),
        ];
        for key in fs_err::read_dir(state.join("keys"))? {
            let text = fs_err::read_to_string(key?.path())?;
            // A line of a key, or the start of a token.
            let line = text.lines().find(|line| line.len() > 40 && !line.contains("DEK")).unwrap_or(&text);
            secrets.push(line.chars().take(60).collect());
        }
        let identities: Value = serde_json::from_slice(&fs_err::read(state.join("identities.json"))?)?;
        secrets.push(identities["pass_phrase"].as_str().unwrap_or_default().to_owned());
        Ok(Self { server, dir, home, ready, secrets })
    }

    /// Sends the emulator a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Failed> {
        let pid = Pid::from_raw(i32::try_from(self.server.id())?).ok_or("no process")?;
        Ok(kill_process(pid, signal)?)
    }

    /// The programs of Oracle's own clients.
    #[expect(clippy::unused_self, reason = "reads as the rest")]
    pub fn clients(&self) -> PathBuf {
        clients()
    }

    pub fn text(&self, key: &str) -> &str {
        self.ready[key].as_str().unwrap_or_default()
    }

    /// OCID of a live compartment.
    pub fn compartment(&self, path: &str) -> &str {
        self.ready["compartments"][path].as_str().unwrap_or_default()
    }

    /// `ocne image upload`, ready to start.
    pub fn upload(&self, arguments: &[&str]) -> Command {
        self.image_command(&[&["upload"], arguments].concat())
    }

    /// `ocne image`, ready to start.
    pub fn image_command(&self, arguments: &[&str]) -> Command {
        self.ocne(&[&["image"], arguments].concat())
    }

    /// The program, ready to start.
    pub fn ocne(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ocne"));
        command.args(arguments);
        command.env_clear().env("HOME", &self.home).current_dir(&self.home).stdin(Stdio::null());
        command
            .env("OCI_CLI_CONFIG_FILE", self.text("config"))
            .env("OCI_CLI_ENDPOINT", self.text("endpoint"));
        command
    }

    /// Uploads a file into `sandbox/images`, and returns the record.
    pub fn done(&self, file: &Path, arguments: &[&str]) -> Result<Value, Failed> {
        self.run(&mut self.command(file, arguments))?.ended(0)?.record("upload-record")
    }

    /// The same, ready to start.
    pub fn command(&self, file: &Path, arguments: &[&str]) -> Command {
        let mut command = self.upload(&["-c", "sandbox/images", "-o", "json", "-l", "trace", "-f"]);
        command.arg(file).args(arguments);
        command
    }

    /// Runs a command, and looks for secrets in what it says.
    pub fn run(&self, command: &mut Command) -> Result<Ran, Failed> {
        self.judge(&command.output()?)
    }

    /// Starts a command. Its output goes to files, as a pipe that nobody reads would stop it.
    pub fn start(&self, command: &mut Command) -> Result<Running, Failed> {
        let files = [tempfile::tempfile_in(&self.dir)?, tempfile::tempfile_in(&self.dir)?];
        let child = command.stdout(files[0].try_clone()?).stderr(files[1].try_clone()?).spawn()?;
        Ok(Running { child, files })
    }

    /// Waits until the emulator has heard the last of those who were killed.
    pub fn idle(&self) -> Result<(), Failed> {
        for _ in 0..400 {
            // The question itself is not counted.
            if self.metrics()?["concurrent_requests"] == 0 {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err("the emulator is still at work".into())
    }

    /// Looks for secrets in what a run said.
    pub fn judge(&self, output: &Output) -> Result<Ran, Failed> {
        let ran = Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        let mut kept = String::new();
        for journal in self.journals()? {
            // One may be gone by now: another run of the test may still be at it.
            kept.push_str(&fs_err::read_to_string(journal).unwrap_or_default());
        }
        for secret in &self.secrets {
            if [&ran.stdout, &ran.stderr, &kept].into_iter().any(|text| text.contains(secret)) {
                return Err(format!("a secret was said: {secret:.12}").into());
            }
        }
        if ran.stderr.contains("panicked") {
            return Err(ran.stderr.into());
        }
        Ok(ran)
    }

    /// Asks the emulator about itself.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failed> {
        let address = self.text("endpoint").trim_start_matches("http://");
        let mut stream = TcpStream::connect(address)?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        write!(
            stream,
            "{method} /_fakeoci/{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        Ok(serde_json::from_str(body)?)
    }

    /// A request of somebody else, signed by `openssl` as the profile `DEFAULT`. Returns its status.
    pub fn call(&self, method: &str, path: &str) -> Result<u16, Failed> {
        let host = self.text("endpoint").trim_start_matches("http://");
        let date =
            Command::new("date").args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C").output()?;
        let date = String::from_utf8(date.stdout)?.trim().to_owned();
        let identities: Value =
            serde_json::from_slice(&fs_err::read(self.dir.join("cloud/identities.json"))?)?;
        let value =
            |key: &str| identities["profiles"]["DEFAULT"][key].as_str().unwrap_or_default().to_owned();
        let (text, signature) = (self.dir.join("to-sign"), self.dir.join("signature"));
        fs_err::write(
            &text,
            format!("date: {date}\n(request-target): {} {path}\nhost: {host}", method.to_lowercase()),
        )?;
        let mut sign = Command::new("openssl");
        sign.args(["dgst", "-sha256", "-sign", &value("key_file"), "-out"]).arg(&signature).arg(&text);
        if !sign.status()?.success() {
            return Err("openssl cannot sign".into());
        }
        let encoded = Command::new("base64").arg("-w0").arg(&signature).output()?;
        let mut stream = TcpStream::connect(host)?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nDate: {date}\r\nConnection: close\r\nAuthorization: Signature version=\"1\",keyId=\"{}/{}/{}\",algorithm=\"rsa-sha256\",headers=\"date (request-target) host\",signature=\"{}\"\r\n\r\n",
            value("tenancy"),
            value("user"),
            value("fingerprint"),
            String::from_utf8(encoded.stdout)?
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_whitespace().nth(1).ok_or("no answer")?.parse()?)
    }

    /// Sets the faults to come.
    pub fn faults(&self, rules: &Value) -> Result<(), Failed> {
        self.ask("POST", "faults", &json!({ "faults": rules })).map(|_| ())
    }

    /// What the emulator has counted.
    pub fn metrics(&self) -> Result<Value, Failed> {
        self.ask("GET", "metrics", &Value::Null)
    }

    /// The requests so far, as the emulator has written them down.
    pub fn requests(&self) -> Result<Vec<Value>, Failed> {
        let log = fs_err::read_to_string(self.dir.join("cloud/requests.jsonl"))?;
        log.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Nothing that the emulator takes for wrong has happened, and nothing is left.
    pub fn clean(&self) -> Result<(), Failed> {
        self.clean_but("")
    }

    /// The same, but for one kind of violation, which was asked for.
    pub fn clean_but(&self, kind: &str) -> Result<(), Failed> {
        let metrics = self.metrics()?;
        for key in ["violations", "dangling_multipart_uploads"] {
            let all = metrics[key].as_array().ok_or("no metrics")?;
            if all.iter().any(|one| one["kind"] != kind) {
                return Err(format!("{key}: {:#}", metrics[key]).into());
            }
        }
        let left = self.journals()?;
        if left.is_empty() { Ok(()) } else { Err(format!("journals are left: {left:?}").into()) }
    }

    /// What is in the folder of journals.
    pub fn journals(&self) -> Result<Vec<PathBuf>, Failed> {
        let folder = self.home.join(".local/state/ocne/uploads");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        fs_err::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    }

    /// The image of a record is available, and its disk is the file.
    pub fn imported(&self, record: &Value, file: &Path) -> Result<(), Failed> {
        let metrics = self.metrics()?;
        let id = &record["image"]["id"];
        let images = metrics["images"].as_array().ok_or("no images")?;
        let image = images.iter().find(|image| &image["id"] == id).ok_or("the image is not there")?;
        let digest = sha256(file)?;
        same("state", &image["state"], &json!("AVAILABLE"))?;
        same("sha256", &image["sha256"], &json!(digest))?;
        same("tag", &record["image"]["freeform_tags"]["ocne/sha256"], &json!(digest))?;
        same("firmware", &record["image"]["firmware"], &json!("UEFI_64"))?;
        same("launch mode", &record["image"]["launch_mode"], &json!("PARAVIRTUALIZED"))
    }

    /// A qcow2 file of random data, different for each seed.
    pub fn image(&self, name: &str, mib: usize, seed: u64) -> Result<PathBuf, Failed> {
        let (raw, path) = (self.dir.join(format!("{name}.raw")), self.dir.join(name));
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..mib << 17).flat_map(|_| random.next().to_le_bytes()).collect();
        fs_err::write(&raw, bytes)?;
        let status = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args([&raw, &path])
            .status()?;
        fs_err::remove_file(raw)?;
        if status.success() { Ok(path) } else { Err("qemu-img convert failed".into()) }
    }
}

/// A run that goes on.
pub struct Running {
    child: Child,
    files: [std::fs::File; 2],
}

impl Running {
    /// Sends it a signal; it may have ended already.
    pub fn signal(&self, signal: Signal) -> Result<(), Failed> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).ok_or("no process")?;
        let _ = kill_process(pid, signal);
        Ok(())
    }

    /// Waits for its end, and looks for secrets in what it said.
    pub fn end(mut self, cloud: &Cloud) -> Result<Ran, Failed> {
        let status = self.child.wait()?;
        let [stdout, stderr] = self.files.map(|mut file| {
            let mut text = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut text)?;
            Ok::<_, std::io::Error>(text)
        });
        cloud.judge(&Output { status, stdout: stdout?, stderr: stderr? })
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The run, which has to have ended with this status.
    pub fn ended(self, code: i32) -> Result<Self, Failed> {
        if self.code == Some(code) {
            return Ok(self);
        }
        Err(format!("exit status {:?}, not {code}: {}{}", self.code, self.stdout, self.said()).into())
    }

    /// What it has printed, which has to be as `docs/schemas/NAME.schema.json` says.
    pub fn record(&self, schema: &str) -> Result<Value, Failed> {
        let record = serde_json::from_str(&self.stdout)?;
        let wrong = crate::schema::wrong_in(&format!("{schema}.schema.json"), &record);
        if wrong.is_empty() { Ok(record) } else { Err(format!("{schema}: {wrong:?}").into()) }
    }

    /// The run, which has to have said this on standard error.
    pub fn says(self, text: &str) -> Result<Self, Failed> {
        if self.stderr.contains(text) {
            Ok(self)
        } else {
            Err(format!("no `{text}` in: {}", self.said()).into())
        }
    }

    /// Standard error without what only `-l trace` shows.
    fn said(&self) -> String {
        let lines = self.stderr.lines().filter(|line| !line.starts_with("TRAC") && !line.starts_with("DEBU"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// A command that another one runs, whose arguments it follows.
pub fn inside(mut outer: Command, command: &Command) -> Command {
    outer.arg(command.get_program()).args(command.get_args()).env_clear();
    outer.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    outer
}

pub fn same(what: &str, found: &Value, wanted: &Value) -> Result<(), Failed> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found} instead of {wanted}").into()) }
}

pub fn sha256(file: &Path) -> Result<String, Failed> {
    let out = Command::new("sha256sum").arg(file).output()?;
    Ok(String::from_utf8(out.stdout)?.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Small, seeded and good enough to choose moments and bytes.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end.max(1)
    }
}
