//! A line to the API server that can be cut.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a line that is halted looks whether it still is.
const HALT_POLL: Duration = Duration::from_millis(5);
/// How often one on which nothing comes looks how long that is so.
const LOOK: Duration = Duration::from_millis(500);

/// Listens on loopback and passes on what comes, until it is cut.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: AtomicBool,
    /// Clients ask for the other end by CONNECT (RFC 9110, section 9.3.6), and get the one that there is.
    is_asked: AtomicBool,
    /// All connections end when so much was passed on; 0 is never.
    cut_at_bytes: AtomicU64,
    is_halted: AtomicBool,
    /// A connection ends when nothing was passed on for so long; 0 is never.
    idle_ms: AtomicU64,
    passed_bytes: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// To that address.
    ///
    /// # Errors
    /// When nothing can be listened on.
    pub fn to(target: SocketAddr) -> io::Result<Self> {
        Self::at(IpAddr::from([127, 0, 0, 1]), target)
    }

    /// The same on another address of this machine.
    ///
    /// # Errors
    /// When nothing can be listened on there.
    pub fn at(own: IpAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((own, 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !shared.is_cut.load(Ordering::Relaxed) {
                    let _ = connect(client, target, &shared);
                }
            }
        });
        Ok(Self { address, state })
    }

    /// Is a proxy that clients know about from now on.
    pub fn expect_connect(&self) {
        self.state.is_asked.store(true, Ordering::Relaxed);
    }

    /// Ends all connections, and every new one at once.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::Relaxed);
        self.state.end_all();
    }

    /// Ends all connections once, when so much was passed on since the start; new ones are passed on.
    pub fn cut_at(&self, bytes: u64) {
        self.state.cut_at_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Ends connections on which nothing is passed on for so long, as many proxies do.
    pub fn drop_idle(&self, after: Duration) {
        self.state.idle_ms.store(u64::try_from(after.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Passes nothing on any more, and ends nothing.
    pub fn halt(&self) {
        self.state.is_halted.store(true, Ordering::Relaxed);
    }

    /// New connections are passed on again.
    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::Relaxed);
        self.state.is_halted.store(false, Ordering::Relaxed);
    }

    /// How much has been passed on, both ways.
    pub fn passed_bytes(&self) -> u64 {
        self.state.passed_bytes.load(Ordering::Relaxed)
    }
}

impl State {
    fn streams(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_all(&self) {
        for stream in self.streams().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn connect(mut client: TcpStream, target: SocketAddr, state: &Arc<State>) -> io::Result<()> {
    if state.is_asked.load(Ordering::Relaxed) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            head.extend(byte);
        }
        if !head.starts_with(b"CONNECT ") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    }
    let server = TcpStream::connect(target)?;
    state.streams().extend([client.try_clone()?, server.try_clone()?]);
    let busy = Arc::new(Mutex::new(Instant::now()));
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        from.set_read_timeout(Some(LOOK))?;
        let (state, busy) = (Arc::clone(state), Arc::clone(&busy));
        std::thread::spawn(move || pass(from, to, &state, &busy));
    }
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &State, busy: &Mutex<Instant>) {
    // Small enough for a cut to be somewhere in a frame.
    let mut buffer = vec![0; 1 << 14];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(count) => count,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                let idle_ms = state.idle_ms.load(Ordering::Relaxed);
                let is_idle = busy.lock().unwrap_or_else(PoisonError::into_inner).elapsed().as_millis()
                    > idle_ms.into();
                if idle_ms != 0 && is_idle {
                    break;
                }
                continue;
            }
            Err(_) => break,
        };
        *busy.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        while state.is_halted.load(Ordering::Relaxed) {
            std::thread::sleep(HALT_POLL);
        }
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        let passed_bytes = state.passed_bytes.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        let cut_at_bytes = state.cut_at_bytes.load(Ordering::Relaxed);
        if cut_at_bytes != 0 && passed_bytes >= cut_at_bytes {
            state.cut_at_bytes.store(0, Ordering::Relaxed);
            state.end_all();
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
