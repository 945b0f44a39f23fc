//! HTTP/1.1 on the wire (RFC 9112), strictly: what two readers could read in two ways is no message. Pure: bytes in, facts out.

pub mod body;
pub mod head;

#[cfg(test)]
mod tests;
