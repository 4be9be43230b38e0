//! `coi rules reload`

use clap::Args;

use super::{Code, Result};
use crate::monitor::service::client::Client;
use crate::ui;

/// Have the running daemon read its rule files again.
///
/// All of them are used or none: if one is wrong, the rules that are in force stay in force. What users and workspaces
/// have brought stays on top of them; where that does not go with the new ones any more, the container keeps the rules
/// it had, which is said, and ends this with 6. Windows and sequences begin anew.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi rules reload")]
pub(super) struct Reload {}

impl Reload {
    pub(super) async fn execute(self) -> Result {
        let reloaded = Client::from_env().reload_rules().await?;
        ui::err(&format!("coi: {} rules are in force", reloaded.rules));
        for kept in &reloaded.kept {
            let name = ui::plain(&kept.watch);
            ui::err(&format!(
                "coi: {name} keeps the rules that it had, since its own do not go with these. End it, or mend one of \
                 them:\n{}",
                kept.why
            ));
        }
        Ok(if reloaded.kept.is_empty() { Code::OK } else { Code::RULE })
    }
}
