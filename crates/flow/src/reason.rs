//! Why a session ended: one word for log, metrics and status.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Why a session ended, or was not begun.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word that logs, metrics and status use.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

reasons! {
    /// The client ended first, in good order.
    ClientClosed = "client_closed",
    /// The endpoint ended first, in good order.
    ServerClosed = "server_closed",
    /// The client reset the connection, or vanished.
    ClientReset = "client_reset",
    /// The endpoint reset the connection, or vanished.
    ServerReset = "server_reset",
    /// No byte moved for `timeouts.idle`.
    IdleTimeout = "idle_timeout",
    /// One side had ended and no byte moved for `timeouts.half_close`.
    HalfCloseTimeout = "half_close_timeout",
    /// `timeouts.lifetime` was over.
    Lifetime = "lifetime",
    /// No endpoint could be connected to.
    ConnectFailed = "connect_failed",
    /// No endpoint was fit.
    NoEndpoint = "no_endpoint",
    /// It waited for room, and `timeouts.queue` was over.
    QueueTimeout = "queue_timeout",
    /// Its source may not connect any more.
    Denied = "denied",
    /// A configured limit was reached.
    Limit = "limit",
    /// Its endpoint, or its listener, is gone from the configuration.
    EndpointRemoved = "endpoint_removed",
    /// Its endpoint is drained or disabled.
    Drained = "drained",
    /// Floodway is shutting down and `drain_timeout` is over.
    Shutdown = "shutdown",
    /// The operator closed it.
    ClosedByAdmin = "closed_by_admin",
    /// A bug of ours ended this one session.
    InternalError = "internal_error",
    /// Checks took its endpoint out, and `on_down` closes its sessions.
    EndpointDown = "endpoint_down",
    /// Its datagrams did not reach the endpoint, which said so, and no other could be taken.
    Unreachable = "unreachable",
    /// It had as many answers as were agreed, or its response, whole.
    Completed = "completed",
    /// Nobody had confirmed it when a newcomer needed its place.
    Overload = "overload",
    /// It was a request that is none, or that can be read in two ways.
    BadRequest = "bad_request",
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
