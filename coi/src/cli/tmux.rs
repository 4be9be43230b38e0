//! `coi tmux`

use clap::{Args, Subcommand};
use serde::Serialize;

use super::target::Target;
use super::{Code, Failure, Format, Result, several};
use crate::launch::{self, tmux};
use crate::{incus, ui};

/// Drive sessions from scripts.
#[derive(Debug, Args)]
pub(super) struct Tmux {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Send(Send),
    Capture(Capture),
    List(List),
}

/// Type a line into a session, and press Enter.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coi tmux send coi-1a2b3c4d-1 \"run the tests\"\n  coi tmux send coi-1a2b3c4d-1 --keys C-c\n  \
                        coi tmux send coi-1a2b3c4d-1 --no-enter y"
)]
struct Send {
    /// The container.
    name: String,
    /// What is typed.
    #[arg(required_unless_present = "keys", allow_hyphen_values = true)]
    text: Option<String>,
    /// Press these keys afterwards, by tmux's names for them, instead of Enter.
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    keys: Vec<String>,
    /// Press nothing afterwards.
    #[arg(long, conflicts_with = "keys")]
    no_enter: bool,
}

/// Print what can be seen in a session.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi tmux capture\n  coi tmux capture coi-1a2b3c4d-1 --history 1000")]
struct Capture {
    #[command(flatten)]
    target: Target,
    /// So many lines of what has scrolled away, too.
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    history: u32,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// List the containers in which a session goes on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi tmux list\n  coi tmux list --format json")]
struct List {
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A session that goes on.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    tool: Option<String>,
    session: Option<String>,
    workspace: String,
}

impl Tmux {
    pub(super) async fn execute(self) -> Result {
        let incus = incus::Client::from_env();
        match self.command {
            Command::Send(command) => command.execute(&incus).await,
            Command::Capture(command) => command.execute(&incus).await,
            Command::List(command) => command.execute(&incus).await,
        }
    }
}

impl Send {
    async fn execute(self, incus: &incus::Client) -> Result {
        let owned = launch::find(incus, &self.name).await?;
        let enter = || vec!["Enter".to_owned()];
        let keys = match self.keys {
            keys if !keys.is_empty() => keys,
            _ if self.no_enter => Vec::new(),
            _ => enter(),
        };
        tmux::send(incus, &owned, self.text.as_deref(), &keys).await?;
        Ok(Code::OK)
    }
}

impl Capture {
    async fn execute(self, incus: &incus::Client) -> Result {
        let owned = self.target.find(incus).await?;
        let screen = tmux::capture(incus, &owned, self.history).await?;
        // It is the container's word.
        let lines: Vec<_> = screen.trim_end().lines().map(ui::plain).collect();
        let text = match self.format {
            Format::Text => lines.join("\n") + "\n",
            Format::Json => {
                serde_json::json!({ "name": owned.instance.name, "lines": lines }).to_string() + "\n"
            }
        };
        ui::out(&text).map_err(Failure::system("standard output"))?;
        Ok(Code::OK)
    }
}

impl List {
    async fn execute(self, incus: &incus::Client) -> Result {
        let (mut rows, mut failures) = (Vec::new(), Vec::new());
        for owned in launch::mine(incus).await? {
            match tmux::has_session(incus, &owned).await {
                Ok(true) => rows.push(Row {
                    name: owned.instance.name,
                    tool: owned.tool,
                    session: owned.session,
                    workspace: owned.workspace,
                }),
                Ok(false) => {}
                Err(error) => failures.push((owned.instance.name, error)),
            }
        }
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(&rows).unwrap_or_default() + "\n",
            Format::Text => rows
                .iter()
                .map(|row| {
                    let tool = row.tool.as_deref().unwrap_or("-");
                    format!("{:<16} {:<10} {}\n", row.name, ui::plain(tool), ui::plain(&row.workspace))
                })
                .collect(),
        };
        ui::out(&text).map_err(Failure::system("standard output"))?;
        several::told(failures)?;
        if rows.is_empty() && self.format == Format::Text {
            ui::err("coi: no session goes on. `coi shell` starts one");
        }
        Ok(Code::OK)
    }
}
