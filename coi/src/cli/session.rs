//! `coi session`: what the daemon starts to have a session written down by its owner.

use clap::{Args, Subcommand};

use super::{Code, Failure, Result};
use crate::session::save;
use crate::ui;

/// Write a session down. The daemon starts it, as the session's owner.
#[derive(Debug, Args)]
pub(super) struct Session {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Save(Save),
}

/// Save what comes on standard input.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  The daemon runs: coi session save")]
struct Save {}

impl Session {
    pub(super) fn execute(self) -> Result {
        let Command::Save(Save {}) = self.command;
        let saved = save::save(&mut std::io::stdin().lock())?;
        let line = serde_json::to_string(&saved).unwrap_or_default() + "\n";
        ui::out(&line).map_err(Failure::system("standard output"))?;
        Ok(Code::OK)
    }
}
