//! Serves the files of a folder over HTTP/1.1: the only program in the images that `ocne image create --type ostree --base
//! none` makes, and so its process 1.
//!
//! `GET` and `HEAD`, ranges, conditional requests, connections that stay open. Nothing outside the folder is reachable, nothing can
//! be changed. `/healthz` answers as long as there is an answer at all. What happens is written to standard output as JSON
//! lines. SIGTERM, SIGINT and SIGQUIT end it when what is being sent was sent, within ten seconds.

mod body;
mod conditions;
mod file;
mod log;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustix::process::{Gid, Uid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::body::Content;
use crate::conditions::{Answer, answer};
use crate::file::Root;
use crate::log::Log;

/// What is said when nothing else was asked for right.
const USAGE: &str = "usage: ocne-serve [--address ADDRESS] [--port PORT] [--quiet] FOLDER";
/// How long a client may take for the head of a request; also how long a connection stays open without one.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the end waits for what is being sent.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How many connections there may be; others wait.
const CONNECTIONS_MAX: usize = 4096;
/// The user that nobody is.
const NOBODY: u32 = 65534;

/// What the command line says.
#[derive(Debug)]
struct Settings {
    address: Option<String>,
    port: u16,
    quiet: bool,
    folder: PathBuf,
}

impl Settings {
    fn parse(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Self, String> {
        let (mut address, mut port, mut quiet, mut folder) = (None, 80, false, None);
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || -> Result<String, String> {
                let value = arguments.next().and_then(|v| v.into_string().ok());
                value.ok_or_else(|| format!("{} needs a value", argument.display()))
            };
            match argument.to_str() {
                Some("--address") => address = Some(value()?),
                Some("--port") => {
                    let text = value()?;
                    port = text.parse().map_err(|_| format!("`{text}` is no port"))?;
                }
                Some("--quiet") => quiet = true,
                Some(text) if text.starts_with('-') => return Err(format!("`{text}` is not known")),
                _ if folder.is_some() => return Err("there is more than one folder".to_owned()),
                _ => folder = Some(PathBuf::from(&argument)),
            }
        }
        Ok(Self { address, port, quiet, folder: folder.ok_or("the folder is missing")? })
    }

    /// Listens; on all addresses of both families unless one was named.
    fn listen(&self) -> Result<TcpListener, String> {
        let failed = |at: &dyn std::fmt::Display, e| format!("cannot listen on {at}: {e}");
        let Some(address) = &self.address else {
            let all = |address: std::net::IpAddr| TcpListener::bind(SocketAddr::new(address, self.port));
            let listener = all(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| all(Ipv4Addr::UNSPECIFIED.into()));
            return listener.map_err(|e| failed(&format!("port {}", self.port), e));
        };
        let address = address.parse().map_err(|_| format!("`{address}` is no address"))?;
        let address = SocketAddr::new(address, self.port);
        TcpListener::bind(address).map_err(|e| failed(&address, e))
    }
}

fn main() -> ExitCode {
    let log = Arc::new(Log::default());
    let code = match Settings::parse(std::env::args_os().skip(1)) {
        Err(reason) => {
            log.error(&format!("{reason}; {USAGE}"));
            ExitCode::from(2)
        }
        Ok(settings) => match run(&settings, &log) {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => {
                log.error(&reason);
                ExitCode::FAILURE
            }
        },
    };
    log.end();
    code
}

fn run(settings: &Settings, log: &Arc<Log>) -> Result<(), String> {
    let folder = settings.folder.display();
    let root = Root::open(&settings.folder).map_err(|e| format!("cannot open the folder `{folder}`: {e}"))?;
    let listener = settings.listen()?;
    // The port was all that root is needed for. Before there are other threads: each has its own user.
    if rustix::process::geteuid().is_root()
        && let Err(e) = become_nobody()
    {
        log.note(&format!("stays root, as it cannot become another user: {e}"));
    }
    log.start();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start: {e}"))?;
    let server = Arc::new(Server { root, log: Arc::clone(log), quiet: settings.quiet });
    let done = runtime.block_on(serve(&server, listener));
    runtime.shutdown_background();
    done.map_err(|e| format!("cannot serve: {e}"))
}

fn become_nobody() -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

async fn serve(server: &Arc<Server>, listener: TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut stops = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()].map(signal);
    let [Ok(terminate), Ok(interrupt), Ok(quit)] = &mut stops else {
        return Err(std::io::Error::other("signals cannot be caught"));
    };
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).pipeline_flush(true);
    server.log.note(&format!("serving on {}", listener.local_addr()?));
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let place = Arc::clone(&room).acquire_owned().await;
                listener.accept().await.map(|(stream, peer)| (stream, peer, place))
            } => accepted,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = quit.recv() => break,
        };
        let (stream, peer, place) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // A client that left already, or no more file descriptors: the others still want to be served.
                server.log.note(&format!("cannot take a connection: {e}"));
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let server = Arc::clone(server);
        let service = service_fn(move |request| {
            let response = server.respond(&request, peer);
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _place = place;
            let _ = connection.await; // a client that goes away is no news
        });
    }
    drop(listener);
    server.log.note("stopping");
    if tokio::time::timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
        server.log.note("stopped in the middle of answers");
    }
    Ok(())
}

#[derive(Debug)]
struct Server {
    root: Root,
    log: Arc<Log>,
    quiet: bool,
}

impl Server {
    fn respond(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Content> {
        let started = Instant::now();
        let path = request.uri().path();
        let response = match *request.method() {
            Method::GET | Method::HEAD if path == "/healthz" => plain(StatusCode::OK, "ok\n"),
            Method::GET | Method::HEAD => self.file(request).unwrap_or_else(|e| {
                self.log.note(&format!("cannot read `{path}`: {e}"));
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read\n")
            }),
            _ => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
        };
        if !self.quiet {
            self.log.request(request, peer, &response, started.elapsed());
        }
        response
    }

    fn file(&self, request: &Request<Incoming>) -> std::io::Result<Response<Content>> {
        let Some(found) = self.root.find(request.uri().path())? else {
            return Ok(plain(StatusCode::NOT_FOUND, "there is no such file\n"));
        };
        let size_bytes = found.size_bytes;
        let answer = answer(request.headers(), &found);
        let mut headers: Vec<(HeaderName, String)> = vec![
            (ETAG, found.etag),
            (LAST_MODIFIED, httpdate::fmt_http_date(found.modified)),
            (ACCEPT_RANGES, "bytes".to_owned()),
        ];
        let (status, content) = match answer {
            Answer::Failed => {
                return Ok(plain(StatusCode::PRECONDITION_FAILED, "the file is another one\n"));
            }
            Answer::NoSuchPart => {
                headers.push((CONTENT_RANGE, format!("bytes */{size_bytes}")));
                (StatusCode::RANGE_NOT_SATISFIABLE, Content::default())
            }
            Answer::NotModified => (StatusCode::NOT_MODIFIED, Content::default()),
            Answer::Whole => (StatusCode::OK, Content::file(found.file, 0, size_bytes)),
            Answer::Part(first, last) => {
                headers.push((CONTENT_RANGE, format!("bytes {first}-{last}/{size_bytes}")));
                (StatusCode::PARTIAL_CONTENT, Content::file(found.file, first, last - first + 1))
            }
        };
        headers.push((CONTENT_TYPE, found.media_type.to_owned()));
        let mut response = Response::new(content);
        *response.status_mut() = status;
        for (name, value) in headers {
            let value = HeaderValue::from_str(&value).map_err(std::io::Error::other)?;
            response.headers_mut().insert(name, value);
        }
        Ok(response)
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Content> {
    let mut response = Response::new(Content::text(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
