//! The monitor: from a kernel program's record to a frozen container and a line in the audit log.
//!
//! An event goes through `sensor`, `lineage`, `rules`, `respond` and `audit`, in that order; `pipeline` is the
//! thread that takes it there, `event` what it is called, and `service` the daemon around it all.

pub mod audit;
pub mod cgroup;
pub mod config;
pub mod counts;
pub mod event;
mod filter;
pub mod guard;
pub mod inforce;
pub mod lineage;
pub mod notify;
pub mod ownfiles;
pub mod pipeline;
mod priority;
pub mod private;
mod recent;
pub mod recorder;
pub mod respond;
pub mod rulefiles;
pub mod rules;
pub mod seccomp;
pub mod sensor;
pub mod service;
pub mod standing;
mod turns;
pub mod vacated;
pub mod viewers;
