//! The file system and the environment, as the configuration asks for them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use floodway_config::Files;

/// Largest file that is read, in bytes: as large as a configuration may be.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// The real thing; notes what was asked for.
#[derive(Default)]
pub(crate) struct RealFiles {
    /// Whether a pipe may be read to its end, which may be never.
    pub(crate) may_wait: bool,
    /// Every path that was read, and the pattern of every look into a folder.
    pub(crate) asked: RefCell<BTreeSet<PathBuf>>,
}

impl RealFiles {
    /// For a command that a person waits for: `-c <(…)` is a pipe.
    pub(crate) fn patient() -> Self {
        Self { may_wait: true, ..Self::default() }
    }

    fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        // Without waiting for whoever might open the other end of a pipe.
        let flags = if self.may_wait { 0 } else { libc::O_NONBLOCK };
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let about = file.metadata()?;
        if !self.may_wait && !about.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if about.len() > MOST_BYTES {
            return Err(io::Error::other(format!("it is larger than {} MiB", MOST_BYTES >> 20)));
        }
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Files for RealFiles {
    fn read(&self, path: &Path) -> Result<String, String> {
        self.asked.borrow_mut().insert(path.to_path_buf());
        let bytes = self.bytes(path).map_err(|error| reason(&error))?;
        String::from_utf8(bytes)
            .map_err(|error| format!("it is not UTF-8 text (byte {})", error.utf8_error().valid_up_to()))
    }

    fn matching(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        self.asked.borrow_mut().insert(pattern.to_path_buf());
        let folder = pattern.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|error| reason(&error))? {
            let entry = entry.map_err(|error| reason(&error))?;
            let file = entry.file_name();
            // As a shell: files whose name begins with a dot are not meant.
            if !file.as_encoded_bytes().starts_with(b".") && matches(name.as_bytes(), file.as_encoded_bytes()) {
                found.push(pattern.with_file_name(file));
            }
        }
        Ok(found)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or folder".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        std::io::ErrorKind::IsADirectory => "it is a folder".into(),
        _ => error.to_string(),
    }
}

/// Whether the name of `path` is a pattern.
pub(crate) fn is_pattern(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().any(|b| b"*?".contains(b)))
}

/// Whether `name` matches a pattern of `*` and `?`. Linear in each: on a mismatch only the last star gives way.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            n = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let m = |p: &str, n: &str| matches(p.as_bytes(), n.as_bytes());
        assert!(m("*.yaml", "a.yaml") && m("?.yaml", "a.yaml") && m("a*b*c", "axxbxbc") && m("*", "x") && m("x", "x"));
        assert!(!m("*.yaml", "a.yml") && !m("?.yaml", "ab.yaml") && !m("a*b", "acd") && !m("x", "xy"));
    }
}
