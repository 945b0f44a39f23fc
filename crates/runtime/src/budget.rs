//! How many sessions the limit of open files carries.

/// Most pipes for splice; a user who is not root gets 256 of full size from the kernel.
const MOST_PIPES: u64 = 192;
/// Standard streams, log files, timers, signals, the metrics listener and sixteen scrapes, and some to spare.
const PROCESS: u64 = 48;
/// Event loop and wake-up of a worker, and some to spare.
const WORKER: u64 = 6;
/// Files of checks: at least so many, and a twentieth of the open files.
const LEAST_PROBES: u64 = 128;

/// How the process divides the files that it may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Sessions: two files each.
    pub sessions: u32,
    /// Pipes for splice: two files each.
    pub pipes: u32,
    /// Files that checks may have open: two each.
    pub probes: u32,
}

impl Budget {
    /// Divides `open_files` between the sockets of `workers` workers on `listening` sockets in all, checks of `checked`
    /// endpoints, pipes, and sessions. No sessions at all if there is not enough.
    #[must_use]
    pub fn new(open_files: u64, workers: u64, listening: u64, checked: u64) -> Self {
        let probes = (checked * 2).min(LEAST_PROBES.max(open_files / 20));
        let left = open_files.saturating_sub(PROCESS + WORKER * workers + listening + probes);
        let pipes = (left / 16).min(MOST_PIPES);
        let sessions = (left - 2 * pipes) / 2;
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self { sessions: small(sessions), pipes: small(pipes), probes: small(probes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_promised_twice() {
        for (files, workers, listening, checked) in
            [(512, 2, 2, 3), (1024, 4, 8, 0), (20_000, 2, 2, 1000), (100, 1, 1, 1)]
        {
            let b = Budget::new(files, workers, listening, checked);
            let all = u64::from(b.sessions) * 2 + u64::from(b.pipes) * 2 + u64::from(b.probes);
            assert!(all + PROCESS + WORKER * workers + listening <= files, "{b:?} of {files}");
        }
        assert_eq!(Budget::new(20, 1, 1, 1), Budget { sessions: 0, pipes: 0, probes: 2 });
        assert_eq!(Budget::new(20_000, 2, 2, 0).pipes, 192);
        assert!(Budget::new(512, 4, 4, 3).sessions > 150);
    }
}
