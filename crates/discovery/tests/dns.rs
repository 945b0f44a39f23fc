//! Names asked of a name server that is as it should be, and of one that is not.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use floodway_discovery::Asker;
use floodway_judge::{Answer, Member, Source};
use floodway_tests::{Behaviour, HUGE, NameServer, SPOOFED};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, NS};
use hickory_proto::rr::{Name, RData, Record, RecordType};

const NAME: &str = "db.test";

fn dns(server: &NameServer) -> Asker {
    let source = Source::Dns { host: NAME.into(), port: 5432, resolvers: vec![server.address()] };
    Asker::new(&source).expect("no certificate is needed")
}

fn srv(server: &NameServer) -> Asker {
    let source = Source::Srv { name: "_pg._tcp.test".into(), resolvers: vec![server.address()] };
    Asker::new(&source).expect("no certificate is needed")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Addresses and how long they are good, or why there are none: `-` for certain, `!` for a failure.
async fn ask(asker: &mut Asker) -> Result<(Vec<String>, u64), String> {
    match asker.ask(false).await {
        Answer::Members { members, valid } => {
            Ok((members.iter().map(|m| m.address.to_string()).collect(), valid.as_secs()))
        }
        Answer::Nothing { why } => Err(format!("- {why}")),
        Answer::Failed { why } => Err(format!("! {why}")),
        Answer::Unchanged { .. } => Err("unchanged".into()),
    }
}

fn known() -> NameServer {
    let server = NameServer::start();
    server.set(NAME, &[ip("10.0.0.1"), ip("10.0.0.2"), ip("2001:db8::1")], 30);
    server
}

#[tokio::test]
async fn every_address_of_both_families_and_the_shortest_time() {
    let server = known();
    let all = vec!["10.0.0.1:5432".to_owned(), "10.0.0.2:5432".into(), "[2001:db8::1]:5432".into()];
    assert_eq!(ask(&mut dns(&server)).await, Ok((all.clone(), 30)));
    server.set("real.test", &[ip("10.0.0.1"), ip("10.0.0.2"), ip("2001:db8::1")], 300);
    server.set_alias(NAME, "real.test", 7);
    assert_eq!(ask(&mut dns(&server)).await, Ok((all, 7)), "an alias counts");
    server.set(NAME, &[ip("10.0.0.1")], 30);
    assert_eq!(ask(&mut dns(&server)).await, Ok((vec!["10.0.0.1:5432".into()], 30)), "one family is enough");
}

#[tokio::test]
async fn what_is_wrong_has_a_name_and_is_asked_once() {
    let server = known();
    let nothing = "- the name exists, and has no such record";
    let silence = format!("! no answer within 2 s from {}", server.address());
    for (behaviour, wanted) in [
        (Behaviour::NxDomain, "- NXDOMAIN: the name does not exist".to_owned()),
        (Behaviour::Empty, nothing.into()),
        (Behaviour::ServFail, format!("! SERVFAIL from {}", server.address())),
        (Behaviour::Silent, silence.clone()),
        (Behaviour::Garbage, silence.clone()),
        (Behaviour::PointerLoop, "! an answer that cannot be read".into()),
        (Behaviour::WrongId, silence.clone()),
        (Behaviour::WrongQuestion, format!("! an answer to something else from {}", server.address())),
        (Behaviour::CnameLoop, "! more than 16 aliases, or a circle of them".into()),
    ] {
        let before = server.asked().len();
        server.behave(behaviour);
        let answer = ask(&mut dns(&server)).await;
        let why = answer.expect_err(&format!("{behaviour:?}"));
        assert!(why.starts_with(&wanted), "{behaviour:?}: {why}");
        assert_eq!(server.asked().len() - before, 2, "{behaviour:?}: one question for each family");
    }
}

#[tokio::test]
async fn who_answers_uninvited_is_not_believed() {
    let server = known();
    server.behave(Behaviour::Spoofed);
    for _ in 0..20 {
        let (addresses, _) = ask(&mut dns(&server)).await.expect("the true answer");
        assert_eq!(addresses.len(), 3);
        assert!(!addresses.iter().any(|a| a.contains(&SPOOFED.to_string())), "{addresses:?}");
    }
}

#[tokio::test]
async fn long_answers_come_by_tcp() {
    let server = known();
    server.behave(Behaviour::Truncated);
    assert_eq!(ask(&mut dns(&server)).await.map(|(all, _)| all.len()), Ok(3));
    assert_eq!(server.asked().iter().filter(|asked| asked.tcp).count(), 2);
    server.set(NAME, &[], 0);
    for (behaviour, count) in [(Behaviour::Thousand, 1000), (Behaviour::Huge, HUGE)] {
        server.set(NAME, &[ip("2001:db8::1")], 30);
        server.behave(behaviour);
        assert_eq!(ask(&mut dns(&server)).await.map(|(all, _)| all.len()), Ok(count + 1), "{behaviour:?}");
    }
}

#[tokio::test]
async fn aliases_are_followed_and_no_time_is_a_second() {
    let server = known();
    server.behave(Behaviour::CnameChain(6));
    assert_eq!(ask(&mut dns(&server)).await.map(|(all, valid)| (all.len(), valid)), Ok((3, 5)));
    server.behave(Behaviour::Ttl0);
    assert_eq!(ask(&mut dns(&server)).await.map(|(all, valid)| (all.len(), valid)), Ok((3, 1)));
}

#[tokio::test]
async fn numbers_and_ports_of_questions_cannot_be_guessed() {
    let server = known();
    for _ in 0..50 {
        ask(&mut dns(&server)).await.expect("an answer");
    }
    let asked = server.asked();
    let (ids, ports): (BTreeSet<u16>, BTreeSet<u16>) = asked.iter().map(|a| (a.id, a.port)).unzip();
    assert_eq!(asked.len(), 100);
    assert!(ids.len() > 95 && ports.len() > 90, "{} numbers and {} ports of 100", ids.len(), ports.len());
    let steps: BTreeSet<u16> = asked.windows(2).map(|two| two[1].id.wrapping_sub(two[0].id)).collect();
    assert!(steps.len() > 90, "they do not go up by the same");
}

#[tokio::test]
async fn a_service_has_tiers_weights_and_ports() {
    let server = NameServer::start();
    server.set("a.test", &[ip("10.0.0.1")], 60);
    server.set("b.test", &[ip("10.0.0.2")], 20);
    server.set("two.test", &[ip("10.0.0.3"), ip("10.0.0.4")], 60);
    server.set_service(
        "_pg._tcp.test",
        &[(10, 60, 5432, "a.test"), (10, 20, 5433, "b.test"), (20, 0, 5434, "two.test"), (20, 0, 1, "gone.test")],
        40,
    );
    let Answer::Members { members, valid } = srv(&server).ask(false).await else { panic!("members") };
    let member = |address: &str, name: Option<&str>, weight, tier| Member {
        name: name.map(str::to_owned),
        weight: Some(weight),
        tier: Some(tier),
        ..Member::at(address.parse().expect("an address"))
    };
    let wanted = [
        member("10.0.0.1:5432", Some("a.test:5432"), 60, 0),
        member("10.0.0.2:5433", Some("b.test:5433"), 20, 0),
        member("10.0.0.3:5434", None, 1, 1),
        member("10.0.0.4:5434", None, 1, 1),
    ];
    assert_eq!((members.as_slice(), valid), (wanted.as_slice(), Duration::from_secs(20)));
    server.set_service("_pg._tcp.test", &[(0, 0, 0, ".")], 40);
    assert_eq!(ask(&mut srv(&server)).await, Err("- the service is not offered".into()));
    server.behave(Behaviour::ServFail);
    assert!(ask(&mut srv(&server)).await.is_err_and(|why| why.starts_with('!')));
}

#[tokio::test]
async fn another_server_is_asked_only_if_the_first_does_not_say() {
    let (first, second) = (known(), known());
    let source = Source::Dns { host: NAME.into(), port: 5432, resolvers: vec![first.address(), second.address()] };
    let mut asker = Asker::new(&source).expect("no certificate is needed");
    let mut round = async |behaviour| {
        first.behave(behaviour);
        let before = [first.asked().len(), second.asked().len()];
        let answer = ask(&mut asker).await.map(|(all, _)| all.len());
        (answer, [first.asked().len() - before[0], second.asked().len() - before[1]])
    };
    assert_eq!(round(Behaviour::Sane).await, (Ok(3), [2, 0]));
    assert_eq!(round(Behaviour::ServFail).await, (Ok(3), [2, 2]));
    assert_eq!(round(Behaviour::Silent).await, (Ok(3), [2, 2]));
    assert_eq!(round(Behaviour::WrongId).await, (Ok(3), [2, 2]));
    let (nothing, asked) = round(Behaviour::NxDomain).await;
    assert!(nothing.is_err_and(|why| why.starts_with("- NXDOMAIN")) && asked == [2, 0], "{asked:?}");
    second.behave(Behaviour::ServFail);
    let (failed, _) = round(Behaviour::Silent).await;
    let wanted = format!("! no answer within 2 s from {}; SERVFAIL from {}", first.address(), second.address());
    assert_eq!(failed, Err(wanted));
}

/// Half an answer would take the other family away.
#[tokio::test]
async fn a_family_that_fails_fails_the_whole() {
    let server = known();
    for family in [RecordType::A, RecordType::AAAA] {
        server.alter(move |answer| {
            if answer.queries[0].query_type() == family {
                answer.answers.clear();
                answer.metadata.response_code = ResponseCode::Refused;
            }
        });
        let wanted = format!("! REFUSED from {}", server.address());
        assert_eq!(ask(&mut dns(&server)).await, Err(wanted), "{family}");
    }
}

#[tokio::test]
async fn who_does_not_know_has_not_said_that_there_is_nothing() {
    type Change = fn(&mut Message);
    let server = known();
    server.behave(Behaviour::Empty);
    let bad: [(Change, &str); 3] = [
        (|answer| answer.metadata.message_type = MessageType::Query, "an answer to something else"),
        (|answer| answer.metadata.response_code = ResponseCode::Unknown(12), "RCODE 12"),
        (
            |answer| {
                let data = RData::NS(NS(Name::root()));
                answer.add_authority(Record::from_rdata(Name::root(), 60, data));
            },
            "a referral to other servers",
        ),
    ];
    for (change, why) in bad {
        server.alter(change);
        assert_eq!(ask(&mut dns(&server)).await, Err(format!("! {why} from {}", server.address())));
    }
}

#[tokio::test]
async fn only_records_of_the_name_and_of_its_aliases_count() {
    let server = known();
    server.alter(|answer| {
        let name = Name::from_ascii("else.test.").expect("a name");
        let IpAddr::V4(ip) = SPOOFED else { return };
        answer.add_answer(Record::from_rdata(name, 1, RData::A(A(ip))));
    });
    let all = ["10.0.0.1:5432", "10.0.0.2:5432", "[2001:db8::1]:5432"].map(str::to_owned).to_vec();
    assert_eq!(ask(&mut dns(&server)).await, Ok((all, 30)));
}

/// A server that is no resolver tells the alias alone: the rest is asked for.
#[tokio::test]
async fn an_alias_alone_is_followed() {
    let server = NameServer::start();
    server.set("real.test", &[ip("10.0.0.1")], 300);
    server.set_alias(NAME, "real.test", 7);
    server.alter(|answer| answer.answers.truncate(1));
    assert_eq!(ask(&mut dns(&server)).await, Ok((vec!["10.0.0.1:5432".into()], 7)));
    assert_eq!(server.asked().len(), 4);
}

/// The addresses of a service's servers that come along are not asked for, unless some may have had no room.
#[tokio::test]
async fn addresses_that_come_along_count() {
    let server = NameServer::start();
    server.set("a.test", &[ip("10.0.0.1")], 60);
    server.set("b.test", &[ip("10.0.0.2"), ip("2001:db8::2")], 60);
    server.set_service("_pg._tcp.test", &[(0, 0, 1, "a.test"), (0, 0, 2, "b.test"), (0, 0, 3, "A.test")], 40);
    let beside = |all: &'static [(&'static str, &'static str)]| {
        move |answer: &mut Message| {
            if answer.queries[0].query_type() == RecordType::SRV {
                answer.add_additionals(all.iter().map(|(name, address)| {
                    let mut name = Name::from_ascii(name).expect("a name");
                    name.set_fqdn(true);
                    Record::from_rdata(name, 9, RData::from(ip(address)))
                }));
            }
        }
    };
    let all = |b: &str, more: &[&str]| {
        let mut all = vec!["10.0.0.1:1".to_owned(), format!("{b}:2"), "10.0.0.1:3".into()];
        for address in more {
            all.insert(2, (*address).into());
        }
        all
    };
    server.alter(beside(&[("a.test", "10.0.0.1"), ("b.test", "10.0.0.9"), ("else.test", "127.66.6.6")]));
    assert_eq!(ask(&mut srv(&server)).await, Ok((all("10.0.0.9", &[]), 9)));
    assert_eq!(server.asked().len(), 1);
    server.alter(beside(&[("a.test", "10.0.0.1"), ("else.test", "2001:db8::9")]));
    assert_eq!(ask(&mut srv(&server)).await, Ok((all("10.0.0.2", &["[2001:db8::2]:2"]), 40)));
    assert_eq!(server.asked().len(), 1 + 5, "both families of both");
}

#[tokio::test]
async fn a_service_has_a_measured_size_and_fails_as_a_whole() {
    let server = NameServer::start();
    let names: Vec<String> = (0..300).map(|n| format!("s{n}.test")).collect();
    for name in &names {
        server.set(name, &[ip("10.0.0.1")], 60);
    }
    let of = |count| names[..count].iter().zip(1..).map(|(name, n)| (0, 0, n, name.as_str())).collect::<Vec<_>>();
    server.set_service("_pg._tcp.test", &of(256), 40);
    assert_eq!(ask(&mut srv(&server)).await.map(|(all, _)| all.len()), Ok(256));
    server.set_service("_pg._tcp.test", &of(257), 40);
    assert_eq!(ask(&mut srv(&server)).await, Err("! it names 257 servers: 256 at the most".into()));
    server.set_service("_pg._tcp.test", &of(3), 40);
    server.alter(|answer| {
        if answer.queries[0].name().to_ascii() == "s1.test." {
            answer.answers.clear();
            answer.metadata.response_code = ResponseCode::ServFail;
        }
    });
    assert_eq!(ask(&mut srv(&server)).await, Err(format!("! `s1.test.`: SERVFAIL from {}", server.address())));
}

#[tokio::test]
async fn without_resolvers_it_is_as_the_system_says() {
    let source = Source::Dns { host: "localhost".into(), port: 80, resolvers: vec![] };
    let mut asker = Asker::new(&source).expect("no certificate is needed");
    let (addresses, _) = ask(&mut asker).await.expect("/etc/hosts knows it");
    assert!(addresses.contains(&"127.0.0.1:80".to_owned()), "{addresses:?}");
}
