//! `coi run`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Code, Result};
use crate::launch::{self, Container, DEFAULT_IMAGE, Outcome, Signals, Workspace};
use crate::monitor::{seccomp::Entry, service::client};
use crate::{incus, ui};

/// Run one command in a new container that sees the workspace, watched from its first process on.
///
/// The container is gone when the command has ended. A single argument with blanks in it is a line for a
/// shell. The first Ctrl-C goes to the command, the second ends the container.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coi run \"npm test\"\n  coi run --image coi-tiny -- sh -c 'echo hello'\n  \
                        git diff | coi run -- wc -l"
)]
pub(super) struct Run {
    #[command(flatten)]
    place: Place,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Which container.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The image's alias.
    #[arg(long, default_value = DEFAULT_IMAGE)]
    image: String,
    /// The directory to work on.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
    /// Leave open what COI closes, since what goes through it is not seen as it should be.
    #[arg(long, value_enum, value_name = "ENTRY", value_delimiter = ',')]
    allow: Vec<EntryName>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EntryName {
    /// io_uring; what came of what is done through it is not always seen.
    IoUring,
}

impl From<EntryName> for Entry {
    fn from(name: EntryName) -> Self {
        match name {
            EntryName::IoUring => Self::IoUring,
        }
    }
}

impl Place {
    /// Launches it.
    pub(super) async fn launch(&self, signals: &mut Signals) -> Result<Container> {
        let workspace = Workspace::open(&self.workspace)?;
        let rules = launch::own_rules(Some(&workspace.path))?;
        let (incus, daemon) = (incus::Client::from_env(), client::Client::from_env());
        let open: Vec<_> = self.allow.iter().map(|&name| name.into()).collect();
        Ok(Container::launch(incus, daemon, &workspace, &self.image, &open, rules, signals).await?)
    }
}

impl Run {
    pub(super) async fn execute(self) -> Result {
        let mut signals = Signals::catch()?;
        let mut container = self.place.launch(&mut signals).await?;
        let streams = (tokio::io::stdin(), tokio::io::stdout(), tokio::io::stderr());
        let mut notices = ui::Printer::Lines;
        let outcome = launch::run(&mut container, self.command, streams, &mut signals, &mut notices).await;
        let removed = container.remove(&mut notices).await;
        let code = outcome_code(&outcome?);
        Ok(removed?.map_or(code, |_| Code::KILLED))
    }
}

/// The exit code of a command's end.
pub(super) fn outcome_code(outcome: &Outcome) -> Code {
    match outcome {
        Outcome::Exited(code) => Code::of_command(*code),
        Outcome::Killed(_) => Code::KILLED,
        Outcome::GivenUp(signal) => Code::of_signal(*signal),
    }
}
