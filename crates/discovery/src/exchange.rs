//! One question to one name server: by UDP, and by TCP if the answer is too long for that (RFC 1035, 4.2).

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// For one server, each way.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer by UDP (DNS Flag Day 2020): more may be lost on the way.
const MOST_UDP: u16 = 1232;

/// What `server` answers to `query`.
///
/// # Errors
/// Why there is no answer that can be read, in words that go before "from SERVER".
pub(crate) async fn exchange(server: SocketAddr, query: &Query) -> Result<Message, String> {
    // Each state hashes by keys of its own, which nobody can guess.
    let id = RandomState::new().hash_one(0) as u16;
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MOST_UDP);
    question.set_edns(edns);
    let packet = question.to_vec().map_err(|e| format!("a question that cannot be asked ({e})"))?;
    let answer = within(by_udp(server, &packet, id)).await?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    within(by_tcp(server, &packet)).await.map_err(|e| format!("{e} by TCP"))
}

async fn within(asked: impl Future<Output = io::Result<Vec<u8>>>) -> Result<Message, String> {
    let none = || format!("no answer within {} s", TIMEOUT.as_secs());
    let bytes = tokio::time::timeout(TIMEOUT, asked).await.map_err(|_| none())?.map_err(|e| e.to_string())?;
    Message::from_vec(&bytes).map_err(|e| format!("an answer that cannot be read ({e})"))
}

/// The first datagram with the number of the question. Connected: the kernel drops what comes from elsewhere, and says when nobody is
/// there; and it chooses the port at random.
async fn by_udp(server: SocketAddr, packet: &[u8], id: u16) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut bytes = vec![0; usize::from(u16::MAX)];
    loop {
        let n = socket.recv(&mut bytes).await?;
        // Any other number may be a guess of somebody else's.
        if bytes[..n].starts_with(&id.to_be_bytes()) {
            bytes.truncate(n);
            return Ok(bytes);
        }
    }
}

async fn by_tcp(server: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), packet].concat()).await?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    match bytes.starts_with(&packet[..2]) {
        true => Ok(bytes),
        false => Err(io::Error::other("an answer to something else")),
    }
}
