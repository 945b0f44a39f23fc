//! The prober: speaks a check, one file a protocol, and reports an outcome. It judges nothing.

mod dns;
mod exec;
mod grpc;
mod http;
mod mqtt;
mod mysql;
mod pattern;
mod postgres;
mod prober;
mod redis;
mod smtp;
mod tcp;
mod tls;
mod udp;
mod wire;

#[cfg(test)]
mod tests;

pub use prober::{Place, Prober, Target};
