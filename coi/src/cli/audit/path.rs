//! `coi audit path`

use clap::Args;

use super::{Code, Failure, Name, Result};
use crate::ui;

/// Print where a container's audit log is: one JSON object per line.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  jq . \"$(coi audit path coi-1a2b3c4d-1)\"")]
pub(super) struct Path {
    #[command(flatten)]
    name: Name,
}

impl Path {
    pub(super) async fn execute(self) -> Result {
        let path = self.name.place().await?.active();
        ui::out(&format!("{}\n", ui::plain(&path.to_string_lossy())))
            .map_err(Failure::system("standard output"))?;
        Ok(Code::OK)
    }
}
