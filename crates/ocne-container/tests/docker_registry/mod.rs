//! Debian's docker-registry as a server, for the tests of several crates.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Whether programs are there; says what is not.
pub fn have(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing: Vec<_> = programs.iter().filter(|p| !there(p)).collect();
    if !missing.is_empty() {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: needs {missing:?}");
    }
    missing.is_empty()
}

/// Runs a program to its end, and gives what it prints.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// An address where nobody listens, outside of what the system gives to whoever does not choose: it is free again for a
/// moment, which is all that docker-registry offers, and no other test may get it then.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 1000).unwrap() * 10;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    pub address: SocketAddr,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Starts a plain one that anybody may use.
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, "", "")
    }

    /// Starts one with these lines added to its configuration, in and behind its part `http`.
    pub fn start_with(folder: &Path, http: &str, more: &str) -> Self {
        let address = free_address();
        let data = folder.join("registry").display().to_string();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: {address}\n  relativeurls: true\n{http}{more}"
        );
        let file = folder.join("registry.yml");
        fs_err::write(&file, config).unwrap();
        let mut registry = Command::new("docker-registry");
        registry.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self { child: registry.spawn().unwrap(), address };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "docker-registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// Starts one that lets in who has this name and password.
    pub fn with_password(folder: &Path, user: &str, password: &str) -> Self {
        let passwords = folder.join("htpasswd").display().to_string();
        run("htpasswd", &["-Bbc", &passwords, user, password]);
        Self::start_with(folder, "", &format!("auth: {{htpasswd: {{realm: test, path: {passwords}}}}}\n"))
    }

    /// Starts one that speaks TLS, with an authority of its own: `ca.pem` in the folder.
    pub fn with_tls(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let (ca_key, ca) = (path("ca.key"), path("ca.pem"));
        let authority = ["req", "-x509", "-subj", "/CN=Test authority", "-keyout", &ca_key, "-out", &ca];
        run("openssl", &[&authority[..], &curve].concat());
        let (key, request) = (path("key.pem"), path("server.csr"));
        let asked = ["req", "-subj", "/CN=localhost", "-keyout", &key, "-out", &request];
        run("openssl", &[&asked[..], &curve].concat());
        fs_err::write(path("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        let (names, cert) = (path("names"), path("cert.pem"));
        run("openssl", &[&sign[..], &["-days", "2", "-extfile", &names, "-out", &cert]].concat());
        Self::start_with(folder, &format!("  tls: {{certificate: {cert}, key: {key}}}\n"), "")
    }
}
