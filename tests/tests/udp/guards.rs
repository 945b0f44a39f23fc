//! Who may come, how many, and how much.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use floodway_tests::{UdpBackend, UdpClient, WORKERS, wait_until};

use crate::{SOON, dropped, front};

fn from(floodway: &floodway_tests::Floodway, last: u8) -> UdpClient {
    UdpClient::from(IpAddr::from([127, 0, 6, last]), floodway.address("l"))
}

#[test]
fn who_may_not_come_is_dropped_and_counted() {
    let echo = UdpBackend::echo();
    for workers in WORKERS {
        let floodway = front(", access: { deny: [127.0.6.2] }", &[&echo], "", workers);
        assert!(from(&floodway, 1).ask(b"?").is_ok());
        from(&floodway, 2).say(b"?");
        wait_until(|| "a drop".into(), SOON, || dropped(&floodway, "denied") == 1.0);
        // A ban ends what is there, too.
        let client = from(&floodway, 3);
        client.ask(b"?").unwrap();
        assert!(floodway.command(&["ban", "127.0.6.3", "--listener", "l", "--for", "1m"]).status.success());
        wait_until(|| "the end".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "denied") == 1);
        client.say(b"again");
        wait_until(|| "a drop".into(), SOON, || dropped(&floodway, "banned") == 1.0);
    }
}

/// One more takes the place of the oldest that nobody has confirmed, and nobody's who is.
#[test]
fn a_limit_of_flows_gives_up_those_that_nobody_confirmed() {
    for workers in [1, 2] {
        let echo = UdpBackend::echo();
        let floodway = front(", limits: { sessions: 4 }", &[&echo], "", workers);
        let confirmed: Vec<UdpClient> = (1..=3).map(|i| from(&floodway, i)).collect();
        for client in &confirmed {
            // An answer, and then another word.
            client.ask(b"one").unwrap();
            client.ask(b"two").unwrap();
        }
        // Each on its own worker makes way for the next there.
        let mut served = 0;
        for i in 10..40 {
            let client = from(&floodway, i);
            client.say(b"new");
            served += u32::from(!client.hears_nothing(Duration::from_millis(100)));
        }
        assert!(served > 0, "newcomers come in");
        assert!(floodway.metric("sessions_active", &[]) <= 4.0);
        let gone = floodway.count_sessions(|r| r["reason"] == "overload");
        assert!(gone > 0 || dropped(&floodway, "limit") > 0.0);
        for client in &confirmed {
            assert_eq!(client.ask(b"still").unwrap(), b"still", "{workers} workers");
        }
        assert_eq!(echo.seen().values().filter(|said| said.len() == 3).count(), 3, "the same flows");
        // All confirmed: then the new ones are not let in.
        let last = from(&floodway, 50);
        if last.ask(b"one").is_ok() {
            let _ = last.ask(b"two");
        }
    }
}

#[test]
fn a_source_may_send_so_many() {
    let echo = UdpBackend::echo();
    for workers in WORKERS {
        let floodway = front(", limits: { per_source: { datagrams: 10/s, sessions: 2 } }", &[&echo], "", workers);
        let client = from(&floodway, 1);
        (0..50).for_each(|_| client.say(b"x"));
        wait_until(|| "drops".into(), SOON, || dropped(&floodway, "per_source_datagrams") >= 40.0);
        let passed = floodway.metric("datagrams_total", &["direction=\"to_endpoint\""]);
        assert!((1.0..=15.0).contains(&passed), "{passed}: a tenth of a second at once, and what comes meanwhile");
        let other = from(&floodway, 2);
        assert!(other.ask(b"x").is_ok(), "others are others");
        let (second, third) = (from(&floodway, 2), from(&floodway, 2));
        wait_until(
            || "a second".into(),
            SOON,
            || {
                second.say(b"x");
                !second.hears_nothing(Duration::from_millis(150))
            },
        );
        wait_until(
            || "no third".into(),
            SOON,
            || {
                third.say(b"x");
                dropped(&floodway, "per_source") >= 1.0
            },
        );
    }
}

/// A short question with a long answer, from whoever says that it is the client.
#[test]
fn an_unconfirmed_client_gets_three_times_what_it_sent() {
    let loud = UdpBackend::start(|text, _| vec![vec![b'x'; text.len()]; 20]);
    for workers in WORKERS {
        let floodway = front(", udp: { guard: amplification }", &[&loud], "", workers);
        let client = from(&floodway, 1);
        client.say(&[0; 100]);
        wait_until(|| "drops".into(), SOON, || dropped(&floodway, "amplification") == 17.0);
        (0..3).for_each(|_| assert_eq!(client.hear().unwrap().len(), 100));
        assert!(client.hears_nothing(Duration::from_millis(100)), "no more than that");
        // It has heard the answer: it is where it says.
        client.say(&[0; 100]);
        (0..20).for_each(|_| assert_eq!(client.hear().unwrap().len(), 100));
        assert_eq!(dropped(&floodway, "amplification"), 17.0);
    }
}

/// A flood of sources that are nobody: who was there before is served, and the table keeps its cap.
#[test]
fn a_flood_of_strangers_hurts_nobody() {
    for workers in WORKERS {
        let echo = UdpBackend::start(|text, _| if text == b"junk" { Vec::new() } else { vec![text.to_vec()] });
        let floodway = front(", limits: { sessions: 500 }", &[&echo], "", workers);
        let clients: Vec<UdpClient> = (1..=50).map(|i| from(&floodway, i)).collect();
        for client in &clients {
            client.ask(b"one").unwrap();
            client.ask(b"two").unwrap();
        }
        let front = floodway.address("l");
        let memory = floodway.memory_kib("VmRSS:");
        std::thread::scope(|scope| {
            let flood = scope.spawn(move || {
                for i in 0..20_000u32 {
                    let ip = IpAddr::from((0x7f07_0001 + i % 5000).to_be_bytes());
                    let stranger = floodway_tests::udp_socket(SocketAddr::new(ip, 0));
                    // Where the kernel takes no more, that is as well.
                    let _ = stranger.send_to(b"junk", front);
                }
            });
            while !flood.is_finished() {
                for client in &clients {
                    assert_eq!(client.ask(b"here").unwrap(), b"here", "{workers} workers");
                }
            }
        });
        assert!(floodway.metric("sessions_active", &[]) <= 500.0);
        let grown = floodway.memory_kib("VmRSS:").saturating_sub(memory);
        assert!(grown < 16 * 1024, "{grown} KiB more");
        let stayed: BTreeSet<usize> = echo.seen().values().filter(|said| said[0] == b"one").map(Vec::len).collect();
        assert!(stayed.iter().all(|said| *said > 2), "by the same flows: {stayed:?}");
    }
}
