//! Who may read, and who gets to see the credentials.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ocne_container::{ErrorKind, FetchError};

use crate::fetch::Client;
use crate::image::{Content, Image, noise};
use crate::server::{Request, Server, answer, cut, registry};

fn content() -> (Content, Image) {
    let mut content = Content::default();
    let image = content.add(noise(300_000, 9), "amd64", "1");
    (content, image)
}

/// A registry that wants tokens of a server, which gives them to whom `may` says. The second value is that server.
fn with_tokens(
    content: Content,
    may: impl Fn(&Request) -> bool + Send + Sync + 'static,
    valid_requests: usize,
) -> (Server, Server) {
    let current = Arc::new(AtomicUsize::new(0));
    let left = Arc::new(AtomicUsize::new(0));
    let (given, uses) = (Arc::clone(&current), Arc::clone(&left));
    let tokens = Server::start(move |request, _, stream| {
        if may(request) {
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            uses.store(valid_requests, Ordering::SeqCst);
            answer(stream, "200 OK", &[], format!(r#"{{"token":"t{number}","expires_in":300}}"#).as_bytes());
        } else {
            answer(stream, "401 Unauthorized", &[], b"");
        }
    });
    let realm = format!("http://{}/token", tokens.host());
    let registry = Server::start(move |request, before, stream| {
        let expected = format!("Bearer t{}", current.load(Ordering::SeqCst));
        let is_right = request.header("authorization") == Some(&expected);
        // A token is good for so many requests, and then it has to be asked for again.
        if is_right && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            if request.is_blob(&content) && before < 3 {
                return cut(&content, request, 80_000, stream);
            }
            return registry(&content, request, stream);
        }
        let challenge = format!(r#"Bearer realm="{realm}",service="test",scope="repository:a/b:pull""#);
        answer(stream, "401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"");
    });
    (registry, tokens)
}

fn authfile(host: &str, entry: &str) -> String {
    format!(r#"{{"auths": {{"{host}": {{{entry}}}}}}}"#)
}

#[test]
fn tokens_without_an_account() {
    let (content, image) = content();
    let (registry, tokens) = with_tokens(content, |request| request.header("authorization").is_none(), 100);
    let client = Client::new();
    let fetched = client.fetch(&format!("{}/a/b:1", registry.host())).unwrap();
    assert_eq!(fs_err::read(fetched.path).unwrap(), image.disk);
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1, "one token for all: {asked:?}");
    assert!(
        asked[0].target.contains("service=test")
            && asked[0].target.contains("scope=repository%3Aa%2Fb%3Apull")
    );
}

#[test]
fn tokens_that_end_in_the_middle() {
    let (content, image) = content();
    // Each token is good for two requests; the layer alone takes four.
    let (registry, tokens) = with_tokens(content, |_| true, 2);
    let client = Client::new();
    let fetched = client.fetch(&format!("{}/a/b:1", registry.host())).unwrap();
    assert_eq!(fs_err::read(fetched.path).unwrap(), image.disk);
    assert!(tokens.requests().len() >= 3, "{:?}", tokens.requests());
}

#[test]
fn tokens_for_an_account() {
    let (content, image) = content();
    let basic = "Basic dTpwdw==";
    let (registry, tokens) = with_tokens(content, move |r| r.header("authorization") == Some(basic), 100);
    let reference = format!("{}/a/b:1", registry.host());
    let error = Client::new().fetch(&reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteRefused, "{error:?}");
    assert!(error.hint().unwrap().contains("--authfile"));

    let client = Client::with_auth(&authfile(&registry.host(), r#""auth": "dTpwdw==""#));
    assert_eq!(fs_err::read(client.fetch(&reference).unwrap().path).unwrap(), image.disk);
    let other = Client::with_auth(&authfile("127.0.0.1:1", r#""auth": "dTpwdw==""#));
    let before = tokens.requests().len();
    other.fetch(&reference).unwrap_err();
    assert!(
        tokens.requests()[before..].iter().all(|r| r.header("authorization").is_none()),
        "credentials of another host"
    );
}

#[test]
fn identity_tokens_are_exchanged() {
    let (content, image) = content();
    let (registry, tokens) = with_tokens(
        content,
        |r| {
            r.method == "POST"
                && r.body.contains("grant_type=refresh_token")
                && r.body.contains("refresh_token=id%2B1")
        },
        100,
    );
    let client = Client::with_auth(&authfile(&registry.host(), r#""identitytoken": "id+1""#));
    let fetched = client.fetch(&format!("{}/a/b:1", registry.host())).unwrap();
    assert_eq!(fs_err::read(fetched.path).unwrap(), image.disk);
    assert!(tokens.requests()[0].header("authorization").is_none());
}

#[test]
fn redirects_do_not_get_credentials() {
    let (content, image) = content();
    let stored = content.clone();
    let storage = Server::start(move |request, _, stream| registry(&stored, request, stream));
    let host = storage.host();
    let server = Server::start(move |request, _, stream| {
        if request.header("authorization") != Some("Basic dTpwdw==") {
            return answer(stream, "401 Unauthorized", &[("WWW-Authenticate", "Basic realm=x")], b"");
        }
        if request.is_blob(&content) {
            let place = format!("http://{host}/elsewhere/{}", request.target.rsplit('/').next().unwrap());
            return answer(stream, "307 Temporary Redirect", &[("Location", &place)], b"");
        }
        registry(&content, request, stream);
    });
    let client = Client::with_auth(&authfile(&server.host(), r#""auth": "dTpwdw==""#));
    let fetched = client.fetch(&format!("{}/a/b:1", server.host())).unwrap();
    assert_eq!(fs_err::read(fetched.path).unwrap(), image.disk);
    let seen = storage.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
}

#[test]
fn a_server_that_we_are_sent_to_cannot_ask_for_credentials() {
    let (content, _) = content();
    let thief = Server::start(|_, _, stream| {
        answer(stream, "401 Unauthorized", &[("WWW-Authenticate", "Basic realm=x")], b"");
    });
    let host = thief.host();
    let server = Server::start(move |request, _, stream| {
        if request.is_blob(&content) {
            let place = format!("http://{host}/x");
            return answer(stream, "307 Temporary Redirect", &[("Location", &place)], b"");
        }
        registry(&content, request, stream);
    });
    let client = Client::with_auth(&authfile(&server.host(), r#""auth": "dTpwdw==""#));
    let error = client.fetch(&format!("{}/a/b:1", server.host())).unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 401, .. }), "{error:?}");
    assert!(thief.requests().iter().all(|r| r.header("authorization").is_none()));
}

/// The part of [`credential_helpers`] that runs with another `PATH`.
#[test]
fn credential_helpers_with_path() {
    let Some(host) = std::env::var_os("OCNE_TEST_HELPER_HOST") else { return };
    let host = host.to_str().unwrap();
    let reference = format!("{host}/a/b:1");
    let helper = |name: &str| Client::with_auth(&format!(r#"{{"credHelpers": {{"{host}": "{name}"}}}}"#));
    helper("ocne-test-good").fetch(&reference).unwrap();
    for (name, reason) in
        [("ocne-test-bad", "ended with"), ("ocne-test-absent", "No such file"), ("../x", "no name")]
    {
        let error = helper(name).fetch(&reference).unwrap_err();
        assert!(
            matches!(error, FetchError::Credentials { .. }) && error.to_string().contains(reason),
            "{name}: {error}"
        );
    }
    let error = helper("ocne-test-none").fetch(&reference).unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 401, .. }), "{error:?}");
    Client::with_auth(r#"{"credsStore": "ocne-test-good"}"#).fetch(&reference).unwrap();
}

#[test]
fn credential_helpers() {
    let (content, _) = content();
    let server = Server::start(move |request, _, stream| {
        if request.header("authorization") == Some("Basic dTpwdw==") {
            registry(&content, request, stream);
        } else {
            answer(stream, "401 Unauthorized", &[("WWW-Authenticate", "Basic realm=x")], b"");
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let good = format!(
        "read -r server; [ \"$1 $server\" = 'get {}' ] || exit 3; echo '{{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"pw\"}}'",
        server.host()
    );
    for (name, script) in [
        ("good", good.as_str()),
        ("bad", "exit 1"),
        ("none", "echo 'credentials not found in native keychain'; exit 1"),
    ] {
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.path().join(format!("docker-credential-ocne-test-{name}"));
        fs_err::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut path = folder.path().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "auth::credential_helpers_with_path", "--nocapture"])
        .env("PATH", path)
        .env("OCNE_TEST_HELPER_HOST", server.host())
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}{}",
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
    assert!(server.requests().len() > 4);
}
