//! `coi unfreeze`

use clap::Args;

use super::{Code, Result};
use crate::monitor::service::client;
use crate::ui;

/// Undo what rules did to a container: let it go on, with its network. It stays watched.
#[derive(Debug, Args)]
#[command(
    visible_alias = "resume",
    after_help = "Examples:\n  coi unfreeze coi-1a2b3c4d-1\n  coi resume coi-1a2b3c4d-1"
)]
pub(super) struct Unfreeze {
    /// The container, or the cgroup's path without its leading slash.
    name: String,
}

impl Unfreeze {
    pub(super) async fn execute(self) -> Result {
        let watch = client::Client::from_env().unfreeze(&self.name).await?;
        ui::err(&format!("coi: {} goes on", ui::plain(&watch.name)));
        Ok(Code::OK)
    }
}
