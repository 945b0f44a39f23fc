//! Pictures of what algorithms do, from the simulator: docs/balancing.md shows them.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use floodway_balance::Algorithm;
use floodway_sim::{Outcome, Scenario, run as simulate, ten_servers};

#[derive(clap::Args, Debug)]
pub(crate) struct SimulateArgs {
    /// Where the pictures go
    #[arg(long, default_value = "docs/pictures")]
    out: PathBuf,
    /// Another course of events
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const SHOWN: [Algorithm; 6] = [
    Algorithm::RoundRobin,
    Algorithm::Random,
    Algorithm::LeastConn,
    Algorithm::P2c,
    Algorithm::PeakEwma,
    Algorithm::Maglev { slots: 65_537 },
];
const COLOURS: [&str; 6] = ["#0b7285", "#868e96", "#e8590c", "#5f3dc4", "#2b8a3e", "#c2255c"];

pub(crate) fn run(args: &SimulateArgs) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.out)?;
    let all = |change: &dyn Fn(&mut Scenario)| -> Vec<Outcome> {
        let one = |algorithm| {
            let mut scenario = ten_servers(algorithm, 0.6);
            change(&mut scenario);
            simulate(&scenario, args.seed)
        };
        SHOWN.into_iter().map(one).collect()
    };
    let even = all(&|_| {});
    let slow = all(&|s| s.servers[3].service *= 10);
    let fast_fail = all(&|s| {
        s.servers[3].refuses = Some((Duration::from_secs(5), Duration::from_secs(15)));
        s.ejects = true;
    });
    let recovery = all(&|s| {
        s.servers[3].down = Some((Duration::from_secs(3), Duration::from_secs(6)));
        s.slow_start = Some(Duration::from_secs(10));
    });
    println!(
        "| algorithm | p50, ms | p99 | p99.9 | with one slow server: p99 | p99.9 | share of the slow one | refused connects |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (i, algorithm) in SHOWN.iter().enumerate() {
        let share = slow[i].share(3, Duration::from_secs(2), Duration::from_secs(20));
        println!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {:.1} % | {} |",
            algorithm.as_str(),
            even[i].quantile(0.5),
            even[i].quantile(0.99),
            even[i].quantile(0.999),
            slow[i].quantile(0.99),
            slow[i].quantile(0.999),
            share * 100.0,
            fast_fail[i].refused
        );
    }
    let picture = |outcomes: &[Outcome], title: &str| lines(outcomes, title);
    std::fs::write(
        args.out.join("slow.svg"),
        picture(&slow, "Share of the sessions that a server has that is ten times slower"),
    )?;
    std::fs::write(
        args.out.join("recovery.svg"),
        picture(&recovery, "Share of a server that is down from 3 to 6 s, slow_start: 10s"),
    )?;
    std::fs::write(
        args.out.join("ejection.svg"),
        picture(&fast_fail, "Share of a server that refuses from 5 to 15 s: ejection after 5 in a row"),
    )?;
    Ok(())
}

/// The share of endpoint 3 over time, half a second each, a line an algorithm.
fn lines(outcomes: &[Outcome], title: &str) -> String {
    let (width, height, left, top) = (640.0, 240.0, 50.0, 40.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"820\" height=\"330\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    for percent in [0, 5, 10, 15] {
        let y = top + height - f64::from(percent) / 15.0 * height;
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" x2=\"{0}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#dee2e6\"/><text x=\"12\" y=\"{1}\">{percent} %</text>",
            left + width,
            y + 4.0
        );
    }
    for second in [0, 5, 10, 15, 20] {
        let x = left + f64::from(second) / 20.0 * width;
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>", top + height + 18.0);
    }
    for (i, outcome) in outcomes.iter().enumerate() {
        let point = |half: u64| {
            let from = Duration::from_millis(half * 500);
            let share = outcome.share(3, from, from + Duration::from_millis(500)) * 100.0;
            let x = left + (half as f64 + 0.5) / 40.0 * width;
            format!("{x:.0},{:.1}", top + height - share.min(16.0) / 15.0 * height)
        };
        let points: Vec<String> = (0..40).map(point).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{0}\" stroke-width=\"1.5\" points=\"{1}\"/>\n<text x=\"700\" y=\"{2}\" fill=\"{0}\">{3}</text>",
            COLOURS[i],
            points.join(" "),
            top + 16.0 * (i as f64 + 1.0),
            SHOWN[i].as_str()
        );
    }
    out + "</svg>\n"
}
