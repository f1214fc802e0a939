//! A line to the API server that can be cut.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a line that is halted looks whether it still is.
const HALT_POLL: Duration = Duration::from_millis(5);

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
    /// All connections end when so much was passed on; 0 is never.
    cut_at_bytes: AtomicU64,
    is_halted: AtomicBool,
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

    /// Ends all connections, and every new one at once.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::Relaxed);
        self.state.end_all();
    }

    /// Ends all connections once, when so much was passed on since the start; new ones are passed on.
    pub fn cut_at(&self, bytes: u64) {
        self.state.cut_at_bytes.store(bytes, Ordering::Relaxed);
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

fn connect(client: TcpStream, target: SocketAddr, state: &Arc<State>) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    state.streams().extend([client.try_clone()?, server.try_clone()?]);
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        let state = Arc::clone(state);
        std::thread::spawn(move || pass(from, to, &state));
    }
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &State) {
    // Small enough for a cut to be somewhere in a frame.
    let mut buffer = vec![0; 1 << 14];
    while let Ok(count) = from.read(&mut buffer) {
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
