//! A name server of our own, which can be as bad as one likes.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Whom a spoofed answer names: nobody may believe it.
pub const SPOOFED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 66, 6, 6));

/// Addresses in the largest answer: some 64 KB.
pub const HUGE: usize = 2800;

/// Largest answer by UDP (DNS Flag Day 2020).
const MOST_UDP: usize = 1232;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    Sane,
    /// No name exists.
    NxDomain,
    /// Names exist, and have nothing.
    Empty,
    /// It is broken.
    ServFail,
    /// It does not answer.
    Silent,
    /// Bytes that are no message.
    Garbage,
    /// A name that points at itself (RFC 1035, 4.1.4).
    PointerLoop,
    /// The answer to another question's number.
    WrongId,
    /// The answer to another question.
    WrongQuestion,
    /// Somebody else answers first, with [`SPOOFED`].
    Spoofed,
    /// All answers are too long for UDP.
    Truncated,
    /// Good for no time at all.
    Ttl0,
    /// A thousand addresses, 127.1.0.0 and those after it.
    Thousand,
    /// As much as fits into an answer by TCP.
    Huge,
    /// So many aliases before the addresses.
    CnameChain(u8),
    /// Aliases of one another.
    CnameLoop,
    /// Other addresses each time.
    Alternating,
}

impl Behaviour {
    /// All that is not as it should be.
    pub const CHAOS: [Self; 16] = [
        Self::NxDomain,
        Self::Empty,
        Self::ServFail,
        Self::Silent,
        Self::Garbage,
        Self::PointerLoop,
        Self::WrongId,
        Self::WrongQuestion,
        Self::Spoofed,
        Self::Truncated,
        Self::Ttl0,
        Self::Thousand,
        Self::Huge,
        Self::CnameChain(6),
        Self::CnameLoop,
        Self::Alternating,
    ];
}

/// One question that came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The name, without its last dot.
    pub name: String,
    /// The type of record.
    pub kind: RecordType,
    /// Its number.
    pub id: u16,
    /// The port that it came from.
    pub port: u16,
    /// Whether it came by TCP.
    pub tcp: bool,
}

type Change = Box<dyn Fn(&mut Message) + Send>;

#[derive(Default)]
struct State {
    records: Vec<Record>,
    behaviour: Option<Behaviour>,
    alter: Option<Change>,
    asked: Vec<Asked>,
    turn: u8,
}

/// Answers by UDP and TCP on a port of loopback.
pub struct NameServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("the name server's state")
}

impl NameServer {
    /// Starts it, with no name.
    ///
    /// # Panics
    /// If it cannot listen.
    #[must_use]
    pub fn start() -> Self {
        let (udp, tcp) = std::iter::repeat_with(|| {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
            let tcp = TcpListener::bind(udp.local_addr().expect("its address"));
            tcp.ok().map(|tcp| (udp, tcp))
        })
        .take(100)
        .flatten()
        .next()
        .expect("a port that is free for both");
        let address = udp.local_addr().expect("its address");
        let (state, stop): (Arc<Mutex<State>>, Arc<AtomicBool>) = Default::default();
        udp.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let (known, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        let by_udp = std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while !stopped.load(Ordering::SeqCst) {
                let Ok((n, from)) = udp.recv_from(&mut packet) else { continue };
                let (answer, is_spoofed) = known.lock().expect("state").answer(&packet[..n], from, false);
                if is_spoofed {
                    spoof(&packet[..n], from);
                }
                if let Some(answer) = answer {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let (known, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        let by_tcp = std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let known = Arc::clone(&known);
                std::thread::spawn(move || drop(serve(stream, &known)));
            }
        });
        Self { address, state, stop, threads: vec![by_udp, by_tcp] }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `name` has these addresses, for so many seconds.
    ///
    /// # Panics
    /// If it is no name.
    pub fn set(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        let name = fqdn(name);
        let of = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => RData::A(A(*ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
        };
        let records = addresses.iter().map(|ip| Record::from_rdata(name.clone(), ttl, of(ip))).collect();
        self.replace(&name, records);
    }

    /// From now on `name` is an alias.
    ///
    /// # Panics
    /// If one is no name.
    pub fn set_alias(&self, name: &str, of: &str, ttl: u32) {
        let name = fqdn(name);
        let record = Record::from_rdata(name.clone(), ttl, RData::CNAME(CNAME(fqdn(of))));
        self.replace(&name, vec![record]);
    }

    /// From now on `name` is a service: priority, weight, port and target of each server.
    ///
    /// # Panics
    /// If one is no name.
    pub fn set_service(&self, name: &str, servers: &[(u16, u16, u16, &str)], ttl: u32) {
        let name = fqdn(name);
        let of = |(priority, weight, port, target): &(u16, u16, u16, &str)| {
            RData::SRV(SRV::new(*priority, *weight, *port, fqdn(target)))
        };
        let records = servers.iter().map(|server| Record::from_rdata(name.clone(), ttl, of(server))).collect();
        self.replace(&name, records);
    }

    fn replace(&self, name: &Name, records: Vec<Record>) {
        let mut state = lock(&self.state);
        state.records.retain(|record| record.name != *name);
        state.records.extend(records);
    }

    /// From now on it behaves so.
    pub fn behave(&self, behaviour: Behaviour) {
        lock(&self.state).behaviour = Some(behaviour);
    }

    /// From now on each answer is changed so, before it is bad in the way of [`NameServer::behave`].
    pub fn alter(&self, change: impl Fn(&mut Message) + Send + 'static) {
        lock(&self.state).alter = Some(Box::new(change));
    }

    /// Every question that came.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.state).asked.clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn fqdn(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a name");
    name.set_fqdn(true);
    name
}

/// An answer from a port that was not asked.
fn spoof(packet: &[u8], to: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let Ok(question) = Message::from_vec(packet) else { return };
    let mut answer = question.into_response();
    let Some(name) = answer.queries.first().map(|query| query.name().clone()) else { return };
    if let IpAddr::V4(ip) = SPOOFED {
        answer.add_answer(Record::from_rdata(name, 60, RData::A(A(ip))));
    }
    let _ = socket.send_to(&answer.to_vec().expect("an answer"), to);
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let from = stream.peer_addr()?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut packet)?;
        let (answer, _) = lock(state).answer(&packet, from, true);
        let Some(answer) = answer else { return Ok(()) };
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        stream.write_all(&[&length.to_be_bytes(), &answer[..usize::from(length)]].concat())?;
    }
}

impl State {
    /// The answer to a question, and whether a false one goes before it.
    fn answer(&mut self, packet: &[u8], from: SocketAddr, tcp: bool) -> (Option<Vec<u8>>, bool) {
        let Ok(question) = Message::from_vec(packet) else { return (None, false) };
        let Some(query) = question.queries.first().cloned() else { return (None, false) };
        let name = query.name().to_string().trim_end_matches('.').to_lowercase();
        self.asked.push(Asked { name, kind: query.query_type(), id: question.metadata.id, port: from.port(), tcp });
        self.turn = self.turn.wrapping_add(1);
        let behaviour = self.behaviour.unwrap_or(Behaviour::Sane);
        let mut answer = question.into_response();
        self.fill(&mut answer, &query, behaviour);
        if let Some(alter) = &self.alter {
            alter(&mut answer);
        }
        match behaviour {
            Behaviour::Silent => return (None, false),
            Behaviour::Garbage => {
                return (Some((0..40u8).map(|i| i.wrapping_mul(7).wrapping_add(self.turn)).collect()), false);
            }
            Behaviour::PointerLoop => {
                // The answer's header and question, one record, whose name points at itself.
                let mut bytes = packet[..12].to_vec();
                (bytes[2], bytes[3]) = (0x81, 0x80);
                bytes[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
                let end = packet[12..].iter().position(|&b| b == 0).map_or(packet.len(), |n| 12 + n + 5);
                bytes.extend_from_slice(&packet[12..end.min(packet.len())]);
                let own = u16::try_from(bytes.len()).unwrap_or(0) | 0xc000;
                bytes.extend_from_slice(&own.to_be_bytes());
                bytes.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 66, 6, 6]);
                return (Some(bytes), false);
            }
            Behaviour::WrongId => answer.metadata.id = answer.metadata.id.wrapping_add(1),
            Behaviour::WrongQuestion => {
                answer.queries = vec![Query::query(fqdn("somebody.else"), query.query_type())];
            }
            _ => {}
        }
        let bytes = answer.to_vec().expect("an answer");
        let is_long = bytes.len() > MOST_UDP || behaviour == Behaviour::Truncated;
        let bytes = if is_long && !tcp { answer.truncate().to_vec().expect("an answer") } else { bytes };
        (Some(bytes), behaviour == Behaviour::Spoofed && !tcp)
    }

    fn fill(&self, answer: &mut Message, query: &Query, behaviour: Behaviour) {
        let (name, kind) = (query.name(), query.query_type());
        let made_up = |i: u32| RData::A(A(Ipv4Addr::from(0x7f01_0000 + i)));
        match behaviour {
            Behaviour::NxDomain => answer.metadata.response_code = ResponseCode::NXDomain,
            Behaviour::ServFail => answer.metadata.response_code = ResponseCode::ServFail,
            Behaviour::Empty => {}
            Behaviour::Thousand if kind == RecordType::A => {
                answer.add_answers((0..1000).map(|i| Record::from_rdata(name.clone(), 5, made_up(i))));
            }
            Behaviour::Huge if kind == RecordType::A => {
                answer.add_answers((0..HUGE as u32).map(|i| Record::from_rdata(name.clone(), 5, made_up(i))));
            }
            Behaviour::Alternating if kind == RecordType::A => {
                let first = u32::from(self.turn) * 8;
                answer.add_answers((first..first + 3).map(|i| Record::from_rdata(name.clone(), 5, made_up(i))));
            }
            Behaviour::CnameLoop => {
                let other = fqdn("loop.test");
                let alias =
                    |from: &Name, to: &Name| Record::from_rdata(from.clone(), 5, RData::CNAME(CNAME(to.clone())));
                answer.add_answers([alias(name, &other), alias(&other, name)]);
            }
            Behaviour::CnameChain(length) => {
                let mut from = name.clone();
                for i in 0..length {
                    let to = fqdn(&format!("alias{i}.test"));
                    answer.add_answer(Record::from_rdata(from, 5, RData::CNAME(CNAME(to.clone()))));
                    from = to;
                }
                let known = self.records.iter().filter(|r| r.name == *name && r.record_type() == kind);
                answer.add_answers(known.map(|r| Record::from_rdata(from.clone(), r.ttl, r.data.clone())));
            }
            _ => self.tell(answer, name, kind, behaviour == Behaviour::Ttl0),
        }
    }

    /// What is known: also of the name that this one is an alias of.
    fn tell(&self, answer: &mut Message, name: &Name, kind: RecordType, now_only: bool) {
        let mut name = name.clone();
        let is_alias = |name: &Name| {
            let mut of = self.records.iter().filter(|r| r.name == *name);
            of.find(|r| r.record_type() == RecordType::CNAME).cloned()
        };
        while let Some(alias) = is_alias(&name).filter(|_| kind != RecordType::CNAME) {
            if let RData::CNAME(CNAME(to)) = &alias.data {
                name = to.clone();
            }
            answer.add_answer(alias);
        }
        if !self.records.iter().any(|r| r.name == name) {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        let known = self.records.iter().filter(|r| r.name == name && r.record_type() == kind);
        let ttl = |r: &Record| if now_only { 0 } else { r.ttl };
        answer.add_answers(known.map(|r| Record::from_rdata(name.clone(), ttl(r), r.data.clone())));
    }
}
