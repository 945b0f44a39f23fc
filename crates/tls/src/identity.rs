//! Who are we now? A pair that may be replaced while it serves.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::pair::{Contents, Pair, PairFault, PairFiles};

/// For how long after a change a file may change again without a sign: clocks of file systems tick coarsely.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// One entry of `certificates`: the pair in force.
#[derive(Debug)]
pub struct Identity {
    name: Box<str>,
    files: PairFiles,
    /// Written by `reload`, read by every handshake.
    pair: ArcSwap<Pair>,
    /// How the files looked when `pair` was read. Held while they are read again, so that no older pair replaces a newer.
    seen: Mutex<Option<Seen>>,
}

impl Identity {
    /// Reads `files`. The certificate must be valid at `now`, which is since the Unix epoch.
    ///
    /// # Errors
    /// What is wrong with them first.
    pub fn load(name: &str, files: PairFiles, now: Duration) -> Result<Arc<Self>, PairFault> {
        Self::read(name, files, now, Some(now))
    }

    /// As [`Identity::load`], whether the certificate is valid at `now` or not: where there is no other, clients may know what
    /// to do with it.
    ///
    /// # Errors
    /// What else is wrong with them first.
    pub fn load_untimely(name: &str, files: PairFiles, now: Duration) -> Result<Arc<Self>, PairFault> {
        Self::read(name, files, now, None)
    }

    fn read(name: &str, files: PairFiles, now: Duration, valid: Option<Duration>) -> Result<Arc<Self>, PairFault> {
        let seen = Seen::of(&files, now);
        let pair = Pair::of(&Contents::read(&files)?, &files, valid)?;
        Ok(Arc::new(Self { name: name.into(), files, pair: ArcSwap::from_pointee(pair), seen: Mutex::new(seen) }))
    }

    /// Reads the files again if they changed. True if another pair is in force now: tell the acceptors
    /// ([`Acceptor::refresh`](crate::Acceptor::refresh)).
    ///
    /// # Errors
    /// What is wrong with the files. The pair in force stays, and the next call reads them again.
    pub fn reload(&self, now: Duration) -> Result<bool, PairFault> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = Seen::of(&self.files, now);
        if seen.as_ref().zip(looks.as_ref()).is_some_and(|(then, now)| then.is_settled && then.files == now.files) {
            return Ok(false);
        }
        let contents = Contents::read(&self.files)?;
        let is_same = contents.digest() == *self.pair.load().contents();
        if !is_same {
            self.pair.store(Arc::new(Pair::of(&contents, &self.files, Some(now))?));
        }
        *seen = looks;
        Ok(!is_same)
    }

    /// What the configuration calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pair in force.
    #[must_use]
    pub fn pair(&self) -> Arc<Pair> {
        self.pair.load_full()
    }

    /// Where it is read from.
    #[must_use]
    pub fn files(&self) -> &PairFiles {
        &self.files
    }

    /// The pair in force, for as long as a handshake looks at it.
    pub(crate) fn borrow(&self) -> arc_swap::Guard<Arc<Pair>> {
        self.pair.load()
    }
}

/// How the files look from outside. Taken before they are read: what changes in between is seen the next time.
#[derive(Debug)]
struct Seen {
    files: Vec<Look>,
    /// None of them changed so lately that it may have changed again since.
    is_settled: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    length: u64,
    /// When anything about it changed: unlike the time of its contents, nobody can set it back.
    changed: Duration,
}

impl Seen {
    /// `None` if one cannot be looked at.
    fn of(files: &PairFiles, now: Duration) -> Option<Self> {
        let paths: [Option<&PathBuf>; 3] = [Some(&files.certificate), Some(&files.key), files.staple.as_ref()];
        let files: Vec<Look> = paths
            .into_iter()
            .flatten()
            .map(|p| std::fs::metadata(p).map(|m| Look::of(&m)))
            .collect::<Result<_, _>>()
            .ok()?;
        let is_settled = files.iter().all(|f| f.changed.saturating_add(SETTLED_AFTER) < now);
        Some(Self { files, is_settled })
    }
}

impl Look {
    fn of(metadata: &Metadata) -> Self {
        let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
        let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed: Duration::new(seconds, nanoseconds),
        }
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
