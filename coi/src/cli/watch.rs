//! `coi watch`

use std::path::PathBuf;

use clap::Args;
use nix::unistd::geteuid;

use super::run::outcome_code;
use super::{Failure, Result};
use crate::launch::{self, HostCommand, Signals};
use crate::monitor::service::client;
use crate::ui;

/// Run a command of this machine, watched and answered by the rules. Needs no Incus.
///
/// The command runs as whoever called sudo, in a cgroup of its own. Says `ready` on standard error once
/// that is armed, before the command starts. What the command leaves running ends with it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sudo coi watch -- make test\n  sudo coi watch -- bash")]
pub(super) struct Watch {
    /// The directory whose files are the workspace.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Watch {
    pub(super) async fn execute(self) -> Result {
        if !geteuid().is_root() {
            let again = format!("coi watch -- {}", self.command.join(" "));
            return Err(Failure::NotRoot { what: "watching a command of this machine", again });
        }
        let workspace = launch::Workspace::open(&self.workspace)?.path;
        let (user, rules) = (launch::sudo_user()?, launch::own_rules(Some(&workspace))?);
        let command = HostCommand { words: self.command, user, workspace, rules };
        let mut signals = Signals::catch()?;
        let ready = || ui::err("ready");
        let daemon = client::Client::from_env();
        let outcome = launch::watch(daemon, &command, &mut signals, &mut ui::Printer::Lines, ready).await?;
        Ok(outcome_code(&outcome))
    }
}
