//! The audit log: one JSON object per line, with ECS names, in a chain.
//!
//! It promises:
//! - a record is written after the action it tells of, with the action's result and latency ([`record`]);
//! - numbers have no gaps, also across files and restarts; what is missing is told by a record ([`store`]);
//! - no line can be changed, removed, added or moved, and no end cut off, without [`verify`] finding it, by the chain
//!   ([`chain`]), by signed checkpoints ([`key`]) and by the daemon's own note of the end ([`head`]);
//! - who writes a record never waits for the disk ([`log`]);
//! - no secret that can be told from other words is in it ([`redact`]).
//!
//! It does not know what root does on the host: who can write the files and read the key can write another history.
//! Ship the lines elsewhere to know of that, too.

pub mod chain;
pub mod evidence;
pub mod export;
pub mod files;
pub mod filter;
pub mod follow;
pub mod head;
pub mod key;
pub mod link;
mod log;
mod options;
pub mod read;
mod record;
pub mod redact;
mod retire;
pub mod schema;
pub mod stamp;
mod store;
pub mod verify;

pub use files::{daemon_directory, directory, stem};
pub use log::{Log, LogError, Logs, Progress};
pub use options::{OnFullDisk, Options, duration};
pub use record::{Done, Gap, Kind, Outcome, ProcessSeen, Protection, Record, RulesInForce, Told};
pub(crate) use record::{timestamp, visible};
