//! Debian's docker-registry as the server, and skopeo to fill it.

use std::path::{Path, PathBuf};

use ocne_container::{ErrorKind, FetchError};

use crate::docker_registry::{Registry, have, run};
use crate::fetch::Client;
use crate::image::{Content, Image, noise};

fn reference(registry: &Registry) -> String {
    format!("docker://{}/olcne/ock:1.33", registry.address)
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
    let registry = Registry::start(folder.path());
    let source = format!("oci:{}:ock", layout.display());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let targets = [
        reference(&registry),
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
    let registry = Registry::with_password(folder.path(), "ocne", "open:sesame");
    let (layout, image) = layout(folder.path());
    let source = format!("oci:{}:ock", layout.display());
    let copy = ["copy", "-q", "--dest-tls-verify=false", "--dest-creds", "ocne:open:sesame"];
    run("skopeo", &[&copy[..], &[&source, &reference(&registry)]].concat());

    let error = Client::new().fetch(&reference(&registry)).unwrap_err();
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
    assert_eq!(fs_err::read(client.fetch(&reference(&registry)).unwrap().path).unwrap(), image.disk);

    let elsewhere = client.fetch_elsewhere(&reference(&registry)).unwrap();
    assert_eq!(fs_err::read(elsewhere.path).unwrap(), image.disk);
    let error = Client::new().fetch_elsewhere(&reference(&registry)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteRefused, "{error:?}");
    let error = Client::new().fetch_elsewhere(&source).unwrap_err();
    assert!(matches!(error, FetchError::NotInARegistry { .. }), "{error:?}");

    let wrong = Client::with_auth(&format!(
        r#"{{"auths": {{"{host}": {{"username": "ocne", "password": "secret-pw"}}}}}}"#
    ));
    let error = wrong.fetch(&reference(&registry)).unwrap_err();
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
    let registry = Registry::with_tls(folder.path());
    let (layout, image) = layout(folder.path());
    let source = format!("oci:{}:ock", layout.display());
    run("skopeo", &["copy", "-q", "--dest-tls-verify=false", &source, &reference(&registry)]);

    let mut client = Client::new();
    let error = client.fetch(&reference(&registry)).unwrap_err();
    assert!(matches!(error, FetchError::Untrusted { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("--ca-file"));
    let error = client.fetch_elsewhere(&reference(&registry)).unwrap_err();
    assert!(matches!(error, FetchError::Untrusted { .. }), "{error:?}");
    client.options.ca_file = Some(path("ca.pem").into());
    assert_eq!(fs_err::read(client.fetch(&reference(&registry)).unwrap().path).unwrap(), image.disk);
    let elsewhere = client.fetch_elsewhere(&reference(&registry)).unwrap();
    assert_eq!(fs_err::read(elsewhere.path).unwrap(), image.disk);
    client.options.ca_file = Some(path("names").into());
    let error = client.fetch(&reference(&registry)).unwrap_err();
    assert!(matches!(error, FetchError::Certificates { .. }), "{error:?}");
}
