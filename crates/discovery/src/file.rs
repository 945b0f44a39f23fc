//! A list in a file.

use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use floodway_judge::{Answer, Member};

use crate::list;

/// Between two looks at the file.
const LOOK: Duration = Duration::from_millis(50);
/// Looks at which it must be as it was before it is read, so that no half-written list is taken: of one that took the place of
/// another, as a rule by a rename, and of one that is being written where it stands.
const LOOKS_REPLACED: u32 = 1;
const LOOKS_WRITTEN: u32 = 10;

/// Reads a file, and watches it.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    look: Duration,
    /// Of the last answer.
    seen: Seen,
    /// Of what was read for the last answer that had members.
    hash: Option<u64>,
}

/// What a file looks like from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    Never,
    Gone,
    At(Look),
}

/// Other than before if the file, or that which a link leads to, is another or has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl File {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), look: LOOK, seen: Seen::Never, hash: None }
    }

    /// Reads the file; with `watch`, when it has changed since the last answer and is at rest.
    pub(crate) async fn ask(&mut self, watch: bool) -> Answer {
        if !watch {
            return self.read().await.0;
        }
        let (mut last, mut at_rest) = (self.seen, 0);
        loop {
            tokio::time::sleep(self.look).await;
            let seen = match tokio::fs::metadata(&self.path).await {
                Ok(metadata) => Seen::At(Look::of(&metadata)),
                Err(_) if self.seen == Seen::Gone => Seen::Gone,
                Err(e) => {
                    (self.seen, self.hash) = (Seen::Gone, None);
                    return unreadable(&e);
                }
            };
            at_rest = if std::mem::replace(&mut last, seen) == seen { at_rest + 1 } else { 0 };
            let is_replaced = match (seen, self.seen) {
                (Seen::At(now), Seen::At(before)) => now.file != before.file,
                _ => false,
            };
            let enough = if is_replaced { LOOKS_REPLACED } else { LOOKS_WRITTEN };
            if at_rest >= enough && seen != self.seen {
                let (answer, is_new) = self.read().await;
                if is_new {
                    return answer;
                }
            }
        }
    }

    /// An answer, and whether it is another than the last one.
    async fn read(&mut self) -> (Answer, bool) {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let (seen, content) = read.unwrap_or_else(|e| (Seen::Never, Err(unreadable(&io::Error::other(e)))));
        self.seen = seen;
        match content {
            Ok((hash, members)) => {
                let is_new = self.hash.replace(hash) != Some(hash);
                (Answer::Members { members, valid: Duration::ZERO }, is_new)
            }
            Err(answer) => {
                self.hash = None;
                (answer, true)
            }
        }
    }
}

fn read(path: &Path) -> (Seen, Result<(u64, Vec<Member>), Answer>) {
    // Looked at first: a pipe would wait for somebody to write, and a change while it is read must be seen later.
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) => return (Seen::Gone, Err(unreadable(&e))),
    };
    let content = if metadata.is_file() { content(path) } else { Err(io::Error::other("it is no regular file")) };
    let bytes = match content {
        Ok(bytes) => bytes,
        Err(e) => return (Seen::At(Look::of(&metadata)), Err(unreadable(&e))),
    };
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let members = match list::members(&bytes) {
        Ok(members) if members.is_empty() => Err(Answer::Nothing { why: "the list is empty".into() }),
        Ok(members) => Ok((hasher.finish(), members)),
        Err(why) => Err(Answer::Failed { why }),
    };
    (Seen::At(Look::of(&metadata)), members)
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(list::MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > list::MOST_BYTES {
        return Err(io::Error::other(format!("it is longer than {} MiB", list::MOST_BYTES >> 20)));
    }
    Ok(bytes)
}

fn unreadable(error: &io::Error) -> Answer {
    Answer::Failed { why: format!("cannot be read: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// Shorter than in earnest.
    const TICK: Duration = Duration::from_millis(20);

    fn file(folder: &TempDir) -> File {
        File { look: TICK, ..File::new(&folder.path().join("list")) }
    }

    fn write(folder: &TempDir, name: &str, text: &str) {
        fs::write(folder.path().join(name), text).unwrap();
    }

    fn of(addresses: &[&str]) -> Answer {
        let members = addresses.iter().map(|a| Member::at(a.parse().unwrap())).collect();
        Answer::Members { members, valid: Duration::ZERO }
    }

    fn failed(why: &str) -> Answer {
        Answer::Failed { why: why.into() }
    }

    /// What a watch answers after `act`, and that it does not answer before.
    async fn after(file: &mut File, act: impl FnOnce()) -> Answer {
        nothing(file).await;
        act();
        tokio::time::timeout(Duration::from_secs(10), file.ask(true)).await.expect("an answer")
    }

    async fn nothing(file: &mut File) {
        let answer = tokio::time::timeout(TICK * 8, file.ask(true)).await;
        assert!(answer.is_err(), "{answer:?}");
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let folder = TempDir::new().unwrap();
        let mut file = file(&folder);
        let missing = failed("cannot be read: No such file or directory (os error 2)");
        assert_eq!(file.ask(false).await, missing);
        assert_eq!(file.ask(false).await, missing);
        write(&folder, "list", "- 10.0.0.1:80\n");
        assert_eq!(file.ask(false).await, of(&["10.0.0.1:80"]));
        assert_eq!(file.ask(false).await, of(&["10.0.0.1:80"]));
        let list = folder.path().join("list");
        let answer = after(&mut file, || fs::write(&list, "- 10.0.0.1:80\n- db:80\n").unwrap()).await;
        assert_eq!(answer, failed("entry 2: `db:80` is no address: write an IP address and a port"));
        let answer = after(&mut file, || fs::write(&list, "# nobody\n").unwrap()).await;
        assert_eq!(answer, Answer::Nothing { why: "the list is empty".into() });
        fs::remove_file(&list).unwrap();
        fs::create_dir(&list).unwrap();
        assert_eq!(file.ask(false).await, failed("cannot be read: it is no regular file"));
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_is_read_again() {
        let folder = TempDir::new().unwrap();
        write(&folder, "list", "- 10.0.0.1:80\n");
        let mut file = file(&folder);
        assert_eq!(file.ask(false).await, of(&["10.0.0.1:80"]));
        let (new, list) = (folder.path().join("new"), folder.path().join("list"));
        let answer = after(&mut file, || {
            fs::write(&new, "- 10.0.0.2:80\n").unwrap();
            fs::rename(&new, &list).unwrap();
        });
        assert_eq!(answer.await, of(&["10.0.0.2:80"]));
        // Another file, but no other list.
        fs::write(&new, "- 10.0.0.2:80\n").unwrap();
        fs::rename(&new, &list).unwrap();
        nothing(&mut file).await;
    }

    #[tokio::test]
    async fn a_link_on_the_way_may_turn() {
        // As a ConfigMap is mounted: `list` leads through `..data` to the folder of the version in force.
        let folder = TempDir::new().unwrap();
        for (version, text) in [("v1", "- 10.0.0.1:80\n"), ("v2", "- 10.0.0.2:80\n")] {
            fs::create_dir(folder.path().join(version)).unwrap();
            write(&folder, &format!("{version}/list"), text);
        }
        let at = |name: &str| folder.path().join(name);
        symlink("v1", at("..data")).unwrap();
        symlink("..data/list", at("list")).unwrap();
        let mut file = file(&folder);
        assert_eq!(file.ask(false).await, of(&["10.0.0.1:80"]));
        let answer = after(&mut file, || {
            symlink("v2", at("..next")).unwrap();
            fs::rename(at("..next"), at("..data")).unwrap();
            fs::remove_dir_all(at("v1")).unwrap();
        });
        assert_eq!(answer.await, of(&["10.0.0.2:80"]));
    }

    #[tokio::test]
    async fn a_file_that_vanishes_may_come_back() {
        let folder = TempDir::new().unwrap();
        write(&folder, "list", "- 10.0.0.1:80\n");
        let mut file = file(&folder);
        assert_eq!(file.ask(false).await, of(&["10.0.0.1:80"]));
        let list = folder.path().join("list");
        let answer = after(&mut file, || fs::remove_file(&list).unwrap()).await;
        assert_eq!(answer, failed("cannot be read: No such file or directory (os error 2)"));
        let answer = after(&mut file, || fs::write(&list, "- 10.0.0.1:80\n").unwrap()).await;
        assert_eq!(answer, of(&["10.0.0.1:80"]));
    }

    #[tokio::test]
    async fn a_list_is_not_read_while_it_is_written() {
        let folder = TempDir::new().unwrap();
        write(&folder, "list", "- 10.0.0.1:80\n");
        // Longer looks: the writer must not seem to rest only because the machine is busy.
        let mut file = File { look: Duration::from_millis(250), ..file(&folder) };
        assert_eq!(file.ask(false).await, of(&["10.0.0.1:80"]));
        let path = folder.path().join("list");
        let writer = std::thread::spawn(move || {
            let mut file = fs::File::create(path).unwrap();
            for n in 1..=100 {
                writeln!(file, "- 10.0.1.{n}:80").unwrap();
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let Answer::Members { members, .. } = file.ask(true).await else { panic!("no members") };
        assert_eq!(members.len(), 100);
        writer.join().unwrap();
    }
}
