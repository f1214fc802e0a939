//! A proxy in front of docker-registry that does what networks do at bad times.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ocne_container::{CopyOptions, Digest, FetchError, FetchEvent, FetchOptions};

use crate::docker_registry::{Registry, have, run};
use crate::{copy, sample};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// 503, without asking the registry.
    Unavailable,
    /// 429, and when to come again.
    TooMany,
    /// The connection ends in the middle of the request.
    CutRequest,
    /// The registry does what it is told, and nobody hears of it.
    LostAnswer,
    /// The connection ends in the middle of the answer.
    CutAnswer,
    /// Bytes come in drops.
    Slow,
    /// A byte of what is sent is another one.
    Changed,
}

/// Starts the proxy; `fault` gets method and number of each request.
fn proxy(target: SocketAddr, fault: impl Fn(&str, usize) -> Fault + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (count, fault) = (AtomicUsize::new(0), Arc::new(fault));
    let shared = Arc::new((count, fault));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || pass_on(client, target, &shared.0, &*shared.1));
        }
    });
    address
}

/// One request and its answer; then the connection ends.
fn pass_on(
    mut client: TcpStream,
    target: SocketAddr,
    count: &AtomicUsize,
    fault: &dyn Fn(&str, usize) -> Fault,
) -> Option<()> {
    let mut seen = Vec::new();
    let mut buffer = [0; 16 << 10];
    let end = loop {
        let read = client.read(&mut buffer).ok().filter(|read| *read > 0)?;
        seen.extend_from_slice(&buffer[..read]);
        // The beginning of TLS: nothing that is spoken here.
        if seen[0] == 0x16 {
            return None;
        }
        if let Some(at) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let mut body = seen.split_off(end);
    let head = String::from_utf8(seen).ok()?;
    let length = head.lines().filter_map(|line| line.split_once(": "));
    let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.find_map(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
    let method = head.split(' ').next()?;
    let fault = fault(method, count.fetch_add(1, Ordering::SeqCst));
    let refuse = |client: &mut TcpStream, status: &str| {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        client.write_all(text.as_bytes())
    };
    while body.len() < length {
        let read = client.read(&mut buffer).ok().filter(|read| *read > 0)?;
        body.extend_from_slice(&buffer[..read]);
    }
    match fault {
        Fault::Unavailable => return refuse(&mut client, "503 Service Unavailable").ok(),
        Fault::TooMany => return refuse(&mut client, "429 Too Many Requests\r\nRetry-After: 0").ok(),
        Fault::Changed if length > 1000 => body[length / 2] ^= 1,
        _ => {}
    }
    let mut server = TcpStream::connect(target).ok()?;
    let (first, rest) = head.split_once("\r\n")?;
    server.write_all(format!("{first}\r\nConnection: close\r\n{rest}").as_bytes()).ok()?;
    if fault == Fault::CutRequest {
        let _ = server.write_all(&body[..length / 2]);
        let _ = server.shutdown(Shutdown::Both);
        return None;
    }
    for part in body.chunks(16 << 10) {
        if fault == Fault::Slow {
            std::thread::sleep(Duration::from_millis(2));
        }
        server.write_all(part).ok()?;
    }
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    match fault {
        Fault::LostAnswer => None,
        Fault::CutAnswer => client.write_all(&answer[..answer.len() / 2]).ok(),
        _ => client.write_all(&answer).ok(),
    }
}

fn push(folder: &std::path::Path, to: &str) -> (Result<ocne_container::Copied, FetchError>, Vec<FetchEvent>) {
    let source = format!("oci-archive:{}", sample().display());
    copy(folder, &source, to, &CopyOptions::default(), FetchOptions::default())
}

fn raw(reference: &str) -> Vec<u8> {
    run("skopeo", &["inspect", "--raw", "--tls-verify=false", reference])
}

#[test]
fn an_image_arrives_through_everything_that_passes() {
    if !have("an_image_arrives_through_everything_that_passes", &["docker-registry", "skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    for (fault, name) in [
        (Fault::Unavailable, "unavailable"),
        (Fault::TooMany, "too-many"),
        (Fault::CutRequest, "cut-request"),
        (Fault::LostAnswer, "lost-answer"),
        (Fault::CutAnswer, "cut-answer"),
        (Fault::Slow, "slow"),
    ] {
        // About every sixth request; which one of a blob's that is differs from blob to blob.
        let hit = |n: usize| n == 2 || (n.wrapping_mul(2_654_435_761) >> 9).is_multiple_of(6);
        let proxy = proxy(registry.address, move |_, n| if hit(n) { fault } else { Fault::None });
        let (copied, events) = push(dir.path(), &format!("docker://{proxy}/a/{name}:1"));
        let copied = copied.unwrap_or_else(|e| panic!("{fault:?}: {e:?}"));
        let retries = events.iter().filter(|e| matches!(e, FetchEvent::Retry { .. })).count();
        assert!(retries > 0 || fault == Fault::Slow, "{fault:?}: no retries");
        let there = format!("docker://{}/a/{name}:1", registry.address);
        assert_eq!(Digest::of(&raw(&there)), copied.digest, "{fault:?}");
        let check = format!("dir:{}", dir.path().join(name).display());
        run("skopeo", &["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &there, &check]);
    }
}

#[test]
fn what_is_changed_on_the_way_is_sent_once_more() {
    if !have("what_is_changed_on_the_way_is_sent_once_more", &["docker-registry", "skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let changes = |most: usize| {
        let left = AtomicUsize::new(most);
        proxy(registry.address, move |method, _| {
            let take = |n: usize| n.checked_sub(1);
            let change =
                method == "PATCH" && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
            if change { Fault::Changed } else { Fault::None }
        })
    };
    let (copied, _) = push(dir.path(), &format!("docker://{}/a/once:1", changes(1)));
    let there = format!("docker://{}/a/once:1", registry.address);
    assert_eq!(Digest::of(&raw(&there)), copied.unwrap().digest);
    // Always: it is said, and nothing has the name.
    let (copied, _) = push(dir.path(), &format!("docker://{}/a/never:1", changes(usize::MAX)));
    assert!(matches!(copied, Err(FetchError::Status { status: 400, .. })), "{copied:?}");
    let none = std::process::Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{}/a/never:1", registry.address)])
        .output();
    assert!(!none.unwrap().status.success());
}
