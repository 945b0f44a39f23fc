//! Medians and spread, as a table for people, JSON for machines, and a picture.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::measure::{Sample, median};
use crate::proxies::Proxy;

/// What was measured, by scenario and proxy.
pub(crate) struct Report {
    proxies: Vec<(&'static str, String)>,
    scenarios: Vec<(&'static str, &'static str)>,
    samples: BTreeMap<(&'static str, &'static str), Vec<Sample>>,
    about: Value,
}

/// One figure of a scenario.
struct Figure {
    name: &'static str,
    /// Whether less is better.
    less: bool,
    of: fn(&Sample) -> Option<f64>,
}

const FIGURES: [Figure; 5] = [
    Figure { name: "CPU, µs", less: true, of: |s| s.session_bytes.is_none().then(|| s.cpu_us()) },
    Figure { name: "rate, /s", less: false, of: |s| s.session_bytes.is_none().then(|| s.rate()) },
    Figure { name: "p99, µs", less: true, of: |s| s.quantile(0.99) },
    Figure { name: "p99.9, µs", less: true, of: |s| s.quantile(0.999) },
    Figure { name: "memory, bytes", less: true, of: |s| s.session_bytes },
];

/// The middle of `values`, and half their spread as a share of it.
fn spread(values: Vec<f64>) -> (f64, f64) {
    let (least, most) = values.iter().fold((f64::MAX, 0.0f64), |(l, m), &v| (l.min(v), m.max(v)));
    let middle = median(values);
    (middle, if middle > 0.0 { (most - least) / 2.0 / middle } else { 0.0 })
}

/// What is said of a line that must hold.
pub(crate) fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "**missed**" }
}

impl Report {
    pub(crate) fn new(proxies: &[&Proxy], endpoints: usize, rounds: usize, length: Duration) -> Self {
        let machine = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            machine.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':')).map_or("", |(_, m)| m.trim());
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Self {
            proxies: proxies.iter().map(|p| (p.name, p.version.clone())).collect(),
            scenarios: Vec::new(),
            samples: BTreeMap::new(),
            about: json!({ "cpu": model, "cores": cores, "kernel": kernel.trim(), "endpoints": endpoints, "rounds": rounds, "seconds_a_run": length.as_secs_f64() }),
        }
    }

    /// `operation` is what the sample's CPU is for.
    pub(crate) fn add(&mut self, scenario: &'static str, operation: &'static str, proxy: &Proxy, sample: Sample) {
        if !self.scenarios.iter().any(|(name, _)| *name == scenario) {
            self.scenarios.push((scenario, operation));
        }
        self.samples.entry((scenario, proxy.name)).or_default().push(sample);
    }

    /// As [`Report::add`], of a proxy that the report may not know yet.
    pub(crate) fn add_with_proxy(
        &mut self,
        scenario: &'static str,
        operation: &'static str,
        proxy: &Proxy,
        sample: Sample,
    ) {
        if !self.proxies.iter().any(|(name, _)| *name == proxy.name) {
            self.proxies.push((proxy.name, proxy.version.clone()));
        }
        self.add(scenario, operation, proxy, sample);
    }

    /// Floodway's rate over that of the better peer.
    pub(crate) fn rate_ratio(&self, scenario: &'static str) -> Option<f64> {
        self.ratio(scenario, &FIGURES[1]).map(|(ratio, _)| ratio)
    }

    /// What failed with one proxy.
    pub(crate) fn failures_of(&self, scenario: &'static str, proxy: &'static str) -> u64 {
        self.samples.get(&(scenario, proxy)).into_iter().flatten().map(|sample| sample.failures).sum()
    }

    /// Floodway's CPU over that of the better peer.
    pub(crate) fn cpu_ratio(&self, scenario: &'static str) -> Option<f64> {
        self.ratio(scenario, &FIGURES[0]).map(|(ratio, _)| ratio)
    }

    fn values(&self, scenario: &'static str, proxy: &'static str, figure: &Figure) -> Vec<f64> {
        self.samples.get(&(scenario, proxy)).into_iter().flatten().filter_map(figure.of).collect()
    }

    /// Median of a figure, and half its spread as a share of it.
    fn figure(&self, scenario: &'static str, proxy: &'static str, figure: &Figure) -> Option<(f64, f64)> {
        let values = self.values(scenario, proxy, figure);
        (!values.is_empty()).then(|| spread(values))
    }

    /// Floodway's figure over a peer's, round by round, and the median of that: what the machine does from one minute to
    /// the next meets both. Of the peers, the better one. With half the spread.
    fn ratio(&self, scenario: &'static str, figure: &Figure) -> Option<(f64, f64)> {
        let peers = self.peers().filter_map(|peer| self.ratio_to(scenario, figure, peer));
        peers.reduce(|a, b| if (a.0 >= b.0) == figure.less { a } else { b })
    }

    fn ratio_to(&self, scenario: &'static str, figure: &Figure, peer: &'static str) -> Option<(f64, f64)> {
        let ours = self.values(scenario, "floodway", figure);
        let theirs = self.values(scenario, peer, figure);
        let ratios: Vec<f64> = ours.iter().zip(theirs).filter(|(_, t)| *t > 0.0).map(|(o, t)| o / t).collect();
        (!ratios.is_empty()).then(|| spread(ratios))
    }

    /// Floodway's CPU over that of `peer`, round by round.
    pub(crate) fn cpu_ratio_to(&self, scenario: &'static str, peer: &'static str) -> Option<f64> {
        self.ratio_to(scenario, &FIGURES[0], peer).map(|(ratio, _)| ratio)
    }

    /// Floodway's p99 over that of `peer`, round by round.
    pub(crate) fn p99_ratio_to(&self, scenario: &'static str, peer: &'static str) -> Option<f64> {
        self.ratio_to(scenario, &FIGURES[2], peer).map(|(ratio, _)| ratio)
    }

    /// What failed, with any proxy.
    pub(crate) fn failures(&self) -> u64 {
        self.samples.values().flatten().map(|sample| sample.failures).sum()
    }

    fn peers(&self) -> impl Iterator<Item = &'static str> {
        self.proxies.iter().map(|(name, _)| *name).filter(|name| *name != "floodway")
    }

    pub(crate) fn table(&self) -> String {
        let mut out = String::from("| scenario | figure |");
        self.proxies.iter().for_each(|(name, _)| out.push_str(&format!(" {name} |")));
        out.push_str(" ratio to the better peer |\n|---|---|");
        self.proxies.iter().for_each(|_| out.push_str("---|"));
        out.push_str("---|\n");
        for &(scenario, operation) in &self.scenarios {
            for figure in &FIGURES {
                if self.proxies.iter().all(|(proxy, _)| self.values(scenario, proxy, figure).is_empty()) {
                    continue;
                }
                let _ = write!(
                    out,
                    "| {scenario} | {} |",
                    if figure.name.starts_with("CPU") {
                        format!("CPU, µs a {operation}")
                    } else {
                        figure.name.to_owned()
                    }
                );
                for (proxy, _) in &self.proxies {
                    let shown = self.figure(scenario, proxy, figure).map_or(String::new(), |(v, s)| {
                        format!("{v:.*} ±{:.0} %", if v < 100.0 { 2 } else { 0 }, 100.0 * s)
                    });
                    let _ = write!(out, " {shown} |");
                }
                let ratio = self.ratio(scenario, figure).map_or(String::new(), |(ratio, either_way)| {
                    let is_better = (ratio <= 1.0) == figure.less || (ratio - 1.0).abs() < 0.005;
                    format!("{}{ratio:.2} ±{:.0} %", if is_better { "" } else { "**worse** " }, 100.0 * either_way)
                });
                let _ = writeln!(out, " {ratio} |");
            }
        }
        let _ = writeln!(
            out,
            "\n{} failures in all. {}",
            self.failures(),
            self.proxies.iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>().join(" · ")
        );
        out
    }

    /// Writes a table in Markdown, JSON and a picture into `folder`; `more` follows the table.
    pub(crate) fn write(&self, folder: &Path, name: &str, more: &str) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut results = Vec::new();
        for &(scenario, operation) in &self.scenarios {
            for figure in &FIGURES {
                let values: serde_json::Map<_, _> = self
                    .proxies
                    .iter()
                    .map(|(p, _)| ((*p).to_owned(), json!(self.values(scenario, p, figure))))
                    .collect();
                if let Some((ratio, spread)) = self.ratio(scenario, figure) {
                    results.push(json!({ "scenario": scenario, "operation": operation, "figure": figure.name, "less_is_better": figure.less, "ratio": ratio, "ratio_spread": spread, "values": values }));
                }
            }
        }
        let versions: serde_json::Map<_, _> = self.proxies.iter().map(|(p, v)| ((*p).to_owned(), json!(v))).collect();
        let all = json!({ "machine": self.about, "versions": versions, "results": results });
        std::fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(&all)? + "\n")?;
        std::fs::write(folder.join(format!("{name}.md")), self.table() + more)?;
        std::fs::write(folder.join(format!("{name}.svg")), self.picture())?;
        Ok(())
    }

    /// Bars of CPU for an operation, the better peer's as 1.
    fn picture(&self) -> String {
        const COLOURS: [&str; 3] = ["#0b7285", "#adb5bd", "#ced4da"];
        let (row, left, unit) = (58, 230, 300.0);
        let figure = &FIGURES[0];
        let shown: Vec<_> = self.scenarios.iter().filter(|(s, _)| self.ratio(s, figure).is_some()).collect();
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" font-size=\"14\">CPU of the proxy for an operation; the better peer is 1, less is better</text>\n",
            50 + row * shown.len()
        );
        for (i, (scenario, _)) in shown.iter().enumerate() {
            let top = 40 + i * row;
            let _ = writeln!(out, "<text x=\"10\" y=\"{}\">{scenario}</text>", top + 24);
            let best =
                self.peers().filter_map(|p| self.figure(scenario, p, figure)).map(|(v, _)| v).fold(f64::MAX, f64::min);
            for (j, (proxy, _)) in self.proxies.iter().enumerate() {
                let Some((value, _)) = self.figure(scenario, proxy, figure) else { continue };
                let (y, width) = (top + j * 15, (value / best * unit).min(unit * 1.5));
                let _ = writeln!(
                    out,
                    "<rect x=\"{left}\" y=\"{y}\" width=\"{width:.0}\" height=\"13\" fill=\"{}\"/><text x=\"{:.0}\" y=\"{}\">{proxy} {:.2}</text>",
                    COLOURS[j % 3],
                    f64::from(left) + width + 6.0,
                    y + 11,
                    value / best
                );
            }
        }
        let _ = writeln!(
            out,
            "<line x1=\"{0:.0}\" x2=\"{0:.0}\" y1=\"34\" y2=\"{1}\" stroke=\"#e8590c\"/>\n</svg>",
            f64::from(left) + unit,
            40 + row * shown.len()
        );
        out
    }
}
