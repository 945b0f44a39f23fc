//! Against the kernel, over loopback. Run under valgrind as well (`scripts/test`).

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use floodway_mmsg::{Inbox, MOST_BYTES, Outbox, Outgoing};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

fn local(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// A socket of IPv6 that takes IPv4 as well, and tells the address that each datagram was sent to.
fn both() -> UdpSocket {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM.nonblocking(), Some(Protocol::UDP)).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.set_recv_tclass_v6(true).unwrap();
    socket.set_recv_tos_v4(true).unwrap();
    let socket: UdpSocket = socket.into();
    set_packet_info(&socket);
    socket
}

fn set_packet_info(socket: &UdpSocket) {
    // What the crates at hand have no name for.
    let about = SockRef::from(socket);
    let done = match about.domain().unwrap() {
        Domain::IPV4 => set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO),
        _ => set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    assert_eq!(done, 0);
}

fn set(socket: &UdpSocket, level: i32, option: i32) -> i32 {
    use std::os::fd::AsRawFd;
    let on = 1i32;
    // SAFETY: the value is one integer, as these options take it, and its length is given.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), 4) }
}

fn at(socket: &UdpSocket, ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), socket.local_addr().unwrap().port())
}

/// Waits until something is there, and receives it.
fn receive(inbox: &mut Inbox, socket: &UdpSocket) -> usize {
    poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
    inbox.receive(socket.as_fd(), 0..inbox.places()).unwrap()
}

fn whole(to: SocketAddr, part: usize) -> Outgoing {
    Outgoing { parts: part..part + 1, to: Some(to), ..Outgoing::default() }
}

#[test]
fn many_go_and_come_in_their_order_the_empty_ones_too() {
    let (a, b) = (local("127.0.0.1"), local("127.0.0.1"));
    let to = b.local_addr().unwrap();
    let texts: Vec<Vec<u8>> = (0..40u8).map(|i| vec![i; usize::from(i) * 7]).collect();
    let parts: Vec<IoSlice<'_>> = texts.iter().map(|t| IoSlice::new(t)).collect();
    let messages: Vec<Outgoing> = (0..texts.len()).map(|i| whole(to, i)).collect();
    let mut outbox = Outbox::new(32);
    assert_eq!(outbox.send(a.as_fd(), &messages, &parts).unwrap(), 32, "as many as there are headers");
    assert_eq!(outbox.send(a.as_fd(), &messages[32..], &parts).unwrap(), 8);
    let mut inbox = Inbox::new(64, MOST_BYTES);
    assert_eq!(receive(&mut inbox, &b), 40);
    for (i, text) in texts.iter().enumerate() {
        let facts = *inbox.facts(i);
        assert_eq!(inbox.bytes(i, facts.length), text);
        assert_eq!((facts.source, facts.is_cut, facts.segment), (Some(a.local_addr().unwrap()), false, None));
    }
    assert_eq!(inbox.receive(b.as_fd(), 0..64).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn parts_are_one_datagram_and_places_may_begin_anywhere() {
    let (a, b) = (local("127.0.0.1"), local("127.0.0.1"));
    a.connect(b.local_addr().unwrap()).unwrap();
    let parts = [IoSlice::new(b"head"), IoSlice::new(b"body")];
    let message = Outgoing { parts: 0..2, ..Outgoing::default() };
    assert_eq!(Outbox::new(1).send(a.as_fd(), &[message], &parts).unwrap(), 1);
    let mut inbox = Inbox::new(4, 100);
    poll(&mut [PollFd::new(&b, PollFlags::IN)], None).unwrap();
    assert_eq!(inbox.receive(b.as_fd(), 2..4).unwrap(), 1);
    assert_eq!(inbox.bytes(2, inbox.facts(2).length), b"headbody");
}

#[test]
fn the_longest_one_arrives_and_what_is_cut_is_told() {
    let (a, b) = (local("127.0.0.1"), local("127.0.0.1"));
    let to = b.local_addr().unwrap();
    let long = vec![7; 65_507];
    for (bytes, is_cut) in [(MOST_BYTES, false), (65_506, true)] {
        assert_eq!(Outbox::new(1).send(a.as_fd(), &[whole(to, 0)], &[IoSlice::new(&long)]).unwrap(), 1);
        let mut inbox = Inbox::new(1, bytes);
        assert_eq!(receive(&mut inbox, &b), 1);
        let facts = *inbox.facts(0);
        assert_eq!((facts.length, facts.is_cut), (long.len().min(bytes), is_cut));
        assert_eq!(inbox.bytes(0, facts.length), &long[..facts.length]);
    }
}

#[test]
fn one_that_cannot_go_is_the_first_of_the_next_call() {
    let (a, b) = (local("127.0.0.1"), local("127.0.0.1"));
    let to = b.local_addr().unwrap();
    let long = vec![7; 65_508];
    let parts = [IoSlice::new(b"x"), IoSlice::new(&long)];
    let messages = [whole(to, 0), whole(to, 1), whole(to, 0)];
    let mut outbox = Outbox::new(3);
    assert_eq!(outbox.send(a.as_fd(), &messages, &parts).unwrap(), 1);
    assert_eq!(outbox.send(a.as_fd(), &messages[1..], &parts).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    assert_eq!(outbox.send(a.as_fd(), &messages[2..], &parts).unwrap(), 1);
}

/// Over one socket for both families: where it was sent to, the mark of congestion, and the same on the way back.
#[test]
fn addresses_and_marks_travel_both_ways() {
    let server = both();
    let mut inbox = Inbox::new(4, 100);
    let mut outbox = Outbox::new(4);
    for (ip, own) in [("127.0.0.1", "127.0.0.7"), ("::1", "::1")] {
        let client = local(ip);
        set_packet_info(&client);
        assert_eq!(set(&client, libc::IPPROTO_IP, libc::IP_RECVTOS), 0);
        if ip == "::1" {
            assert_eq!(set(&client, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS), 0);
        }
        let ask = Outgoing { ecn: 2, ..whole(at(&server, own), 0) };
        assert_eq!(outbox.send(client.as_fd(), &[ask], &[IoSlice::new(b"?")]).unwrap(), 1);
        assert_eq!(receive(&mut inbox, &server), 1);
        let asked = *inbox.facts(0);
        let is_local = asked.local.map(|ip| ip.to_canonical());
        assert_eq!(is_local, Some(own.parse::<IpAddr>().unwrap()), "{asked:?}");
        assert_eq!(asked.ecn, 2);
        assert_eq!(asked.source.map(|s| s.ip().to_canonical()), Some(ip.parse().unwrap()));
        let answer = Outgoing { to: asked.source, from: asked.local, ecn: 3, parts: 0..1, segment: None };
        assert_eq!(outbox.send(server.as_fd(), &[answer], &[IoSlice::new(b"!")]).unwrap(), 1);
        assert_eq!(receive(&mut inbox, &client), 1);
        let answered = *inbox.facts(0);
        assert_eq!(answered.source, Some(at(&server, own)), "from the address that was asked");
        assert_eq!(answered.ecn, 3);
    }
}

#[test]
fn trains_go_and_come_whole_or_in_their_datagrams() {
    let (a, b) = (local("127.0.0.1"), local("127.0.0.1"));
    let train: Vec<u8> = (0..2500u32).map(|i| u8::try_from(i / 1000).unwrap()).collect();
    let (head, tail) = train.split_at(700);
    let parts = [IoSlice::new(head), IoSlice::new(tail)];
    let message =
        Outgoing { parts: 0..2, to: Some(b.local_addr().unwrap()), segment: Some(1000), ..Outgoing::default() };
    let mut inbox = Inbox::new(8, MOST_BYTES);
    assert_eq!(Outbox::new(1).send(a.as_fd(), std::slice::from_ref(&message), &parts).unwrap(), 1);
    assert_eq!(receive(&mut inbox, &b), 3);
    let lengths: Vec<usize> = (0..3).map(|i| inbox.facts(i).length).collect();
    assert_eq!(lengths, [1000, 1000, 500]);
    assert_eq!(set(&b, libc::SOL_UDP, libc::UDP_GRO), 0);
    assert_eq!(Outbox::new(1).send(a.as_fd(), &[message], &parts).unwrap(), 1);
    assert_eq!(receive(&mut inbox, &b), 1);
    let facts = *inbox.facts(0);
    assert_eq!((facts.length, facts.segment), (2500, Some(1000)));
    assert_eq!(inbox.bytes(0, 2500), train);
    // One datagram is no train.
    a.send_to(b"x", b.local_addr().unwrap()).unwrap();
    assert_eq!(receive(&mut inbox, &b), 1);
    assert_eq!(inbox.facts(0).segment, None);
}

#[test]
fn what_became_of_an_earlier_one_is_said() {
    let (a, b) = (local("127.0.0.1"), local("127.0.0.1"));
    a.connect(b.local_addr().unwrap()).unwrap();
    drop(b);
    a.send(b"x").unwrap();
    let mut inbox = Inbox::new(1, 100);
    poll(&mut [PollFd::new(&a, PollFlags::IN)], None).unwrap();
    assert_eq!(inbox.receive(a.as_fd(), 0..1).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
