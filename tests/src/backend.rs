//! A server of our own: a thread a connection, stopped and started at will.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

type Handler = Arc<dyn Fn(TcpStream) + Send + Sync>;

/// A listening server.
pub struct Backend {
    address: SocketAddr,
    handler: Handler,
    accepted: Arc<AtomicUsize>,
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    live: Arc<Mutex<HashMap<usize, TcpStream>>>,
    listener: TcpListener,
    thread: JoinHandle<()>,
}

/// Sends back what it gets.
pub fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 65536];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

impl Backend {
    /// Starts a server on a free port; `handler` serves each connection.
    ///
    /// # Panics
    /// If it cannot listen.
    #[must_use]
    pub fn start(handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST), handler)
    }

    /// As [`Backend::start`], at another address.
    ///
    /// # Panics
    /// If it cannot listen there.
    #[must_use]
    pub fn start_at(ip: IpAddr, handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::start_on((ip, 0).into(), handler)
    }

    /// As [`Backend::start`], at an address and a port.
    ///
    /// # Panics
    /// If it cannot listen there.
    #[must_use]
    pub fn start_on(address: SocketAddr, handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("listen");
        let address = listener.local_addr().expect("address");
        let mut backend = Self { address, handler: Arc::new(handler), accepted: Arc::default(), running: None };
        backend.serve(listener);
        backend
    }

    /// A server that sends back what it gets.
    #[must_use]
    pub fn echo() -> Self {
        Self::start(echo)
    }

    /// A server that sends `name` and a new line at once, then what it gets.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let hello = format!("{name}\n");
        Self::start(move |mut stream| {
            let _ = stream.set_nodelay(true);
            if stream.write_all(hello.as_bytes()).is_err() {
                return;
            }
            let mut buffer = vec![0; 65536];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        })
    }

    /// Where it listens, running or not.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it has taken.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Stops listening, and resets what it serves.
    ///
    /// # Panics
    /// If its thread has a fault.
    pub fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, in whatever namespace it is.
        let _ = rustix::net::shutdown(&running.listener, rustix::net::Shutdown::Both);
        running.thread.join().expect("the accepting thread");
        drop(running.listener);
        for (_, stream) in running.live.lock().expect("live").drain() {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens again on the same port.
    ///
    /// # Panics
    /// If somebody else has it meanwhile.
    pub fn restart(&mut self) {
        self.stop();
        let listener = crate::wait_for("the port to be free", std::time::Duration::from_secs(10), || {
            TcpListener::bind(self.address).ok()
        });
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        // A longer queue than the standard library gives: a dropped SYN would come again only after a second.
        rustix::net::listen(&listener, 4096).expect("listen");
        let stop = Arc::new(AtomicBool::new(false));
        let live: Arc<Mutex<HashMap<usize, TcpStream>>> = Arc::default();
        let (handler, accepted) = (Arc::clone(&self.handler), Arc::clone(&self.accepted));
        let (stopping, serving) = (Arc::clone(&stop), Arc::clone(&live));
        let own = listener.try_clone().expect("a duplicate");
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                let Ok(copy) = stream.try_clone() else { continue };
                serving.lock().expect("live").insert(number, copy);
                let (handler, serving) = (Arc::clone(&handler), Arc::clone(&serving));
                std::thread::spawn(move || {
                    handler(stream);
                    // The copy would keep the connection open.
                    serving.lock().expect("live").remove(&number);
                });
            }
        });
        self.running = Some(Running { stop, live, listener: own, thread });
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}
