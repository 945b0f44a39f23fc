//! The truth as JSON: what `status`, `sessions`, `plan` and their like print, and scripts rely on.

use std::time::{Duration, SystemTime};

use floodway_config::{Config, ObjectKind, Op, Plan};
use floodway_net::{Place, TcpFacts};
use floodway_runtime::{
    Ban, ByHand, CertificateState, Endpoint, EndpointName, EndpointState, Explained, Fate, Pool, Question,
    SessionDetail, SessionInfo, Shared, Snapshot, SourceState,
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What `status` says. `places` is each listener's name and where it listens.
#[must_use]
pub fn status(shared: &Shared, places: &[(String, Place)], needs_restart: &[String]) -> Value {
    let snapshot = shared.snapshot();
    let listeners = snapshot.listeners.iter().map(|l| {
        let shown = |at: &Place| match at {
            Place::Udp(..) => format!("{at}/udp"),
            Place::Tcp(..) | Place::Unix(_) => at.to_string(),
        };
        let bind: Vec<String> = places.iter().filter(|(name, _)| *name == l.name).map(|(_, at)| shown(at)).collect();
        let sessions: u64 = l.traffic().map(|(_, totals)| totals.active).sum();
        let now = shared.now();
        let bans: Vec<Value> = l.bans().iter().filter(|ban| ban.is_on(now)).map(|ban| banned(ban, now)).collect();
        json!({ "name": l.name, "bind": bind, "sessions": sessions, "bans": bans })
    });
    let (sessions, most_sessions) = shared.sessions();
    let (applied, rejected) = shared.reloads();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": snapshot.generation,
        "uptime_seconds": shared.now().as_secs(),
        "ready": shared.is_ready(),
        "sessions": sessions,
        "max_sessions": most_sessions,
        "listeners": listeners.collect::<Vec<_>>(),
        "pools": snapshot.pools.iter().map(|p| pool(p, shared.now())).collect::<Vec<_>>(),
        "certificates": shared.certificates().iter().map(certificate).collect::<Vec<_>>(),
        "reloads": { "applied": applied, "rejected": rejected },
        "needs_restart": needs_restart,
        "last_error": shared.last_error(),
    })
}

fn certificate(state: &CertificateState) -> Value {
    let not_after = SystemTime::UNIX_EPOCH.checked_add(state.not_after).map(time);
    json!({ "name": state.name, "names": state.names, "not_after": not_after, "fault": state.fault })
}

/// Who is turned away, and until when.
fn banned(ban: &Ban, now: Duration) -> Value {
    let until = ban.until.and_then(|until| SystemTime::now().checked_add(until.saturating_sub(now))).map(time);
    json!({ "range": ban.prefix.to_string(), "until": until, "reason": &*ban.why })
}

fn pool(pool: &Pool, now: Duration) -> Value {
    let endpoints = pool.endpoints.iter().enumerate().map(|(i, e)| {
        let state = pool.state(i);
        json!({
            "name": e.name,
            "address": e.address.to_string(),
            "state": state.as_str(),
            "reason": reason(state, e),
            "weight": pool.balance.weight(i),
            "sessions": pool.balance.sessions(i),
            "by_hand": e.by_hand.as_ref().map(by_hand),
        })
    });
    json!({
        "name": pool.name,
        "fallback_active": pool.balance.none_fit(),
        "queued": pool.queue_length(),
        "remembered": pool.remembered(),
        "endpoints": endpoints.collect::<Vec<_>>(),
        "absent_by_hand": pool.absent_by_hand.iter().map(absent).collect::<Vec<_>>(),
        "sources": pool.sources.iter().map(|s| source(s, now)).collect::<Vec<_>>(),
    })
}

/// What was done by hand to an endpoint that is not there now.
fn absent((address, hand): &(String, ByHand)) -> Value {
    json!({ "address": address, "by_hand": by_hand(hand) })
}

/// A source of endpoints, and why those in force are not those that it names.
fn source(source: &SourceState, now: Duration) -> Value {
    let seen = source.seen();
    json!({
        "name": source.name,
        "desired": seen.desired,
        "actual": seen.actual,
        "why": seen.difference,
        "last_good_seconds_ago": seen.last_good.map(|at| now.saturating_sub(at).as_secs()),
        "last_error": seen.last_error,
        "next_in_seconds": seen.next.map(|at| at.saturating_sub(now).as_secs()),
        "answers": source.answers().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

/// Why an endpoint is in its state, in words.
fn reason(state: EndpointState, endpoint: &Endpoint) -> Value {
    match state {
        EndpointState::Draining | EndpointState::Disabled => match &endpoint.by_hand {
            Some(hand) => hand.reason.clone().unwrap_or_else(|| "changed by hand".into()).into(),
            None => "the configuration says so".into(),
        },
        EndpointState::Up | EndpointState::Down => endpoint.last_check().into(),
        EndpointState::Ejected => endpoint.ejected_for().into(),
        EndpointState::Unknown if endpoint.last_check().is_none() => "no check has answered yet".into(),
        EndpointState::Unknown => "it failed, and no check has told since what it is".into(),
        EndpointState::Unchecked => Value::Null,
    }
}

/// What was changed by hand.
#[must_use]
pub fn by_hand(hand: &ByHand) -> Value {
    json!({
        "state": hand.state.map(floodway_balance::Admin::as_str),
        "weight": hand.weight,
        "reason": hand.reason,
        "since": time(hand.since),
        "until": hand.until.map(time),
        "uid": hand.uid,
    })
}

/// A moment as RFC 3339 says it.
fn time(moment: SystemTime) -> String {
    // A moment of the year 10000 or later has no such form.
    let seconds = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let date = i64::try_from(seconds).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    date.and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_default()
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

/// One session.
#[must_use]
pub fn session(session: &SessionInfo) -> Value {
    json!({
        "id": session.id.to_string(),
        "listener": session.listener,
        "route": session.route,
        "pool": session.pool,
        "endpoint": session.endpoint.as_ref().map(|(name, _)| name),
        "address": session.place.map(|at| at.to_string()).or_else(|| Some(session.endpoint.as_ref()?.1.to_string())),
        "source": session.source.to_string(),
        "protocol": if session.is_datagrams { "udp" } else { "tcp" },
        "age_seconds": seconds(session.age),
        "idle_seconds": seconds(session.idle),
        "connect_seconds": session.connect.map(seconds),
        "retries": session.retries,
        "bytes_in": session.bytes_in,
        "bytes_out": session.bytes_out,
        "datagrams_in": session.is_datagrams.then_some(session.datagrams.0),
        "datagrams_out": session.is_datagrams.then_some(session.datagrams.1),
        "generation": session.generation,
    })
}

/// All that is known of one session.
#[must_use]
pub fn session_detail(detail: &SessionDetail) -> Value {
    let mut all = session(&detail.info);
    let rounded = |rate: f64| rate.round();
    all["rate_in"] = detail.rates.map(|(to_endpoint, _)| rounded(to_endpoint)).into();
    all["rate_out"] = detail.rates.map(|(_, to_client)| rounded(to_client)).into();
    all["tcp"] = json!({
        "client": detail.facts.and_then(|f| f.client).map(tcp),
        "endpoint": detail.facts.and_then(|f| f.endpoint).map(tcp),
    });
    all["why"] = detail.choice.as_ref().map_or(Value::Null, |choice| {
        let named = |(name, address): &EndpointName| json!({ "endpoint": address.to_string(), "name": name });
        let with = |mut value: Value, key: &str, more: Value| {
            value[key] = more;
            value
        };
        let candidates = choice.candidates.iter().map(|(e, weight)| with(named(e), "weight", (*weight).into()));
        let excluded = choice.excluded.iter().map(|(e, why)| with(named(e), "reason", (*why).into()));
        json!({
            "algorithm": choice.algorithm,
            "candidates": candidates.collect::<Vec<_>>(),
            "excluded": excluded.collect::<Vec<_>>(),
            "failed_before": choice.failed,
        })
    });
    all
}

fn tcp(facts: TcpFacts) -> Value {
    json!({
        "rtt_seconds": seconds(facts.rtt),
        "rtt_variance_seconds": seconds(facts.rtt_variance),
        "retransmits": facts.retransmits,
        "unacknowledged_segments": facts.unacknowledged_segments,
        "unsent_bytes": facts.unsent_bytes,
    })
}

/// What a configuration changes, with the sessions that each change ends or lets leave.
#[must_use]
pub fn plan(plan: &Plan, fates: &[Fate]) -> Value {
    let count = |kind: ObjectKind, name: &str, ends: bool| {
        fates.iter().filter(|f| f.cause.0 == kind && f.cause.1 == name && f.ends.is_some() == ends).count()
    };
    let changes = plan.changes.iter().map(|c| {
        let fields = c.fields.iter().map(|f| json!({ "name": f.name, "from": f.from, "to": f.to }));
        json!({
            "op": c.op.as_str(),
            "kind": c.kind.as_str(),
            "name": c.name,
            "fields": fields.collect::<Vec<_>>(),
            "ends_sessions": count(c.kind, &c.name, true),
            "drains_sessions": count(c.kind, &c.name, false),
        })
    });
    let ids = |ends: bool| {
        let mut ids: Vec<_> = fates.iter().filter(|f| f.ends.is_some() == ends).map(|f| f.id).collect();
        ids.sort();
        ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>()
    };
    json!({
        "changes": changes.collect::<Vec<_>>(),
        "sessions": { "ends": ids(true), "drains": ids(false) },
        "needs_restart": needs_restart(plan),
    })
}

/// The settings of `plan` that a running process cannot take on: they wait for a restart.
#[must_use]
pub fn needs_restart(plan: &Plan) -> Vec<String> {
    let settings = plan.changes.iter().filter(|c| c.kind == ObjectKind::Settings);
    let named = settings.flat_map(|c| {
        let live = |field: &str| match c.name.as_str() {
            "reload" => true,
            "runtime" => !["user", "cpu_affinity"].contains(&field),
            _ => false,
        };
        let whole = c.op != Op::Change && c.fields.is_empty();
        let fields = c.fields.iter().filter(move |f| !live(&f.name)).map(|f| format!("{}.{}", c.name, f.name));
        fields.chain(whole.then(|| c.name.clone()))
    });
    named.collect()
}

/// Where a connection to `listener` would go, and why not elsewhere.
#[must_use]
fn explanation(snapshot: &Snapshot, listener: usize, explained: &Explained) -> Value {
    let listener = &snapshot.listeners[listener];
    let name = |place: usize| listener.routes().get(place).map(|route| route.name.as_str());
    let action = explained.route.and_then(|place| listener.routes().get(place)).map(|route| route.action.as_str());
    let lost = explained
        .lost
        .iter()
        .map(|(place, why)| json!({ "route": name(*place), "reason": why.unwrap_or("another goes before it") }));
    let mut answer = json!({
        "listener": listener.name,
        "route": explained.route.and_then(name),
        "action": action,
        "other_routes": lost.collect::<Vec<_>>(),
        "pool": Value::Null,
        "endpoint": Value::Null,
        "policies": [],
        "excluded": [],
    });
    if let Some((host, target)) = &explained.request {
        answer["request"] = json!({ "host": host, "target": target });
    }
    if let Some(why) = &explained.refused {
        answer["refused"] = why.as_str().into();
    }
    let Some((pool, choice)) = &explained.choice else { return answer };
    let pool = &snapshot.pools[*pool];
    let excluded = choice.excluded.iter().filter_map(|(i, why)| {
        let endpoint = pool.endpoints.get(*i)?;
        Some(json!({ "endpoint": endpoint.address.to_string(), "name": endpoint.name, "reason": why.as_str() }))
    });
    let address = |i: &usize| pool.endpoints.get(*i).map(|e| e.address.to_string());
    answer["pool"] = pool.name.as_str().into();
    answer["endpoint"] = choice.endpoint.as_ref().and_then(address).into();
    answer["algorithm"] = pool.balance.algorithm().as_str().into();
    answer["candidates"] = choice.candidates.iter().filter_map(address).collect::<Vec<_>>().into();
    answer["excluded"] = excluded.collect::<Vec<_>>().into();
    answer
}

/// As [`explain_in`], of a process that has just started with `config`.
#[must_use]
pub fn explain_offline(config: &Config, listener: &str, question: &Question) -> Option<Value> {
    explain_in(&floodway_runtime::fresh_snapshot(config), listener, question, Duration::ZERO)
}

/// Where a connection to `listener` would go at `now` of the process's clock, and why not elsewhere. `None` if there is no such listener.
#[must_use]
pub fn explain_in(snapshot: &Snapshot, listener: &str, question: &Question, now: Duration) -> Option<Value> {
    let at = snapshot.listeners.iter().position(|l| l.name == listener)?;
    if question.source.is_some_and(|ip| !snapshot.listeners[at].lets_in(ip)) {
        let nothing = Value::Null;
        return Some(json!({
            "listener": listener, "route": nothing, "pool": nothing, "endpoint": nothing,
            "policies": [], "excluded": [], "denied": true,
        }));
    }
    Some(explanation(snapshot, at, &floodway_runtime::explain(snapshot, at, question, now)))
}
