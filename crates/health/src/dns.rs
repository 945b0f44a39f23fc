//! Does it resolve?

use std::hash::{BuildHasher, RandomState};

use floodway_judge::{Dns, Failure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};

use crate::prober::Ready;
use crate::wire::Wire;
use crate::{Target, udp};

/// Asks once: by UDP, and by TCP if the answer is too long for that.
pub(crate) async fn probe(check: &Ready, target: &Target<'_>, wanted: &Dns) -> Result<(), Failure> {
    let question = question(wanted)?;
    let packet = question.to_vec().map_err(|e| Failure::Unexpected(format!("the question cannot be asked: {e}")))?;
    if !wanted.tcp {
        let socket = udp::open(check, target).await?;
        let answer = udp::exchange(&socket, &packet, |answer| fitting(&question, answer)).await?;
        if !answer.metadata.truncation {
            return judge(&answer, &question, wanted);
        }
    }
    let mut wire = Wire::connect(check, target).await?;
    let length = u16::try_from(packet.len()).map_err(|_| Failure::Unexpected("the question is too long".into()))?;
    wire.send(&[&length.to_be_bytes(), packet.as_slice()].concat()).await?;
    let length = wire.take(2).await?;
    let packet = wire.take(usize::from(u16::from_be_bytes([length[0], length[1]]))).await?;
    wire.close().await;
    let Some(answer) = fitting(&question, &packet) else {
        return Err(Failure::Unexpected("its answer is none to what was asked".into()));
    };
    judge(&answer, &question, wanted)
}

fn question(wanted: &Dns) -> Result<Message, Failure> {
    let unfit = |what: &str, is_no: &str| Failure::Unexpected(format!("`{}` is no {is_no}", what.escape_debug()));
    let mut name = Name::from_ascii(&wanted.name).map_err(|_| unfit(&wanted.name, "name"))?;
    name.set_fqdn(true);
    let record: RecordType =
        wanted.record.to_ascii_uppercase().parse().map_err(|_| unfit(&wanted.record, "type of record"))?;
    // Each state hashes by keys of its own, which nobody can guess: an answer must be to this very question.
    let id = RandomState::new().hash_one(0) as u16;
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record));
    Ok(message)
}

/// The answer in `packet`, if it is one to `question`.
fn fitting(question: &Message, packet: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(packet).ok()?;
    let metadata = &answer.metadata;
    let fits = metadata.message_type == MessageType::Response && metadata.id == question.metadata.id;
    // A server that cannot read the question answers without it.
    let unread = answer.queries.is_empty() && metadata.response_code != ResponseCode::NoError;
    (fits && (unread || answer.queries == question.queries)).then_some(answer)
}

fn judge(answer: &Message, question: &Message, wanted: &Dns) -> Result<(), Failure> {
    let code = answer.metadata.response_code;
    if code != ResponseCode::NoError {
        return Err(Failure::Unexpected(format!("it answered {}", word(code))));
    }
    let asked = question.queries.first().map_or(RecordType::ANY, Query::query_type);
    let fits = |kind: RecordType| kind == asked || asked == RecordType::ANY;
    let found = answer.answers.iter().any(|record| fits(record.record_type()) && record.dns_class == DNSClass::IN);
    match found || wanted.empty {
        true => Ok(()),
        false => Err(Failure::Unexpected(format!("it has no {asked} record of `{}`", wanted.name.escape_debug()))),
    }
}

/// The word for a code in the registry of IANA.
fn word(code: ResponseCode) -> String {
    match code {
        ResponseCode::Unknown(code) => format!("RCODE {code}"),
        known => format!("{known:?}").to_ascii_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Server, ask, ask_within, bears_anything, check};
    use crate::udp::tests::served;
    use floodway_judge::{Check, Outcome, Protocol};
    use hickory_proto::rr::rdata::{A, CNAME};
    use hickory_proto::rr::{RData, Record};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;

    fn asked(tcp: bool, empty: bool) -> Check {
        check(Protocol::Dns(Dns { name: "www.example.com".into(), record: "a".into(), tcp, empty }))
    }

    /// The answer to `packet` with an address.
    fn address(packet: &[u8]) -> Message {
        let mut answer = Message::from_vec(packet).unwrap().into_response();
        let name = answer.queries[0].name().clone();
        answer.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
        answer
    }

    fn with(change: impl Fn(&mut Message) + Send + 'static) -> SocketAddr {
        served("127.0.0.1", move |_, packet| {
            let mut answer = address(packet);
            change(&mut answer);
            answer.to_vec().ok()
        })
    }

    /// Answers by TCP.
    fn serve(stream: &mut std::net::TcpStream) -> std::io::Result<()> {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut packet)?;
        let answer = address(&packet).to_vec().unwrap();
        stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes())?;
        stream.write_all(&answer)
    }

    fn unexpected(what: &str) -> Outcome {
        Outcome::Fail(Failure::Unexpected(what.into()))
    }

    #[tokio::test]
    async fn a_record_passes_by_udp_and_by_tcp() {
        assert_eq!(ask(asked(false, false), with(|_| ())).await, Outcome::Pass);
        let server = Server::new(serve);
        assert_eq!(ask(asked(true, false), server.address()).await, Outcome::Pass);
        assert_eq!(ask(asked(false, false), server.address()).await, Outcome::Fail(Failure::Refused));
    }

    #[tokio::test]
    async fn what_is_truncated_is_asked_again_by_tcp() {
        let server = Server::new(serve);
        let socket = UdpSocket::bind(server.address()).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1000];
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            let mut answer = address(&buffer[..len]);
            answer.answers.clear();
            answer.metadata.truncation = true;
            socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
        });
        assert_eq!(ask(asked(false, false), server.address()).await, Outcome::Pass);
    }

    #[tokio::test]
    async fn another_answer_fails() {
        for (code, word) in [
            (ResponseCode::ServFail, "SERVFAIL"),
            (ResponseCode::NXDomain, "NXDOMAIN"),
            (ResponseCode::Refused, "REFUSED"),
            (ResponseCode::Unknown(12), "RCODE 12"),
        ] {
            let outcome = ask(asked(false, true), with(move |m| m.metadata.response_code = code)).await;
            assert_eq!(outcome, unexpected(&format!("it answered {word}")));
        }
        let unread = with(|m| {
            m.metadata.response_code = ResponseCode::FormErr;
            m.queries.clear();
        });
        assert_eq!(ask(asked(false, false), unread).await, unexpected("it answered FORMERR"));
    }

    #[tokio::test]
    async fn an_answer_without_the_record_passes_only_where_that_is_wanted() {
        let empty = with(|m| m.answers.clear());
        let none = unexpected("it has no A record of `www.example.com`");
        assert_eq!(ask(asked(false, false), empty).await, none);
        assert_eq!(ask(asked(false, true), empty).await, Outcome::Pass);
        let alias = with(|m| {
            let name = m.queries[0].name().clone();
            m.answers = vec![Record::from_rdata(name.clone(), 60, RData::CNAME(CNAME(name)))];
        });
        assert_eq!(ask(asked(false, false), alias).await, none);
    }

    #[tokio::test]
    async fn an_answer_to_another_question_is_none() {
        let timeout = Duration::from_millis(300);
        let silence = Outcome::Fail(Failure::Timeout);
        let changes: [fn(&mut Message); 3] = [
            |m| m.metadata.id ^= 1,
            |m| {
                m.queries[0].set_query_type(RecordType::AAAA);
            },
            |m| m.metadata.message_type = MessageType::Query,
        ];
        for change in changes {
            assert_eq!(ask_within(asked(false, false), with(change), timeout).await, silence);
        }
        let late = served("127.0.0.1", |n, packet| {
            let mut answer = address(packet);
            answer.metadata.id ^= u16::from(n < 2);
            answer.to_vec().ok()
        });
        assert_eq!(ask(asked(false, false), late).await, Outcome::Pass);
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_said() {
        let of = |name: &str, record: &str| {
            check(Protocol::Dns(Dns { name: name.into(), record: record.into(), tcp: false, empty: false }))
        };
        let anywhere = with(|_| ());
        assert_eq!(ask(of("a..b", "A"), anywhere).await, unexpected("`a..b` is no name"));
        assert_eq!(ask(of("a", "B"), anywhere).await, unexpected("`B` is no type of record"));
    }

    #[tokio::test]
    async fn anything_is_borne() {
        let wanted = Dns { name: "a".into(), record: "A".into(), tcp: true, empty: true };
        let answer = address(&question(&wanted).unwrap().to_vec().unwrap()).to_vec().unwrap();
        let framed = [&u16::try_from(answer.len()).unwrap().to_be_bytes(), answer.as_slice()].concat();
        bears_anything(&asked(true, true), &framed).await;
        for packet in [vec![], vec![0; 12], vec![0xff; 500], answer] {
            let address = served("127.0.0.1", move |_, _| Some(packet.clone()));
            let outcome = ask_within(asked(false, true), address, Duration::from_millis(100)).await;
            assert_eq!(outcome, Outcome::Fail(Failure::Timeout));
        }
    }
}
