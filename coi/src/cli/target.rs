//! Which container is meant: by its name, or by the workspace and slot.

use std::path::PathBuf;

use clap::Args;

use super::Result;
use crate::incus;
use crate::launch::{self, Owned, Workspace};

/// A container that exists.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The container; may be left out where a workspace has only one.
    name: Option<String>,
    /// The workspace whose container it is.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
    /// Which of the workspace's containers.
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "name",
        value_parser = clap::value_parser!(u8).range(1..=i64::from(launch::SLOTS))
    )]
    slot: Option<u8>,
}

impl Target {
    /// Finds it.
    pub(super) async fn find(&self, incus: &incus::Client) -> Result<Owned> {
        Ok(match &self.name {
            Some(name) => launch::find(incus, name).await?,
            None => launch::of_workspace(incus, &Workspace::open(&self.workspace)?, self.slot).await?,
        })
    }
}
