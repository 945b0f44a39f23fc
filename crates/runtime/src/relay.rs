//! Moves bytes between two connected sides, and datagrams between many.

pub(crate) mod end;
pub(crate) mod tcp;
pub(crate) mod udp;
