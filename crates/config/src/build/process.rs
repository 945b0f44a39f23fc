//! Metrics, logs and the process itself.

use std::time::Duration;

use floodway_flow::Reason;

use super::Builder;
use crate::tree::Node;
use crate::{
    AdminAccess, Bind, BindAddress, Format, Level, Listener, Log, Output, Reload, Runtime, SessionLog, address, scalar,
};

/// Members of a session's record, which added fields may not shadow.
const RECORD: [&str; 23] = [
    "time",
    "event",
    "id",
    "listener",
    "route",
    "pool",
    "endpoint",
    "address",
    "source",
    "reason",
    "bytes_in",
    "bytes_out",
    "duration_seconds",
    "connect_seconds",
    "retries",
    "error",
    "sni",
    "tls_version",
    "tls_cipher",
    "tls_alpn",
    "tls_resumed",
    "client_subject",
    "client_fingerprint",
];

impl Builder<'_> {
    pub(super) fn build_metrics(&mut self, root: &Node, listeners: &[Listener]) -> Option<BindAddress> {
        let node = root.get("metrics")?;
        let ours = node.get("bind")?.text().and_then(|t| address::bind(t).ok())?;
        let clash = |l: &&Listener| {
            l.protocols.tcp && l.bind.iter().any(|b| matches!(b, Bind::Ip { address, .. } if address.overlaps(&ours)))
        };
        if let (Some(listener), Some(at)) = (listeners.iter().find(clash), node.get("bind")) {
            let message = format!("`{ours}` is taken by listener `{}` already", listener.name);
            self.error(at.span, message, "overlaps", "choose another port for metrics");
        }
        Some(ours)
    }

    pub(super) fn build_log(&mut self, root: &Node) -> Log {
        let node = root.get("log");
        let word = |key: &str| node.and_then(|n| n.get(key)).and_then(Node::text);
        Log {
            level: match word("level") {
                Some("error") => Level::Error,
                Some("warn") => Level::Warn,
                Some("debug") => Level::Debug,
                Some("trace") => Level::Trace,
                _ => Level::Info,
            },
            format: if word("format") == Some("text") { Format::Text } else { Format::Json },
            to: self.output(node.and_then(|n| n.get("to")), Output::Stderr),
            sessions: self.build_session_log(node.and_then(|n| n.get("sessions"))),
            requests: self.build_request_log(node),
        }
    }

    fn build_session_log(&mut self, node: Option<&Node>) -> SessionLog {
        let named =
            node.and_then(|n| n.get("always")).map(Node::items).unwrap_or_default().iter().filter_map(Node::text);
        let always = named.filter_map(|text| Reason::ALL.iter().find(|r| r.as_str() == text).copied()).collect();
        let fields = node.and_then(|n| n.get("fields")).map(Node::entries).unwrap_or_default();
        for (word, _) in fields.iter().filter(|(word, _)| RECORD.contains(&word.text.as_ref())) {
            let message = format!("`{}` is a member of every record already", word.text);
            self.error(word.span, message, "taken", "choose another name for the field");
        }
        SessionLog {
            start: node.is_some_and(|n| n.is_on("start")),
            every: node.and_then(|n| n.duration("every")),
            end: node.is_none_or(|n| n.is_on("end")),
            to: self.output(node.and_then(|n| n.get("to")), Output::Stdout),
            sample: node.and_then(|n| n.share("sample")).unwrap_or(10_000),
            always,
            fields: node.map(|n| n.texts("fields")).unwrap_or_default(),
        }
    }

    pub(super) fn output(&self, node: Option<&Node>, otherwise: Output) -> Output {
        match node.and_then(|n| n.text().map(|t| (t, n.span))) {
            None => otherwise,
            Some(("stdout", _)) => Output::Stdout,
            Some(("stderr", _)) => Output::Stderr,
            Some((path, span)) => Output::File(self.sources.resolve(span, path)),
        }
    }

    pub(super) fn build_admin(&mut self, root: &Node) -> Option<AdminAccess> {
        let node = root.get("admin").filter(|n| n.text().is_none())?;
        let path = |key: &str| node.get(key).and_then(|n| n.text().map(|t| self.sources.resolve(n.span, t)));
        let mode = |key: &str, otherwise| {
            node.get(key).and_then(Node::text).and_then(|t| scalar::mode(t).ok()).unwrap_or(otherwise)
        };
        let admin = AdminAccess {
            socket: path("socket"),
            mode: mode("mode", 0o600),
            read_socket: path("read_socket"),
            read_mode: mode("read_mode", 0o660),
            group: node.string("group"),
            bind: None,
            state_file: path("state_file"),
        };
        let token_file = path("token_file");
        let bind = node.get("bind").and_then(|at| Some((at, address::bind(at.text()?).ok()?)));
        if let Some((at, address)) = &bind {
            if token_file.is_none() {
                self.error(
                    at.span,
                    "`bind` without a `token_file` would let anybody in",
                    "needs a token",
                    "add `token_file: PATH`",
                );
            }
            if !address.ip.is_some_and(|ip| ip.is_loopback()) {
                let help = "bind an address of loopback, and reach it by ssh; TLS for it is not in this version";
                self.error(at.span, format!("`{address}` would send the token in the clear"), "not loopback", help);
            }
        }
        Some(AdminAccess { bind: bind.map(|(_, address)| address).zip(token_file), ..admin })
    }

    pub(super) fn build_reload(&mut self, root: &Node) -> Reload {
        let node = root.get("reload");
        Reload {
            watch: node.is_none_or(|n| n.is_on("watch")),
            settle: node.and_then(|n| n.duration("settle")).unwrap_or(Duration::from_millis(500)),
        }
    }

    pub(super) fn build_runtime(&mut self, root: &Node, listeners: &[Listener]) -> Runtime {
        let node = root.get("runtime");
        let runtime = Runtime {
            workers: node.and_then(|n| n.integer("workers")),
            cpu_affinity: node.is_some_and(|n| n.is_on("cpu_affinity")),
            fd_store: node.is_some_and(|n| n.is_on("fd_store")),
            max_sessions: node.and_then(|n| n.integer("max_sessions")),
            checks: node
                .and_then(|n| n.get("checks"))
                .and_then(|n| scalar::rate(n.text()?).ok())
                .unwrap_or((10_000, Duration::from_secs(1))),
            drain_delay: node.and_then(|n| n.duration("drain_delay")).unwrap_or(Duration::ZERO),
            drain_timeout: node.and_then(|n| n.duration("drain_timeout")).unwrap_or(Duration::from_secs(30)),
            user: node.and_then(|n| n.string("user")),
        };
        self.warn_of_too_many_sessions(root, &runtime, listeners);
        runtime
    }

    /// A session takes two open files: the client's socket and the endpoint's.
    fn warn_of_too_many_sessions(&mut self, root: &Node, runtime: &Runtime, listeners: &[Listener]) {
        let Some(open_files) = self.limits.open_files else { return };
        let most = open_files / 2;
        let help = format!(
            "{open_files} open files carry fewer than {most} sessions; raise `ulimit -n` (LimitNOFILE=) or lower it"
        );
        if let (Some(n), Some(at)) = (runtime.max_sessions, root.get("runtime").and_then(|r| r.get("max_sessions")))
            && u64::from(n) >= most
        {
            self.warn(
                at.span,
                format!("`max_sessions: {n}` is more than the limit of open files allows"),
                "cannot be reached",
                help.clone(),
            );
        }
        // A flow of datagrams needs one file, a session over two connections two.
        let most_of = |l: &Listener| if l.protocols.tcp { most } else { 2 * most };
        for listener in listeners.iter().filter(|l| l.max_sessions.is_some_and(|n| u64::from(n) >= most_of(l))) {
            let limits = root.get("listeners").and_then(|l| l.get(&listener.name)).and_then(|l| l.get("limits"));
            if let Some(at) = limits.and_then(|l| l.get("sessions")) {
                let message = format!("listener `{}` allows more sessions than the limit of open files", listener.name);
                self.warn(at.span, message, "cannot be reached", help.clone());
            }
        }
    }
}
