//! Says when the files of the configuration may have changed.
//!
//! Watched are folders, not files: an editor writes a new file and renames it, and a ConfigMap is a link that is changed to
//! point elsewhere. Of what happens in them only the names matter that lead to a file of the configuration: a log that is
//! written beside it would otherwise keep the folder from ever being at rest.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::files::{is_pattern, matches};

/// Links that are followed on the way to a file.
const MOST_LINKS: u32 = 200;

/// Watches the folders of some files.
pub(crate) struct Watch {
    settle: Rc<Cell<Duration>>,
    settled: Rc<Notify>,
    waiting: AbortHandle,
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    names: Arc<Mutex<Names>>,
}

/// What matters of what happens in the folders.
#[derive(Default)]
struct Names {
    /// Files, the links on the way to them, and the folders themselves.
    paths: BTreeSet<PathBuf>,
    /// Looks into a folder, like `conf.d/*.yaml`.
    patterns: Vec<PathBuf>,
}

impl Names {
    fn matter(&self, event: &notify::Event) -> bool {
        let is_one = |path: &PathBuf| {
            let fits = |pattern: &PathBuf| {
                let name = |path: &Path| path.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
                path.parent() == pattern.parent() && matches(&name(pattern), &name(path))
            };
            self.paths.contains(path) || self.patterns.iter().any(fits)
        };
        // An event without a path says that events were lost.
        event.paths.is_empty() || event.paths.iter().any(is_one)
    }
}

/// The links on the way to `file`, and the file in the end: each as a name in its folder.
fn steps(file: &Path) -> BTreeSet<PathBuf> {
    let mut steps = BTreeSet::from([file.to_path_buf()]);
    let (mut done, mut left) = (PathBuf::new(), file.to_path_buf());
    for _ in 0..MOST_LINKS {
        let mut parts = left.components();
        let Some(part) = parts.next() else { break };
        let rest = parts.as_path().to_path_buf();
        done.push(part);
        match std::fs::read_link(&done) {
            Ok(target) => {
                steps.insert(done.clone());
                done.pop();
                left = target.join(rest);
            }
            Err(_) => left = rest,
        }
    }
    steps.insert(done);
    steps
}

impl Watch {
    /// Watches nothing yet. Where the system has no room for a watch, that is said once; reload by hand still works.
    pub(crate) fn new(settle: Duration) -> Self {
        let changed = Arc::new(Notify::new());
        let tell = Arc::clone(&changed);
        let names: Arc<Mutex<Names>> = Arc::default();
        let known = Arc::clone(&names);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = event.as_ref().map_or(true, |event| {
                // Our own reading is no change.
                !event.kind.is_access() && known.lock().unwrap_or_else(PoisonError::into_inner).matter(event)
            });
            if matters {
                tell.notify_one();
            }
        });
        let watcher = watcher.map_err(|error| tracing::warn!(%error, "the configuration cannot be watched"));
        let (settle, settled) = (Rc::new(Cell::new(settle)), Rc::new(Notify::new()));
        // A task of its own: whoever waits for it may stop waiting and come back, and nothing is missed.
        let waiting = tokio::task::spawn_local(wait(changed, Rc::clone(&settle), Rc::clone(&settled))).abort_handle();
        Self { settle, settled, waiting, watcher: watcher.ok(), folders: BTreeSet::new(), names }
    }

    /// How long the files must be at rest from now on.
    pub(crate) fn set_settle(&self, settle: Duration) {
        self.settle.set(settle);
    }

    /// Watches the folders of `files` (which may be patterns) and of what they link to, and no others.
    pub(crate) fn follow<'a>(&mut self, files: impl IntoIterator<Item = &'a PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut names = Names::default();
        for file in files {
            // One folder has one name.
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            if is_pattern(&file) {
                // By the name that the folder really has as well: it is watched once, and its events bear one name.
                let real = file.parent().and_then(|folder| folder.canonicalize().ok());
                names.patterns.extend(real.zip(file.file_name()).map(|(folder, name)| folder.join(name)));
                names.patterns.push(file);
            } else {
                names.paths.extend(steps(&file));
            }
        }
        let of = names.paths.iter().chain(&names.patterns).filter_map(|path| Some(path.parent()?.to_path_buf()));
        let wanted: BTreeSet<PathBuf> = of.collect();
        names.paths.extend(wanted.iter().cloned());
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_what_leads_to_the_configuration_matters() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("..1")).unwrap();
        std::fs::write(at("..1/f.yaml"), "").unwrap();
        symlink("..1", at("..data")).unwrap();
        symlink("..data/f.yaml", at("f.yaml")).unwrap();
        let paths = steps(&at("f.yaml"));
        for name in ["f.yaml", "..data", "..1/f.yaml"] {
            assert!(paths.contains(&at(name)), "{name}: {paths:?}");
        }
        let names = Names { paths, patterns: vec![at("conf.d/*.yaml")] };
        let matters = |name: &str| names.matter(&notify::Event::default().add_path(at(name)));
        assert!(matters("f.yaml") && matters("..data") && matters("..1/f.yaml") && matters("conf.d/a.yaml"));
        assert!(!matters("sessions.log") && !matters("conf.d/a.log") && !matters("a.yaml"));
        assert!(names.matter(&notify::Event::default()));
        // A circle has an end.
        symlink("loop", at("loop")).unwrap();
        assert!(steps(&at("loop")).contains(&at("loop")));
    }
}
