//! `floodway tcp`: the quick front door. It writes the configuration that a file would hold, so that there is one way only
//! from words to a running process.

use std::path::Path;

use floodway_config::OneText;
use serde_json::{Value, json};

use crate::Exit;
use crate::cli::{LogFormat, TcpArgs};
use crate::wire::Start;

pub(crate) fn run(args: &TcpArgs) -> anyhow::Result<Exit> {
    super::run_checked(super::read(Path::new("command line"), &OneText(text(args))), None, &Start::Fresh)
}

/// The arguments as a configuration.
fn text(args: &TcpArgs) -> String {
    let mut pool = json!({ "balance": args.balance, "endpoints": args.endpoints });
    if let Some(check) = &args.check {
        pool["health"] = json!({ "check": check });
    }
    let format = match args.log {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let mut config = json!({
        "listeners": { "tcp": { "bind": args.bind, "forward": "tcp" } },
        "pools": { "tcp": pool },
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
