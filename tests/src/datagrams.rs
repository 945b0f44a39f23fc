//! Servers and clients that speak in datagrams.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Of every socket here, where we may: what is lost is not to be our own doing.
const BUFFER: usize = 8 * 1024 * 1024;
/// Between looks whether a server is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// A socket at `address` with large buffers.
///
/// # Panics
/// If there is no such address.
#[must_use]
pub fn udp_socket(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    // As far as it goes; past the system's limit for root.
    let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &BUFFER);
    let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBufForce, &BUFFER);
    socket.bind(&address.into()).expect("an address");
    socket.into()
}

/// Datagrams by who sent them.
type Seen = Arc<Mutex<BTreeMap<SocketAddr, Vec<Vec<u8>>>>>;

/// A server of datagrams on a thread of its own.
pub struct UdpBackend {
    address: SocketAddr,
    seen: Seen,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpBackend {
    /// Answers each datagram with those that `answer` gives for it and for who sent it.
    #[must_use]
    pub fn start(answer: impl FnMut(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), answer)
    }

    /// As [`UdpBackend::start`], at `address`.
    ///
    /// # Panics
    /// If there is no such address.
    #[must_use]
    pub fn start_at(
        address: SocketAddr,
        mut answer: impl FnMut(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        let socket = udp_socket(address);
        socket.set_read_timeout(Some(LOOK)).expect("a timeout");
        let address = socket.local_addr().expect("an address");
        let (seen, stop) = (Seen::default(), Arc::new(AtomicBool::new(false)));
        let (noted, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                noted.lock().expect("no panic").entry(from).or_default().push(buffer[..length].to_vec());
                for text in answer(&buffer[..length], from) {
                    // A client that has gone needs no answer.
                    let _ = socket.send_to(&text, from);
                }
            }
        });
        Self { address, seen, stop, thread: Some(thread) }
    }

    /// Answers with what it got.
    #[must_use]
    pub fn echo() -> Self {
        Self::start(|text, _| vec![text.to_vec()])
    }

    /// Answers with its name before what it got.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let name = name.as_bytes().to_vec();
        Self::start(move |text, _| vec![[name.as_slice(), text].concat()])
    }

    /// Says nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::start(|_, _| Vec::new())
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it got, by who sent it.
    ///
    /// # Panics
    /// If its thread did.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<SocketAddr, Vec<Vec<u8>>> {
        self.seen.lock().expect("no panic").clone()
    }

    /// How many datagrams it got.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seen().values().map(Vec::len).sum()
    }

    /// Closes its socket: whoever sends there is told that nobody is.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panicked only if a test's own closure did.
            let _ = thread.join();
        }
    }
}

impl Drop for UdpBackend {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A client with a socket of its own.
pub struct UdpClient(pub UdpSocket);

impl UdpClient {
    /// One that sends to `front`.
    #[must_use]
    pub fn new(front: SocketAddr) -> Self {
        let ip: IpAddr =
            if front.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        Self::from(ip, front)
    }

    /// One at `ip` that sends to `front`.
    ///
    /// # Panics
    /// If there is no such address.
    #[must_use]
    pub fn from(ip: IpAddr, front: SocketAddr) -> Self {
        let socket = udp_socket(SocketAddr::new(ip, 0));
        socket.connect(front).expect("a way");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        Self(socket)
    }

    /// Where it is.
    ///
    /// # Panics
    /// If its socket has no address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// Sends `text`.
    ///
    /// # Panics
    /// If it cannot.
    pub fn say(&self, text: &[u8]) {
        self.0.send(text).expect("to send");
    }

    /// The next answer.
    ///
    /// # Errors
    /// If none comes in some seconds.
    pub fn hear(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let length = self.0.recv(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Sends `text` and gives the answer.
    ///
    /// # Errors
    /// If none comes in some seconds.
    pub fn ask(&self, text: &[u8]) -> io::Result<Vec<u8>> {
        self.say(text);
        self.hear()
    }

    /// Whether nothing comes in `most`.
    ///
    /// # Panics
    /// If its socket fails.
    #[must_use]
    pub fn hears_nothing(&self, most: Duration) -> bool {
        self.0.set_read_timeout(Some(most)).expect("a timeout");
        let heard = self.hear();
        self.0.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        heard.is_err()
    }
}
