//! What the guards cost on this machine: time of a look-up, time to build, memory.
//!
//! `cargo run --release -p floodway-policy --example figures`

#![allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use floodway_policy::{
    Access, Ban, Bandwidth, Bans, Bucket, Held, Meter, Prefix, Rate, SharedBucket, SourceLimits, SourcePrefix,
    SourceRules, parse_list,
};

const MILLION: usize = 1_000_000;
const SEC: Duration = Duration::from_secs(1);

/// Numbers without a pattern (splitmix64), the same each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn v4(&mut self) -> Ipv4Addr {
        Ipv4Addr::from(self.next() as u32)
    }

    fn v6(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    /// IPv4 as in lists of who is unwanted: hosts, networks of 256, few larger.
    fn prefix_v4(&mut self) -> Prefix {
        let bits = self.one_of(&[32, 32, 32, 32, 32, 24, 24, 24, 22, 20]);
        Prefix::new(self.v4().into(), bits).expect("a length").trunc()
    }

    /// IPv6 as it is given out: few large blocks, in which customers have theirs, with most of the bits zero.
    fn prefix_v6(&mut self) -> Prefix {
        let block =
            self.one_of(&[0x2001_0000, 0x2400_0000, 0x2600_0000, 0x2800_0000, 0x2a00_0000, 0x2a02_0000, 0x2c0f_0000]);
        let network = block + self.below(1 << 12) as u32 * 8;
        let site = (u128::from(network) << 96) | (u128::from(self.below(1 << 10)) << 80);
        let host = site | (u128::from(self.below(1 << 8)) << 64) | u128::from(self.below(1 << 16));
        let bits = self.one_of(&[128, 128, 64, 64, 64, 64, 56, 48, 48, 40]);
        Prefix::new(Ipv6Addr::from(host).into(), bits).expect("a length").trunc()
    }

    /// An address within `prefix`.
    fn within(&mut self, prefix: &Prefix) -> IpAddr {
        match prefix {
            Prefix::V4(net) => {
                Ipv4Addr::from(u32::from(net.network()) | (self.next() as u32 & u32::from(net.hostmask()))).into()
            }
            Prefix::V6(net) => {
                Ipv6Addr::from(u128::from(net.network()) | (self.v6() & u128::from(net.hostmask()))).into()
            }
        }
    }
}

/// Nanoseconds of one `ask`, of which each begins after the one before: what it asks depends on the last answer.
fn one_after_the_other(addresses: &[IpAddr], ask: impl Fn(IpAddr) -> bool) -> f64 {
    let (start, mut at, times) = (Instant::now(), 0, 2 * addresses.len());
    for i in 0..times {
        at = (i + usize::from(ask(addresses[at]))) % addresses.len();
    }
    black_box(at);
    start.elapsed().as_secs_f64() * 1e9 / times as f64
}

fn each(name: &str, times: u64, mut what: impl FnMut(u64)) {
    let start = Instant::now();
    (0..times).for_each(&mut what);
    println!("{name:60} {:8.1} ns", start.elapsed().as_secs_f64() * 1e9 / times as f64);
}

/// Memory of the process, in bytes, as the kernel counts it.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn access() {
    println!("Access");
    let mut chance = Chance(1);
    let mut v4: Vec<Prefix> = (0..MILLION).map(|_| chance.prefix_v4()).collect();
    let mut v6: Vec<Prefix> = (0..MILLION).map(|_| chance.prefix_v6()).collect();
    for all in [&mut v4, &mut v6] {
        all.sort_unstable();
        all.dedup();
        while all.len() < MILLION {
            let more = if all[0].addr().is_ipv4() { chance.prefix_v4() } else { chance.prefix_v6() };
            all.push(more);
        }
    }
    for (name, prefixes) in [("IPv4", &v4), ("IPv6", &v6)] {
        let before = resident();
        let start = Instant::now();
        let access = Access::new(None, prefixes);
        let took = start.elapsed();
        println!("  {} {name} prefixes: built in {:.0} ms", access.len(), took.as_secs_f64() * 1e3);
        println!(
            "    {:.1} B a prefix (kernel: {:.1})",
            per(access.bytes(), access.len()),
            per(resident() - before, access.len())
        );
        let is_v4 = name == "IPv4";
        let random =
            |c: &mut Chance| if is_v4 { c.v4().into() } else { Ipv6Addr::from(0x2 << 124 | c.v6() >> 3).into() };
        let anywhere: Vec<IpAddr> = (0..4 * MILLION).map(|_| random(&mut chance)).collect();
        println!("    random addresses: {:.0} ns", one_after_the_other(&anywhere, |ip| access.allows(ip)));
        let within: Vec<IpAddr> = (0..4 * MILLION)
            .map(|_| {
                let prefix = chance.one_of(prefixes);
                chance.within(&prefix)
            })
            .collect();
        println!(
            "    addresses within random prefixes: {:.0} ns",
            one_after_the_other(&within, |ip| access.allows(ip))
        );
    }
    let few: Vec<Prefix> = v4[..10].to_vec();
    let addresses: Vec<IpAddr> = (0..MILLION).map(|_| chance.v4().into()).collect();
    for (name, access) in [("no prefix", Access::new(None, &[])), ("10 prefixes", Access::new(None, &few))] {
        println!("  {name}: {:.1} ns, {} B", one_after_the_other(&addresses, |ip| access.allows(ip)), access.bytes());
    }
    for (name, prefixes) in [("IPv4", &v4), ("IPv6", &v6)] {
        let text = prefixes.iter().map(|p| format!("{p} ; listed\r\n")).collect::<String>();
        let start = Instant::now();
        let read = parse_list(text.as_bytes()).map_or(0, |p| p.len());
        println!("  parse_list: {read} lines of {name} in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    }
}

fn per(bytes: usize, n: usize) -> f64 {
    bytes as f64 / n.max(1) as f64
}

fn rates() {
    println!("Rate and Bandwidth");
    let rate = Rate::new(10_000_000, SEC, None);
    let meter = Meter::default();
    let at = |i: u64| SEC + Duration::from_nanos(i * 110);
    each("  Meter::take that is let by", 10_000_000, |i| _ = black_box(meter.take(&rate, at(i))));
    each("  Meter::take that is refused", 10_000_000, |_| {
        _ = black_box(meter.take(&Rate::new(1, SEC, None), SEC));
    });
    let bandwidth = Bandwidth::new(1 << 30, None);
    let mut bucket = Bucket::default();
    each("  Bucket: allowance and take", 10_000_000, |i| {
        let allowance = bucket.allowance(&bandwidth, at(i));
        bucket.take(&bandwidth, black_box(allowance.min(100)), at(i));
    });
    let shared = SharedBucket::default();
    each("  SharedBucket: allowance, take and wait", 10_000_000, |i| {
        let allowance = shared.allowance(&bandwidth, at(i));
        shared.take(&bandwidth, black_box(allowance.min(100)), at(i));
        black_box(shared.wait(&bandwidth, at(i)));
    });
}

fn rules(rate: Option<Rate>) -> SourceRules {
    SourceRules {
        sessions: Some(100),
        rate,
        bandwidth: None,
        prefix: SourcePrefix { v4: 32, v6: 64 },
        exempt: Access::new(Some(&[]), &[]),
        most_sources: SourceRules::MOST_SOURCES,
    }
}

/// A session of each of `n` sources from the `from`th on.
fn pass(limits: &SourceLimits, from: u32, n: u32, base: Duration) -> Duration {
    let mut longest = Duration::ZERO;
    for i in from..from + n {
        let now = base + Duration::from_micros(u64::from(i - from));
        let start = (i % 16 == 0).then(Instant::now);
        if let Ok(Some(held)) = limits.enter(Ipv4Addr::from(i.wrapping_mul(0x9e37_79b1)).into(), now) {
            limits.leave(held);
        }
        longest = longest.max(start.map_or(Duration::ZERO, |s| s.elapsed()));
    }
    longest
}

fn sources() {
    println!("SourceLimits");
    let few = SourceLimits::new(rules(None), [1, 2]);
    let address = |i: u64| Ipv4Addr::from(0x0a00_0000 + (i % 1000) as u32).into();
    each("  enter and leave, 1000 sources, sessions only", 5_000_000, |i| {
        if let Ok(Some(held)) = few.enter(address(i), SEC) {
            few.leave(held);
        }
    });
    let metered = SourceLimits::new(rules(Some(Rate::new(100_000, SEC, None))), [1, 2]);
    each("  the same with a rate", 5_000_000, |i| {
        if let Ok(Some(held)) = metered.enter(address(i), SEC + Duration::from_micros(i)) {
            metered.leave(held);
        }
    });
    let before = resident();
    let limits = SourceLimits::new(rules(Some(Rate::new(60, SEC * 3600, Some(10)))), [3, 4]);
    let start = Instant::now();
    let longest = pass(&limits, 0, 5_000_000, SEC);
    let ns = start.elapsed().as_secs_f64() * 1e9 / 5e6;
    println!(
        "  flood of 5 M sources: {ns:.0} ns each, longest {longest:?}; {} known, {} evicted",
        limits.len(),
        limits.evicted()
    );
    println!(
        "    {:.1} B a source (kernel: {:.1})",
        per(limits.bytes(), limits.idle()),
        per(resident() - before, limits.idle())
    );
    let start = Instant::now();
    let longest = std::thread::scope(|scope| {
        let threads = [5_000_000, 10_000_000].map(|from| {
            scope.spawn({
                let limits = &limits;
                move || pass(limits, from, 5_000_000, SEC * 10)
            })
        });
        threads.into_iter().filter_map(|t| t.join().ok()).max()
    });
    let ns = start.elapsed().as_secs_f64() * 1e9 / 1e7;
    println!("  10 M more from two threads: {ns:.0} ns each, longest {longest:?}");
    let start = Instant::now();
    limits.tidy(SEC * 100_000);
    println!("  tidy of all: {:?}; {} known, {} B left", start.elapsed(), limits.len(), limits.bytes());
    let held: Vec<Held> = (0..MILLION)
        .filter_map(|i| limits.enter(Ipv4Addr::from(i as u32).into(), SEC * 200_000).ok().flatten())
        .collect();
    println!("  {} with a session: {:.1} B each", held.len(), per(limits.bytes(), limits.len()));
    held.into_iter().for_each(|h| limits.leave(h));
}

fn bans() {
    println!("Bans");
    let mut chance = Chance(7);
    let why = "too many failed handshakes".into();
    let listed: Vec<Ban> = (0..10_000)
        .map(|_| Ban { prefix: chance.prefix_v4(), until: Some(SEC * 100), why: std::sync::Arc::clone(&why) })
        .collect();
    let start = Instant::now();
    let bans: Bans = listed.iter().cloned().collect();
    println!("  {} bans at once: {:?}", bans.len(), start.elapsed());
    each("  one more", 200, |i| _ = black_box(bans.with(listed[i as usize].prefix, None, "")));
    let anywhere: Vec<IpAddr> = (0..MILLION).map(|_| chance.v4().into()).collect();
    println!("  random addresses: {:.0} ns", one_after_the_other(&anywhere, |ip| bans.holds(ip, SEC)));
    println!("  no ban: {:.1} ns", one_after_the_other(&anywhere, |ip| Bans::default().holds(ip, SEC)));
}

fn main() {
    access();
    rates();
    sources();
    bans();
}
