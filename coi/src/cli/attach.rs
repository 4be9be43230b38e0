//! `coi attach`

use std::path::PathBuf;

use clap::Args;

use super::Result;
use super::shell::session;
use crate::launch::{self, Container, Signals, Tool, Workspace};
use crate::monitor::service::client;
use crate::{incus, ui};

/// Come back to a session.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi attach\n  coi attach coi-1a2b3c4d-1")]
pub(super) struct Attach {
    /// The container; may be left out where a workspace has only one.
    name: Option<String>,
    /// The workspace whose container it is.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
}

impl Attach {
    pub(super) async fn execute(self) -> Result {
        let incus = incus::Client::from_env();
        let owned = match &self.name {
            Some(name) => launch::find(&incus, name).await?,
            None => launch::of_workspace(&incus, &Workspace::open(&self.workspace)?).await?,
        };
        let mut signals = Signals::catch()?;
        launch::check_terminal()?;
        let container = Container::join(incus, client::Client::from_env(), &owned).await?;
        ui::passed_over(&container.name, container.passed_over());
        session(container, Tool::default(), &mut signals, owned.instance.ephemeral).await
    }
}
