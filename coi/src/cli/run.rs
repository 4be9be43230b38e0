//! `coi run`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::settings::Settings;
use super::{Code, Result};
use crate::config::Loaded;
use crate::launch::{self, Container, Launch, Left, Mounts, Outcome, Signals, Workspace, tool::Tool};
use crate::monitor::service::api::Ended;
use crate::monitor::{seccomp::Entry, service::client};
use crate::{incus, ui};

/// Run one command in a new container that sees the workspace, watched from its first process on.
///
/// The container is gone when the command has ended, unless it is persistent. A single argument with blanks in it is a
/// line for a shell. The first Ctrl-C goes to the command, the second ends the container.
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
#[derive(Clone, Debug, Args)]
pub(super) struct Place {
    /// The directory to work on.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
    /// Which of the workspace's containers; the first that is free if none is named.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(launch::SLOTS)))]
    slot: Option<u8>,
    /// Leave open what COI closes, since what goes through it is not seen as it should be.
    #[arg(long, value_enum, value_name = "ENTRY", value_delimiter = ',')]
    allow: Vec<EntryName>,
    #[command(flatten)]
    pub(super) settings: Settings,
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
    /// The directory to work on.
    pub(super) fn workspace(&self) -> Result<Workspace> {
        Ok(Workspace::open(&self.workspace)?)
    }

    /// The settings that are in force there.
    pub(super) fn settings(&self, workspace: &Workspace) -> Result<Loaded> {
        Ok(launch::loader(Some(&workspace.path), self.settings.0.clone())?.load()?)
    }

    /// What is to be launched there.
    pub(super) fn plan(
        &self,
        workspace: Workspace,
        settings: Loaded,
        session: Option<(&'static dyn Tool, String)>,
        resumes: bool,
    ) -> Result<Launch> {
        Ok(Launch {
            rules: settings
                .config
                .monitoring
                .enabled
                .then(|| launch::own_rules(Some(&workspace.path)))
                .transpose()?,
            workspace: Mounts::of(&settings.config)?.place(workspace),
            settings,
            slot: self.slot,
            open: self.allow.iter().map(|&name| name.into()).collect(),
            session,
            resumes,
        })
    }
}

/// Launches it.
pub(super) async fn launch_it(launch: &Launch, signals: &mut Signals) -> Result<Container> {
    let (incus, daemon) = (incus::Client::from_env(), client::Client::from_env());
    let container = Container::launch(incus, daemon, launch, signals).await?;
    if !container.is_monitored() {
        ui::err(&format!(
            "coi: {} runs without the monitor: nothing that happens in it is seen, recorded or stopped",
            container.name
        ));
    }
    container.remarks().iter().for_each(|remark| ui::err(&format!("coi: {}", ui::plain(remark))));
    if container.is_again && container.image != launch.settings.config.container.image {
        ui::err(&format!(
            "coi: {} was kept, and is of the image {}",
            container.name,
            ui::plain(&container.image)
        ));
    }
    Ok(container)
}

impl Run {
    pub(super) async fn execute(self) -> Result {
        let mut signals = Signals::catch()?;
        let workspace = self.place.workspace()?;
        let settings = self.place.settings(&workspace)?;
        let launch = self.place.plan(workspace, settings, None, false)?;
        let mut container = launch_it(&launch, &mut signals).await?;
        let streams = (tokio::io::stdin(), tokio::io::stdout(), tokio::io::stderr());
        let mut notices = ui::Printer::Lines;
        let outcome = launch::run(&mut container, self.command, streams, &mut signals, &mut notices).await;
        let name = container.name.clone();
        let left = container.end(&mut notices).await;
        let code = outcome_code(&outcome?);
        let Left { ended, killed } = left?;
        tell_end(&name, &ended);
        Ok(killed.map_or(code, |_| Code::KILLED))
    }
}

/// Says what a person should know of a container's end.
pub(super) fn tell_end(name: &str, ended: &Ended) {
    if let Some(why) = &ended.why {
        ui::err(&format!("coi: {name}: {}", ui::plain(why)));
    }
    if let Some(saved) = &ended.session {
        let left_out = match saved.left_out {
            0 => String::new(),
            n => format!("; {n} entries of it were left out"),
        };
        ui::err(&format!(
            "coi: the {} session is saved{left_out}. Go on with it: coi shell --resume={}",
            saved.tool, saved.session_id
        ));
    }
    if !ended.deleted {
        ui::err(&format!(
            "coi: {name} is stopped, and kept. `coi shell` starts it again, `coi kill {name}` deletes it"
        ));
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
