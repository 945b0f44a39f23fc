//! How do bytes move on Linux?
//!
//! Sockets, pipes and socket options, through the safe wrappers of rustix, nix and socket2. No opinions: what to move, when
//! and why is somebody else's.

mod inherited;
mod knock;
mod listener;
mod options;
mod pipe;
mod process;
mod socket;
mod stream;
mod tcp_info;

pub use inherited::{Inherited, receive_sockets, send_sockets};
pub use knock::Knocker;
pub use listener::{
    BindError, Bound, ListenOptions, Listening, Place, SocketFile, bind_tcp, bind_tcp_beside, bind_unix, set_access,
};
pub use options::{EndpointOptions, Keepalive, SocketOptions};
pub use pipe::{PIPE_BYTES, Pipe, PipeCap, PipePool};
pub use process::{
    allowed_cores, become_user, is_root, open_files_limit, open_files_now, raise_open_files, stay_on_core,
    without_huge_pages,
};
pub use socket::{Connecting, From, Peer, Socket, Target};
pub use tcp_info::TcpFacts;
