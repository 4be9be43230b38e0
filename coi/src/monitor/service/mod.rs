//! The privileged daemon and its client.

pub mod api;
pub mod client;
pub mod stream;
