//! COI runs AI coding agents in Incus system containers and watches them from the kernel.

pub mod cli;
pub mod http;
pub mod incus;
pub mod launch;
pub mod monitor;
pub mod ui;
