//! `floodway tcp` and `floodway udp`: the quick front door. It writes the configuration that a file would hold, so that there is
//! one way only from words to a running process.

use std::path::Path;

use floodway_config::OneText;
use serde_json::{Value, json};

use crate::Exit;
use crate::cli::{FrontArgs, LogFormat, UdpArgs};
use crate::wire::Start;

pub(crate) fn run(args: &FrontArgs) -> anyhow::Result<Exit> {
    start(args, "tcp", json!({}))
}

pub(crate) fn run_udp(args: &UdpArgs) -> anyhow::Result<Exit> {
    let mut listener = json!({ "protocol": "udp" });
    for (key, value) in [("responses", args.responses), ("requests", args.requests)] {
        if let Some(value) = value {
            listener["udp"][key] = value.into();
        }
    }
    if let Some(idle) = &args.idle {
        listener["timeouts"] = json!({ "idle": idle });
    }
    start(&args.front, "udp", listener)
}

fn start(args: &FrontArgs, name: &str, listener: Value) -> anyhow::Result<Exit> {
    super::run_checked(
        super::read(Path::new("command line"), &OneText(text(args, name, listener))),
        None,
        &Start::Fresh,
    )
}

/// The arguments as a configuration whose listener and pool are called `name`; the listener has what is in `listener` already.
fn text(args: &FrontArgs, name: &str, mut listener: Value) -> String {
    listener["bind"] = args.bind.as_str().into();
    listener["forward"] = name.into();
    let mut pool = json!({ "balance": args.balance, "endpoints": args.endpoints });
    if let Some(check) = &args.check {
        pool["health"] = json!({ "check": check });
    }
    let format = match args.log {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let mut config = json!({
        "listeners": { name: listener },
        "pools": { name: pool },
        "log": { "format": format },
    });
    if let Some(address) = &args.metrics {
        config["metrics"] = json!({ "bind": address });
    }
    config["admin"] = match &args.admin {
        Some(path) => json!({ "socket": path }),
        None => json!("off"),
    };
    if let Some(workers) = args.workers {
        config["runtime"] = json!({ "workers": workers });
    }
    // JSON is YAML. A dollar typed here is a dollar: nothing is filled in.
    let escaped = escape(config);
    serde_json::to_string_pretty(&escaped).unwrap_or_default()
}

fn escape(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace('$', "$$")),
        Value::Array(items) => Value::Array(items.into_iter().map(escape).collect()),
        Value::Object(map) => Value::Object(map.into_iter().map(|(k, v)| (k, escape(v))).collect()),
        other => other,
    }
}
