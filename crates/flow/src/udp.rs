//! Flows of datagrams: which there are, which come to their end, and what one may still do.
//!
//! [`Flows`] is a table with a cap and one queue of deadlines; [`Exchange`] counts what a flow has asked and been answered. No
//! sockets, no clock: whoever drives them says what came and when.

mod exchange;
mod flows;
#[cfg(test)]
mod tests;

pub use exchange::{After, Exchange, ExchangeRules};
pub use flows::{FlowId, Flows, Life, TICK};
