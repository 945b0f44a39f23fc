//! What a flow is known by, hashed: the same in every process.

use std::net::{IpAddr, SocketAddr};

use floodway_balance::hash;
use floodway_config::{FlowKey, RequestKey};
use floodway_net::{Peer, Socket};
use floodway_policy::http::{Headers, cookie_value};

use crate::introduction::Introduction;
use crate::known::Known;
use crate::session::Session;

/// How a client came: over a connection, or by a datagram.
pub(crate) trait Incoming {
    /// Where it came to; `None` for a unix socket.
    fn destination(&self) -> Option<SocketAddr>;

    /// What makes its flow, hashed, if that is not for the connection to say.
    fn flow(&self) -> Option<u64> {
        None
    }
}

impl Incoming for Socket {
    fn destination(&self) -> Option<SocketAddr> {
        self.local_address()
    }
}

/// The key of a session of who came as `client` says; `None` where it has none (a client on a unix socket): then it goes anywhere.
pub(crate) fn of(key: FlowKey, session: &Session, client: &impl Incoming) -> Option<u64> {
    of_client(key, session.client(), session.known(), client)
}

/// The key of a request; `None` where it does not have what it is known by.
#[must_use]
pub fn of_request(key: &RequestKey, headers: &dyn Headers) -> Option<u64> {
    match key {
        RequestKey::Header(name) => headers.get(name).map(|value| hash::of(&value)),
        RequestKey::Cookie(name) => {
            cookie_value(&headers.get("cookie")?, name).filter(|value| !value.is_empty()).map(hash::of)
        }
    }
}

/// The key of a client.
pub(crate) fn of_client(key: FlowKey, source: Peer, known: Option<&Known>, client: &impl Incoming) -> Option<u64> {
    match (key, source) {
        (FlowKey::Usual, Peer::Ip(source)) => client.flow().or_else(|| of_address(key, source.ip())),
        (FlowKey::Destination, _) => destination(known, client).map(of_socket),
        (FlowKey::ServerName, _) => known?.server_name().map(|name| hash::of(name.as_bytes())),
        (FlowKey::Source, Peer::Ip(source)) => Some(of_socket(source)),
        (FlowKey::SourceIp { .. }, Peer::Ip(source)) => of_address(key, source.ip()),
        (_, Peer::Unix) => None,
    }
}

/// Where a client came to, as far as it is known; `None` for a unix socket.
pub(crate) fn destination(known: Option<&Known>, client: &impl Incoming) -> Option<SocketAddr> {
    let told = known.and_then(|k| k.introduction.as_ref()).and_then(Introduction::destination);
    told.or_else(|| client.destination())
}

/// The key of any stream from `ip`, where that is all it depends on.
pub(crate) fn of_address(key: FlowKey, ip: IpAddr) -> Option<u64> {
    let (v4, v6) = match key {
        FlowKey::SourceIp { v4, v6 } => (v4, v6),
        FlowKey::Usual => (32, 128),
        _ => return None,
    };
    Some(match ip.to_canonical() {
        IpAddr::V4(ip) => {
            hash::of(&(u32::from(ip) & u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0)).to_be_bytes())
        }
        IpAddr::V6(ip) => {
            hash::of(&(u128::from(ip) & u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0)).to_be_bytes())
        }
    })
}

pub(crate) fn of_socket(address: SocketAddr) -> u64 {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 6];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes[4..].copy_from_slice(&address.port().to_be_bytes());
            hash::of(&bytes)
        }
        IpAddr::V6(ip) => {
            let mut bytes = [0; 18];
            bytes[..16].copy_from_slice(&ip.octets());
            bytes[16..].copy_from_slice(&address.port().to_be_bytes());
            hash::of(&bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_what_counts() {
        let key = |v4, v6, ip: &str| of_address(FlowKey::SourceIp { v4, v6 }, ip.parse().unwrap());
        assert_eq!(key(24, 48, "192.0.2.1"), key(24, 48, "192.0.2.200"));
        assert_ne!(key(24, 48, "192.0.2.1"), key(24, 48, "192.0.3.1"));
        assert_ne!(key(32, 48, "192.0.2.1"), key(32, 48, "192.0.2.2"));
        assert_eq!(key(0, 0, "192.0.2.1"), key(0, 0, "10.0.0.1"));
        assert_eq!(key(24, 48, "2001:db8:1:2::3"), key(24, 48, "2001:db8:1:9::"));
        assert_ne!(key(24, 128, "2001:db8:1:2::3"), key(24, 128, "2001:db8:1:2::4"));
        assert_eq!(key(32, 128, "::ffff:192.0.2.1"), key(32, 128, "192.0.2.1"), "one address, however it comes");
        assert_eq!(of_address(FlowKey::Source, "192.0.2.1".parse().unwrap()), None);
    }
}
