//! What goes wrong between a registry and us.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ocne_container::{ErrorKind, FetchError};

use crate::fetch::{Client, retries};
use crate::image::{Content, Image, noise};
use crate::server::{Server, answer, cut, head, registry};

const TAG: &str = "1.33";

fn content() -> (Content, Image) {
    let mut content = Content::default();
    let image = content.add(noise(1 << 20, 7), "amd64", TAG);
    (content, image)
}

fn reference(server: &Server) -> String {
    format!("docker://{}/olcne/ock:{TAG}", server.host())
}

fn disk_of(client: &Client, server: &Server) -> Vec<u8> {
    fs_err::read(client.fetch(&reference(server)).unwrap().path).unwrap()
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let (content, image) = content();
    let copy = content.clone();
    let server = Server::start(move |request, before, stream| {
        if request.is_blob(&copy) && before < 9 {
            cut(&copy, request, 100_000, stream);
        } else {
            registry(&copy, request, stream);
        }
    });
    let client = Client::new();
    let (fetched, events) = client.fetch_told(&reference(&server));
    assert_eq!(fs_err::read(fetched.unwrap().path).unwrap(), image.disk);
    let starts: Vec<_> = server
        .requests()
        .iter()
        .filter(|r| r.is_blob(&content))
        .map(|r| r.range_start().unwrap_or(0))
        .collect();
    assert_eq!(
        starts,
        (0..10).map(|n| n * 100_000).collect::<Vec<_>>(),
        "each request begins where the last one ended"
    );
    assert_eq!(retries(&events), 9, "more often than attempts are allowed, as each one got on");
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let (content, image) = content();
    let server = Server::start(move |request, before, stream| match request.is_blob(&content) {
        true if before == 0 => cut(&content, request, 300_000, stream),
        true => answer(stream, "200 OK", &[], &content.blobs[request.target.rsplit('/').next().unwrap()]),
        false => registry(&content, request, stream),
    });
    assert_eq!(disk_of(&Client::new(), &server), image.disk);
}

#[test]
fn busy_servers_are_asked_again() {
    let (content, image) = content();
    let server = Server::start(move |request, before, stream| match before {
        0 if request.is_blob(&content) => answer(stream, "503 Service Unavailable", &[], b""),
        1 if request.is_blob(&content) => {
            answer(stream, "429 Too Many Requests", &[("Retry-After", "1")], b"");
        }
        0 => answer(stream, "500 Internal Server Error", &[], b""),
        1 => {}
        _ => registry(&content, request, stream),
    });
    let client = Client::new();
    let started = Instant::now();
    let (fetched, events) = client.fetch_told(&reference(&server));
    assert_eq!(fs_err::read(fetched.unwrap().path).unwrap(), image.disk);
    assert!(retries(&events) >= 6, "{events:?}");
    assert!(started.elapsed() >= Duration::from_secs(1), "`Retry-After` is respected");
}

#[test]
fn patience_ends() {
    let (content, _) = content();
    let copy = content.clone();
    let server = Server::start(move |request, _, stream| {
        if request.is_blob(&copy) {
            answer(stream, "503 Service Unavailable", &[], b"");
        } else {
            registry(&copy, request, stream);
        }
    });
    let client = Client::new();
    let error = client.fetch(&reference(&server)).unwrap_err();
    assert!(matches!(&error, FetchError::Status { status: 503, .. }), "{error:?}");
    assert_eq!(server.requests().iter().filter(|r| r.is_blob(&content)).count(), 4);
    assert!(client.unfinished().is_empty());

    let long = Server::start(|_, _, stream| {
        answer(stream, "429 Too Many Requests", &[("Retry-After", "3600")], b"");
    });
    let error = client.fetch(&reference(&long)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteRefused, "{error:?}");
    assert!(error.to_string().contains("3600 s"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_transfer_that_stalls_is_given_up_and_goes_on() {
    let (content, image) = content();
    let server = Server::start(move |request, before, stream| {
        if request.is_blob(&content) && before == 0 {
            cut(&content, request, 200_000, stream);
            std::thread::sleep(Duration::from_secs(5));
        } else {
            registry(&content, request, stream);
        }
    });
    let started = Instant::now();
    assert_eq!(disk_of(&Client::new(), &server), image.disk);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn a_trickle_is_given_up() {
    let (content, image) = content();
    let server = Server::start(move |request, before, stream| {
        if request.is_blob(&content) && before == 0 {
            cut(&content, request, 1000, stream);
            for byte in &content.blobs[request.target.rsplit('/').next().unwrap()][1000..1200] {
                std::thread::sleep(Duration::from_millis(50));
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
            }
        } else {
            registry(&content, request, stream);
        }
    });
    let started = Instant::now();
    assert_eq!(disk_of(&Client::new(), &server), image.disk);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

#[test]
fn wrong_bytes_are_found() {
    let (mut content, image) = content();
    let blob = content.blobs.get_mut(&image.layer.to_string()).unwrap();
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    let server = Server::start(move |request, _, stream| registry(&content, request, stream));
    let client = Client::new();
    let error = client.fetch(&reference(&server)).unwrap_err();
    assert!(
        matches!(&error, FetchError::DigestMismatch { expected, .. } if *expected == image.layer),
        "{error:?}"
    );
    assert!(client.unfinished().is_empty());
}

#[test]
fn lengths_and_ranges_that_lie() {
    let (content, image) = content();
    let layer = image.layer.to_string();
    let size = content.blobs[&layer].len();
    for kind in 0..3 {
        let content = content.clone();
        let server =
            Server::start(move |request, before, stream| match (request.is_blob(&content), kind, before) {
                // More than there is.
                (true, 0, _) => {
                    let longer =
                        [&content.blobs[request.target.rsplit('/').next().unwrap()][..], b"more"].concat();
                    answer(stream, "200 OK", &[], &longer);
                }
                // Another range than what was asked for.
                (true, 1, 0) => cut(&content, request, 1000, stream),
                (true, 1, _) => {
                    let range = format!("bytes 5-{}/{size}", size - 1);
                    answer(stream, "206 Partial Content", &[("Content-Range", &range)], &[0; 100]);
                }
                // It ends early, again and again.
                (true, 2, _) => answer(stream, "200 OK", &[], b"short"),
                _ => registry(&content, request, stream),
            });
        let client = Client::new();
        let error = client.fetch(&reference(&server)).unwrap_err();
        match kind {
            0 => assert!(matches!(error, FetchError::SizeMismatch { .. }), "{error:?}"),
            1 => assert!(matches!(error, FetchError::Protocol { .. }), "{error:?}"),
            _ => assert!(matches!(error, FetchError::Network { attempts: 4, .. }), "{error:?}"),
        }
        assert!(client.unfinished().is_empty());
    }
}

#[test]
fn manifests_without_end_are_refused() {
    let server = Server::start(|_, _, stream| {
        head(stream, "200 OK", &[("Content-Type", crate::image::MANIFEST_TYPE)], 64 << 20);
        for _ in 0..64 {
            if stream.write_all(&vec![b' '; 1 << 20]).is_err() {
                break;
            }
        }
    });
    let error = Client::new().fetch(&reference(&server)).unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error:?}");
}

#[test]
fn what_is_not_there() {
    let (content, _) = content();
    let server = Server::start(move |request, _, stream| registry(&content, request, stream));
    let error = Client::new().fetch(&format!("{}/olcne/ock:none", server.host())).unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 404, .. }), "{error:?}");
    assert!(error.to_string().contains("manifest unknown"), "{error}");
    assert!(error.hint().is_some());
    let host = server.host();
    drop(server);
    let error = Client::new().fetch(&format!("{host}/olcne/ock:1")).unwrap_err();
    assert!(matches!(error, FetchError::Network { .. }), "{error:?}");
}

#[test]
fn a_wish_to_stop_is_granted_at_once() {
    let (content, _) = content();
    let server = Server::start(move |request, _, stream| {
        if request.is_blob(&content) {
            cut(&content, request, 400_000, stream);
            std::thread::sleep(Duration::from_secs(3));
        } else {
            registry(&content, request, stream);
        }
    });
    let mut client = Client::new();
    client.options.network.stall_timeout = Duration::from_secs(30);
    let cancel = Arc::new(AtomicBool::new(false));
    let wished = Arc::new(std::sync::Mutex::new(None));
    let (other, time) = (Arc::clone(&cancel), Arc::clone(&wished));
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        *time.lock().unwrap() = Some(Instant::now());
        other.store(true, Ordering::Relaxed);
    });
    let error = client.fetch_for(&reference(&server), "amd64", &cancel, &|_| {}).unwrap_err();
    let took = wished.lock().unwrap().unwrap().elapsed();
    thread.join().unwrap();
    assert!(matches!(error, FetchError::Interrupted), "{error:?}");
    assert!(took < Duration::from_millis(300), "{took:?}");
    assert!(client.unfinished().is_empty());
}
