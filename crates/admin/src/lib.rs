//! What does the operator see?
//!
//! Prometheus metrics and health over HTTP, the log of sessions, and the process's own log. Everything here runs on the
//! control thread or on threads of its own: nothing that reads slowly, or not at all, can hold up a worker.

mod http;
mod log;
mod metrics;

pub use http::{Http, bind, serve};
pub use log::{LogError, Logs, SessionWriter};
pub use metrics::render;
