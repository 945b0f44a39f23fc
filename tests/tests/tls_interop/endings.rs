//! Ends of TLS: each side is told of the other's, so that nobody takes what was cut off for all there is.

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use floodway_tests::Backend;
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
