//! What a proxy costs: CPU and memory of its processes; and what its clients saw.

use std::fmt;
use std::time::Duration;

/// What one run gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Connections, round trips or gigabytes; sessions for memory.
    pub(crate) operations: f64,
    pub(crate) seconds: f64,
    /// CPU of the proxy, user and system.
    pub(crate) cpu: Duration,
    /// Sorted, in microseconds.
    pub(crate) latencies: Vec<u32>,
    /// Bytes of memory of the proxy for each session; only where idle sessions are held.
    pub(crate) session_bytes: Option<f64>,
    pub(crate) failures: u64,
}

impl Sample {
    /// CPU of the proxy for an operation, in microseconds (for bulk: for a gigabyte).
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.operations.max(1e-9)
    }

    pub(crate) fn rate(&self) -> f64 {
        self.operations / self.seconds.max(1e-9)
    }

    /// A quantile of the latencies in microseconds, 0 ≤ q < 1.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let at = (self.latencies.len() as f64 * q) as usize;
        self.latencies.get(at).map(|&us| f64::from(us))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(bytes) = self.session_bytes {
            return write!(f, "{bytes:8.0} bytes a session");
        }
        write!(f, "{:10.2} µs CPU  {:9.1} /s", self.cpu_us(), self.rate())?;
        if let (Some(p50), Some(p99), Some(p999)) = (self.quantile(0.5), self.quantile(0.99), self.quantile(0.999)) {
            write!(f, "  p50 {p50:6.0}  p99 {p99:6.0}  p99.9 {p999:6.0} µs")?;
        }
        if self.failures > 0 { write!(f, "  {} FAILED", self.failures) } else { Ok(()) }
    }
}

/// The middle of `values`; 0 for none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// What something costs beside the same without it.
pub(crate) struct Pair {
    pub(crate) without: f64,
    pub(crate) with: f64,
    /// The median of the ratios of each round: what the machine does meanwhile meets both.
    pub(crate) ratio: f64,
}

/// CPU for an operation without something (0) and with it (1), in so many rounds.
pub(crate) fn paired(
    rounds: usize,
    name: &str,
    mut run: impl FnMut(usize) -> anyhow::Result<Sample>,
) -> anyhow::Result<Pair> {
    let mut samples: Vec<[Sample; 2]> = Vec::new();
    for round in 0..rounds {
        let mut pair = [Sample::default(), Sample::default()];
        // The other one begins each time.
        for i in [round % 2, 1 - round % 2] {
            pair[i] = run(i)?;
            eprintln!("round {}/{rounds}  {:<36} {}", round + 1, if i == 0 { "plain" } else { name }, pair[i]);
        }
        samples.push(pair);
    }
    let of = |i: usize| median(samples.iter().map(|pair| pair[i].cpu_us()).collect());
    let ratio = median(samples.iter().map(|[without, with]| with.cpu_us() / without.cpu_us()).collect());
    Ok(Pair { without: of(0), with: of(1), ratio })
}

/// `pid` and everything that it started.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let child: u32 = e.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(e.path().join("stat")).ok()?;
            Some((child, stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?))
        })
        .collect();
    let mut i = 0;
    while i < all.len() {
        let of = all[i];
        all.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(child, _)| *child));
        i += 1;
    }
    all
}

/// CPU time of all threads of a process tree, to the nanosecond (`schedstat`, as the scheduler counts it).
pub(crate) fn cpu(pid: u32) -> Duration {
    let of_thread = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    let of_process = |pid: u32| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads.filter_map(|t| of_thread(t.path())).sum::<u64>()
    };
    Duration::from_nanos(tree(pid).into_iter().map(of_process).sum())
}

/// Memory of a process tree in bytes, shared pages divided among those who share them (PSS).
pub(crate) fn pss(pid: u32) -> f64 {
    let of = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find(|l| l.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    tree(pid).into_iter().filter_map(of).sum::<f64>() * 1024.0
}
