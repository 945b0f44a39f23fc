//! The secrets of sessions, for one who records them and must read them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::subject::hex;

/// Why secrets cannot be written to a file.
#[derive(Debug, thiserror::Error)]
pub enum KeyLogFault {
    /// It cannot be opened.
    #[error("cannot write secrets to `{0}`: {1}: mend the path, or let the user that floodway runs as write it")]
    Open(PathBuf, std::io::Error),
    /// Others than its owner may read it.
    #[error("`{0}` can be read by others than its owner, and secrets are to be written to it: `chmod 600` it")]
    Public(PathBuf),
}

/// A file that the secrets of sessions are appended to, a line each, in the format of NSS (`SSLKEYLOGFILE`), as Wireshark reads
/// it. Whoever has it can read those sessions.
#[derive(Debug)]
pub struct KeyLogFile {
    file: Mutex<File>,
    /// Written by whoever could not write a line, read by who asks; orders nothing.
    lost: AtomicU64,
}

impl KeyLogFile {
    /// Opens `path`, which only its owner may read; makes it if it is missing.
    ///
    /// # Errors
    /// If it cannot be opened, or others may read it.
    pub fn open(path: &Path) -> Result<Self, KeyLogFault> {
        let fault = |e| KeyLogFault::Open(path.to_owned(), e);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(fault)?;
        let metadata = file.metadata().map_err(fault)?;
        if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
            return Err(KeyLogFault::Public(path.to_owned()));
        }
        Ok(Self { file: Mutex::new(file), lost: AtomicU64::new(0) })
    }

    /// How many lines could not be written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl rustls::KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.write_all(line.as_bytes()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::KeyLog;

    use super::*;

    #[test]
    fn lines_are_appended_to_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        KeyLogFile::open(&path).unwrap().log("CLIENT_RANDOM", &[1, 2], &[0xab]);
        KeyLogFile::open(&path).unwrap().log("EXPORTER_SECRET", &[3], &[4]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "CLIENT_RANDOM 0102 ab\nEXPORTER_SECRET 03 04\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(KeyLogFile::open(&path), Err(KeyLogFault::Public(_))));
        assert!(matches!(KeyLogFile::open(&dir.path().join("none/keys")), Err(KeyLogFault::Open(..))));
    }

    #[test]
    fn a_full_disk_costs_lines_only() {
        let log = KeyLogFile::open(Path::new("/dev/full")).unwrap();
        log.log("CLIENT_RANDOM", &[1], &[2]);
        assert_eq!(log.lost(), 1);
    }
}
