//! A stand-in for systemd's file descriptor store (systemd.service(5), sd_notify(3)): keeps the sockets that a process
//! sends, and passes them to the next one.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

type Store = Arc<Mutex<Vec<(String, OwnedFd)>>>;

/// The store of one service.
pub struct ServiceManager {
    folder: TempDir,
    store: Store,
}

impl ServiceManager {
    /// An empty store.
    ///
    /// # Panics
    /// If its socket cannot be bound.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("the notify socket");
        let store = Store::default();
        let into = Arc::clone(&store);
        // It ends with the test.
        std::thread::spawn(move || {
            while let Some((text, fds)) = receive(&socket) {
                follow(&into, &text, fds);
            }
        });
        Self { folder, store }
    }

    /// What `NOTIFY_SOCKET` is to say.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// The sockets that are kept now, by name.
    ///
    /// # Panics
    /// If the thread that receives them has a fault.
    #[must_use]
    pub fn kept(&self) -> Vec<(String, OwnedFd)> {
        let store = self.store.lock().expect("the store");
        store.iter().map(|(name, fd)| (name.clone(), fd.try_clone().expect("a duplicate"))).collect()
    }
}

impl Default for ServiceManager {
    fn default() -> Self {
        Self::new()
    }
}

fn receive(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            fds.extend(sent);
        }
    }
    Some((String::from_utf8_lossy(&bytes[..received.bytes]).into_owned(), fds))
}

fn follow(store: &Store, text: &str, fds: Vec<OwnedFd>) {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let name = value("FDNAME").unwrap_or("stored").to_owned();
    let mut store = store.lock().expect("the store");
    if value("FDSTOREREMOVE") == Some("1") {
        store.retain(|(kept, _)| *kept != name);
    }
    if value("FDSTORE") == Some("1") {
        store.extend(fds.into_iter().map(|fd| (name.clone(), fd)));
    }
}
