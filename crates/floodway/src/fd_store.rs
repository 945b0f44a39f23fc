//! Listening sockets in the service manager's store (`FileDescriptorStoreMax=`, systemd.service(5)): they outlive this
//! process, and the next one gets them back.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use sd_notify::NotifyState;

/// Sockets in one message to the service manager.
const SOCKETS_A_MESSAGE: usize = 64;

/// What the store has of us, as far as we know.
#[derive(Default)]
pub(crate) struct FdStore {
    /// By listener and inode.
    kept: BTreeSet<(String, u64)>,
}

impl FdStore {
    /// A store that has sockets by `names`, of which nothing else is known.
    pub(crate) fn with_names<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self { kept: names.map(|name| (name.to_owned(), 0)).collect() }
    }

    /// Whether there is a service manager that has any.
    pub(crate) fn is_used(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Has the store keep `sockets`, by the name of their listener, and nothing else of ours.
    pub(crate) fn keep(&mut self, sockets: &[(String, OwnedFd)]) {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            self.kept.clear();
            return;
        }
        let inode = |socket: &OwnedFd| rustix::fs::fstat(socket).map_or(0, |about| about.st_ino);
        let wanted: BTreeSet<_> = sockets.iter().map(|(name, socket)| (name.clone(), inode(socket))).collect();
        let differing: BTreeSet<&String> = self.kept.symmetric_difference(&wanted).map(|(name, _)| name).collect();
        for name in &differing {
            // A name is removed whole; it is kept anew below.
            tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)], &[]);
            let of: Vec<_> = sockets.iter().filter(|(n, _)| n == *name).map(|(_, socket)| socket.as_fd()).collect();
            for some in of.chunks(SOCKETS_A_MESSAGE) {
                tell(&[NotifyState::FdStore, NotifyState::FdName(name)], some);
            }
        }
        self.kept = wanted;
    }
}

fn tell(state: &[NotifyState<'_>], sockets: &[std::os::fd::BorrowedFd<'_>]) {
    if let Err(error) = sd_notify::notify_with_fds(state, sockets) {
        tracing::warn!(%error, "the service manager does not keep the listening sockets");
    }
}
