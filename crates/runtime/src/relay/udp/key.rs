//! Whose a datagram is.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use floodway_balance::hash;
use floodway_config::{DatagramKey, FlowKey, Token};

use crate::flow_key::{self, Incoming};

/// Most bytes of a token; the configuration allows no more.
const TOKEN: usize = 32;

/// Where a datagram came from and where it was sent to: all that an answer needs. Packed, since every flow holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    ip: [u8; 16],
    local: [u8; 16],
    scope: u32,
    port: u16,
    /// The socket that it was sent to.
    pub(super) door: u16,
    /// Whether both addresses are of IPv4; one over a socket of IPv6 is not.
    is_v4: bool,
    has_local: bool,
    /// Whether a proxy told of it: then it is not the one of that address.
    is_told: bool,
}

impl Client {
    /// The one at `source`, who sent to `local` (if the socket has several addresses) on the socket number `door`.
    pub(super) fn new(source: SocketAddr, local: Option<IpAddr>, door: u16) -> Self {
        let scope = match source {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(at) => at.scope_id(),
        };
        Self {
            ip: pack(source.ip()),
            local: local.map_or([0; 16], pack),
            scope,
            port: source.port(),
            door,
            is_v4: source.is_ipv4(),
            has_local: local.is_some(),
            is_told: false,
        }
    }

    /// The one at `source`, of whom a proxy told that it sent to `destination`.
    fn told(source: SocketAddr, destination: Option<SocketAddr>) -> Self {
        let port = destination.map_or(0, |to| to.port());
        Self { is_told: true, ..Self::new(source, destination.map(|to| to.ip()), port) }
    }

    /// As its socket has it.
    pub(super) fn address(&self) -> SocketAddr {
        match unpack(self.ip, self.is_v4) {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), self.port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, self.scope).into(),
        }
    }

    /// The address that answers come from, if it is one of several.
    pub(super) fn local(&self) -> Option<IpAddr> {
        self.has_local.then(|| unpack(self.local, self.is_v4))
    }
}

impl Hash for Client {
    /// In three pieces, and not in eight: this is done for each datagram.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let flags = u16::from(self.is_v4) | u16::from(self.has_local) << 1 | u16::from(self.is_told) << 2;
        let rest = u128::from(self.scope) << 48 | u128::from(self.port) << 32 | u128::from(self.door) << 16;
        state.write_u128(u128::from_ne_bytes(self.ip));
        state.write_u128(u128::from_ne_bytes(self.local));
        state.write_u128(rest | u128::from(flags));
    }
}

fn pack(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn unpack(bytes: [u8; 16], is_v4: bool) -> IpAddr {
    match (is_v4, bytes) {
        (true, [a, b, c, d, ..]) => Ipv4Addr::new(a, b, c, d).into(),
        (false, bytes) => Ipv6Addr::from(bytes).into(),
    }
}

/// Where a client is, and where it sent to, as a proxy tells.
pub(super) type Told = (SocketAddr, Option<SocketAddr>);

/// What makes one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// One client, at one of our addresses.
    Client(Client),
    /// All of one address.
    Ip([u8; 16]),
    /// All who bear this token, of so many bytes.
    Token([u8; TOKEN], u8),
}

impl Key {
    /// Of a datagram with `bytes` from `client`; a proxy may have `told` where it really is, and where it sent it. `None` if it bears no
    /// token and must.
    pub(super) fn of(how: DatagramKey, client: &Client, told: Option<Told>, bytes: &[u8]) -> Option<Self> {
        let by_source = || Self::Client(told.map_or(*client, |(source, to)| Client::told(source, to)));
        match how {
            DatagramKey::Source => Some(by_source()),
            DatagramKey::SourceIp => {
                let ip = told.map_or_else(|| client.address(), |(source, _)| source).ip().to_canonical();
                Some(Self::Ip(pack(match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
                    IpAddr::V6(_) => ip,
                })))
            }
            DatagramKey::Token(token) => match find(token, bytes) {
                Some((begin, end)) => {
                    let mut kept = [0; TOKEN];
                    let length = (end - begin).min(TOKEN);
                    kept[..length].copy_from_slice(&bytes[begin..begin + length]);
                    Some(Self::Token(kept, u8::try_from(length).unwrap_or(u8::MAX)))
                }
                None => token.else_source.then(by_source),
            },
        }
    }

    /// The same in every process, for whoever pins flows: by the client's address and port, its address, or the token.
    fn hash(&self, source: SocketAddr) -> u64 {
        match self {
            Self::Client(_) => flow_key::of_socket(source),
            Self::Ip(_) => flow_key::of_address(FlowKey::Usual, source.ip()).unwrap_or(0),
            Self::Token(bytes, length) => hash::of(&bytes[..usize::from(*length).min(TOKEN)]),
        }
    }
}

/// Where the token of a datagram is: its begin, and what comes after it.
pub(super) fn find(token: Token, bytes: &[u8]) -> Option<(usize, usize)> {
    let (first, last) = (usize::from(token.first), usize::from(token.last));
    if last >= bytes.len() {
        return None;
    }
    Some(match token.is_from_end {
        true => (bytes.len() - 1 - last, bytes.len() - first),
        false => (first, last + 1),
    })
}

/// How a flow came: where it was sent to, and what makes it.
pub(super) struct Way {
    pub(super) to: SocketAddr,
    pub(super) key: Key,
    pub(super) source: SocketAddr,
}

impl Incoming for Way {
    fn destination(&self) -> Option<SocketAddr> {
        Some(self.to)
    }

    fn flow(&self) -> Option<u64> {
        Some(self.key.hash(self.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(source: &str, local: Option<&str>) -> Client {
        Client::new(source.parse().unwrap(), local.map(|ip| ip.parse().unwrap()), 3)
    }

    #[test]
    fn an_answer_goes_back_to_where_its_question_came_from() {
        for (source, local) in [
            ("192.0.2.1:53", Some("192.0.2.9")),
            ("192.0.2.1:53", None),
            ("[::ffff:192.0.2.1]:53", Some("::ffff:192.0.2.9")),
            ("[fe80::1%7]:53", Some("fe80::2")),
        ] {
            let client = client(source, local);
            assert_eq!(client.address(), source.parse().unwrap());
            assert_eq!(client.local(), local.map(|ip| ip.parse().unwrap()));
        }
        assert!(size_of::<Key>() <= 48, "every flow holds one");
    }

    #[test]
    fn a_flow_is_a_client_an_address_or_a_token() {
        let (a, b) = (client("192.0.2.1:1", None), client("192.0.2.1:2", None));
        let key = |how, client: &Client, bytes: &[u8]| Key::of(how, client, None, bytes);
        assert_ne!(key(DatagramKey::Source, &a, b""), key(DatagramKey::Source, &b, b""));
        assert_eq!(key(DatagramKey::SourceIp, &a, b""), key(DatagramKey::SourceIp, &b, b""));
        let mapped = client("[::ffff:192.0.2.1]:9", None);
        assert_eq!(key(DatagramKey::SourceIp, &a, b""), key(DatagramKey::SourceIp, &mapped, b""));
        let told = Key::of(DatagramKey::Source, &b, Some((a.address(), None)), b"");
        assert_ne!(told, key(DatagramKey::Source, &a, b""), "who is told of is nobody who comes alone");
        let token = Token { first: 1, last: 2, is_from_end: false, is_stripped: false, else_source: false };
        let how = |token| DatagramKey::Token(token);
        assert_eq!(key(how(token), &a, b"xABy"), key(how(token), &b, b"zAB"));
        assert_eq!(key(how(token), &a, b"xA"), None, "too short");
        let or_source = Token { else_source: true, ..token };
        assert_eq!(key(how(or_source), &a, b"xA"), key(DatagramKey::Source, &a, b""));
        let last = Token { is_from_end: true, ..token };
        assert_eq!(find(last, b"01234567"), Some((5, 7)), "the last but one, and the one before");
        assert_eq!(key(how(last), &a, b"xABy"), key(how(token), &a, b"xABy"));
    }
}
