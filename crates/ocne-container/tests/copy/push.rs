//! Pushing to Debian's docker-registry, judged by skopeo; through a proxy that cuts connections as well.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ocne_container::{Copied, CopyOptions, Digest, FetchError, FetchEvent, FetchOptions};

use crate::docker_registry::{self, Registry, run};
use crate::{copy, sample};

fn have(test: &str) -> bool {
    docker_registry::have(test, &["docker-registry", "skopeo"])
}

fn push(folder: &Path, source: &str, to: &str) -> (Result<Copied, FetchError>, Vec<FetchEvent>) {
    copy(folder, source, to, &CopyOptions::default(), FetchOptions::default())
}

fn skopeo(arguments: &[&str]) -> Vec<u8> {
    run("skopeo", arguments)
}

/// What a registry has of an image is what the file has, byte for byte.
#[track_caller]
fn same_as_sample(folder: &Path, reference: &str) {
    let (from, to) = (folder.join("from"), folder.join("to"));
    for (image, folder) in
        [(format!("oci-archive:{}", sample().display()), &from), (reference.to_owned(), &to)]
    {
        let _ = fs_err::remove_dir_all(folder);
        skopeo(&["copy", "-q", "--src-tls-verify=false", &image, &format!("dir:{}", folder.display())]);
    }
    let status = Command::new("diff").arg("-r").args([&from, &to]).status().unwrap();
    assert!(status.success(), "{reference} differs");
}

#[test]
fn an_image_arrives_once_and_as_it_is() {
    if !have("an_image_arrives_once_and_as_it_is") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let source = format!("oci-archive:{}", sample().display());
    let to = format!("docker://{}/olcne/ock-ostree:1.33", registry.address);
    let (pushed, events) = push(dir.path(), &source, &to);
    let pushed = pushed.unwrap();
    assert_eq!((pushed.spared_bytes, pushed.reference.as_str()), (0, to.as_str()));
    assert!(
        events.iter().any(
            |e| matches!(e, FetchEvent::Progress { done_bytes, total_bytes } if done_bytes == total_bytes)
        )
    );
    same_as_sample(dir.path(), &to);
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &to]);
    assert_eq!(Digest::of(&raw), pushed.digest);
    // Again, by its digest, and to another tag: nothing is sent.
    for to in [
        to.clone(),
        format!("docker://{}/olcne/ock-ostree@{}", registry.address, pushed.digest),
        to.replace("1.33", "latest"),
    ] {
        let again = push(dir.path(), &source, &to).0.unwrap();
        assert_eq!((again.sent_bytes, again.digest), (0, pushed.digest), "{to}");
        same_as_sample(dir.path(), &to);
    }
    let other = format!("docker://{}/olcne/ock-ostree@{}", registry.address, Digest::of(b""));
    assert!(matches!(push(dir.path(), &source, &other).0, Err(FetchError::DigestMismatch { .. })));
}

#[test]
fn what_the_base_has_is_mounted() {
    if !have("what_the_base_has_is_mounted") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let base = format!("{}/olcne/base:1", registry.address);
    push(dir.path(), &format!("oci-archive:{}", sample().display()), &base).0.unwrap();
    // The same image, with a manifest that says so.
    let layout = dir.path().join("layout");
    let reference = format!("oci:{}", layout.display());
    skopeo(&["copy", "-q", &format!("oci-archive:{}", sample().display()), &format!("{reference}:a")]);
    let read =
        |path: &Path| -> serde_json::Value { serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap() };
    let mut index = read(&layout.join("index.json"));
    let digest: Digest = index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
    let blobs = layout.join("blobs/sha256");
    let mut manifest = read(&blobs.join(digest.hex()));
    manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.base.name": base });
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let digest = Digest::of(&bytes);
    fs_err::write(blobs.join(digest.hex()), &bytes).unwrap();
    index["manifests"][0]["digest"] = digest.to_string().into();
    index["manifests"][0]["size"] = bytes.len().into();
    fs_err::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    let to = format!("docker://{}/olcne/derived:1", registry.address);
    let pushed = push(dir.path(), &reference, &to).0.unwrap();
    assert_eq!((pushed.sent_bytes, pushed.digest), (0, digest));
    assert_eq!(Digest::of(&skopeo(&["inspect", "--raw", "--tls-verify=false", &to])), digest);
    skopeo(&[
        "copy",
        "-q",
        "--src-tls-verify=false",
        &to,
        &format!("dir:{}", dir.path().join("x").display()),
    ]);
}

/// Passes bytes on, and cuts the first connections after so many of the client's.
fn cutting_proxy(target: SocketAddr, cuts: usize, after_bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let left = Arc::new(AtomicUsize::new(cuts));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) = (client, TcpStream::connect(target)) else { return };
            let (mut back, mut forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut back, &mut forth);
                let _ = forth.shutdown(Shutdown::Both);
            });
            let left = Arc::clone(&left);
            std::thread::spawn(move || {
                let (mut buffer, mut passed) = (vec![0; 16 << 10], 0);
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    passed += count;
                    let cut = |n: usize| n.checked_sub(1);
                    if passed > after_bytes
                        && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, cut).is_ok()
                    {
                        break;
                    }
                    if server.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_push_goes_on_where_it_was_cut() {
    if !have("a_push_goes_on_where_it_was_cut") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = cutting_proxy(registry.address, 5, 150_000);
    let to = format!("docker://{proxy}/olcne/ock-ostree:1.33");
    let (pushed, events) = push(dir.path(), &format!("oci-archive:{}", sample().display()), &to);
    pushed.unwrap();
    let retries = events.iter().filter(|e| matches!(e, FetchEvent::Retry { .. })).count();
    assert!(retries >= 5, "{retries} retries");
    same_as_sample(dir.path(), &to.replace(&proxy.to_string(), &registry.address.to_string()));
}

#[test]
fn what_cannot_be_pushed_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let source = format!("oci-archive:{}", sample().display());
    // Nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (pushed, events) = push(dir.path(), &source, &format!("docker://{address}/a"));
    let error = pushed.unwrap_err();
    assert!(error.to_string().contains("push the blob sha256:"), "{error}");
    assert!(error.to_string().contains(&format!("in 6 attempts at `{address}`")), "{error}");
    assert!(events.iter().any(|e| matches!(e, FetchEvent::Retry { .. })));
    let error = push(dir.path(), "docker://localhost/a", "docker://localhost/a:latest").0.unwrap_err();
    assert!(matches!(error, FetchError::CopyOntoItself { .. }), "{error}");
}

#[test]
fn over_tls_with_an_authority_of_its_own() {
    let name = "over_tls_with_an_authority_of_its_own";
    if !docker_registry::have(name, &["docker-registry", "skopeo", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::with_tls(dir.path());
    let source = format!("oci-archive:{}", sample().display());
    let to = format!("docker://localhost:{}/olcne/ock-ostree:1", registry.address.port());
    // Nobody whom this machine trusts vouches for it; and it is not spoken to without TLS for that.
    let refused = push(dir.path(), &source, &to).0.unwrap_err();
    assert!(format!("{refused:?}").to_lowercase().contains("certificate"), "{refused:?}");
    let trusting = FetchOptions { ca_file: Some(dir.path().join("ca.pem")), ..FetchOptions::default() };
    let with = |source: &str, to: &str| {
        copy(dir.path(), source, to, &CopyOptions::default(), trusting.clone()).0.unwrap()
    };
    let pushed = with(&source, &to);
    assert_eq!(pushed.spared_bytes, 0);
    same_as_sample(dir.path(), &to);
    assert_eq!(with(&to, &format!("dir:{}", dir.path().join("back").display())).digest, pushed.digest);
}

#[test]
fn what_was_deleted_is_sent_again() {
    if !docker_registry::have("what_was_deleted_is_sent_again", &["docker-registry", "skopeo", "curl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let source = format!("oci-archive:{}", sample().display());
    let to = format!("docker://{}/a/gone:1", registry.address);
    let pushed = push(dir.path(), &source, &to).0.unwrap();
    let delete = |what: &str| {
        let url = format!("http://{}/v2/a/gone/{what}", registry.address);
        run("curl", &["-fsS", "-X", "DELETE", &url]);
    };
    let manifest: serde_json::Value =
        serde_json::from_slice(&skopeo(&["inspect", "--raw", "--tls-verify=false", &to])).unwrap();
    let layer = &manifest["layers"][1];
    delete(&format!("manifests/{}", pushed.digest));
    let gone = push(dir.path(), &to, &format!("dir:{}", dir.path().join("back").display())).0.unwrap_err();
    assert!(matches!(gone, FetchError::Status { status: 404, .. }), "{gone:?}");
    // The manifest alone, then a layer of it as well.
    assert_eq!(push(dir.path(), &source, &to).0.unwrap().sent_bytes, 0);
    same_as_sample(dir.path(), &to);
    delete(&format!("manifests/{}", pushed.digest));
    delete(&format!("blobs/{}", layer["digest"].as_str().unwrap()));
    let again = push(dir.path(), &source, &to).0.unwrap();
    assert_eq!((again.sent_bytes, again.digest), (layer["size"].as_u64().unwrap(), pushed.digest));
    same_as_sample(dir.path(), &to);
}
