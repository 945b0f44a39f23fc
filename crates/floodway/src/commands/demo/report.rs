//! What happened, as a table.

use std::time::Duration;

use serde_json::{Value, json};

use super::clients::Seen;
use super::endpoints::Echo;

#[derive(Debug, Default)]
pub(super) struct Report {
    /// Sessions that the stopped endpoint ended, as the balancer recorded them.
    pub(super) cut: u64,
    /// Sessions that no endpoint was connected for, as the balancer recorded them.
    pub(super) turned_away: u64,
    pub(super) left_after: Duration,
    pub(super) returned_after: Duration,
    sessions: u64,
    errors: u64,
    shares: Vec<(&'static str, u64)>,
}

impl Report {
    pub(super) fn add_clients(&mut self, seen: &Seen) {
        (self.sessions, self.errors) = (seen.sessions, seen.errors);
    }

    pub(super) fn add_shares(&mut self, names: &[&'static str], endpoints: &[Echo]) {
        self.shares = names.iter().copied().zip(endpoints.iter().map(Echo::served)).collect();
    }

    pub(super) fn table(&self) -> String {
        let served: u64 = self.shares.iter().map(|(_, n)| n).sum();
        let mut rows = vec![
            ("sessions".to_owned(), self.sessions.to_string()),
            ("errors seen by clients".to_owned(), self.errors.to_string()),
            ("sessions cut with the endpoint".to_owned(), self.cut.to_string()),
            ("sessions turned away".to_owned(), self.turned_away.to_string()),
        ];
        for (name, n) in &self.shares {
            rows.push((format!("share of `{name}`"), format!("{:.1} %", 100.0 * *n as f64 / served.max(1) as f64)));
        }
        rows.push(("time to leave the rotation".to_owned(), format!("{} ms", self.left_after.as_millis())));
        rows.push(("time to return to it".to_owned(), format!("{} ms", self.returned_after.as_millis())));
        let line = "-".repeat(54);
        let body: String = rows.iter().map(|(what, value)| format!("{what:<33} {value:>20}\n")).collect();
        format!("{line}\n{body}{line}\n")
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "sessions": self.sessions,
            "errors": self.errors,
            "sessions_cut": self.cut,
            "sessions_turned_away": self.turned_away,
            "served": self.shares.iter().map(|(name, n)| ((*name).to_owned(), Value::from(*n))).collect::<serde_json::Map<_, _>>(),
            "left_after_ms": u64::try_from(self.left_after.as_millis()).unwrap_or(u64::MAX),
            "returned_after_ms": u64::try_from(self.returned_after.as_millis()).unwrap_or(u64::MAX),
        })
    }
}
