//! `coi audit`

mod evidence;
mod export;
mod link;
mod path;
mod show;
mod tail;
mod verify;

use std::path::Path;

use clap::{Args, Subcommand};

use super::{Code, Failure, Format, Result};
use crate::monitor::{
    audit::files::{self, Place},
    service::client,
};

/// The record of what was seen and done.
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(show::Show),
    Tail(tail::Tail),
    Path(path::Path),
    Link(link::Link),
    Verify(verify::Verify),
    Evidence(evidence::Evidence),
    Export(export::Export),
}

impl Audit {
    pub(super) async fn execute(self) -> Result {
        match self.command {
            Command::Show(c) => c.execute().await,
            Command::Tail(c) => c.execute().await,
            Command::Path(c) => c.execute().await,
            Command::Link(c) => c.execute().await,
            Command::Verify(c) => c.execute().await,
            Command::Evidence(c) => c.execute().await,
            Command::Export(c) => c.execute().await,
        }
    }
}

/// Which log.
#[derive(Debug, Args)]
struct Name {
    /// The container, its uuid, the cgroup's path without its leading slash, or a log's file.
    name: String,
}

impl Name {
    /// The log of this name. What the daemon has watched up to now is then in it.
    async fn place(self) -> Result<Place> {
        let Self { name } = self;
        let state = files::state_directory();
        let file = Path::new(&name);
        if name.contains(".jsonl") && file.is_file() {
            return Place::of_file(file, &state).ok_or(Failure::NoAudit { name });
        }
        // The daemon knows what it watches now; what it watched once lies there.
        let watched = client::Client::from_env().get(&name).await.ok();
        watched
            .and_then(|watch| Place::of_file(&watch.audit, &state))
            .or_else(|| files::newest(&files::directory(), &state, &name))
            .ok_or(Failure::NoAudit { name })
    }
}
