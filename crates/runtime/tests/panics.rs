//! A panic ends one flow and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use floodway_config::{Limits, OneText};
use floodway_net::Inherited;
use floodway_runtime::{Flow, Handler, Record, Server, SessionLog, TcpRelay};

struct Silent;

impl SessionLog for Silent {
    fn record(&self, _: &Record<'_>) {}
}

/// Panics over a client that begins with `!`; relays everybody else.
#[derive(Clone)]
struct Fragile;

impl Handler for Fragile {
    fn handle(&self, flow: Flow) -> impl Future<Output = ()> + 'static {
        serve(flow)
    }
}

async fn serve(flow: Flow) {
    let mut first = [0];
    let read = poll_fn(|cx| flow.client().poll_read(cx, &mut first)).await;
    assert!(read.is_ok() && first != *b"!", "the bug");
    TcpRelay.handle(flow).await;
}

fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte) {
                    let _ = stream.write_all(&byte);
                }
            });
        }
    });
    address
}

#[test]
fn a_thousand_panics_cost_a_thousand_flows_and_nothing_else() {
    let text = format!(
        "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p, limits: {{ sessions: 100 }} }} }}\npools: {{ p: {{ endpoints: \"{}\" }} }}\nruntime: {{ workers: 2 }}\n",
        echo()
    );
    let config = floodway_config::read(Path::new("f"), &OneText(text), &Limits::default()).unwrap().config;
    let server = Server::bind(config, 1024, &mut Inherited::default(), None).unwrap();
    let clients = |front: SocketAddr| {
        // One session lives through it all.
        let mut witness = TcpStream::connect(front).unwrap();
        let ping = |stream: &mut TcpStream| {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        };
        witness.write_all(b"f").unwrap();
        ping(&mut witness);
        for _ in 0..1000 {
            let mut doomed = TcpStream::connect(front).unwrap();
            doomed.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            doomed.write_all(b"!").unwrap();
            assert!(matches!(doomed.read(&mut [0]), Ok(0) | Err(_)), "it was served");
        }
        ping(&mut witness);
    };
    std::panic::set_hook(Box::new(|_| {}));
    tokio::runtime::LocalRuntime::new().unwrap().block_on(async {
        let mut running = server.start(&Fragile, Arc::new(Silent), floodway_runtime::AllByHand::new()).unwrap();
        running.open_doors();
        let front = running.places()[0].1.to_string().parse().unwrap();
        let done = tokio::task::spawn_blocking(move || clients(front)).await;
        assert_eq!(running.shared().panics(), 1000);
        done.expect("the clients");
        let timeout = Duration::from_secs(10);
        while running.shared().sessions().0 > 0 {
            tokio::time::timeout(timeout, tokio::task::yield_now()).await.unwrap();
        }
        running.shut_down(Duration::ZERO, timeout, false, std::future::pending()).await;
    });
}
