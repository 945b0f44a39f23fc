//! Says when the files of the configuration may have changed.
//!
//! Watched are folders, not files: an editor writes a new file and renames it, and a ConfigMap is a link that is changed to
//! point elsewhere. What changed in them is not asked: who reads the files anew sees whether it matters.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Watches the folders of some files.
pub(crate) struct Watch {
    settle: Rc<Cell<Duration>>,
    settled: Rc<Notify>,
    waiting: AbortHandle,
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
}

impl Watch {
    /// Watches nothing yet. Where the system has no room for a watch, that is said once; reload by hand still works.
    pub(crate) fn new(settle: Duration) -> Self {
        let changed = Arc::new(Notify::new());
        let tell = Arc::clone(&changed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is no change.
            if !matches!(event, Ok(notify::Event { kind: notify::EventKind::Access(_), .. })) {
                tell.notify_one();
            }
        });
        let watcher = watcher.map_err(|error| tracing::warn!(%error, "the configuration cannot be watched"));
        let (settle, settled) = (Rc::new(Cell::new(settle)), Rc::new(Notify::new()));
        // A task of its own: whoever waits for it may stop waiting and come back, and nothing is missed.
        let waiting = tokio::task::spawn_local(wait(changed, Rc::clone(&settle), Rc::clone(&settled))).abort_handle();
        Self { settle, settled, waiting, watcher: watcher.ok(), folders: BTreeSet::new() }
    }

    /// How long the files must be at rest from now on.
    pub(crate) fn set_settle(&self, settle: Duration) {
        self.settle.set(settle);
    }

    /// Watches the folders of `files` and of what they link to, and no others.
    pub(crate) fn follow<'a>(&mut self, files: impl IntoIterator<Item = &'a PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let folder =
            |path: &Path| path.parent().map(|p| if p.as_os_str().is_empty() { ".".into() } else { p.to_path_buf() });
        let mut wanted = BTreeSet::new();
        for file in files {
            wanted.extend(folder(file));
            wanted.extend(file.canonicalize().ok().and_then(|real| folder(&real)));
        }
        for gone in self.folders.difference(&wanted) {
            // A folder that is gone is not watched any more.
            let _ = watcher.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        for folder in wanted {
            if self.folders.contains(&folder) && folder.exists() {
                watched.insert(folder);
                continue;
            }
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(watched.insert(folder)),
                Err(error) => tracing::warn!(folder = %folder.display(), %error, "cannot watch a folder"),
            }
        }
        self.folders = watched;
    }

    /// Waits until something changed and then nothing for a while.
    pub(crate) async fn settled(&self) {
        self.settled.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

async fn wait(changed: Arc<Notify>, settle: Rc<Cell<Duration>>, settled: Rc<Notify>) {
    loop {
        changed.notified().await;
        while tokio::time::timeout(settle.get(), changed.notified()).await.is_ok() {}
        settled.notify_one();
    }
}
