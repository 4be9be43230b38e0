//! The audit log: one JSON object per line, with ECS names.
//!
//! It promises that a record is written after the action it tells of, with the action's result and latency;
//! that sequence numbers have no gaps, also across restarts of the daemon; and that alerts and actions are on
//! the disk when [`Log::append`] returns. The same objects, less the sequence number, are what viewers get.

mod log;
mod record;

pub use log::{Log, LogError, directory, newest, stem};
pub(crate) use record::timestamp;
pub use record::{Outcome, alert, counts, coverage, event, note, state};
