//! The privileged daemon and its client.

pub mod api;
