//! What does the operator see?
//!
//! Prometheus metrics and health over HTTP, the log of sessions, and the process's own log. Everything here runs on the
//! control thread or on threads of its own: nothing that reads slowly, or not at all, can hold up a worker.

mod api;
mod http;
mod lines;
mod log;
mod metrics;
mod requests;
pub mod view;

pub use api::{
    Answer, Api, Asked, Call, Caller, EndpointChange, NewBan, OPENAPI, SessionFilter, TAKE_OVER, channel, error,
};
pub use http::{Door, Http, bind, serve, serve_api};
pub use log::{LogError, Logs, SessionWriter};
pub use metrics::render;
