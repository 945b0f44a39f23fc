//! How does a request cross?
//!
//! [`Http1`] is a handler of the runtime: it serves the clients of listeners with `http`, request after request. A request is read
//! strictly ([`h1`]), brought to its one form (`request`), routed by `floodway_policy`, and passed on to an endpoint over a
//! connection that is kept (`exchange`). Nothing of a body is held but what one read gave.

mod answer;
mod connection;
mod exchange;
mod fields;
pub mod h1;
mod pipe;
mod request;
mod values;

use std::future::Future;

use floodway_runtime::{Flow, Handler};

/// Serves the clients of listeners with `http`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Http1;

impl Handler for Http1 {
    fn handle(&self, flow: Flow) -> impl Future<Output = ()> + 'static {
        connection::serve(flow)
    }
}
