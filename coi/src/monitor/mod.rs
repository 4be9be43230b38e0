//! The monitor: from a kernel program's record to a frozen container and a line in the audit log.
//!
//! An event goes through the modules in the order they are listed here; ARCHITECTURE.md draws it.

pub mod event;
pub mod lineage;
pub mod rules;
pub mod sensor;
pub mod service;
