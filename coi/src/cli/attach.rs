//! `coi attach`

use clap::Args;

use super::shell::session;
use super::target::Target;
use super::{Code, Result};
use crate::launch::tool;
use crate::launch::{self, Container, Ended, Signals};
use crate::monitor::service::client;
use crate::{incus, ui};

/// Come back to a session.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi attach\n  coi attach coi-1a2b3c4d-1\n  coi attach --slot 2 --bash")]
pub(super) struct Attach {
    #[command(flatten)]
    target: Target,
    /// Open a shell of its own beside the session. Leaving it ends nothing.
    #[arg(long)]
    bash: bool,
}

impl Attach {
    pub(super) async fn execute(self) -> Result {
        let incus = incus::Client::from_env();
        let owned = self.target.find(&incus).await?;
        let mut signals = Signals::catch()?;
        launch::check_terminal()?;
        let tool = owned.tool.as_deref().and_then(tool::named);
        let program = tool.map_or("", |tool| tool.facts().program);
        let settings = launch::loader(Some(owned.workspace.as_ref()), Vec::new())?.load()?.config;
        let daemon = client::Client::from_env();
        let mut container = Container::join(incus, daemon, &owned, program, &settings).await?;
        ui::passed_over(&container.name, container.passed_over());
        if let Some(tool) = tool.filter(|_| !self.bash) {
            let start = launch::anew(&container, tool, &settings);
            return session(container, &start, &mut signals).await;
        }
        Ok(match launch::beside(&mut container, &mut signals, &mut ui::Printer::OverScreen).await? {
            Ended::Killed(_) => Code::KILLED,
            Ended::Over(code) => Code::of_command(code),
            Ended::Detached => Code::OK,
        })
    }
}
