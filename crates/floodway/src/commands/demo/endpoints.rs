//! Echo servers that can be stopped and started.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A server that sends back what it gets.
pub(super) struct Echo {
    name: &'static str,
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Sessions that sent at least a byte: checks do not.
    served: AtomicU64,
    live: Mutex<Vec<(SocketAddr, TcpStream)>>,
}

impl Echo {
    pub(super) fn start(name: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut echo = Self { name, address: listener.local_addr()?, shared: Arc::default(), thread: None };
        echo.serve(listener);
        Ok(echo)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sessions that it has served.
    pub(super) fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// Stops listening and resets its sessions, as a process that is killed.
    pub(super) fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        let _ = thread.join();
        let live = std::mem::take(&mut *self.shared.live.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, stream) in &live {
            // Unread bytes make the kernel reset the connection; either end is an error to whoever waits for an answer.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn restart(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address)?;
        self.shared.stop.store(false, Ordering::SeqCst);
        self.serve(listener);
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.thread = Some(std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || echo(stream, &shared));
            }
        }));
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop();
    }
}

fn echo(mut stream: TcpStream, shared: &Shared) {
    let (Ok(peer), Ok(copy)) = (stream.peer_addr(), stream.try_clone()) else { return };
    let mut buffer = [0; 4096];
    let Ok(mut n @ 1..) = stream.read(&mut buffer) else { return };
    shared.served.fetch_add(1, Ordering::Relaxed);
    shared.live.lock().unwrap_or_else(PoisonError::into_inner).push((peer, copy));
    while stream.write_all(&buffer[..n]).is_ok() {
        match stream.read(&mut buffer) {
            Ok(more @ 1..) => n = more,
            _ => break,
        }
    }
    shared.live.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| *other != peer);
}
