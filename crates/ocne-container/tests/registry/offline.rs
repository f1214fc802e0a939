//! What the cache spares, which image of several is taken, and proxies.

use std::cell::RefCell;
use std::sync::Arc;

use ocne_container::{FetchError, FetchEvent, Fetcher, ImageReference, Platform};

use crate::fetch::Client;
use crate::image::{Content, noise};
use crate::server::{Server, registry};

#[test]
fn a_second_fetch_needs_the_manifest_only_and_offline_nothing() {
    let mut content = Content::default();
    let image = content.add(noise(100_000, 1), "amd64", "1");
    let copy = content.clone();
    let server = Server::start(move |request, _, stream| registry(&copy, request, stream));
    let reference = format!("{}/olcne/ock:1", server.host());
    let mut client = Client::new();
    let first = client.fetch(&reference).unwrap();
    assert!(!first.from_cache && first.verified_now);
    let asked = server.requests().len();
    let second = client.fetch(&reference).unwrap();
    assert!(second.from_cache && !second.verified_now);
    let after: Vec<_> = server.requests()[asked..].iter().map(|r| r.target.clone()).collect();
    assert!(after.iter().all(|target| !target.contains("/blobs/")), "{after:?}");

    client.options.offline = true;
    let asked = server.requests().len();
    let offline = client.fetch(&reference).unwrap();
    assert_eq!((offline.path, offline.manifest_digest), (first.path.clone(), image.manifest.to_string()));
    let error = client.fetch(&format!("{}/olcne/ock:2", server.host())).unwrap_err();
    assert!(matches!(error, FetchError::Offline { .. }), "{error:?}");
    fs_err::remove_file(&first.path).unwrap();
    let error = client.fetch(&reference).unwrap_err();
    assert!(matches!(error, FetchError::Offline { .. }), "{error:?}");
    assert_eq!(server.requests().len(), asked, "nothing was asked");
}

#[test]
fn other_transports_find_the_same_disk() {
    let mut content = Content::default();
    let image = content.add(noise(100_000, 2), "amd64", "1");
    let copy = content.clone();
    let server = Server::start(move |request, _, stream| registry(&copy, request, stream));
    let client = Client::new();
    let first = client.fetch(&format!("{}/olcne/ock:1", server.host())).unwrap();
    let folder = client.folder.path().join("layout");
    content.write_layout(&image, &folder);
    let second = client.fetch(&format!("oci:{}:ock", folder.display())).unwrap();
    assert!(second.from_cache);
    assert_eq!(second.path, first.path);
}

#[test]
fn the_image_for_the_platform() {
    let mut content = Content::default();
    let amd = content.add(noise(20_000, 3), "amd64", "");
    let arm = content.add(noise(20_000, 4), "arm64", "only-arm");
    content.add_index(&[(&amd, "amd64"), (&arm, "arm64")], "both");
    let server = Server::start(move |request, _, stream| registry(&content, request, stream));
    let client = Client::new();
    let fetch = |tag: &str, architecture: &str| {
        client.fetch_for(
            &format!("{}/olcne/ock:{tag}", server.host()),
            architecture,
            &Arc::default(),
            &|_| {},
        )
    };
    for (architecture, image) in [("amd64", &amd), ("arm64", &arm)] {
        let fetched = fetch("both", architecture).unwrap();
        assert_eq!(
            (fetched.architecture.as_str(), fs_err::read(fetched.path).unwrap()),
            (architecture, image.disk.clone())
        );
    }
    for (tag, architecture, listed) in
        [("both", "s390x", "linux/arm64"), ("only-arm", "amd64", "linux/arm64")]
    {
        let error = fetch(tag, architecture).unwrap_err();
        assert!(matches!(error, FetchError::NoSuchPlatform { .. }), "{error:?}");
        assert!(error.to_string().contains(listed), "{error}");
    }
    let by_digest = format!("{}/olcne/ock@{}", server.host(), arm.manifest);
    client.fetch_for(&by_digest, "arm64", &Arc::default(), &|_| {}).unwrap();
    let error = client.fetch_for(
        &format!("{}/olcne/ock@{}", server.host(), arm.layer),
        "arm64",
        &Arc::default(),
        &|_| {},
    );
    assert!(error.is_err());
}

#[test]
fn locating_reads_no_layer() {
    let mut content = Content::default();
    content.add(noise(100_000, 5), "amd64", "1");
    let copy = content.clone();
    let server = Server::start(move |request, _, stream| registry(&copy, request, stream));
    let client = Client::new();
    let fetcher = Fetcher::new(client.options.clone()).unwrap();
    let told = RefCell::new(Vec::new());
    let tell = |event: FetchEvent| told.borrow_mut().push(event);
    let reference = ImageReference::parse(&format!("{}/olcne/ock:1", server.host())).unwrap();
    let platform = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned() };
    let cancel = Arc::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found =
        runtime.block_on(fetcher.locate(&reference, &platform, "disk/boot.qcow2", &tell, &cancel)).unwrap();
    assert_eq!(found.cached, None);
    assert!(server.requests().iter().all(|r| !r.is_blob(&content)));
    assert!(told.borrow().iter().any(|event| matches!(event, FetchEvent::Resolved { .. })));
}

#[test]
fn proxies() {
    let mut content = Content::default();
    let image = content.add(noise(20_000, 6), "amd64", "1");
    // Asked as a proxy it gets whole URLs; `registry.invalid` exists nowhere else.
    let proxy = Server::start(move |request, _, stream| {
        assert!(request.target.starts_with("http://registry.invalid:81/v2/"), "{}", request.target);
        registry(&content, request, stream);
    });
    let mut client = Client::new();
    client.options.insecure_registries = vec!["registry.invalid".to_owned()];
    client.options.network.http_proxy = Some(format!("http://{}", proxy.host()));
    // What is not spoken to in TLS here fails at the proxy.
    client.options.network.https_proxy =
        Some(format!("http://{}", proxy.host().replace("127.0.0.1", "127.0.0.2")));
    let fetched = client.fetch("registry.invalid:81/olcne/ock:1").unwrap();
    assert_eq!(fs_err::read(fetched.path).unwrap(), image.disk);
    client.options.network.no_proxy = Some("registry.invalid".to_owned());
    client.options.network.attempts = 1;
    let error = client.fetch("registry.invalid:81/olcne/ock:2").unwrap_err();
    assert!(matches!(error, FetchError::Network { .. }), "{error:?}");
}
