//! The privileged daemon and its client.

mod admission;
pub mod api;
mod as_user;
mod calls;
pub mod client;
mod connections;
mod deed;
pub mod detach;
mod ending;
mod events;
mod follow;
pub mod install;
mod kept;
mod ledger;
mod memory;
mod metrics;
mod options;
mod policy;
mod protection;
#[cfg(test)]
mod reference;
mod refusal;
mod registry;
mod reload;
mod restore;
mod server;
pub mod stream;
mod subject;
mod systemd;
mod trees;
#[cfg(any(test, fuzzing))]
pub mod unmonitored;
mod watch;
mod watches;

pub use admission::admin_group;
pub use as_user::become_user;
pub use options::MonitorOptions;
pub use server::{ServerError, run};

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

/// How the daemon is to run.
#[derive(Debug, Default)]
pub struct Options {
    /// End when nothing has been watched for so long.
    pub idle_exit: Option<Duration>,
    /// Where to write [`detach::READY`] once it answers, or the reason why it does not; then closed.
    pub ready_fd: Option<OwnedFd>,
    /// A directory of rules to be added to those that are built in.
    pub rules: Option<PathBuf>,
    /// A configuration file instead of the system's own.
    pub config: Option<PathBuf>,
    /// A directory for recordings of all that is watched.
    pub record: Option<PathBuf>,
}
