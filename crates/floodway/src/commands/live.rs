//! The commands that ask and tell the running process: `status`, `sessions`, `plan`, `reload`, `drain` and their like.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context;
use floodway_runtime::{AskedRequest, Question};
use hyper::Method;
use serde_json::{Value, json};

use crate::Exit;
use crate::cli::{
    BanArgs, ChangeArgs, CloseArgs, DrainArgs, ExplainArgs, FailbackArgs, LiveArgs, PlanArgs, ReloadArgs, ResetArgs,
    SessionArgs, SessionsArgs, UnbanArgs, WeightArgs,
};
use crate::client::{Client, part};
use crate::files::RealFiles;

/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(200);
/// Between two pictures of `--watch`.
const WATCH: Duration = Duration::from_secs(1);

type Done = anyhow::Result<Exit>;

fn client(live: &LiveArgs) -> anyhow::Result<Client> {
    Client::new(live.admin.as_deref())
}

/// Prints an answer: as JSON, or as `text` makes it; or what went wrong.
fn show((status, body): (u16, Value), as_json: bool, text: impl FnOnce(&Value) -> String) -> Done {
    if as_json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&body)?))?;
    } else if status < 300 {
        super::print(&text(&body))?;
    } else {
        match body["text"].as_str() {
            Some(problems) => eprint!("{problems}"),
            None => eprintln!("floodway: {}", body["error"].as_str().unwrap_or("it did not work")),
        }
    }
    Ok(match status {
        200..300 => Exit::Ok,
        422 => Exit::BadConfig,
        _ => Exit::Failed,
    })
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

pub(crate) fn status(args: &LiveArgs) -> Done {
    show(client(args)?.get("/v1/status")?, args.json, status_text)
}

fn status_text(s: &Value) -> String {
    let mut out = format!(
        "floodway {} · configuration {} · up {} s · {} of {} sessions\n",
        word(&s["version"]),
        s["generation"],
        s["uptime_seconds"],
        s["sessions"],
        s["max_sessions"]
    );
    for listener in list(s, "listeners") {
        let bind: Vec<String> = list(listener, "bind").map(word).collect();
        let _ = writeln!(
            out,
            "listener {}  {}  {} sessions",
            word(&listener["name"]),
            bind.join(" "),
            listener["sessions"]
        );
        for ban in list(listener, "bans") {
            let until = ban["until"].as_str().map_or("until it is lifted".into(), |until| format!("until {until}"));
            let _ = writeln!(out, "  {} is banned {until}  {}", word(&ban["range"]), word(&ban["reason"]));
        }
    }
    list(s, "pools").for_each(|pool| out.push_str(&pool_text(pool)));
    for setting in list(s, "needs_restart") {
        let _ = writeln!(out, "{} waits for a restart", word(setting));
    }
    if let Some(left) = s["unconfirmed_seconds"].as_u64() {
        let _ = writeln!(out, "the last reload goes back in {left} s unless `floodway confirm` follows");
    }
    if let Some(error) = s["last_error"].as_str() {
        let _ = writeln!(out, "the last configuration that was read is not in force: {error}");
    }
    out
}

fn pool_text(pool: &Value) -> String {
    let fallback = if pool["fallback_active"] == true { "  NO ENDPOINT IS FIT" } else { "" };
    let mut out = format!("pool {}{fallback}\n", word(&pool["name"]));
    for e in list(pool, "endpoints") {
        let by_hand = if e["by_hand"].is_null() { "" } else { "  (by hand)" };
        let reason = e["reason"].as_str().map(|r| format!("  {r}")).unwrap_or_default();
        let _ = writeln!(
            out,
            "  {:<24} {:<10} weight {:<4} {} sessions{by_hand}{reason}",
            word(&e["name"]),
            word(&e["state"]),
            e["weight"],
            e["sessions"]
        );
    }
    for e in list(pool, "absent_by_hand") {
        let hand = &e["by_hand"];
        let state = hand["state"].as_str().map_or(String::new(), |state| format!("  {state}"));
        let weight = hand["weight"].as_u64().map_or(String::new(), |weight| format!("  weight {weight}"));
        let _ =
            writeln!(out, "  {:<24} not there now; by hand, for when it is back:{state}{weight}", word(&e["address"]));
    }
    for s in list(pool, "sources") {
        let good = match s["last_good_seconds_ago"].as_u64() {
            Some(age) => format!("last good answer {age} s ago"),
            None => "no good answer yet".into(),
        };
        let next = match s["next_in_seconds"].as_u64() {
            Some(time) => format!("asked again in {time} s"),
            None => "being asked, or watched".into(),
        };
        let _ = writeln!(
            out,
            "  source {}  {} of {} in force  {good}, {next}",
            word(&s["name"]),
            s["actual"],
            s["desired"]
        );
        for (what, key) in [("last error", "last_error"), ("why", "why")] {
            if let Some(text) = s[key].as_str() {
                let _ = writeln!(out, "    {what}: {text}");
            }
        }
    }
    out
}

pub(crate) fn sessions(args: &SessionsArgs) -> Done {
    let mut query = vec![format!("limit={}", args.limit)];
    let mut add =
        |key: &str, value: &Option<String>| query.extend(value.as_ref().map(|v| format!("{key}={}", part(v))));
    add("pool", &args.pool);
    add("listener", &args.listener);
    add("endpoint", &args.endpoint);
    add("after", &args.after);
    let path = format!("/v1/sessions?{}", query.join("&"));
    let client = client(&args.live)?;
    loop {
        let done = show(client.get(&path)?, args.live.json, sessions_text)?;
        if !args.watch || done != Exit::Ok {
            return Ok(done);
        }
        std::thread::sleep(WATCH);
    }
}

fn sessions_text(s: &Value) -> String {
    let mut out = format!(
        "{:<10} {:<22} {:<12} {:<12} {:<20} {:>8} {:>8} {:>12} {:>12}\n",
        "ID", "SOURCE", "LISTENER", "POOL", "ENDPOINT", "AGE", "IDLE", "IN", "OUT"
    );
    for one in list(s, "sessions") {
        let time = |key: &str| one[key].as_f64().map_or("-".into(), |t| format!("{t:.1}s"));
        let _ = writeln!(
            out,
            "{:<10} {:<22} {:<12} {:<12} {:<20} {:>8} {:>8} {:>12} {:>12}",
            word(&one["id"]),
            word(&one["source"]),
            word(&one["listener"]),
            word(&one["pool"]),
            word(&one["endpoint"]),
            time("age_seconds"),
            time("idle_seconds"),
            one["bytes_in"],
            one["bytes_out"]
        );
    }
    if let Some(next) = s["next"].as_str() {
        let _ = writeln!(out, "{} in all; the next page: --after {next}", s["total"]);
    }
    out
}

pub(crate) fn session(args: &SessionArgs) -> Done {
    show(client(&args.live)?.get(&format!("/v1/sessions/{}", part(&args.id)))?, args.live.json, session_text)
}

fn session_text(one: &Value) -> String {
    let mut out = String::new();
    let members = one.as_object().into_iter().flatten().filter(|(_, value)| !value.is_object());
    members.for_each(|(key, value)| out.push_str(&format!("{key:<16} {}\n", word(value))));
    for (side, facts) in one["tcp"].as_object().into_iter().flatten().filter(|(_, facts)| facts.is_object()) {
        let _ = writeln!(
            out,
            "{side} TCP: round trip {} s ± {} s, {} retransmits, {} segments unacknowledged, {} bytes unsent",
            facts["rtt_seconds"],
            facts["rtt_variance_seconds"],
            facts["retransmits"],
            facts["unacknowledged_segments"],
            facts["unsent_bytes"]
        );
    }
    let why = &one["why"];
    if why.is_object() {
        let candidates: Vec<String> =
            list(why, "candidates").map(|c| format!("{} (weight {})", word(&c["name"]), c["weight"])).collect();
        let _ = writeln!(out, "why: {} among {}", word(&why["algorithm"]), candidates.join(", "));
        for excluded in list(why, "excluded") {
            let _ = writeln!(out, "not {}: {}", word(&excluded["name"]), word(&excluded["reason"]));
        }
        if let Some(failed) = why["failed_before"].as_str() {
            let _ = writeln!(out, "failed before: {failed}");
        }
    }
    out
}

pub(crate) fn close(args: &CloseArgs) -> Done {
    let answer = client(&args.live)?.ask(Method::DELETE, &format!("/v1/sessions/{}", part(&args.id)), None)?;
    show(answer, args.live.json, |_| format!("{} is closed\n", args.id))
}

/// The file as the process can find it, whatever folder it runs in.
fn absolute(file: Option<&std::path::PathBuf>) -> anyhow::Result<Option<String>> {
    let path = file.map(|f| std::path::absolute(f).with_context(|| f.display().to_string())).transpose()?;
    Ok(path.map(|p| p.display().to_string()))
}

pub(crate) fn plan(args: &PlanArgs) -> Done {
    let query = absolute(args.config.as_ref())?.map_or(String::new(), |path| format!("?config={}", part(&path)));
    let answer = client(&args.live)?.get(&format!("/v1/plan{query}"))?;
    let differs = answer.0 == 200 && list(&answer.1, "changes").next().is_some();
    match show(answer, args.live.json, plan_text)? {
        Exit::Ok if differs && args.exit_code => Ok(Exit::Differences),
        done => Ok(done),
    }
}

fn plan_text(plan: &Value) -> String {
    let mut out = String::new();
    for change in list(plan, "changes") {
        let mark = match change["op"].as_str() {
            Some("add") => '+',
            Some("remove") => '-',
            _ => '~',
        };
        let mut effects = Vec::new();
        for (key, what) in [("ends_sessions", "ends"), ("drains_sessions", "drains")] {
            if let Some(n) = change[key].as_u64().filter(|&n| n > 0) {
                effects.push(format!("{what} {n} session{}", if n == 1 { "" } else { "s" }));
            }
        }
        let effects = if effects.is_empty() { String::new() } else { format!("   {}", effects.join(", ")) };
        let _ = writeln!(out, "{mark} {} {}{effects}", word(&change["kind"]), word(&change["name"]));
        for field in list(change, "fields") {
            let (name, from, to) = (word(&field["name"]), &field["from"], &field["to"]);
            let _ = match (from, to) {
                (Value::Null, to) => writeln!(out, "    {name}: {}", word(to)),
                (from, Value::Null) => writeln!(out, "    {name}: {} (no more)", word(from)),
                (from, to) if from == to => writeln!(out, "    {name}: {} (what it names changes)", word(to)),
                (from, to) => writeln!(out, "    {name}: {} → {}", word(from), word(to)),
            };
        }
    }
    for setting in list(plan, "needs_restart") {
        let _ = writeln!(out, "! {} waits for a restart", word(setting));
    }
    if out.is_empty() { "no changes\n".into() } else { out }
}

pub(crate) fn reload(args: &ReloadArgs) -> Done {
    let confirm = args.confirm.map(|c| c.as_secs().max(1));
    let body = json!({ "config": absolute(args.config.as_ref())?, "confirm_seconds": confirm });
    let answer = client(&args.live)?.ask(Method::POST, "/v1/reload", Some(&body))?;
    show(answer, args.live.json, |plan| {
        let mut out = plan_text(plan);
        let _ = writeln!(out, "configuration {} is in force", plan["generation"]);
        if let Some(seconds) = plan["confirm_seconds"].as_u64() {
            let _ = writeln!(out, "it goes back in {seconds} s unless `floodway confirm` follows");
        }
        out
    })
}

pub(crate) fn confirm(args: &LiveArgs) -> Done {
    let answer = client(args)?.ask(Method::POST, "/v1/confirm", None)?;
    show(answer, args.json, |_| "confirmed\n".into())
}

/// `POOL/ENDPOINT`, as a path of the API.
fn endpoint(name: &str) -> anyhow::Result<String> {
    let (pool, endpoint) = name.split_once('/').with_context(|| format!("`{name}` is no POOL/ENDPOINT"))?;
    Ok(format!("/v1/pools/{}/endpoints/{}", part(pool), part(endpoint)))
}

fn change(live: &LiveArgs, name: &str, body: &Value, said: &str) -> Done {
    let answer = client(live)?.ask(Method::POST, &endpoint(name)?, Some(body))?;
    show(answer, live.json, |answer| {
        let warning = answer["warning"].as_str().map(|w| format!("warning: {w}\n")).unwrap_or_default();
        format!("{name} {said}\n{warning}")
    })
}

pub(crate) fn drain(args: &DrainArgs) -> Done {
    let body = json!({
        "state": "drain",
        "for_seconds": args.for_time.map(|t| t.as_secs()),
        "reason": args.reason,
    });
    match change(&args.live, &args.endpoint, &body, "takes no new sessions")? {
        Exit::Ok => {}
        failed => return Ok(failed),
    }
    let Some(wait) = args.wait else { return Ok(Exit::Ok) };
    let end = Instant::now() + wait;
    let client = client(&args.live)?;
    loop {
        match sessions_at(&client, &args.endpoint)? {
            Some(0) => return Ok(Exit::Ok),
            // It is not in the configuration any more.
            None => return Ok(Exit::Failed),
            Some(left) if Instant::now() >= end => {
                eprintln!("floodway: {left} sessions are left at {}", args.endpoint);
                return Ok(Exit::TimedOut);
            }
            Some(_) => std::thread::sleep(LOOK),
        }
    }
}

fn sessions_at(client: &Client, name: &str) -> anyhow::Result<Option<u64>> {
    let (_, status) = client.get("/v1/status")?;
    let Some((pool, endpoint)) = name.split_once('/') else { return Ok(None) };
    let pool = list(&status, "pools").find(|p| p["name"] == pool);
    let endpoint = pool.and_then(|p| list(p, "endpoints").find(|e| e["name"] == endpoint || e["address"] == endpoint));
    Ok(endpoint.and_then(|e| e["sessions"].as_u64()))
}

pub(crate) fn disable(args: &ChangeArgs) -> Done {
    let body = json!({ "state": "disabled", "reason": args.reason });
    change(&args.live, &args.endpoint, &body, "is disabled")
}

pub(crate) fn enable(args: &ChangeArgs) -> Done {
    let body = json!({ "state": "enabled", "reason": args.reason });
    change(&args.live, &args.endpoint, &body, "is enabled")
}

pub(crate) fn weight(args: &WeightArgs) -> Done {
    let said = format!("has weight {}", args.weight);
    change(&args.live, &args.endpoint, &json!({ "weight": args.weight }), &said)
}

pub(crate) fn reset(args: &ResetArgs) -> Done {
    let path = match args.name.contains('/') {
        true => endpoint(&args.name)?,
        false => format!("/v1/pools/{}", part(&args.name)),
    };
    let answer = client(&args.live)?.ask(Method::DELETE, &format!("{path}/changes"), None)?;
    show(answer, args.live.json, |answer| format!("{} taken back\n", answer["reset"]))
}

fn bans(listener: &str) -> String {
    format!("/v1/listeners/{}/bans", part(listener))
}

fn with_warning(said: String, answer: &Value) -> String {
    answer["warning"].as_str().map_or(said.clone(), |warning| format!("{said}warning: {warning}\n"))
}

pub(crate) fn ban(args: &BanArgs) -> Done {
    let body = json!({
        "range": args.range,
        "for_seconds": args.for_time.map(|t| t.as_secs()),
        "reason": args.reason,
    });
    let answer = client(&args.live)?.ask(Method::POST, &bans(&args.listener), Some(&body))?;
    show(answer, args.live.json, |a| {
        let ended = &a["ended_sessions"];
        with_warning(format!("{} is turned away by {}; {ended} sessions ended\n", word(&a["range"]), args.listener), a)
    })
}

pub(crate) fn unban(args: &UnbanArgs) -> Done {
    let path = format!("{}/{}", bans(&args.listener), part(&args.range));
    let answer = client(&args.live)?.ask(Method::DELETE, &path, None)?;
    show(answer, args.live.json, |a| with_warning(format!("{} may come to {}\n", word(&a["range"]), args.listener), a))
}

pub(crate) fn failback(args: &FailbackArgs) -> Done {
    let path = format!("/v1/pools/{}/failback", part(&args.pool));
    let answer = client(&args.live)?.ask(Method::POST, &path, None)?;
    show(answer, args.live.json, |_| format!("every tier of {} may serve\n", args.pool))
}

/// Where a pool's endpoints come from, and why those in force are not those that its sources name.
fn explain_pool(name: &str, process: &LiveArgs) -> Done {
    let (code, status) = client(process)?.get("/v1/status")?;
    let found = list(&status, "pools").find(|pool| pool["name"] == name).cloned();
    let answer = match found {
        Some(pool) => (200, pool),
        None if code < 300 => (404, json!({ "error": format!("there is no pool `{name}`") })),
        None => (code, status),
    };
    show(answer, process.json, pool_text)
}

pub(crate) fn explain(args: &ExplainArgs) -> Done {
    if let Some(pool) = &args.pool {
        return explain_pool(pool, &args.process);
    }
    let listener = args.listener.as_deref().unwrap_or_default();
    if args.live {
        let given = [
            ("source", args.source.map(|ip| ip.to_string())),
            ("port", args.port.map(|port| port.to_string())),
            ("sni", args.sni.clone()),
            ("alpn", (!args.alpn.is_empty()).then(|| args.alpn.join(","))),
            ("udp", args.udp.then(|| "true".to_owned())),
            ("token", args.token.clone()),
            ("url", args.url.clone()),
            ("method", args.method.clone()),
            ("headers", (!args.headers.is_empty()).then(|| args.headers.join("\n"))),
            ("certificate", args.certificate.clone()),
        ];
        let given = given.into_iter().filter_map(|(key, value)| Some(format!("&{key}={}", part(&value?))));
        let path = format!("/v1/explain?listener={}{}", part(listener), given.collect::<String>());
        return show(client(&args.process)?.get(&path)?, args.process.json, explain_text);
    }
    let files = RealFiles::patient();
    match super::read(&args.file.config, &files) {
        Err(rejected) => {
            super::show(&rejected.problems, &rejected.sources);
            Ok(Exit::BadConfig)
        }
        Ok(checked) => {
            let question = Question::new(args.source, args.port, args.sni.as_deref(), &args.alpn);
            let token = args.token.as_deref().map(floodway_config::hex).transpose().map_err(anyhow::Error::msg)?;
            let request = args
                .url
                .as_deref()
                .map(|url| AskedRequest::new(url, args.method.as_deref(), &args.headers, args.certificate.as_deref()));
            let request = request.transpose().map_err(anyhow::Error::msg)?;
            let question = Question { token, is_datagram: args.udp, request, ..question };
            let answer = floodway_admin::view::explain_offline(&checked.config, listener, &question);
            let answer = match answer {
                Some(answer) => (200, answer),
                None => (404, json!({ "error": format!("there is no listener `{listener}`") })),
            };
            show(answer, args.process.json, explain_text)
        }
    }
}

fn explain_text(e: &Value) -> String {
    if e["denied"] == true {
        return format!(
            "listener {} turns the client away: `access` or `peer_access` denies it\n",
            word(&e["listener"])
        );
    }
    if let Some(why) = e["refused"].as_str() {
        return format!("listener {} takes no such request: {why}\n", word(&e["listener"]));
    }
    if e["pool"].is_null() {
        return route_text(e);
    }
    let mut out = format!(
        "listener {} → route {} → pool {} → {} ({})\n",
        word(&e["listener"]),
        word(&e["route"]),
        word(&e["pool"]),
        e["endpoint"].as_str().unwrap_or("one of the candidates, or none"),
        word(&e["algorithm"])
    );
    let candidates: Vec<String> = list(e, "candidates").map(word).collect();
    let _ = writeln!(out, "candidates: {}", if candidates.is_empty() { "none".into() } else { candidates.join(" ") });
    for excluded in list(e, "excluded") {
        let _ = writeln!(out, "not {}: {}", word(&excluded["endpoint"]), word(&excluded["reason"]));
    }
    out.push_str(&other_routes(e));
    out
}

/// A connection that no pool serves, or that chance decides on.
fn route_text(e: &Value) -> String {
    let what = match e["action"].as_str() {
        None if e["request"].is_object() => "no route takes it: 404".to_owned(),
        None => "no route takes it: it is reset".to_owned(),
        Some("split") => format!("route {} → one of its pools, by chance", word(&e["route"])),
        Some(action) => format!("route {} → {action}", word(&e["route"])),
    };
    format!("listener {} → {what}\n{}", word(&e["listener"]), other_routes(e))
}

fn other_routes(e: &Value) -> String {
    let of = |other: &Value| format!("not route {}: {}\n", word(&other["route"]), word(&other["reason"]));
    list(e, "other_routes").map(of).collect()
}

/// A time as the configuration has them: `30m`, `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    floodway_config::duration(text)
}
