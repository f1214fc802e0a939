//! A registry of another make that wants tokens, and takes them away while a transfer is under way.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ocne_container::{CopyOptions, Credentials, Digest, FetchError, FetchOptions, Fetcher, Logins, Secret};

use crate::docker_registry::{Registry, have, run};
use crate::{copy, sample};

/// The registry, until it is dropped.
struct TokenRegistry {
    child: Child,
    address: String,
}

impl Drop for TokenRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl TokenRegistry {
    /// None, and said, where it was not built.
    fn start(test: &str, arguments: &[&str]) -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/token-registry");
        let program = folder.join("token-registry");
        if !program.exists() {
            let why = "tests/peers/token-registry/setup.sh has not built the registry";
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
            return None;
        }
        let mut registry = Command::new(program);
        registry
            .args(["-password", "open:sesame"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = registry.spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { child, address: address.trim_end().to_owned() })
    }

    /// How many tokens it has given.
    fn tokens(&self) -> u32 {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET /tokens HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.lines().last().unwrap().parse().unwrap()
    }
}

fn me() -> Credentials {
    Credentials::Password { user: "me".to_owned(), password: Secret::new("open:sesame") }
}

fn for_destination(credentials: Credentials) -> CopyOptions {
    CopyOptions { destination_credentials: Some(credentials), ..CopyOptions::default() }
}

fn raw(reference: &str) -> Vec<u8> {
    run("skopeo", &["inspect", "--raw", "--tls-verify=false", "--creds", "me:open:sesame", reference])
}

#[test]
fn tokens_end_while_an_image_is_pushed() {
    let name = "tokens_end_while_an_image_is_pushed";
    if !have(name, &["skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = format!("oci-archive:{}", sample().display());
    for (arguments, at_least) in [(&["-uses", "3"][..], 5), (&["-life", "0.1"], 1), (&[], 1)] {
        let Some(registry) = TokenRegistry::start(name, arguments) else { return };
        let to = format!("docker://{}/a/b:1", registry.address);
        // Nobody, somebody else, and who has a token of the other kind.
        let (copied, _) = copy(dir.path(), &source, &to, &CopyOptions::default(), FetchOptions::default());
        assert!(matches!(copied, Err(FetchError::Status { status: 401, .. })), "{copied:?}");
        let wrong = Credentials::Password { user: "me".to_owned(), password: Secret::new("secret-thing") };
        let (copied, _) = copy(dir.path(), &source, &to, &for_destination(wrong), FetchOptions::default());
        let error = copied.unwrap_err();
        assert!(!format!("{error}{error:?}").contains("secret-thing"), "{error}");
        for credentials in [me(), Credentials::IdentityToken(Secret::new("open:sesame"))] {
            let before = registry.tokens();
            let to = to.replace("b:1", &format!("b{before}:1"));
            let options = for_destination(credentials);
            let (copied, _) = copy(dir.path(), &source, &to, &options, FetchOptions::default());
            let copied = copied.unwrap_or_else(|e| panic!("{arguments:?}: {e:?}"));
            assert!(registry.tokens() - before >= at_least, "{arguments:?}: {} tokens", registry.tokens());
            if arguments.is_empty() {
                assert_eq!(Digest::of(&raw(&to)), copied.digest);
            }
        }
    }
}

#[test]
fn registries_of_two_makes_copy_to_each_other() {
    let name = "registries_of_two_makes_copy_to_each_other";
    if !have(name, &["skopeo", "docker-registry"]) {
        return;
    }
    let Some(theirs) = TokenRegistry::start(name, &["-uses", "4"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let plain = Registry::start(dir.path());
    let source = format!("oci-archive:{}", sample().display());
    let [first, second, third] = [
        format!("docker://{}/a:1", plain.address),
        format!("docker://{}/a:1", theirs.address),
        format!("docker://{}/b:1", plain.address),
    ];
    let nobody = CopyOptions::default();
    let none = FetchOptions::default();
    let digest = copy(dir.path(), &source, &first, &nobody, none.clone()).0.unwrap().digest;
    let copied = copy(dir.path(), &first, &second, &for_destination(me()), none.clone()).0.unwrap();
    assert_eq!(copied.digest, digest);
    let from_theirs = FetchOptions { credentials: Some(me()), ..FetchOptions::default() };
    let copied = copy(dir.path(), &second, &third, &nobody, from_theirs).0.unwrap();
    assert_eq!((copied.digest, copied.spared_bytes), (digest, 0));
    // Within a registry blobs are not sent.
    let copied = copy(dir.path(), &third, &first.replace("a:1", "c:1"), &nobody, none).0.unwrap();
    assert_eq!((copied.digest, copied.sent_bytes), (digest, 0));
    assert_eq!(crate::image::leftovers(dir.path()), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn logging_in_is_tried_before_it_is_kept() {
    let Some(registry) = TokenRegistry::start("logging_in_is_tried_before_it_is_kept", &[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let options = FetchOptions { authfile: Some(dir.path().join("auth.json")), ..FetchOptions::default() };
    let _ = Fetcher::new(options.clone()).unwrap();
    let logins = Logins::new(&options);
    let try_it = |credentials: &Credentials| {
        crate::image::block_on(logins.verify(&registry.address, credentials, &std::sync::Arc::default()))
    };
    try_it(&me()).unwrap();
    try_it(&Credentials::IdentityToken(Secret::new("open:sesame"))).unwrap();
    let error = try_it(&Credentials::IdentityToken(Secret::new("secret-thing"))).unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 401, .. }), "{error:?}");
}
