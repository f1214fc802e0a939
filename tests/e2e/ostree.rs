//! The image of ostree content with our own server in it, made as an ordinary user, started by containerd, and pulled from.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::support::{Bench, fixtures, must, names};

const TOOLS: [&str; 6] = ["containerd", "ctr", "runc", "ip", "skopeo", "curl"];

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
    let image = case.out.join("ock-ostree.tar");
    let reference = format!("ostree-unverified-image:oci-archive:{}", source.display());
    let mut create = case.ocne(&["image", "create", "-t", "ostree", "-a", "amd64", "--base", "none"]);
    create.args(["--image", &reference]).arg("--output").arg(&image).env("OCNE_AGENT_DIR", &programs);
    must(&mut create, "image create")?;
    if names(&case.out)? != ["ock-ostree.tar"] {
        return Err(format!("left over: {:?}", names(&case.out)?).into());
    }
    let containerd = Containerd::start(&case.dir)?;
    let ostree = fixtures().join("ostree");
    let mut check = Command::new(ostree.join("check-archive-image.sh"));
    check.arg(&image).arg("--facts").arg(ostree.join("sample-encapsulated.json"));
    check.arg("--tree").arg(ostree.join("sample-tree.json")).args(["--arch", "amd64", "--run"]);
    let said = must(check.env("CONTAINERD_ADDRESS", &containerd.address), "the checker")?;
    // It passes, with less to say, where containerd does not answer.
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    if !said.contains("ok   container: ostree pull") {
        return Err(format!("nothing was pulled from the container: {said}").into());
    }
    Ok(())
}
