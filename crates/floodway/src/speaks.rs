//! Which handler serves a client: its listener says what is spoken.

use std::future::Future;

use floodway_runtime::{Flow, Handler, TcpRelay};

/// Serves what listeners speak.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaks;

#[cfg(feature = "http")]
impl Handler for Speaks {
    fn handle(&self, flow: Flow) -> impl Future<Output = ()> + 'static {
        use futures_util::future::Either;
        match flow.is_http() {
            false => Either::Left(TcpRelay.handle(flow)),
            // In a box: sessions of bytes need not carry its room.
            true => Either::Right(Box::pin(floodway_http::Http1.handle(flow))),
        }
    }
}

#[cfg(not(feature = "http"))]
impl Handler for Speaks {
    fn handle(&self, flow: Flow) -> impl Future<Output = ()> + 'static {
        TcpRelay.handle(flow)
    }
}
