//! Drives the built binary over real sockets: processes, backends, keyed streams, and waiting for events.

mod backend;
mod certificates;
mod datagrams;
mod load;
mod name_server;
mod process;
mod rig;
mod servers;
mod service_manager;
mod stream;
mod tcp;
mod wait;
mod web_servers;

pub use backend::{Backend, echo};
pub use certificates::{Authority, Issued, Kind};
pub use datagrams::{UdpBackend, UdpClient, udp_socket};
pub use load::{Load, Seen};
pub use name_server::{Asked, Behaviour, HUGE, NameServer, SPOOFED};
pub use process::{Floodway, Options, binary, project_folder, run};
pub use rig::{Host, Link, Rig, Weather};
pub use servers::{
    Server, as_postgres, dnsmasq, finished, haproxy, nginx, pgbench, postgres, postgres_program, psql, redis,
    secure_postgres,
};
pub use service_manager::ServiceManager;
pub use stream::{Keyed, keyed_echo, pseudo_random};
pub use tcp::{Ending, bytes_acknowledged, connect, connect_from, deaf, ping, read_to_ending, reset};
pub use wait::{SetAtEnd, free_port, wait_for, wait_until};
pub use web_servers::{SECRET, WebKind, WebServer};

/// The worker counts that everything must hold for.
pub const WORKERS: [usize; 3] = [1, 2, 4];
