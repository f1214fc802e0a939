//! What the suites share: the program as an ordinary user sees it, boot images, and the independent checker.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, PoisonError, RwLock};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

/// The checker takes what the kernel says of its loop devices for complaints, and their names are used again: nobody
/// may make a file system fail on purpose while a check runs.
static KERNEL_LOG: RwLock<()> = RwLock::new(());

/// The ordinary user that the program runs as.
const NOBODY: u32 = 65534;

/// The folder, program and tools that all tests of a run share.
#[derive(Clone)]
pub struct Bench(Arc<Shared>);

struct Shared {
    dir: tempfile::TempDir,
    program: PathBuf,
    missing: Vec<String>,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ocne-e2e.").tempdir_in("/var/tmp").expect("a work folder");
        fs_err::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        // The build folder may be closed to other users.
        let program = dir.path().join("ocne");
        fs_err::copy(env!("CARGO_BIN_EXE_ocne"), &program).expect("a copy of the program");
        let mut missing = Vec::new();
        if !rustix::process::geteuid().is_root() {
            missing.push("root".to_owned());
        }
        for tool in [
            "parted",
            "sgdisk",
            "mkfs.fat",
            "mcopy",
            "mkfs.xfs",
            "xfs_db",
            "xfs_io",
            "xfs_repair",
            "qemu-img",
            "ostree",
            "setfattr",
            "losetup",
            "python3",
            "setpriv",
        ] {
            if !has(tool) {
                missing.push(tool.to_owned());
            }
        }
        Self(Arc::new(Shared { dir, program, missing }))
    }

    /// A test of the name; ignored, with the reason said, when a tool of the bench or of `also` is missing.
    pub fn trial(
        &self,
        name: impl Into<String>,
        also: &[&str],
        test: impl FnOnce(&Self) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        let name = name.into();
        let missing: Vec<&str> = self
            .0
            .missing
            .iter()
            .map(String::as_str)
            .chain(also.iter().copied().filter(|t| !has(t)))
            .collect();
        if !missing.is_empty() {
            let _ = writeln!(std::io::stderr(), "SKIPPED {name}: needs {} (ignored)", missing.join(", "));
        }
        let bench = self.clone();
        Trial::test(name, move || test(&bench)).with_ignored_flag(!missing.is_empty())
    }

    /// The folder that all tests share.
    pub fn folder(&self) -> &Path {
        self.0.dir.path()
    }

    /// A new folder for a test, with a home and an output folder that belong to the ordinary user.
    pub fn case(&self, name: &str) -> Result<Case, Failed> {
        Case::new(&self.0.program, self.0.dir.path().join(name))
    }
}

fn has(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|d| Path::new(d).join(tool).is_file())
}

/// The repository's fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// One test's folder; removed when the test is over.
pub struct Case {
    program: PathBuf,
    pub dir: PathBuf,
    pub home: PathBuf,
    pub out: PathBuf,
    pub boot: PathBuf,
    pub archive: PathBuf,
    pub arch: &'static str,
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::env::var_os("OCNE_KEEP").is_none() {
            let _ = fs_err::remove_dir_all(&self.dir);
        }
    }
}

impl Case {
    fn new(program: &Path, dir: PathBuf) -> Result<Self, Failed> {
        fs_err::create_dir(&dir)?;
        let case = Self {
            program: program.to_owned(),
            home: dir.join("home"),
            out: dir.join("out"),
            boot: dir.join("boot.qcow2"),
            archive: dir.join("boot.oci-archive"),
            arch: "amd64",
            dir,
        };
        for d in [&case.home, &case.out] {
            fs_err::create_dir(d)?;
            chown(d, Some(NOBODY), Some(NOBODY))?;
        }
        Ok(case)
    }

    /// A folder like this one, beside it.
    pub fn another(&self, name: &str) -> Result<Self, Failed> {
        Self::new(&self.program, self.dir.with_file_name(name))
    }

    /// Runs another program from now on.
    pub fn take_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// The program that it runs.
    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn result(&self) -> PathBuf {
        self.out.join("boot.oci")
    }

    pub fn report(&self) -> PathBuf {
        self.out.join("report.json")
    }

    /// Makes the boot image as a qcow2 and as an archive; `options` as in `ock-variants.txt`.
    pub fn make(&mut self, options: &str) -> Result<(), Failed> {
        let line = format!("exec \"$0\" --out \"$1\" --oci-archive \"$2\" --work-dir \"$3\" {options}");
        let script = fixtures().join("make-ock-image.sh");
        let args: [&OsStr; 6] = [
            "-c".as_ref(),
            line.as_ref(),
            script.as_ref(),
            self.boot.as_ref(),
            self.archive.as_ref(),
            self.dir.as_ref(),
        ];
        let fails = options.contains("--dirty-log");
        let _quiet = fails.then(|| KERNEL_LOG.write().unwrap_or_else(PoisonError::into_inner));
        must(Command::new("bash").args(args), "make-ock-image.sh")?;
        if options.contains("--arch arm64") {
            self.arch = "arm64";
        }
        Ok(())
    }

    /// `ocne image create -t oci` of a source in its own process as the ordinary user, ready to start.
    pub fn create(&self, source: &Path, extra: &[&str]) -> Command {
        self.create_by("local", source, extra)
    }

    /// The same by another builder.
    pub fn create_by(&self, builder: &str, source: &Path, extra: &[&str]) -> Command {
        let mut c =
            self.ocne(&["image", "create", "--type", "oci", "--arch", self.arch, "--builder", builder]);
        if source.extension() == Some("qcow2".as_ref()) {
            c.arg("--file").arg(source);
        } else {
            c.arg("--image").arg(format!("oci-archive:{}", source.display()));
        }
        c.arg("--output").arg(self.result()).arg("--report").arg(self.report()).args(extra);
        c
    }

    /// The program as the ordinary user, ready to start.
    pub fn ocne(&self, arguments: &[&str]) -> Command {
        let mut c = Command::new("setpriv");
        c.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
            .args(["--clear-groups", "--no-new-privs", "--inh-caps=-all"])
            .arg(&self.program)
            .args(arguments);
        for (name, _) in std::env::vars() {
            if name.starts_with("OCNE_") || name.starts_with("KUBE") {
                c.env_remove(name);
            }
        }
        c.env("HOME", &self.home).env("TMPDIR", &self.home).current_dir(&self.home).stdin(Stdio::null());
        c
    }

    /// Empties the home and output folders.
    pub fn fresh(&self) -> Result<(), Failed> {
        for d in [&self.home, &self.out] {
            fs_err::remove_dir_all(d)?;
            fs_err::create_dir(d)?;
            chown(d, Some(NOBODY), Some(NOBODY))?;
        }
        Ok(())
    }

    /// What lies in the output folder beyond the image and its report.
    pub fn left_over(&self) -> Result<Vec<String>, Failed> {
        Ok(names(&self.out)?.into_iter().filter(|n| n != "boot.oci" && n != "report.json").collect())
    }

    /// Files below the home folder that look temporary.
    pub fn temporary_at_home(&self) -> Result<Vec<PathBuf>, Failed> {
        let (mut todo, mut found) = (vec![self.home.clone()], Vec::new());
        while let Some(dir) = todo.pop() {
            for entry in fs_err::read_dir(&dir)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.file_type()?.is_dir() {
                    todo.push(entry.path());
                } else if name.contains(".part") || name.contains(".tmp") {
                    found.push(entry.path());
                }
            }
        }
        Ok(found)
    }

    /// Has the independent checker compare the result with the original.
    pub fn check(&self, kernel_args: &str) -> Result<(), Failed> {
        let report: Value = serde_json::from_slice(&fs_err::read(self.report())?)?;
        let mut new_files = Vec::new();
        for f in report["files"].as_array().ok_or("the report has no list of files")? {
            if f["change"] == "added" {
                let path = f["path"].as_str().unwrap_or_default();
                let inside = path.split_once(".0/").map_or(path, |(_, p)| p);
                let spec = format!("{inside},mode={}", f["mode"].as_str().unwrap_or_default());
                if !new_files.contains(&spec) {
                    new_files.push(spec);
                }
            }
        }
        if new_files.is_empty() {
            return Err("the report lists no added file".into());
        }
        let mut c = Command::new("python3");
        c.arg(fixtures().join("check-ock-image.py"))
            .args(["--platform", "oci", "--kargs", kernel_args, "--work-dir"])
            .arg(&self.dir);
        for f in &new_files {
            c.args(["--new-file", f]);
        }
        let _listening = KERNEL_LOG.read().unwrap_or_else(PoisonError::into_inner);
        let said = c.arg(&self.boot).arg(self.result()).output()?;
        if said.status.code() == Some(2) {
            return Err(
                format!("the checker could not run: {}", String::from_utf8_lossy(&said.stdout)).into()
            );
        }
        let said: Value = serde_json::from_slice(&said.stdout)?;
        match said["failed"].as_array() {
            Some(failed) if failed.is_empty() => Ok(()),
            _ => Err(format!("{:#}", said["failed"]).into()),
        }
    }
}

/// The names in a folder.
pub fn names(dir: &Path) -> Result<Vec<String>, Failed> {
    let mut all = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        all.push(entry?.file_name().to_string_lossy().into_owned());
    }
    all.sort();
    Ok(all)
}

/// Runs a command that has to succeed.
pub fn must(command: &mut Command, what: &str) -> Result<Output, Failed> {
    let out = command.stdin(Stdio::null()).output()?;
    if out.status.success() {
        return Ok(out);
    }
    Err(format!("{what}: {}: {}{}", out.status, text(&out.stdout), text(&out.stderr)).into())
}

/// The last 2,000 characters of an output.
pub fn text(bytes: &[u8]) -> String {
    let all = String::from_utf8_lossy(bytes);
    let skip = all.chars().count().saturating_sub(2000);
    all.chars().skip(skip).collect()
}

/// A refusal: exit status 1, a reason, nothing left, no panic.
pub fn assert_refused(case: &Case, out: &Output) -> Result<(), Failed> {
    let said = text(&out.stderr);
    if out.status.code() != Some(1) {
        return Err(format!("{}, not exit status 1: {said}", out.status).into());
    }
    if said.contains("panicked") || !said.contains("error: ") {
        return Err(format!("no reason given: {said}").into());
    }
    let left = names(&case.out)?;
    if !left.is_empty() {
        return Err(format!("left over: {left:?}").into());
    }
    Ok(())
}

/// Small, seeded and good enough to choose moments and bytes.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % end.max(1)
    }
}
