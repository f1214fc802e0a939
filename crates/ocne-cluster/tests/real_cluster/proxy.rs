//! A line to the API server that can be cut.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Listens on loopback and passes on what comes, until it is cut.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_cut: AtomicBool,
    passed_bytes: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// To that address.
    pub fn to(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
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
        for stream in self.state.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// New connections are passed on again.
    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::Relaxed);
    }

    /// How much has been passed on, both ways.
    pub fn passed_bytes(&self) -> u64 {
        self.state.passed_bytes.load(Ordering::Relaxed)
    }
}

fn connect(client: TcpStream, target: SocketAddr, state: &Arc<State>) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    state.streams.lock().unwrap().extend([client.try_clone()?, server.try_clone()?]);
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        let state = Arc::clone(state);
        std::thread::spawn(move || pass(from, to, &state));
    }
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        state.passed_bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
    let _ = to.shutdown(Shutdown::Both);
}
