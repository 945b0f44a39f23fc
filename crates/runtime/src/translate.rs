//! From what the operator asked to what runs: the one place where configuration becomes the values of `net` and `balance`.

use std::sync::Arc;

use floodway_balance as balance;
use floodway_balance::{Admin, EndpointSpec, Health, PoolSpec};
use floodway_config as config;
use floodway_config::{Config, NoneFit, PoolId};
use floodway_flow::Permits;
use floodway_net::{Keepalive, ListenOptions, SocketOptions};
use floodway_policy::SourceLimits;

use crate::counters::Lanes;
use crate::snapshot::{Endpoint, Listener, Pool, Snapshot};

/// The first snapshot of a configuration. `key` is fresh entropy for tables that strangers fill.
pub(crate) fn snapshot(config: &Config, workers: usize, key: [u64; 2]) -> Snapshot {
    Snapshot {
        generation: 1,
        listeners: config.listeners.iter().map(|l| Arc::new(listener(l, config, workers, key))).collect(),
        pools: config.pools.iter().map(|p| Arc::new(pool(p, workers))).collect(),
    }
}

fn listener(l: &config::Listener, config: &Config, workers: usize, key: [u64; 2]) -> Listener {
    Listener {
        name: l.name.clone(),
        forward: l.forward,
        access: l.access.clone(),
        peer_access: l.peer_access.clone(),
        sessions: l.max_sessions.map(Permits::new),
        per_source: l.per_source.as_ref().map(|p| SourceLimits::new(p.max_sessions, p.prefix, &p.exempt, key)),
        timeouts: l.timeouts,
        // Clients' sockets inherit keepalive from their listener; an endpoint's would take four system calls each, and
        // endpoints that vanish are found by checks.
        endpoint_options: SocketOptions { keepalive: None, ..socket_options(&l.tcp) },
        rejections: Lanes::new(workers),
        traffic: reachable(l.forward, config).into_iter().map(|pool| (pool, Lanes::new(workers))).collect(),
    }
}

/// The pool that a listener forwards to, and those that take over one after the other. The configuration has no circle.
fn reachable(first: PoolId, config: &Config) -> Vec<PoolId> {
    let mut pools = vec![first];
    while let Some(NoneFit::Pool(next)) = pools.last().and_then(|p| config.pools.get(p.0)).map(|p| p.when_none_fit)
        && !pools.contains(&next)
    {
        pools.push(next);
    }
    pools
}

fn pool(p: &config::Pool, workers: usize) -> Pool {
    let health = |e: &config::Endpoint| match &p.health {
        Some(_) if e.state != Admin::Disabled => Health::Unknown,
        _ => Health::Unchecked,
    };
    let endpoints = p.endpoints.iter().map(|e| EndpointSpec {
        weight: e.weight,
        max_sessions: e.max_sessions,
        health: health(e),
        admin: e.state,
    });
    let spec = PoolSpec {
        algorithm: p.balance,
        endpoints: endpoints.collect(),
        max_sessions: p.max_sessions,
        try_all_when_none_fit: p.when_none_fit == NoneFit::TryAll,
    };
    Pool {
        name: p.name.clone(),
        balance: Arc::new(balance::Pool::new(&spec)),
        endpoints: p.endpoints.iter().map(|e| Endpoint::new(e.name.clone(), e.address.clone(), workers)).collect(),
        fallback: match p.when_none_fit {
            NoneFit::Pool(id) => Some(id),
            NoneFit::Refuse | NoneFit::TryAll => None,
        },
        connect_timeout: p.connect_timeout,
        retries: p.retries,
        health: p.health.clone(),
        connects: Lanes::new(workers),
        check_times: Lanes::new(1),
    }
}

pub(crate) fn listen_options(
    tcp: &config::Tcp,
    freebind: bool,
    interface: Option<&str>,
    backlog: u32,
) -> ListenOptions {
    ListenOptions {
        freebind,
        interface: interface.map(str::to_owned),
        backlog,
        fast_open: tcp.fast_open,
        mptcp: tcp.mptcp,
        socket: socket_options(tcp),
    }
}

fn socket_options(tcp: &config::Tcp) -> SocketOptions {
    let keepalive = tcp.keepalive.map(|k| Keepalive { idle: k.idle, every: k.every, count: k.count });
    SocketOptions {
        keepalive,
        user_timeout: tcp.user_timeout,
        send_buffer: tcp.send_buffer,
        receive_buffer: tcp.receive_buffer,
    }
}
