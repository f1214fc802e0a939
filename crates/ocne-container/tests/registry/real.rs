//! Debian's docker-registry as the server, and skopeo to fill it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ocne_container::{ErrorKind, FetchError};

use crate::fetch::Client;
use crate::image::{Content, Image, noise};

/// A registry that runs until it is dropped.
struct Registry {
    child: Child,
    address: SocketAddr,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether programs are there; says what is not.
fn have(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = programs
        .iter()
        .find(|program| !std::env::split_paths(&path).any(|folder| folder.join(program).exists()));
    if let Some(program) = missing {
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("SKIPPED {test}: `{program}` is not installed\n"),
        );
    }
    missing.is_none()
}

impl Registry {
    /// Starts a registry with these lines added to its configuration.
    fn start(folder: &Path, http: &str, more: &str) -> Self {
        // The port is free again for a moment, which is all that such a program offers.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let data = folder.join("data").display().to_string();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {data}}}}}\nhttp:\n  addr: {address}\n{http}{more}"
        );
        let file = folder.join("config.yml");
        fs_err::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, address };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "docker-registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    fn reference(&self) -> String {
        format!("docker://{}/olcne/ock:1.33", self.address)
    }
}

/// Runs a program to its end.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An image layout in a folder, and what is in it.
fn layout(folder: &Path) -> (PathBuf, Image) {
    let mut content = Content::default();
    let image = content.add(noise(3_000_000, 11), "amd64", "1.33");
    let path = folder.join("layout");
    content.write_layout(&image, &path);
    (path, image)
}

#[test]
fn every_transport_that_skopeo_writes() {
    if !have("every_transport_that_skopeo_writes", &["skopeo", "docker-registry"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (layout, image) = layout(folder.path());
    let registry = Registry::start(folder.path(), "", "");
    let source = format!("oci:{}:ock", layout.display());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let targets = [
        registry.reference(),
        format!("dir:{}", path("dir")),
        format!("oci-archive:{}:x", path("a.tar")),
        format!("docker-archive:{}:olcne/ock:1", path("d.tar")),
    ];
    for target in &targets {
        run("skopeo", &["copy", "-q", "--dest-tls-verify=false", &source, target]);
        let client = Client::new();
        let fetched = client.fetch(target).unwrap();
        assert_eq!(fs_err::read(&fetched.path).unwrap(), image.disk, "{target}");
        assert_eq!(fetched.size_bytes, image.disk.len() as u64);
        // All have the same layer, but for docker's archives, which have it unpacked.
        let again = client.fetch(&source).unwrap();
        let same = !target.starts_with("docker-archive:");
        assert_eq!((again.from_cache, again.path == fetched.path), (same, same), "{target}");
    }
    for format in ["v2s2", "oci"] {
        let target = format!("docker://{}/olcne/{format}:1", registry.address);
        let options = ["copy", "-q", "--dest-tls-verify=false", "--format", format];
        run("skopeo", &[&options[..], &[&source, &target]].concat());
        assert_eq!(fs_err::read(Client::new().fetch(&target).unwrap().path).unwrap(), image.disk, "{format}");
    }
    let zstd = format!("docker://{}/olcne/zstd:1", registry.address);
    let options = ["copy", "-q", "--dest-tls-verify=false", "--dest-compress-format", "zstd"];
    let plain = format!("docker-archive:{}", path("d.tar"));
    run("skopeo", &[&options[..], &[&plain, &zstd]].concat());
    assert_eq!(fs_err::read(Client::new().fetch(&zstd).unwrap().path).unwrap(), image.disk);
}

#[test]
fn a_registry_with_passwords() {
    if !have("a_registry_with_passwords", &["skopeo", "docker-registry", "htpasswd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let passwords = folder.path().join("htpasswd").display().to_string();
    run("htpasswd", &["-Bbc", &passwords, "ocne", "open:sesame"]);
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {passwords}}}}}\n");
    let registry = Registry::start(folder.path(), "", &auth);
    let (layout, image) = layout(folder.path());
    let source = format!("oci:{}:ock", layout.display());
    let copy = ["copy", "-q", "--dest-tls-verify=false", "--dest-creds", "ocne:open:sesame"];
    run("skopeo", &[&copy[..], &[&source, &registry.reference()]].concat());

    let error = Client::new().fetch(&registry.reference()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteRefused, "{error:?}");
    assert!(error.hint().unwrap().contains("--authfile"));
    // Written by a tool of the trade.
    let client = Client::new();
    let authfile = client.options.authfile.as_ref().unwrap().display().to_string();
    let host = registry.address.to_string();
    run(
        "skopeo",
        &["login", "--tls-verify=false", "--authfile", &authfile, "-u", "ocne", "-p", "open:sesame", &host],
    );
    assert_eq!(fs_err::read(client.fetch(&registry.reference()).unwrap().path).unwrap(), image.disk);

    let elsewhere = client.fetch_elsewhere(&registry.reference()).unwrap();
    assert_eq!(fs_err::read(elsewhere.path).unwrap(), image.disk);
    let error = Client::new().fetch_elsewhere(&registry.reference()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteRefused, "{error:?}");
    let error = Client::new().fetch_elsewhere(&source).unwrap_err();
    assert!(matches!(error, FetchError::NotInARegistry { .. }), "{error:?}");

    let wrong = Client::with_auth(&format!(
        r#"{{"auths": {{"{host}": {{"username": "ocne", "password": "secret-pw"}}}}}}"#
    ));
    let error = wrong.fetch(&registry.reference()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteRefused, "{error:?}");
    assert!(!format!("{error:?}{error}").contains("secret-pw"));
}

#[test]
fn a_registry_with_an_authority_of_its_own() {
    if !have("a_registry_with_an_authority_of_its_own", &["skopeo", "docker-registry", "openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let authority =
        ["req", "-x509", "-subj", "/CN=Test authority", "-keyout", &path("ca.key"), "-out", &path("ca.pem")];
    run("openssl", &[&authority[..], &curve].concat());
    let request = ["req", "-subj", "/CN=localhost", "-keyout", &path("key.pem"), "-out", &path("server.csr")];
    run("openssl", &[&request[..], &curve].concat());
    fs_err::write(path("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let sign = [
        "x509",
        "-req",
        "-in",
        &path("server.csr"),
        "-CA",
        &path("ca.pem"),
        "-CAkey",
        &path("ca.key"),
        "-CAcreateserial",
    ];
    run(
        "openssl",
        &[&sign[..], &["-days", "2", "-extfile", &path("names"), "-out", &path("cert.pem")]].concat(),
    );
    let tls = format!("  tls: {{certificate: {}, key: {}}}\n", path("cert.pem"), path("key.pem"));
    let registry = Registry::start(folder.path(), &tls, "");
    let (layout, image) = layout(folder.path());
    let source = format!("oci:{}:ock", layout.display());
    run("skopeo", &["copy", "-q", "--dest-tls-verify=false", &source, &registry.reference()]);

    let mut client = Client::new();
    let error = client.fetch(&registry.reference()).unwrap_err();
    assert!(matches!(error, FetchError::Untrusted { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("--ca-file"));
    let error = client.fetch_elsewhere(&registry.reference()).unwrap_err();
    assert!(matches!(error, FetchError::Untrusted { .. }), "{error:?}");
    client.options.ca_file = Some(path("ca.pem").into());
    assert_eq!(fs_err::read(client.fetch(&registry.reference()).unwrap().path).unwrap(), image.disk);
    let elsewhere = client.fetch_elsewhere(&registry.reference()).unwrap();
    assert_eq!(fs_err::read(elsewhere.path).unwrap(), image.disk);
    client.options.ca_file = Some(path("names").into());
    let error = client.fetch(&registry.reference()).unwrap_err();
    assert!(matches!(error, FetchError::Certificates { .. }), "{error:?}");
}
