//! How do bytes move on Linux?
//!
//! Sockets, pipes and socket options, through the safe wrappers of rustix, nix and socket2. No opinions: what to move, when
//! and why is somebody else's.

mod listener;
mod pipe;
mod process;
mod socket;
mod tcp_info;

pub use listener::{BindError, Bound, ListenOptions, Listening, Place, SocketFile, bind_tcp, bind_unix};
pub use pipe::{PIPE_BYTES, Pipe, PipeCap, PipePool};
pub use process::{become_user, open_files_limit, open_files_now, raise_open_files};
pub use socket::{Connecting, Keepalive, Peer, Socket, SocketOptions, Target};
