//! `coi rules reload`

use clap::Args;

use super::{Code, Result};
use crate::monitor::service::client::Client;
use crate::ui;

/// Have the running daemon read its rule files again.
///
/// All of them are used or none: if one is wrong, the rules that are in force stay in force. Windows and sequences
/// begin anew.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi rules reload")]
pub(super) struct Reload {}

impl Reload {
    pub(super) async fn execute(self) -> Result {
        let reloaded = Client::from_env().reload_rules().await?;
        ui::err(&format!("coi: {} rules are in force", reloaded.rules));
        Ok(Code::OK)
    }
}
