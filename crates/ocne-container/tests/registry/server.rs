//! An HTTP server whose every byte is ours, to do what real servers do only at bad times.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::image::Content;

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// With the query; of a proxy request the whole URL.
    pub target: String,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The first byte that is asked for.
    pub fn range_start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    pub fn is_blob(&self, content: &Content) -> bool {
        content.blobs.iter().any(|(digest, bytes)| bytes.len() > 4096 && self.target.ends_with(&**digest))
    }
}

/// A server that runs until it is dropped.
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
}

impl Server {
    /// Starts a server; `handle` gets each request with the number of those before it that had the same target.
    pub fn start(handle: impl Fn(&Request, usize, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let ended = Arc::new(AtomicBool::new(false));
        let (log, end, handle) = (Arc::clone(&requests), Arc::clone(&ended), Arc::new(handle));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let (log, handle) = (Arc::clone(&log), Arc::clone(&handle));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    // TLS and the like: nothing that this server speaks.
                    let Some(request) = read_request(&stream) else { return };
                    let before = {
                        let mut log = log.lock().unwrap();
                        log.push(request.clone());
                        log.iter().filter(|r| r.target == request.target).count() - 1
                    };
                    handle(&request, before, &mut stream);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, requests, ended }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What was asked for so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    let mut next = |reader: &mut BufReader<&TcpStream>| {
        line.clear();
        reader.take(16 << 10).read_until(b'\n', &mut line).ok()?;
        String::from_utf8(line.clone()).ok().map(|text| text.trim_end().to_owned())
    };
    let first = next(&mut reader)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let line = next(&mut reader)?;
        match line.split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => break,
        }
    }
    let mut request = Request { method, target, headers, body: String::new() };
    if let Some(length) = request.header("content-length").and_then(|l| l.parse().ok()) {
        reader.take(length).read_to_string(&mut request.body).ok()?;
    }
    Some(request)
}

/// Answers whole.
pub fn answer(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8]) {
    head(stream, status, headers, body.len());
    let _ = stream.write_all(body);
}

/// Answers without a body, but says how long it will be.
pub fn head(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)], length: usize) {
    let lines: String = headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{lines}");
    let _ = stream.write_all(format!("{text}\r\n").as_bytes());
}

/// Answers like a registry: manifests, blobs, ranges of them.
pub fn registry(content: &Content, request: &Request, stream: &mut TcpStream) {
    let last = request.target.rsplit('/').next().unwrap_or_default();
    if let Some((bytes, media_type)) = content.manifests.get(last) {
        return answer(stream, "200 OK", &[("Content-Type", media_type)], bytes);
    }
    let Some(blob) = content.blobs.get(last) else {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return answer(stream, "404 Not Found", &[], body);
    };
    match request.range_start() {
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", blob.len() - 1, blob.len());
            answer(stream, "206 Partial Content", &[("Content-Range", &range)], &blob[start..]);
        }
        None => answer(stream, "200 OK", &[], blob),
    }
}

/// Answers with the beginning of a blob, and closes the connection.
pub fn cut(content: &Content, request: &Request, bytes: usize, stream: &mut TcpStream) {
    let blob = &content.blobs[request.target.rsplit('/').next().unwrap()];
    let start = request.range_start().unwrap_or(0);
    let range = format!("bytes {start}-{}/{}", blob.len() - 1, blob.len());
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    head(stream, status, &[("Content-Range", &range)], blob.len() - start);
    let _ = stream.write_all(&blob[start..(start + bytes).min(blob.len())]);
    let _ = stream.flush();
}
