//! `coi guard`

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Args;

use super::{Code, Result, daemon};
use crate::monitor::guard::keeper;

/// Freeze what is watched when the daemon is gone. The daemon starts it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  The daemon runs: coi guard --listen-fd 9 --directory /run/coi")]
pub(super) struct Guard {
    /// A descriptor on which a daemon will connect.
    #[arg(long, value_name = "N")]
    listen_fd: Option<RawFd>,
    /// The daemon's runtime directory.
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
}

impl Guard {
    pub(super) fn execute(self) -> Result {
        daemon::log_to_stderr();
        let listener = self.listen_fd.map(|fd| daemon::inherited("--listen-fd", fd)).transpose()?;
        keeper::run(&self.directory, listener)?;
        Ok(Code::OK)
    }
}
