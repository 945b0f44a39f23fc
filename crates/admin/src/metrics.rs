//! Prometheus metrics, made from the truth at the moment of the scrape: there is no second copy that could lag or stay.

use std::fmt::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use floodway_balance::Health;
use floodway_flow::Direction;
use floodway_runtime::{Endpoint, EndpointState, Failure, Pool, Rejection, Shared, Snapshot, TIME_BUCKETS, TimesTaken};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

/// Renders every metric in OpenMetrics text. `log_dropped` is the count of dropped log lines.
#[must_use]
pub fn render(shared: &Arc<Shared>, log_dropped: u64) -> String {
    let mut registry = Registry::with_prefix("floodway");
    registry.register_collector(Box::new(Scrape { shared: Arc::clone(shared), log_dropped }));
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = encode(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Scrape {
    shared: Arc<Shared>,
    log_dropped: u64,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Out(encoder);
        let snapshot = self.shared.snapshot();
        sessions(&mut out, &snapshot, self.shared.now())?;
        requests(&mut out, &snapshot)?;
        pools(&mut out, &snapshot)?;
        endpoints(&mut out, &snapshot)?;
        checks(&mut out, &snapshot)?;
        discovery(&mut out, &snapshot, self.shared.now())?;
        self.process(&mut out, &snapshot)
    }
}

/// Writes families of samples.
struct Out<'a>(DescriptorEncoder<'a>);

/// A sample: labels and a value.
type Sample<L, V> = (L, V);

impl Out<'_> {
    fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<L, u64>>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter(&value, None::<&Exemplar<L, f64>>)?;
        }
        Ok(())
    }

    /// A metric of the whole process: no labels.
    fn total(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
    }

    /// A metric of the whole process: no labels.
    fn value(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<L, f64>>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histogram<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<L, TimesTaken>>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, times) in samples {
            let bounds = TIME_BUCKETS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(times.buckets.iter().copied()).collect();
            let count = times.buckets.iter().sum();
            family.encode_family(&labels)?.encode_histogram::<L>(times.total.as_secs_f64(), count, &buckets, None)?;
        }
        Ok(())
    }
}

fn requests(out: &mut Out<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    if snapshot.listeners.iter().all(|l| l.http().is_none()) {
        return Ok(());
    }
    let mut all = Vec::new();
    for listener in &snapshot.listeners {
        listener.requests(|route, pool, code, count| {
            let names = [("listener", &*listener.name), ("route", route), ("pool", pool), ("code", code)];
            all.push((names.map(|(label, value)| (label, value.to_owned())), count));
        });
    }
    out.counter("http_requests", "Requests, by the code of the response", all)?;
    let times = snapshot.listeners.iter().flat_map(|l| {
        let of =
            |(route, times): (&str, TimesTaken)| ([("listener", l.name.clone()), ("route", route.to_owned())], times);
        l.request_times().map(of).collect::<Vec<_>>()
    });
    let times = times.filter(|(_, times)| times.buckets.iter().any(|n| *n > 0)).collect::<Vec<_>>();
    out.histogram("http_request_duration_seconds", "From the first byte of a request to the end of its response", times)
}

fn sessions(out: &mut Out<'_>, snapshot: &Snapshot, now: Duration) -> Result<(), Error> {
    let mut all = Vec::new();
    for listener in &snapshot.listeners {
        for (pool, totals) in listener.traffic() {
            all.push(([("listener", listener.name.as_str()), ("pool", pool)], totals));
        }
    }
    out.counter("sessions_opened", "Sessions begun", all.iter().map(|(l, t)| (*l, t.opened)))?;
    let closed = all.iter().flat_map(|([listener, pool], t)| {
        t.closed.iter().map(|(reason, n)| ([*listener, *pool, ("reason", reason.as_str())], *n))
    });
    out.counter("sessions_closed", "Sessions ended, by reason", closed)?;
    out.gauge("sessions_active", "Sessions now", all.iter().map(|(l, t)| (*l, t.active as f64)))?;
    let bytes = all.iter().flat_map(|([listener, pool], t)| {
        [("to_endpoint", t.to_endpoint), ("to_client", t.to_client)]
            .map(|(d, n)| ([*listener, *pool, ("direction", d)], n))
    });
    out.counter("bytes", "Bytes passed on; advances during sessions", bytes)?;
    let takes_datagrams = |name: &str| snapshot.listeners.iter().any(|l| l.name == name && l.kernel_drops().is_some());
    let datagrams = all.iter().filter(|([(_, listener), _], _)| takes_datagrams(listener));
    let datagrams = datagrams.flat_map(|([listener, pool], t)| {
        [("to_endpoint", t.datagrams.0), ("to_client", t.datagrams.1)]
            .map(|(d, n)| ([*listener, *pool, ("direction", d)], n))
    });
    out.counter("datagrams", "Datagrams passed on; advances during flows", datagrams)?;
    let rejected = snapshot.listeners.iter().flat_map(|l| {
        Rejection::ALL
            .into_iter()
            .map(|why| ([("listener", l.name.as_str()), ("reason", why.as_str())], l.rejected(why)))
    });
    out.counter("rejected", "Connections turned away before they became sessions, and datagrams dropped", rejected)?;
    let named = || snapshot.listeners.iter().map(|l| ([("listener", l.name.as_str())], l));
    let dropped = named().filter_map(|(l, of)| Some((l, of.kernel_drops()?)));
    out.counter(
        "kernel_dropped_datagrams",
        "Datagrams that the kernel dropped: the buffer of a socket was full",
        dropped,
    )?;
    let held = named().filter_map(|(l, of)| Some((l, f64::from(of.tarpitted()?))));
    out.gauge("tarpitted", "Connections that were turned away and are held", held)?;
    let bans = named().map(|(l, of)| (l, of.bans().iter().filter(|ban| ban.is_on(now)).count() as f64));
    out.gauge("bans", "Address ranges that were banned by hand", bans)?;
    let sources = named().filter_map(|(l, of)| Some((l, of.sources()?)));
    let known = sources.clone().map(|(l, (known, _))| (l, known as f64));
    out.gauge("sources", "Sources that `limits.per_source` knows", known)?;
    let forgotten = sources.map(|(l, (_, evicted))| (l, evicted));
    out.counter("sources_evicted", "Sources forgotten before their time, for want of room", forgotten)
}

fn pools(out: &mut Out<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let named = || snapshot.pools.iter().map(|p| ([("pool", p.name.as_str())], p));
    out.histogram(
        "connect_duration_seconds",
        "How long connects to endpoints took",
        named().map(|(l, p)| (l, p.connect_times())),
    )?;
    let fallback = named().map(|(l, p)| (l, f64::from(u8::from(p.balance.none_fit()))));
    out.gauge("pool_fallback_active", "1 while no endpoint is fit and `when_none_fit` decides", fallback)
}

/// An endpoint: its labels, its pool, its place in it.
type Row<'a> = ([(&'a str, &'a str); 2], &'a Pool, usize, &'a Endpoint);

fn endpoints(out: &mut Out<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let all: Vec<Row<'_>> = snapshot
        .pools
        .iter()
        .flat_map(|p| {
            p.endpoints
                .iter()
                .enumerate()
                .map(|(i, e)| ([("pool", p.name.as_str()), ("endpoint_name", e.name.as_str())], &**p, i, e))
        })
        .collect();
    // What is not known yet, or nobody asks, is neither up nor down, and raises no alarm.
    let up = all.iter().filter_map(|(l, p, i, _)| match p.balance.health(*i) {
        _ if p.state(*i) == EndpointState::Disabled => None,
        Health::Up | Health::Unchecked => Some((*l, 1.0)),
        Health::Down => Some((*l, 0.0)),
        Health::Unknown => None,
    });
    out.gauge("endpoint_up", "1 if fit by its checks or not checked, 0 if down", up)?;
    let state = all.iter().map(|([pool, name], p, i, _)| ([*pool, *name, ("state", p.state(*i).as_str())], 1.0));
    out.gauge("endpoint_state", "1 for the state that the endpoint is in", state)?;
    let sessions = all.iter().map(|(l, p, i, _)| (*l, f64::from(p.balance.sessions(*i))));
    out.gauge("endpoint_sessions", "Sessions now", sessions)?;
    let bytes = all.iter().flat_map(|([pool, name], _, _, e)| {
        [("to_endpoint", Direction::ToEndpoint), ("to_client", Direction::ToClient)]
            .map(|(word, d)| ([*pool, *name, ("direction", word)], e.bytes(d)))
    });
    out.counter("endpoint_bytes", "Bytes passed on; advances during sessions", bytes)?;
    let failures = all.iter().flat_map(|([pool, name], _, _, e)| {
        Failure::ALL.into_iter().map(|why| ([*pool, *name, ("reason", why.as_str())], e.failures(why)))
    });
    out.counter("endpoint_failures", "Sessions that the endpoint failed", failures)?;
    let ejections = all.iter().filter(|(_, p, ..)| p.ejects()).map(|(l, _, _, e)| (*l, e.ejections()));
    let queues =
        snapshot.pools.iter().filter_map(|p| Some(([("pool", p.name.as_str())], f64::from(p.queue_length()?))));
    out.gauge("pool_queue_length", "Sessions that wait for room", queues)?;
    out.counter("endpoint_ejections", "Times that the endpoint was taken out since it failed traffic", ejections)
}

fn discovery(out: &mut Out<'_>, snapshot: &Snapshot, now: Duration) -> Result<(), Error> {
    let all: Vec<_> = snapshot
        .pools
        .iter()
        .flat_map(|p| p.sources.iter().map(|s| ([("pool", p.name.as_str()), ("source", s.name.as_str())], s, s.seen())))
        .collect();
    let desired = all.iter().map(|(labels, _, seen)| (*labels, seen.desired as f64));
    out.gauge("discovery_endpoints_desired", "Endpoints that the last good answer named", desired)?;
    let actual = all.iter().map(|(labels, _, seen)| (*labels, seen.actual as f64));
    out.gauge("discovery_endpoints", "Endpoints of the source that are in force", actual)?;
    let moment = |at| since_epoch(now.saturating_sub(at));
    let good = all.iter().filter_map(|(labels, _, seen)| Some((*labels, moment(seen.last_good?))));
    out.gauge("discovery_last_good_timestamp_seconds", "When the last good answer came", good)?;
    let answers = all.iter().flat_map(|(labels, source, _)| {
        source.answers().map(|(word, n)| ([labels[0], labels[1], ("answer", word)], n))
    });
    out.counter("discovery_answers", "Answers of sources, by what they were", answers)
}

fn checks(out: &mut Out<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let checked = || snapshot.pools.iter().filter_map(|p| p.check_times().map(|times| (p, times)));
    let outcomes = checked().flat_map(|(p, _)| {
        p.endpoints.iter().flat_map(|e| {
            e.checks().map(|(word, n)| {
                ([("pool", p.name.as_str()), ("endpoint_name", e.name.as_str()), ("outcome", word)], n)
            })
        })
    });
    out.counter("checks", "Checks, by outcome", outcomes)?;
    out.histogram(
        "check_duration_seconds",
        "How long checks took",
        checked().map(|(p, times)| ([("pool", p.name.as_str())], times)),
    )
}

impl Scrape {
    fn process(&self, out: &mut Out<'_>, snapshot: &Snapshot) -> Result<(), Error> {
        let (sessions, most_sessions) = self.shared.sessions();
        let (pipes, most_pipes, refused) = self.shared.pipes();
        let fds = floodway_net::open_files_now().unwrap_or(0);
        out.value("fds_used", "Open files", fds as f64)?;
        out.value("fds_limit", "Open files that the process may have", self.shared.open_files() as f64)?;
        out.value("permits_used", "Sessions that the process carries, of all listeners", f64::from(sessions))?;
        out.value("permits_limit", "Sessions that the process can carry", f64::from(most_sessions))?;
        out.total(
            "accept_pauses",
            "Times that accepting paused since the process carried all it can",
            self.shared.accept_pauses(),
        )?;
        out.total(
            "accept_errors",
            "Times that accepting failed for want of memory or open files",
            self.shared.accept_errors(),
        )?;
        out.value("pipes_open", "Pipes for splice, in use or kept", f64::from(pipes))?;
        out.value("pipes_limit", "Pipes for splice at the most", f64::from(most_pipes))?;
        out.total("pipes_refused", "Times that a direction copied since there was no pipe", refused)?;
        out.total("spliced_bytes", "Bytes that went through pipes and not through user space", self.shared.spliced())?;
        out.total("medium_switches", "Times that a direction changed between copy and splice", self.shared.switches())?;
        out.total("panics", "Sessions that a bug of Floodway's ended", self.shared.panics())?;
        out.total("log_dropped", "Log lines dropped since their reader was too slow", self.log_dropped)?;
        out.value("config_generation", "Number of the configuration in force", snapshot.generation as f64)?;
        let (applied, rejected) = self.shared.reloads();
        let results = [("applied", applied), ("rejected", rejected)].map(|(word, n)| ([("result", word)], n));
        out.counter(
            "config_reloads",
            "Configurations that were read after the first, by what became of them",
            results,
        )?;
        let successful = f64::from(u8::from(self.shared.last_error().is_none()));
        out.value(
            "config_last_reload_successful",
            "1 if the last configuration that was read is in force",
            successful,
        )?;
        let read_at = since_epoch(self.shared.now().saturating_sub(self.shared.read_at()));
        out.value("config_last_reload_success_timestamp_seconds", "When the configuration in force was read", read_at)?;
        let certificates = self.shared.certificates();
        out.gauge(
            "certificate_not_after_timestamp_seconds",
            "When a certificate in use ends",
            certificates.iter().map(|c| ([("certificate", c.name.as_str())], c.not_after.as_secs_f64())),
        )?;
        out.gauge(
            "certificate_files_bad",
            "Whether the files of a certificate cannot be used, so that one read before serves on",
            certificates.iter().map(|c| ([("certificate", c.name.as_str())], f64::from(u8::from(c.fault.is_some())))),
        )?;
        out.gauge("build_info", "Which Floodway this is", [([("version", env!("CARGO_PKG_VERSION"))], 1.0)])
    }
}

/// The time of day at which something began that has gone on for `uptime`.
fn since_epoch(uptime: Duration) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(uptime).as_secs_f64().round()
}
