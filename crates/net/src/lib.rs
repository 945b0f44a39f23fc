//! How do bytes move on Linux?
//!
//! Sockets, pipes and socket options, through the safe wrappers of rustix, nix and socket2. No opinions: what to move, when
//! and why is somebody else's.

mod datagrams;
mod inherited;
mod knock;
mod listener;
mod options;
mod pipe;
mod process;
mod socket;
mod steer;
mod stream;
mod tcp_info;

pub use datagrams::{Datagrams, EventQueue, Events, Upstream, kernel_drops};
pub use floodway_mmsg::{Facts, Inbox, MOST_BYTES, MOST_SEGMENTS, Outbox, Outgoing};
pub use inherited::{Inherited, receive_sockets, send_sockets};
pub use knock::Knocker;
pub use listener::{
    BindError, Bound, ListenOptions, Listening, Place, SocketFile, Transport, bind_ip, bind_ip_beside, bind_unix,
    set_access,
};
pub use options::{EndpointOptions, Keepalive, SocketOptions};
pub use pipe::{PIPE_BYTES, Pipe, PipeCap, PipePool};
pub use process::{
    allowed_cores, become_user, is_root, open_files_limit, open_files_now, raise_open_files, stay_on_core,
    without_huge_pages,
};
pub use socket::{Connecting, From, Peer, Socket, Target};
pub use steer::Steer;
pub use tcp_info::TcpFacts;
