//! The server as its clients see it: bytes on a connection, and `ostree pull`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A server of a folder, until it is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    log: BufReader<ChildStdout>,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ocne-serve"))
            .args(["--address", "127.0.0.1", "--port", "0"])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap());
        let address = loop {
            let line: serde_json::Value = read_line(&mut log);
            if let Some(address) = line["message"].as_str().and_then(|m| m.strip_prefix("serving on ")) {
                break address.parse().unwrap();
            }
        };
        Self { child, address, log }
    }

    fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Connection(BufReader::new(stream))
    }

    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.connect().request("GET", path, headers)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_line(log: &mut BufReader<ChildStdout>) -> serde_json::Value {
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

struct Connection(BufReader<TcpStream>);

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.head.lines().filter_map(|l| l.split_once(": "));
        found.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

impl Connection {
    fn send(&mut self, method: &str, path: &str, headers: &[&str]) {
        let first = format!("{method} {path} HTTP/1.1");
        let lines = [&[first.as_str(), "Host: a"][..], headers, &["\r\n"]].concat();
        let request = lines.join("\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn answer(&mut self, method: &str) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).unwrap() > 0, "the connection was closed after {head:?}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        if method != "HEAD" && status != 304 {
            let len: u64 = answer.header("content-length").unwrap().parse().unwrap();
            answer.body.resize(usize::try_from(len).unwrap(), 0);
            self.0.read_exact(&mut answer.body).unwrap();
        }
        answer
    }

    fn request(&mut self, method: &str, path: &str, headers: &[&str]) -> Answer {
        self.send(method, path, headers);
        self.answer(method)
    }
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(dir.path().join("ostree/refs/heads")).unwrap();
    fs_err::write(dir.path().join("ostree/refs/heads/ock"), "0123456789").unwrap();
    fs_err::write(dir.path().join("ks.cfg"), "text\n").unwrap();
    fs_err::write(dir.path().join("empty"), "").unwrap();
    fs_err::write(dir.path().join("large"), vec![7; 3_000_001]).unwrap();
    // The server gives up root.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(dir.path(), mode).unwrap();
    dir
}

#[test]
fn files_parts_and_heads_on_one_connection() {
    let dir = folder();
    let server = Server::start(dir.path());
    let mut connection = server.connect();
    let whole = connection.request("GET", "/ostree/refs/heads/ock", &[]);
    assert_eq!((whole.status, whole.body.as_slice()), (200, &b"0123456789"[..]));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("content-type"), Some("application/octet-stream"));
    let head = connection.request("HEAD", "/ostree/refs/heads/ock", &[]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    assert_eq!(head.header("etag"), whole.header("etag"));
    let part = connection.request("GET", "/ostree/refs/heads/ock", &["Range: bytes=2-4"]);
    assert_eq!((part.status, part.body.as_slice()), (206, &b"234"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    let beyond = connection.request("GET", "/ostree/refs/heads/ock", &["Range: bytes=10-"]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    let large = connection.request("GET", "/large", &[]);
    assert_eq!(large.body.len(), 3_000_001);
    assert!(large.body.iter().all(|&b| b == 7));
    let empty = connection.request("GET", "/empty", &[]);
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    assert_eq!(
        connection.request("GET", "/ks.cfg", &[]).header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(connection.request("GET", "/healthz", &[]).body, b"ok\n");
}

#[test]
fn conditions() {
    let dir = folder();
    let server = Server::start(dir.path());
    let path = "/ostree/refs/heads/ock";
    let first = server.get(path, &[]);
    let (etag, date) = (first.header("etag").unwrap(), first.header("last-modified").unwrap());
    let status = |header: String| server.get(path, &[&header]).status;
    assert_eq!(status(format!("If-None-Match: {etag}")), 304);
    assert_eq!(status(format!("If-None-Match: W/{etag}, \"x\"")), 304);
    assert_eq!(status("If-None-Match: \"x\"".to_owned()), 200);
    assert_eq!(status(format!("If-Modified-Since: {date}")), 304);
    assert_eq!(status("If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT".to_owned()), 200);
    assert_eq!(status("If-Match: \"x\"".to_owned()), 412);
    assert_eq!(status("If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT".to_owned()), 412);
    let range = |condition: &str| server.get(path, &["Range: bytes=0-0", condition]).status;
    assert_eq!(range(&format!("If-Range: {etag}")), 206);
    assert_eq!(range("If-Range: \"x\""), 200);
    // Another content of the same size, with another time.
    let file = fs_err::OpenOptions::new().write(true).open(dir.path().join("ostree/refs/heads/ock")).unwrap();
    file.file().set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    assert_eq!(status(format!("If-None-Match: {etag}")), 200);
}

#[test]
fn nothing_else_is_reachable_and_nothing_can_be_changed() {
    let dir = folder();
    let root = dir.path().join("ostree");
    fs_err::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
    fs_err::os::unix::fs::symlink("..", root.join("up")).unwrap();
    let server = Server::start(&root);
    for path in [
        "/../ks.cfg",
        "/%2e%2e/ks.cfg",
        "/refs/../../ks.cfg",
        "/..%2fks.cfg",
        "/link",
        "/up/ks.cfg",
        "/refs",
        "/refs/",
        "/",
        "/nothing",
    ] {
        assert_eq!(server.get(path, &[]).status, 404, "{path}");
    }
    for method in ["PUT", "POST", "DELETE", "OPTIONS", "PATCH"] {
        let answer = server.connect().request(method, "/refs/heads/ock", &["Content-Length: 0"]);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    // What is no HTTP ends that connection, and no other.
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"\0\xFF nonsense\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400"), "{said:?}");
    assert_eq!(server.get("/refs/heads/ock", &[]).status, 200);
}

#[test]
fn it_ends_when_what_is_being_sent_was_sent() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let dir = folder();
        fs_err::write(dir.path().join("large"), vec![7; 40_000_000]).unwrap();
        let mut server = Server::start(dir.path());
        let mut idle = server.connect();
        idle.request("GET", "/empty", &[]);
        let mut busy = server.connect();
        busy.send("GET", "/large", &[]);
        let mut first = [0; 1];
        busy.0.get_mut().peek(&mut first).unwrap(); // the answer began
        server.signal(signal);
        assert_eq!(busy.answer("GET").body.len(), 40_000_000, "{signal:?}");
        let started = Instant::now();
        assert!(server.child.wait().unwrap().success());
        assert!(started.elapsed() < Duration::from_secs(9), "it did not wait for idle connections");
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|l: &serde_json::Value| l["message"] == "stopping") {
            lines.push(read_line(&mut server.log));
        }
        let request = lines.iter().find(|l| l["path"] == "/large").unwrap();
        assert_eq!((&request["status"], &request["bytes"]), (&200.into(), &40_000_000.into()));
    }
}

#[test]
fn wrong_usage_is_said() {
    for arguments in [&[][..], &["--port", "x", "."], &["--what"], &[".", "."], &["--port"]] {
        let out = Command::new(env!("CARGO_BIN_EXE_ocne-serve")).args(arguments).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&out.stdout).contains("usage: ocne-serve"), "{arguments:?}");
    }
    let out = Command::new(env!("CARGO_BIN_EXE_ocne-serve")).arg("/nowhere").output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stdout).contains("cannot open the folder `/nowhere`"));
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let dir = folder();
    let mut server = Server::start(dir.path());
    let mut connection = server.connect();
    // More than the 64 KiB of a pipe, and than what waits behind it.
    let path = format!("/{}", "x".repeat(200));
    for _ in 0..3000 {
        assert_eq!(connection.request("GET", &path, &[]).status, 404);
    }
    // Who reads again is told.
    let reader = std::thread::spawn(move || {
        let lines = (0..3000).map(|_| read_line(&mut server.log)["lost_lines"].as_u64());
        let lost = lines.take_while(Option::is_none).count();
        (server, lost)
    });
    while !reader.is_finished() {
        connection.request("GET", "/", &[]);
    }
    assert!(reader.join().unwrap().1 > 100);
}
