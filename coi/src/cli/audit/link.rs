//! `coi audit link`

use std::path::PathBuf;

use clap::Args;

use super::{Code, Failure, Name, Result};
use crate::monitor::audit::link;
use crate::ui;

/// Have ~/.coi/audit/NAME.jsonl lead to a container's audit log.
///
/// Whatever has a container watched does so by itself, as the user who called it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi audit link coi-1a2b3c4d-1")]
pub(super) struct Link {
    #[command(flatten)]
    name: Name,
    /// The log's file, where that is known.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

impl Link {
    pub(super) async fn execute(self) -> Result {
        let name = self.name.name.clone();
        let log = match self.to {
            Some(log) => log,
            None => self.name.place().await?.active(),
        };
        let link = link::make_here(&name, &log).map_err(Failure::system("the link to the audit log"))?;
        ui::out(&format!("{}\n", ui::plain(&link.to_string_lossy())))
            .map_err(Failure::system("standard output"))?;
        Ok(Code::OK)
    }
}
