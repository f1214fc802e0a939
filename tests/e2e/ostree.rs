//! The image of ostree content with our own server in it, made as an ordinary user, started by containerd and by podman, and
//! pulled from.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::support::{Bench, fixtures, must, names};

const TOOLS: [&str; 8] = ["containerd", "ctr", "runc", "ip", "skopeo", "curl", "podman", "nsenter"];

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![bench.trial("ostree::the_image_serves_what_is_in_it", &TOOLS, the_image_serves_what_is_in_it)]
}

/// A containerd of its own, until it is dropped.
struct Containerd {
    child: Child,
    address: PathBuf,
}

impl Containerd {
    fn start(folder: &Path) -> Result<Self, Failed> {
        let address = folder.join("containerd.sock");
        let config = folder.join("containerd.toml");
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{1}\"\n",
            folder.display(),
            address.display()
        );
        fs_err::write(&config, text)?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut containerd = Self { child: command.spawn()?, address };
        let started = Instant::now();
        while !containerd.ctr(&["version"]).output()?.status.success() {
            if containerd.child.try_wait()?.is_some() || started.elapsed() > Duration::from_secs(30) {
                return Err("containerd does not start".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(containerd)
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.args(arguments).env("CONTAINERD_ADDRESS", &self.address);
        ctr
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn the_image_serves_what_is_in_it(bench: &Bench) -> Result<(), Failed> {
    let case = bench.case("ostree")?;
    let target = Path::new(env!("CARGO_BIN_EXE_ocne")).ancestors().nth(2).ok_or("no build folder")?;
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/serve.sh"));
    let mut serve_sh = Command::new(script);
    must(serve_sh.arg("amd64").env("AGENT_PROFILE", "dev").env("CARGO_TARGET_DIR", target), "serve.sh")?;
    let programs = case.dir.join("programs");
    fs_err::create_dir(&programs)?;
    let program = programs.join("ocne-serve-amd64");
    fs_err::copy(target.join("debug/ocne-serve-amd64"), &program)?;
    fs_err::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    // The ordinary user may not be able to read the repository.
    let source = case.dir.join("sample.ociarchive");
    fs_err::copy(fixtures().join("ostree/sample-encapsulated.ociarchive"), &source)?;
    let reference = format!("ostree-unverified-image:oci-archive:{}", source.display());
    let containerd = Containerd::start(&case.dir)?;
    let ostree = fixtures().join("ostree");
    let create_and_check = |base: &str| -> Result<PathBuf, Failed> {
        let image = case.out.join("ock-ostree.tar");
        let mut create = case.ocne(&["image", "create", "-t", "ostree", "-a", "amd64", "--base", base]);
        create.args(["--image", &reference]).arg("--output").arg(&image).env("OCNE_AGENT_DIR", &programs);
        must(&mut create, "image create")?;
        if names(&case.out)? != ["ock-ostree.tar"] {
            return Err(format!("left over: {:?}", names(&case.out)?).into());
        }
        let mut check = Command::new(ostree.join("check-archive-image.sh"));
        check.arg(&image).arg("--facts").arg(ostree.join("sample-encapsulated.json"));
        check.arg("--tree").arg(ostree.join("sample-tree.json")).args(["--arch", "amd64", "--run"]);
        let said = must(check.env("CONTAINERD_ADDRESS", &containerd.address), "the checker")?;
        // It passes, with less to say, where containerd does not answer.
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        if !said.contains("ok   container: ostree pull") {
            return Err(format!("{base}: nothing was pulled from the container: {said}").into());
        }
        Ok(image)
    };
    if let Some(nginx) = nginx_base(&case.dir)? {
        create_and_check(&format!("oci-archive:{}", nginx.display()))?;
    }
    by_podman(&case.dir, &create_and_check("none")?)
}

/// An image of nginx, of Debian's packages, which are kept for the next run; none where they cannot be had.
fn nginx_base(folder: &Path) -> Result<Option<PathBuf>, Failed> {
    let (kept, image) = (crate::boot::cache().join("nginx-base.ociarchive"), folder.join("nginx.ociarchive"));
    if !kept.exists() {
        let mut make = Command::new(fixtures().join("ostree/make-nginx-base.sh"));
        let out = make.arg("--output").arg(&image).stdin(Stdio::null()).output()?;
        if !out.status.success() {
            let why = "Debian's package of nginx cannot be downloaded";
            let _ =
                writeln!(std::io::stderr(), "SKIPPED ostree::the_image_serves_what_is_in_it, nginx: {why}");
            return Ok(None);
        }
        fs_err::create_dir_all(crate::boot::cache())?;
        let part = kept.with_extension(format!("{}.part", std::process::id()));
        fs_err::copy(&image, &part)?;
        fs_err::rename(&part, &kept)?;
    }
    // The ordinary user may not be able to read the cache.
    fs_err::copy(&kept, &image)?;
    Ok(Some(image))
}

/// Loads the image as the documents say, and starts it; without a network of its own, whose ways differ.
fn by_podman(folder: &Path, image: &Path) -> Result<(), Failed> {
    let name = "localhost/ock-ostree:latest";
    let podman = |arguments: &[&str]| -> Result<String, Failed> {
        let mut podman = Command::new("podman");
        podman.args(["--storage-driver", "vfs", "--root"]).arg(folder.join("storage"));
        podman.arg("--runroot").arg(folder.join("runroot")).args(arguments).stdin(Stdio::null());
        let what = format!("podman {}", arguments[0]);
        Ok(String::from_utf8(must(&mut podman, &what)?.stdout)?.trim().to_owned())
    };
    let said = podman(&["load", "--input", &image.display().to_string()])?;
    if !said.contains(&format!("Loaded image: {name}")) {
        return Err(said.into());
    }
    // Limits that every machine lets a container have.
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=512:512"];
    let container = podman(&[&["run", "--detach", "--network", "none"], &limits[..], &[name]].concat())?;
    let pid = podman(&["inspect", "--format", "{{.State.Pid}}", &container])?;
    let mut curl = Command::new("nsenter");
    curl.args([
        "-t",
        &pid,
        "-n",
        "curl",
        "-fsS",
        "--retry",
        "20",
        "--retry-connrefused",
        "--retry-delay",
        "1",
    ]);
    let served = must(curl.arg("http://127.0.0.1/ostree/refs/heads/ock"), "curl");
    let removed = podman(&["rm", "--force", "--time", "10", &container]);
    let served = String::from_utf8(served?.stdout)?;
    removed?;
    if served.trim().len() != 64 {
        return Err(format!("the ref is `{served}`").into());
    }
    Ok(())
}
