//! A typed client of Incus's REST API on its unix socket.
//!
//! This module promises that every call has a deadline, the waiting for operations included, and that its
//! errors say what Incus was asked to do and what can be done about its refusal. It knows Incus; it knows
//! nothing of COI. Instances are those of the default project, unless another one is asked for.

mod client;
mod error;
mod exec;
mod files;
mod images;
mod lifecycle;
mod patience;
mod socket;

pub use client::{
    Address, Client, DEFAULT_SOCKET, Devices, ImageSource, Instance, InstanceState, Interface, NewInstance,
    Profile, Server, Status,
};
pub use error::{Error, Result};
pub use exec::{Exec, Output, Process};
pub use files::{Attributes, Entry, FileKind, Files, Handle, Ownership};
pub use images::{Image, Publish};
pub use lifecycle::{Lifecycle, LifecycleEvent};
pub use patience::Patience;

/// The project that is meant where none is named.
pub const DEFAULT_PROJECT: &str = "default";
