//! `coi shell`

use clap::{Args, ValueEnum};

use super::run::Place;
use super::{Code, Result};
use crate::launch::{self, Container, Ended, Signals, Tool};
use crate::ui;

/// Start a session in a new container that sees the workspace, watched from its first process on.
///
/// The session runs in tmux: detach from it with Ctrl-b d, and it goes on, watched. When it ends, the
/// container is gone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi shell\n  coi shell --workspace ~/src/app --tool bash")]
pub(super) struct Shell {
    #[command(flatten)]
    place: Place,
    /// What runs in the session.
    #[arg(long, value_enum, default_value_t)]
    tool: ToolName,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ToolName {
    /// A plain shell.
    #[default]
    Bash,
}

impl Shell {
    pub(super) async fn execute(self) -> Result {
        let tool = match self.tool {
            ToolName::Bash => Tool::Bash,
        };
        let mut signals = Signals::catch()?;
        launch::check_terminal()?;
        let container = self.place.launch(&mut signals).await?;
        session(container, tool, &mut signals, true).await
    }
}

/// Attaches to a session; removes the container when the session is over, if it is to be removed then.
pub(super) async fn session(
    mut container: Container,
    tool: Tool,
    signals: &mut Signals,
    ephemeral: bool,
) -> Result {
    let ended = launch::shell(&mut container, tool, signals, &mut ui::Printer::OverScreen).await;
    if let Ok(Ended::Detached) = ended {
        let name = &container.name;
        ui::err(&format!(
            "coi: {name} goes on, and is watched. Come back with `coi attach {name}`, end it with `coi kill {name}`"
        ));
        return Ok(Code::OK);
    }
    let removed = if ephemeral { container.remove(&mut ui::Printer::Lines).await } else { Ok(None) };
    let code = match ended? {
        Ended::Killed(_) => Code::KILLED,
        Ended::Over(code) => Code::of_command(code),
        Ended::Detached => Code::OK,
    };
    Ok(removed?.map_or(code, |_| Code::KILLED))
}
