//! `coi kill`

use clap::Args;

use super::{Code, Result};
use crate::{incus, launch, ui};

/// End containers of COI's at once, and delete them. The workspace stays.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi kill coi-1a2b3c4d-1")]
pub(super) struct Kill {
    /// The containers.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Kill {
    pub(super) async fn execute(self) -> Result {
        let incus = incus::Client::from_env();
        for name in &self.names {
            let owned = launch::find(&incus, name).await?;
            launch::remove(&incus, name, owned.instance.uuid()).await?;
            ui::err(&format!("coi: {name} is gone"));
        }
        Ok(Code::OK)
    }
}
