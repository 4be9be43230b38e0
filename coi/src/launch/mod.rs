//! The life of a container: from a workspace to a command that runs in it, and its end.
//!
//! This module promises:
//! - nothing runs in a container before the daemon watches it: it is made, watched, and only then started;
//! - a container's name is its slot's lock: making it in Incus either takes the slot or fails;
//! - whatever way a launch ends, short of SIGKILL, its ephemeral container is gone. After a SIGKILL the
//!   container stays, and stays watched;
//! - a container loses its monitor only by being frozen at once.
//!
//! It prints nothing: what a person should know goes through [`Notices`].

mod caller;
mod container;
mod guest;
mod host;
mod monitored;
mod run;
mod shell;
mod signals;
mod slot;
mod spec;
mod workspace;

use std::fmt;
use std::path::PathBuf;

pub use caller::{own_rules, sudo_user};
pub use container::{Container, Owned, find, mine, of_workspace, remove};
pub use guest::{Guest, shell_words};
pub use host::{HostCommand, cgroup_root, watch};
pub use run::{Outcome, run};
pub use shell::{Ended, Tool, check_terminal, shell};
pub use signals::Signals;
pub use slot::SLOTS;
pub use spec::{DEFAULT_IMAGE, GUEST_WORKSPACE};
pub use workspace::Workspace;

use crate::incus;
use crate::monitor::ownfiles::OwnFilesError;
use crate::monitor::service::api::{ActionTaken, Watch};
use crate::monitor::service::client;
use crate::monitor::service::stream::Line;

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a container could not be launched or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such directory.
    #[error(
        "the workspace {} does not exist. Name an existing directory with --workspace, or change to it",
        path.display()
    )]
    NoWorkspace {
        /// As it was given.
        path: PathBuf,
    },
    /// It is not a directory.
    #[error("the workspace {} is not a directory. Name a directory with --workspace", path.display())]
    NotADirectory {
        /// As it was given.
        path: PathBuf,
    },
    /// It cannot be looked at, or its name cannot be told to Incus.
    #[error("the workspace {} cannot be used: {why}", path.display())]
    UnusableWorkspace {
        /// As it was given.
        path: PathBuf,
        /// The system's word for it.
        why: String,
    },
    /// No local image has that alias.
    #[error("Incus has no image {alias}; it has {}", aliases(have))]
    NoImage {
        /// The alias.
        alias: String,
        /// Those there are.
        have: Vec<String>,
    },
    /// All slots of a workspace are taken.
    #[error(
        "all {SLOTS} containers that {} may have exist. See them with `coi list`, end one with `coi kill NAME`",
        path.display()
    )]
    NoSlot {
        /// The workspace.
        path: PathBuf,
    },
    /// There is no container of that name.
    #[error("there is no container {name}. `coi list` shows those there are")]
    NoContainer {
        /// The name.
        name: String,
    },
    /// The container is not one of COI's.
    #[error("{name} was not made by COI, and COI does not touch it. Use `incus` for it")]
    NotOurs {
        /// Its name.
        name: String,
    },
    /// The container exists, and does not run.
    #[error("{name} is {state}; {}", then(*state, name))]
    NotRunning {
        /// Its name.
        name: String,
        /// What it is.
        state: State,
    },
    /// No container of this workspace runs.
    #[error("no container of {} is there to attach to. Start one with `coi shell`", path.display())]
    NothingToAttach {
        /// The workspace.
        path: PathBuf,
    },
    /// More than one container of this workspace runs.
    #[error("{} has several containers: {}. Say which one", path.display(), names.join(", "))]
    WhichOne {
        /// The workspace.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// The container ended on its own while it was needed.
    #[error(
        "{name} has stopped while it was in use, and no rule did it; `incus info {name} --show-log` may tell"
    )]
    Vanished {
        /// Its name.
        name: String,
    },
    /// It could not be removed.
    #[error("{name} could not be removed: {why}. Try `coi kill {name}`")]
    Left {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// An interactive session needs a program that the image does not have.
    #[error("the image of {name} has no {program}, which a session needs. Use another image, or `coi run`")]
    NoProgram {
        /// The container.
        name: String,
        /// The program.
        program: &'static str,
    },
    /// An interactive session needs a terminal.
    #[error("a session needs a terminal as its input and output. For scripts there is `coi run`")]
    NoTerminal,
    /// Incus's own client is needed for terminals.
    #[error("`incus exec` could not be run: {why}. Sessions need Incus's client: install incus-client")]
    NoIncusClient {
        /// The system's word for it.
        why: String,
    },
    /// The machine has no unified cgroup hierarchy.
    #[error("no cgroup2 hierarchy is mounted here. Mount it: `mount -t cgroup2 none /sys/fs/cgroup`")]
    NoCgroupHierarchy,
    /// A file or directory of the host that is needed refuses.
    #[error("{} cannot be used: {source}", what.display())]
    Host {
        /// Which.
        what: PathBuf,
        /// The system's word for it.
        source: std::io::Error,
    },
    /// sudo was called by somebody whom nobody knows.
    #[error("SUDO_UID is {uid}, and this machine has no such user")]
    NoSuchUser {
        /// As it was given.
        uid: String,
    },
    /// The rules that the user or the workspace brings are not used, and nothing runs without them.
    #[error(transparent)]
    Rules(#[from] OwnFilesError),
    /// There is nothing to run.
    #[error("no command was given")]
    NoProgramGiven,
    /// A program of the host could not be started.
    #[error("{program} could not be started: {source}")]
    NotStarted {
        /// The program.
        program: String,
        /// The system's word for it.
        source: std::io::Error,
    },
    /// A signal asked us to stop.
    #[error("interrupted")]
    Interrupted {
        /// Its number.
        signal: i32,
    },
    /// Without monitoring nothing is launched.
    #[error(transparent)]
    Monitor(#[from] client::Error),
    /// Incus would not.
    #[error(transparent)]
    Incus(#[from] incus::Error),
    /// Signals cannot be caught.
    #[error("signals cannot be caught: {0}")]
    Signals(#[source] std::io::Error),
}

/// What a container that does not run is instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not running.
    Stopped,
    /// All its processes are stopped where they are.
    Frozen,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Frozen => "frozen",
        })
    }
}

fn then(state: State, name: &str) -> String {
    match state {
        State::Stopped => format!("remove it with `coi kill {name}`"),
        State::Frozen => {
            format!("see why in `coi audit path {name}`, let it go on with `coi unfreeze {name}`")
        }
    }
}

fn aliases(have: &[String]) -> String {
    match have {
        [] => "none. Build one, or import one with `incus image import FILE --alias NAME`".to_owned(),
        have => format!("{}. Choose one with --image", have.join(", ")),
    }
}

/// What a person should know while a command runs.
pub trait Notices {
    /// A rule fired, and its severity asks for no more than telling, or the action failed.
    fn alert(&mut self, line: &Line);
    /// A rule froze the container.
    fn frozen(&mut self, watch: &Watch, line: &Line);
    /// The daemon froze it without an alert, and why.
    fn held(&mut self, watch: &Watch, why: &str);
    /// It goes on.
    fn unfrozen(&mut self, watch: &Watch);
    /// A rule killed it.
    fn killed(&mut self, watch: &Watch, action: &ActionTaken);
    /// The daemon has gone; what was done about it.
    fn monitor_lost(&mut self, name: &str, then: MonitorLost);
}

/// What was done when the daemon had gone.
#[derive(Debug)]
pub enum MonitorLost {
    /// A daemon answers again and watches the container.
    Rearmed,
    /// None does yet: until one does, the guard keeps the container frozen.
    Freezes(client::Error),
    /// None does yet: the container goes on, as its policy is.
    Continues(client::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_about_it() {
        let path = PathBuf::from("/home/ann/app");
        let name = "coi-1a2b3c4d-1".to_owned();
        let all = [
            Error::NoWorkspace { path: path.clone() },
            Error::NotADirectory { path: path.clone() },
            Error::UnusableWorkspace { path: path.clone(), why: "Permission denied (os error 13)".into() },
            Error::NoImage { alias: "debian".into(), have: vec!["coi-default".into(), "coi-tiny".into()] },
            Error::NoImage { alias: "debian".into(), have: vec![] },
            Error::NoSlot { path: path.clone() },
            Error::NoContainer { name: name.clone() },
            Error::NotOurs { name: "web".into() },
            Error::NotRunning { name: name.clone(), state: State::Stopped },
            Error::NotRunning { name: name.clone(), state: State::Frozen },
            Error::NothingToAttach { path: path.clone() },
            Error::WhichOne { path, names: vec![name.clone(), "coi-1a2b3c4d-2".into()] },
            Error::Vanished { name: name.clone() },
            Error::Left { name: name.clone(), why: "Incus could not stop it: busy".into() },
            Error::NoProgram { name, program: "tmux" },
            Error::NoTerminal,
            Error::NoIncusClient { why: "No such file or directory (os error 2)".into() },
        ];
        insta::assert_snapshot!(all.map(|e| e.to_string()).join("\n"));
    }
}
