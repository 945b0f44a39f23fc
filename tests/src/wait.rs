//! Waiting for events.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Looks every few milliseconds until `found` gives something.
///
/// # Panics
/// If that takes longer than `most`.
pub fn wait_for<T>(what: &str, most: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(it) = found() {
            return it;
        }
        assert!(begin.elapsed() < most, "waited {most:?} in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(3));
    }
}

/// Looks every few milliseconds until `is` so; `what` tells the state of things if it never is.
///
/// # Panics
/// If that takes longer than `most`.
pub fn wait_until(what: impl Fn() -> String, most: Duration, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < most, "waited {most:?} in vain for {}", what());
        std::thread::park_timeout(Duration::from_millis(3));
    }
}

/// A port of loopback that nobody listens on now.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    // Below the range that the kernel gives to clients (net.ipv4.ip_local_port_range): none of those takes it meanwhile.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 11_000).expect("small");
    for _ in 0..11_000 {
        let port = 20_000 + start.wrapping_add(NEXT.fetch_add(7, Ordering::SeqCst)) % 11_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Sets a flag when it is dropped: ends the threads of a test even if the test fails.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
