//! COI runs AI coding agents in Incus system containers and watches them from the kernel.

pub mod cli;
pub mod config;
pub mod http;
pub mod image;
pub mod incus;
pub mod launch;
pub mod monitor;
pub mod mount;
pub mod places;
pub mod session;
pub mod ui;
