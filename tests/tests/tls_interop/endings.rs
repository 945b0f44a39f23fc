//! Ends of TLS: each side is told of the other's, so that nobody takes what was cut off for all there is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use floodway_tests::{Backend, wait_until};
use rustls::{ServerConnection, StreamOwned};

use crate::peers::{client, dial, part, plain, say, secured, server};
use crate::{MODES, SOON, Town, record};

/// A client that has said all is told when the server has, too.
#[test]
fn who_ends_first_hears_of_the_other_s_end() {
    let town = Town::new();
    let (open, secure) = (plain("a"), secured("a", &town.a));
    let floodway = town.front([open.address(); 2], [secure.address(); 2], 2);
    let config = Arc::new(client(&town.ca()));
    for mode in MODES {
        let mut stream = dial(&config, "a.test", floodway.address(mode)).unwrap();
        stream.write_all(b"the last line\n").unwrap();
        assert_eq!(part(stream).unwrap(), b"a the last line\n", "{mode}");
        if mode != "through" {
            assert_eq!(record(&floodway, mode, 0)["reason"], "client_closed");
        }
    }
}

/// The same, where the server is the first.
#[test]
fn a_server_that_ends_first_hears_of_the_client_s_end() {
    let town = Town::new();
    let (config, open) = (server(&town.a), plain("a"));
    let (told, heard) = channel();
    let told = Mutex::new(told);
    let secure = Backend::start(move |stream| {
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        let mut line = [0; 6];
        tls.read_exact(&mut line).unwrap();
        tls.write_all(b"bye\n").unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        let rest = tls.read_to_end(&mut Vec::new()).map_err(|e| e.to_string());
        told.lock().unwrap().send(rest).unwrap();
    });
    let floodway = town.front([open.address(); 2], [secure.address(); 2], 2);
    for mode in ["through", "again"] {
        let mut stream = dial(&Arc::new(client(&town.ca())), "a.test", floodway.address(mode)).unwrap();
        assert_eq!(say(&mut stream, "hello").unwrap(), "bye");
        // The server's end, and then ours.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{mode}");
        part(stream).unwrap();
        assert_eq!(heard.recv_timeout(SOON).unwrap(), Ok(0), "{mode}");
        if mode != "through" {
            assert_eq!(record(&floodway, mode, 0)["reason"], "server_closed");
        }
    }
}

/// A client that is gone without a word may have been cut off: the server is not told that this is all.
#[test]
fn who_is_cut_off_does_not_end_in_good_order() {
    let town = Town::new();
    let (open, secure) = (plain("a"), secured("a", &town.a));
    let floodway = town.front([open.address(); 2], [secure.address(); 2], 2);
    for mode in ["ended", "again"] {
        let mut stream = dial(&Arc::new(client(&town.ca())), "a.test", floodway.address(mode)).unwrap();
        say(&mut stream, "hello").unwrap();
        drop(stream);
        assert_eq!(record(&floodway, mode, 0)["reason"], "client_reset");
    }
}

/// How somebody ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `close_notify`, and a FIN.
    Clean,
    /// A FIN without a word, as if it had been cut off.
    Cut,
    /// A reset.
    Reset,
    /// `close_notify`, and the other side has a megabyte to say yet.
    Half,
}

const LONG: usize = 100_000;
const ANSWER: usize = 1_000_000;
const TIMES: usize = 100;

/// What a server saw of a client's end: the bytes before it, and whether it was in good order.
type Heard = (usize, bool);

/// Says something long where it is told to, and ends as it is told; else says that it listens, does so to the end, and answers at
/// length.
fn converse(stream: &mut (impl Read + Write), end: impl FnOnce(Way), heard: &dyn Fn(Heard)) -> std::io::Result<()> {
    let mut word = [0; 1];
    stream.read_exact(&mut word)?;
    let way = match &word {
        b"k" => Some(Way::Clean),
        b"c" => Some(Way::Cut),
        b"r" => Some(Way::Reset),
        _ => None,
    };
    if let Some(way) = way {
        stream.write_all(&vec![b'x'; LONG])?;
        stream.flush()?;
        end(way);
        return Ok(());
    }
    stream.write_all(b".")?;
    stream.flush()?;
    let (mut bytes, mut buffer) = (0, [0; 16 * 1024]);
    let ended = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break true,
            Ok(n) => bytes += n,
            Err(_) => break false,
        }
    };
    heard((bytes, ended));
    if ended && &word == b"h" {
        stream.write_all(&vec![b'y'; ANSWER])?;
        stream.flush()?;
    }
    end(Way::Clean);
    Ok(())
}

fn reset(socket: &TcpStream) {
    socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A server of each kind that does what [`converse`] does, and tells what it heard.
fn listeners(town: &Town) -> (Backend, Backend, Receiver<Heard>) {
    let (told, heard) = channel();
    let told = Arc::new(Mutex::new(told));
    let of = |told: &Arc<Mutex<Sender<Heard>>>| {
        let told = Arc::clone(told);
        move |what| {
            let _ = told.lock().unwrap().send(what);
        }
    };
    let tell = of(&told);
    let open = Backend::start(move |mut stream| {
        let socket = stream.try_clone().unwrap();
        let end = |way| {
            if way == Way::Reset {
                reset(&socket);
            }
        };
        let _ = converse(&mut stream, end, &tell);
    });
    let (config, tell) = (server(&town.a), of(&told));
    let secure = Backend::start(move |stream| {
        let socket = stream.try_clone().unwrap();
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        let mut last = Way::Cut;
        if converse(&mut tls, |way| last = way, &tell).is_ok() {
            match last {
                Way::Reset => reset(&socket),
                Way::Cut => {}
                Way::Clean | Way::Half => {
                    tls.conn.send_close_notify();
                    let _ = tls.flush();
                }
            }
        }
    });
    (open, secure, heard)
}

/// A client that says something long and ends in the way that is named; gives what came of the answer.
fn client_ends(config: &Arc<rustls::ClientConfig>, address: SocketAddr, way: Way) -> std::io::Result<Vec<u8>> {
    let mut stream = dial(config, "a.test", address)?;
    let socket = stream.sock.try_clone()?;
    stream.write_all(if way == Way::Half { b"h" } else { b"l" })?;
    stream.flush()?;
    // A reset that overtook the handshake would reach nobody.
    stream.read_exact(&mut [0])?;
    stream.write_all(&vec![b'x'; LONG])?;
    stream.flush()?;
    match way {
        Way::Clean | Way::Half => return part(stream),
        Way::Cut => {
            socket.shutdown(std::net::Shutdown::Write)?;
            // Closed with tickets unread it would be a reset.
            let _ = stream.sock.read_to_end(&mut Vec::new());
        }
        Way::Reset => reset(&socket),
    }
    drop(stream);
    Ok(Vec::new())
}

/// Every way to end, from either side, a hundred times: the other side sees that way, after every byte.
#[test]
fn endings_are_told_apart() {
    let town = Town::new();
    let (open, secure, heard) = listeners(&town);
    let floodway = town.front([open.address(); 2], [secure.address(); 2], 2);
    let config = Arc::new(client(&town.ca()));
    for mode in ["ended", "again"] {
        let address = floodway.address(mode);
        for way in [Way::Clean, Way::Half, Way::Cut, Way::Reset] {
            let answers = at_once(|| client_ends(&config, address, way));
            let is_good = matches!(way, Way::Clean | Way::Half);
            for answer in answers {
                let answer = answer.unwrap();
                assert_eq!(answer.len(), if way == Way::Half { ANSWER } else { 0 }, "{mode} {way:?}");
                let (bytes, ended) = heard.recv_timeout(SOON).unwrap();
                assert_eq!(ended, is_good, "{mode} {way:?}");
                assert!(bytes == LONG || way == Way::Reset, "{mode} {way:?}: {bytes}");
            }
        }
        for (word, way) in [(b"k", Way::Clean), (b"c", Way::Cut), (b"r", Way::Reset)] {
            let ends = at_once(|| {
                let mut stream = dial(&config, "a.test", address)?;
                stream.write_all(word)?;
                stream.flush()?;
                let mut said = Vec::new();
                Ok((stream.read_to_end(&mut said), said.len()))
            });
            for end in ends {
                let (end, bytes) = end.unwrap();
                // A server without TLS cannot be told from one that is cut off: its FIN is its end.
                let is_good = way == Way::Clean || way == Way::Cut && mode == "ended";
                assert_eq!(end.is_ok(), is_good, "{mode} {way:?}: {end:?}");
                assert!(bytes == LONG || way == Way::Reset, "{mode} {way:?}: {bytes}");
            }
        }
    }
    wait_until(|| "no session left".into(), SOON, || floodway.metric("sessions_active", &[]) == 0.0);
    // Sessions that are left alone cost nothing, whatever waits in them.
    let mut idle: Vec<_> = (0..20).map(|_| dial(&config, "a.test", floodway.address("ended")).unwrap()).collect();
    idle.iter_mut().for_each(|stream| stream.write_all(b"l123").unwrap());
    wait_until(|| "sessions".into(), SOON, || floodway.metric("sessions_active", &[]) == 20.0);
    let before = floodway.cpu_time();
    std::thread::sleep(Duration::from_millis(500));
    let spent = floodway.cpu_time() - before;
    assert!(spent <= Duration::from_millis(30), "{spent:?} in half a second of nothing");
    assert_eq!(floodway.metric("panics_total", &[]), 0.0);
}

/// Does `work` as often as everything is done here, some at a time.
fn at_once<T: Send>(work: impl Fn() -> std::io::Result<T> + Sync) -> Vec<std::io::Result<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..TIMES / 4).map(|_| work()).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}
