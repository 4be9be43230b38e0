//! `coi audit`

use clap::{Args, Subcommand};

use super::{Code, Failure, Result};
use crate::monitor::audit;
use crate::monitor::service::client;
use crate::ui;

/// The record of what was seen and done.
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print where a container's audit log is: one JSON object per line.
    #[command(after_help = "Examples:\n  jq . \"$(coi audit path coi-1a2b3c4d-1)\"")]
    Path {
        /// The container, or the cgroup's path without its leading slash.
        name: String,
    },
}

impl Audit {
    pub(super) async fn execute(self) -> Result {
        let Command::Path { name } = self.command;
        // The daemon knows what it watches now; what it watched once lies there.
        let path = match client::Client::from_env().get(&name).await {
            Ok(watch) => watch.audit,
            Err(_) => audit::newest(&audit::directory(), &name).ok_or(Failure::NoAudit { name })?,
        };
        ui::out(&format!("{}\n", path.display())).map_err(Failure::system("standard output"))?;
        Ok(Code::OK)
    }
}
