//! A process as it was when something happened.

use std::sync::Arc;

/// Identifies a process on this machine until it is rebooted: process ids are used again, start times are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// The process id on the host.
    pub pid: u32,
    /// When it was started, CLOCK_BOOTTIME in nanoseconds.
    pub start_time: u64,
}

/// What a process runs. It is replaced, never changed, when the process runs something else.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which process.
    pub key: ProcessKey,
    /// Process id and start time as one text.
    pub entity_id: Arc<str>,
    /// The program's file in the container's view; empty if it is not known.
    pub executable: Arc<str>,
    /// The arguments, argv[0] first.
    pub args: Arc<[Arc<str>]>,
    /// The arguments joined by spaces.
    pub command_line: Arc<str>,
    /// The arguments were longer than what was kept.
    pub args_truncated: bool,
    /// The arguments could not be read.
    pub args_unreadable: bool,
    /// The programs of its ancestors when it was made, parent first.
    pub ancestors: Arc<[Arc<str>]>,
}

impl Process {
    /// The last part of the program's path.
    pub fn name(&self) -> &str {
        last_part(&self.executable)
    }
}

/// What follows the last slash.
pub(super) fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
