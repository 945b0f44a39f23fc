//! From what the operator asked to what runs: the one place where configuration becomes the values of `net` and `balance`.
//!
//! A snapshot is built whole, each time; a pool that would come out as it is stays the same object. What has a life of its own (counts, loads, health, tables) is carried over from the
//! snapshot before: of listeners and pools by their name, of endpoints by their address.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use floodway_balance as balance;
use floodway_balance::{Admin, EndpointSpec, Health, PoolSpec, Seat};
use floodway_config as config;
use floodway_config::{Config, DatagramKey, NoneFit, Token};
use floodway_flow::Permits;
use floodway_flow::udp::ExchangeRules;
use floodway_net::{EndpointOptions, Keepalive, ListenOptions, SocketOptions, Steer, Transport};
use floodway_policy::{Bandwidth, Rate, SourceLimits, SourceRules};

use crate::bans::AllBans;
use crate::by_hand::{AllByHand, ByHand};
use crate::counters::Lanes;
use crate::departed::Departed;
use crate::discovery::Discovery;
use crate::identities::Made;
use crate::memory::Memory;
use crate::queue::Queue;
use crate::requests::Requests;
use crate::server::random;
use crate::snapshot::{Endpoint, Listener, Pool, PoolTraffic, Snapshot, Stats, Tarpit};

/// What a snapshot is made of beside the configuration.
pub(crate) struct Making<'a> {
    /// The snapshot before, if there is one.
    pub(crate) old: Option<&'a Snapshot>,
    pub(crate) by_hand: &'a AllByHand,
    /// By listener.
    pub(crate) bans: &'a AllBans,
    /// Advances with a new configuration.
    pub(crate) generation: u64,
    /// What is asked for endpoints; `None` if nobody is.
    pub(crate) discovery: Option<&'a Discovery>,
    /// Endpoints that left lately.
    pub(crate) departed: &'a Departed,
    /// What TLS is made of.
    pub(crate) tls: &'a Made,
    /// Lanes to count in.
    pub(crate) lanes: usize,
    /// Fresh entropy for tables that strangers fill.
    pub(crate) key: [u64; 2],
    /// On the process's clock.
    pub(crate) now: Duration,
}

impl<'a> Making<'a> {
    /// The first snapshot of a process.
    pub(crate) fn at_start(
        by_hand: &'a AllByHand,
        bans: &'a AllBans,
        departed: &'a Departed,
        tls: &'a Made,
        lanes: usize,
    ) -> Self {
        let key = [random(), random()];
        Self {
            old: None,
            by_hand,
            bans,
            generation: 1,
            discovery: None,
            departed,
            tls,
            lanes,
            key,
            now: Duration::ZERO,
        }
    }

    /// The snapshot of `config`.
    pub(crate) fn snapshot(&self, config: &Config) -> Snapshot {
        let old_pools = by_name(self.old.map(|s| s.pools.as_slice()), |p| &p.name);
        let old_listeners = by_name(self.old.map(|s| s.listeners.as_slice()), |l| &l.name);
        Snapshot {
            generation: self.generation,
            takes_streams: config.listeners.iter().any(|l| l.protocols.tcp),
            listeners: config
                .listeners
                .iter()
                .map(|l| Arc::new(self.listener(l, config, old_listeners.get(l.name.as_str()).map(|o| &***o))))
                .collect(),
            pools: config
                .pools
                .iter()
                .map(|p| match old_pools.get(p.name.as_str()).copied() {
                    Some(old) if self.is_same(p, old) => Arc::clone(old),
                    old => Arc::new(self.pool(p, old.map(|o| &**o))),
                })
                .collect(),
        }
    }

    fn listener(&self, l: &config::Listener, config: &Config, old: Option<&Listener>) -> Listener {
        Listener {
            name: l.name.clone(),
            config: Arc::new(l.clone()),
            tls: self.tls.acceptor(&l.name),
            looks: l.tls.is_some() || l.router.needs_hello(),
            asks_port: l.routes.iter().any(|route| !route.matches.ports.is_empty()),
            access: l.access.clone(),
            peer_access: l.peer_access.clone(),
            sessions: l.max_sessions.map(|max| match old.and_then(|o| o.sessions.as_ref()) {
                Some(permits) => {
                    permits.set_limit(max);
                    Arc::clone(permits)
                }
                None => Arc::new(Permits::new(max)),
            }),
            per_source: l.per_source.as_ref().filter(|p| limits_sessions(p)).map(|p| {
                let survivor = old.and_then(|o| o.per_source.as_ref());
                let known = survivor.and_then(|s| s.with_rules(source_rules(p)));
                known.unwrap_or_else(|| SourceLimits::new(source_rules(p), self.key))
            }),
            datagrams: l.per_source.as_ref().and_then(datagram_rules).map(|rules| {
                let survivor = old.and_then(|o| o.datagrams.as_ref());
                let known = survivor.and_then(|s| s.with_rules(rules.clone()));
                known.unwrap_or_else(|| SourceLimits::new(rules, self.key))
            }),
            exchange: l.udp.map(exchange_rules).unwrap_or_default(),
            rate: l.rate.map(|limit| {
                let meter = old.and_then(|o| o.rate.as_ref()).map_or_else(Arc::default, |(_, meter)| Arc::clone(meter));
                (rate(limit), meter)
            }),
            bandwidth: l.bandwidth.map(|limit| {
                let before = old.and_then(|o| o.bandwidth.as_ref());
                (Bandwidth::new(limit, None), before.map_or_else(Default::default, |(_, buckets)| buckets.clone()))
            }),
            session_bandwidth: l.session_bandwidth.map(|limit| Bandwidth::new(limit, None)),
            accept_proxy: l.accept_proxy.clone(),
            tarpit: tarpit(l.when_refused, old),
            transparent_ports: transparent_ports(&l.bind),
            bans: self.bans.get(&l.name).cloned().unwrap_or_default(),
            timeouts: l.timeouts,
            // Clients' sockets inherit keepalive from their listener; an endpoint's would take four system calls each, and
            // endpoints that vanish are found by checks.
            endpoint_options: EndpointOptions { socket: socket_options(&l.tcp.options), interface: None },
            kernel_drops: old.map_or_else(|| Arc::new(Lanes::new(self.lanes)), |o| Arc::clone(&o.kernel_drops)),
            rejections: old.map_or_else(|| Arc::new(Lanes::new(self.lanes)), |o| Arc::clone(&o.rejections)),
            requests: l.http.as_ref().map(|_| {
                let before = old.and_then(|o| o.requests.as_ref());
                Requests::new(l.routes.iter().map(|route| route_and_pools(route, config)), before, self.lanes)
            }),
            traffic: self.traffic(l, config, old),
        }
    }

    fn traffic(&self, l: &config::Listener, config: &Config, old: Option<&Listener>) -> Vec<PoolTraffic> {
        let mut before: Vec<PoolTraffic> = old.map(|o| o.traffic.clone()).unwrap_or_default();
        let mut all: Vec<PoolTraffic> = l
            .reachable(&config.pools)
            .into_iter()
            .map(|id| {
                let pool = config.pools.get(id.0).map(|p| p.name.clone()).unwrap_or_default();
                let lanes = match before.iter().position(|t| t.pool == pool) {
                    Some(i) => before.swap_remove(i).lanes,
                    None => Arc::new(Lanes::new(self.lanes)),
                };
                PoolTraffic { pool, id: Some(id), lanes }
            })
            .collect();
        let left = before.into_iter().filter(|t| t.lanes.totals().active > 0);
        all.extend(left.map(|t| PoolTraffic { id: None, ..t }));
        all
    }

    /// Whether `old` is what `p` would become: then it stays, with what workers know of it.
    fn is_same(&self, p: &Arc<config::Pool>, old: &Pool) -> bool {
        if !Arc::ptr_eq(&old.config, p) && old.config != *p {
            return false;
        }
        if self.tls.connector(&p.name).as_ref().map(Arc::as_ptr) != old.tls.as_ref().map(Arc::as_ptr) {
            return false;
        }
        let hands = self.hands(p);
        let there = old.endpoints.iter().filter_map(|e| Some((e.address.to_string(), e.by_hand.as_ref()?)));
        let absent = old.absent_by_hand.iter().map(|(address, hand)| (address.clone(), hand));
        let before: HashMap<String, &ByHand> = there.chain(absent).collect();
        let sources = self.discovery.map(|d| d.states(p)).unwrap_or_default();
        before.len() == hands.len()
            && hands.iter().all(|(address, hand)| before.get(*address) == Some(hand))
            && sources.len() == old.sources.len()
            && sources.iter().zip(&old.sources).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// What was done by hand to endpoints of `p`, by their address.
    fn hands(&self, p: &config::Pool) -> HashMap<&str, &ByHand> {
        let of = self.by_hand.range((p.name.clone(), String::new())..).take_while(|((pool, _), _)| *pool == p.name);
        of.map(|((_, address), hand)| (address.as_str(), hand)).collect()
    }

    fn pool(&self, p: &Arc<config::Pool>, old: Option<&Pool>) -> Pool {
        let places: HashMap<_, _> =
            old.map(|o| o.endpoints.iter().enumerate().map(|(i, e)| (&e.address, i)).collect()).unwrap_or_default();
        let survivors: Vec<Option<usize>> = p.endpoints.iter().map(|e| places.get(&e.address).copied()).collect();
        // A verdict on another question does not tell the role that is asked for now.
        let is_known = |o: &Pool| match (&p.health, &o.config.health) {
            (Some(new), Some(old)) => new.ask == old.ask || !p.needs_role,
            _ => true,
        };
        let hands = self.hands(p);
        let by_hand = |e: &config::Endpoint| match hands.is_empty() {
            true => None,
            false => hands.get(e.address.to_string().as_str()).copied(),
        };
        let spec = |(e, survivor): (&config::Endpoint, &Option<usize>)| {
            let before = match survivor {
                Some(_) => old.zip(*survivor).filter(|(o, _)| is_known(o)).map(|(o, i)| o.balance.health(i)),
                None => self.departed.health(&p.name, &e.address, self.now).filter(|_| !p.needs_role),
            };
            endpoint_spec(p, e, by_hand(e), before)
        };
        let spec = PoolSpec {
            algorithm: p.balance,
            endpoints: p.endpoints.iter().zip(&survivors).map(spec).collect(),
            max_sessions: p.max_sessions,
            try_all_when_none_fit: p.when_none_fit == NoneFit::TryAll,
            needs_verdict: p.needs_role,
            tiers: p.tiers,
            slow_start: p.slow_start,
        };
        let new = p.endpoints.iter().zip(&survivors).enumerate().filter(|(_, (_, survivor))| survivor.is_none());
        let back =
            |(i, (e, _)): (usize, (&config::Endpoint, _))| Some((i, self.departed.take_seat(&p.name, &e.address)?));
        let returned: Vec<(usize, Seat)> = new.filter_map(back).collect();
        let endpoint = |(e, survivor): (&config::Endpoint, &Option<usize>)| {
            let before = old.zip(*survivor).and_then(|(o, i)| o.endpoints.get(i));
            let stats = before.map(|o| Arc::clone(&o.stats)).or_else(|| self.departed.stats(&p.name, &e.address));
            let stats = stats.unwrap_or_else(|| Arc::new(Stats::new(self.lanes)));
            Endpoint::new(e.name.clone(), e.address.clone(), stats, by_hand(e).cloned())
        };
        Pool {
            name: p.name.clone(),
            config: Arc::clone(p),
            balance: Arc::new(match old {
                Some(old) => old.balance.rebuild_with(&spec, &survivors, &returned, self.now),
                None => balance::Pool::new(&spec),
            }),
            endpoints: p.endpoints.iter().zip(&survivors).map(endpoint).collect(),
            absent_by_hand: absent(hands, &p.endpoints),
            sources: self.discovery.map(|d| d.states(p)).unwrap_or_default(),
            connects: old.map_or_else(|| Arc::new(Lanes::new(self.lanes)), |o| Arc::clone(&o.connects)),
            check_times: old.map_or_else(|| Arc::new(Lanes::new(1)), |o| Arc::clone(&o.check_times)),
            sticky: p.sticky.map(|s| (s.key, memory(s, old))),
            queue: queue(p, old),
            options: p.tcp.as_ref().map(endpoint_options),
            tls: self.tls.connector(&p.name),
        }
    }
}

/// Those of `hands` that concern none of `endpoints`.
fn absent(mut hands: HashMap<&str, &ByHand>, endpoints: &[config::Endpoint]) -> Vec<(String, ByHand)> {
    if !hands.is_empty() {
        for endpoint in endpoints {
            hands.remove(endpoint.address.to_string().as_str());
        }
    }
    hands.into_iter().map(|(address, hand)| (address.to_owned(), hand.clone())).collect()
}

/// Of an endpoint that was `before`, as far as that still tells something.
fn endpoint_spec(
    p: &config::Pool,
    e: &config::Endpoint,
    hand: Option<&ByHand>,
    before: Option<Health>,
) -> EndpointSpec {
    let admin = hand.and_then(|h| h.state).unwrap_or(e.state);
    let health = match (&p.health, admin) {
        (None, _) | (_, Admin::Disabled) => Health::Unchecked,
        _ => before.filter(|h| *h != Health::Unchecked).unwrap_or(Health::Unknown),
    };
    let weight = hand.and_then(|h| h.weight).unwrap_or(e.weight);
    EndpointSpec { weight, max_sessions: e.max_sessions, health, admin, id: e.address.id(), tier: e.tier }
}

/// Where clients were, as long as they are known by the same.
fn memory(sticky: config::Sticky, old: Option<&Pool>) -> Arc<Memory> {
    match old.and_then(|o| o.sticky.as_ref()).filter(|(key, _)| *key == sticky.key) {
        Some((_, memory)) => {
            memory.set(sticky.entries, sticky.ttl);
            Arc::clone(memory)
        }
        None => Arc::new(Memory::new(sticky.entries, sticky.ttl)),
    }
}

/// The line before the pool, with those who stand in it.
fn queue(p: &config::Pool, old: Option<&Pool>) -> Arc<Queue> {
    let queue = old.map_or_else(Arc::default, |o| Arc::clone(&o.queue));
    queue.set_most(p.queue.map_or(0, |(most, _)| most));
    queue
}

fn by_name<T>(all: Option<&[Arc<T>]>, name: impl Fn(&T) -> &String) -> HashMap<&str, &Arc<T>> {
    all.unwrap_or_default().iter().map(|o| (name(o).as_str(), o)).collect()
}

fn source_rules(p: &config::PerSource) -> SourceRules {
    SourceRules {
        sessions: p.max_sessions,
        rate: p.rate.map(rate),
        bandwidth: p.bandwidth.map(|limit| Bandwidth::new(limit, None)),
        prefix: p.prefix,
        exempt: p.exempt.clone(),
        most_sources: SourceRules::MOST_SOURCES,
    }
}

fn limits_sessions(p: &config::PerSource) -> bool {
    p.max_sessions.is_some() || p.rate.is_some() || p.bandwidth.is_some()
}

/// What each source may send, if that is limited.
fn datagram_rules(p: &config::PerSource) -> Option<SourceRules> {
    let rate = Some(rate(p.datagrams?));
    Some(SourceRules { sessions: None, rate, bandwidth: None, ..source_rules(p) })
}

fn exchange_rules(udp: config::Udp) -> ExchangeRules {
    /// RFC 9000, section 8.1.
    const TIMES: u32 = 3;
    let amplification = udp.guards_amplification.then_some(TIMES);
    ExchangeRules { requests: udp.requests, responses: udp.responses, amplification }
}

fn rate((count, per): (u32, Duration)) -> Rate {
    Rate::new(count.into(), per, None)
}

fn tarpit(when_refused: config::WhenRefused, old: Option<&Listener>) -> Option<Tarpit> {
    let config::WhenRefused::Tarpit { time, most } = when_refused else { return None };
    let places = match old.and_then(|o| o.tarpit.as_ref()) {
        Some(before) => {
            before.places.set_limit(most);
            Arc::clone(&before.places)
        }
        None => Arc::new(Permits::new(most)),
    };
    Some(Tarpit { time, places })
}

/// The ports of a listener that takes connections to addresses that are not ours; none if it does not.
fn transparent_ports(bind: &[config::Bind]) -> Vec<(u16, u16)> {
    let of = |bind: &config::Bind| match bind {
        config::Bind::Ip { address, .. } => Some((address.first, address.last)),
        config::Bind::Unix { .. } => None,
    };
    let takes_any = |bind: &config::Bind| matches!(bind, config::Bind::Ip { transparent: true, .. });
    if bind.iter().any(takes_any) { bind.iter().filter_map(of).collect() } else { Vec::new() }
}

/// How the address `bind` of a listener is listened on.
pub(crate) fn listen_options(listener: &config::Listener, transport: Transport, bind: &config::Bind) -> ListenOptions {
    let tcp = &listener.tcp;
    let (freebind, transparent, interface, backlog) = match bind {
        config::Bind::Ip { freebind, transparent, interface, backlog, .. } => {
            (*freebind, *transparent, interface.clone(), *backlog)
        }
        config::Bind::Unix { backlog, .. } => (false, false, None, *backlog),
    };
    let common = ListenOptions { freebind, transparent, interface, backlog, ..ListenOptions::default() };
    match (transport, &listener.udp) {
        (Transport::Udp, Some(udp)) => {
            let socket = SocketOptions {
                send_buffer: udp.send_buffer,
                receive_buffer: udp.receive_buffer,
                dscp: tcp.options.dscp,
                mark: tcp.options.mark,
                ..SocketOptions::default()
            };
            // What a proxy sends begins with its own words: by those nothing can be told. Its socket keeps to one worker.
            let steer = if listener.accept_proxy.is_none() { steer(udp.key) } else { None };
            ListenOptions { socket, steer, ..common }
        }
        _ => {
            let keepalive = tcp.keepalive.map(|k| Keepalive { idle: k.idle, every: k.every, count: k.count });
            let socket = SocketOptions { keepalive, ..socket_options(&tcp.options) };
            ListenOptions { fast_open: tcp.fast_open, mptcp: tcp.mptcp, socket, ..common }
        }
    }
}

/// What the datagrams of a flow have in common, where that is not both addresses and ports: it must be one worker that gets them.
fn steer(key: DatagramKey) -> Option<Steer> {
    match key {
        DatagramKey::Source => None,
        DatagramKey::SourceIp => Some(Steer::SourceIp),
        DatagramKey::Token(Token { first, last, is_from_end, .. }) => Some(Steer::Bytes { first, last, is_from_end }),
    }
}

fn endpoint_options(tcp: &config::EndpointTcp) -> EndpointOptions {
    EndpointOptions { socket: socket_options(&tcp.options), interface: tcp.interface.clone() }
}

fn socket_options(options: &config::TcpOptions) -> SocketOptions {
    SocketOptions {
        keepalive: None,
        user_timeout: options.user_timeout,
        send_buffer: options.send_buffer,
        receive_buffer: options.receive_buffer,
        congestion: options.congestion.clone(),
        mss: options.mss,
        dscp: options.dscp,
        mark: options.mark,
        notsent_lowat: options.notsent_lowat,
    }
}

/// The name of a route, and of every pool that may serve its requests.
fn route_and_pools(route: &config::Route, config: &Config) -> (String, Vec<String>) {
    let pools = route.action.reachable(&config.pools);
    (route.name.clone(), pools.iter().filter_map(|id| Some(config.pools.get(id.0)?.name.clone())).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

    use std::path::Path;

    use floodway_config::{Limits, OneText};

    use super::*;

    fn config(weight: u32) -> Arc<Config> {
        let text = format!(
            "listeners: {{ l: {{ bind: 127.0.0.1:1, forward: p }}, m: {{ bind: 127.0.0.1:2, forward: q }} }}\npools:\n  p: {{ endpoints: [\"10.0.0.1:1\"] }}\n  q: {{ endpoints: [{{ address: \"10.0.0.2:1\", weight: {weight} }}] }}\n"
        );
        floodway_config::read(Path::new("f"), &OneText(text), &Limits::default()).unwrap().config
    }

    /// What long sessions and workers hold on to is not made anew with every change.
    #[test]
    fn a_pool_that_did_not_change_is_the_same_object() {
        let (departed, none, no_bans) = (Departed::default(), AllByHand::new(), AllBans::new());
        let no_tls = Made::default();
        let first = Making::at_start(&none, &no_bans, &departed, &no_tls, 1).snapshot(&config(1));
        let next = |by_hand: &AllByHand, config: &Config| {
            let making = Making { old: Some(&first), ..Making::at_start(by_hand, &no_bans, &departed, &no_tls, 1) };
            let second = making.snapshot(config);
            [0, 1].map(|i| Arc::ptr_eq(&first.pools[i], &second.pools[i]))
        };
        assert_eq!(next(&none, &config(1)), [true, true]);
        assert_eq!(next(&none, &config(2)), [true, false]);
        let hand = ByHand {
            state: Some(Admin::Drain),
            weight: None,
            reason: None,
            since: std::time::UNIX_EPOCH,
            until: None,
            uid: None,
        };
        let by_hand = AllByHand::from([(("p".to_owned(), "10.0.0.1:1".to_owned()), hand)]);
        assert_eq!(next(&by_hand, &config(1)), [false, true]);
    }
}
