//! `coi freeze`

use clap::Args;

use super::{Code, Result};
use crate::monitor::service::client;
use crate::ui;

/// Stop a container as it stands, until `coi unfreeze`. Nothing in it runs meanwhile, nothing is lost.
#[derive(Debug, Args)]
#[command(visible_alias = "pause", after_help = "Examples:\n  coi freeze coi-1a2b3c4d-1")]
pub(super) struct Freeze {
    /// The container, or the cgroup's path without its leading slash.
    name: String,
}

impl Freeze {
    pub(super) async fn execute(self) -> Result {
        let watch = client::Client::from_env().freeze(&self.name).await?;
        let name = ui::plain(&watch.name);
        ui::err(&format!("coi: froze {name}. Let it go on with `coi unfreeze {name}`"));
        Ok(Code::OK)
    }
}
