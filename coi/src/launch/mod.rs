//! The life of a container: from a workspace to a command that runs in it, and its end.
//!
//! This module promises:
//! - nothing runs in a container before the daemon watches it, unless it is to run without the monitor: it is made,
//!   watched, and only then started;
//! - a container's name is its slot's lock: making it in Incus either takes the slot or fails;
//! - whatever way a launch ends, short of SIGKILL, its ephemeral container is gone. After a SIGKILL the
//!   container stays, and stays watched, until `coi clean` finds it;
//! - a session is saved before its container is deleted, by the daemon;
//! - a container loses its monitor only by being frozen at once.
//!
//! It prints nothing: what a person should know goes through [`Notices`].

mod caller;
mod container;
mod end;
mod guest;
mod host;
mod inside;
mod limits;
mod monitored;
mod mounts;
mod orphans;
mod refuse;
mod resume;
mod run;
mod shell;
mod signals;
mod slot;
mod spec;
pub mod tmux;
pub mod tool;
mod workspace;

use std::fmt;
use std::path::PathBuf;

pub use caller::{Caller, loader, own_rules, sudo_user};
pub(crate) use container::profile_for;
pub use container::{Container, Launch, Owned, find, mine, of_workspace};
pub(crate) use end::remove;
pub use end::{How, Left, end, persist};
pub use guest::{Guest, shell_words};
pub use host::{HostCommand, cgroup_root, watch};
pub use mounts::Mounts;
pub use orphans::{orphans, unfinished_sessions};
pub use resume::{resumable, sessions};
pub use run::{Outcome, run};
pub use shell::{Ended, Start, Wishes, anew, begin, beside, check_terminal, prepare, shell};
pub use signals::Signals;
pub use slot::{SLOTS, of_name as slot_of};
pub use spec::GUEST_WORKSPACE;
pub(crate) use spec::{LAUNCHER_KEY, is_launching, launcher};
pub use workspace::Workspace;

use crate::config::ConfigError;
use crate::incus;
use crate::monitor::ownfiles::OwnFilesError;
use crate::monitor::service::api::{ActionTaken, Watch};
use crate::monitor::service::client;
use crate::monitor::service::stream::Line;
use crate::mount::path::NotInner;

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
    /// The slot that was named is taken.
    #[error(
        "slot {slot} is taken by {name}. Attach to it with `coi attach {name}`, end it with `coi shutdown {name}`, or leave \
         out --slot to take the next one"
    )]
    SlotTaken {
        /// Which.
        slot: u8,
        /// By whom.
        name: String,
    },
    /// There is no saved session of that kind.
    #[error("{}", nothing_to_resume(path, tool.as_deref(), id.as_deref()))]
    NothingToResume {
        /// The workspace.
        path: PathBuf,
        /// The tool that was named.
        tool: Option<String>,
        /// The session that was named.
        id: Option<String>,
    },
    /// Several sessions' names begin so.
    #[error("several sessions' names begin so: {}. Say more of the one you mean", ids.join(", "))]
    WhichSession {
        /// Which.
        ids: Vec<String>,
    },
    /// It has no session, or its tmux does not do what it is asked.
    #[error("the session in {name} cannot be used: {why}. `coi attach {name}` starts one")]
    NoSession {
        /// The container.
        name: String,
        /// In tmux's words.
        why: String,
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
    #[error("{}", no_program(name, image, program))]
    NoProgram {
        /// The container.
        name: String,
        /// The alias of its image.
        image: String,
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
    /// The configuration is not used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A time zone is to be fixed, and nobody says which.
    #[error("timezone.mode is \"fixed\", and timezone.name is not set. Set it, such as to \"Europe/Berlin\"")]
    NoZoneNamed,
    /// There is no such time zone.
    #[error("there is no time zone {name}. {} has those there are", inside::ZONES)]
    NoZone {
        /// Its name.
        name: String,
    },
    /// A disk is to have limits, and there is none.
    #[error(
        "limits.disk is set, and Incus's profile {profile} has no disk for /. Add one, or take the limits out"
    )]
    NoDisk {
        /// The profile.
        profile: String,
    },
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
    /// A path of the settings is none of the workspace.
    #[error(transparent)]
    Path(#[from] NotInner),
    /// COI's containers would be root's on this machine.
    #[error(
        "{what} has security.privileged=true: root in such a container is root on this machine, and COI starts none. \
         `incus profile unset NAME security.privileged` changes a profile"
    )]
    Privileged {
        /// The profile or instance.
        what: String,
    },
    /// Incus is too old.
    #[error(
        "Incus is {version}, and COI needs 6.0 or later. Debian has it in its backports, others at zabbly.com"
    )]
    OldIncus {
        /// Its version.
        version: String,
    },
    /// The kernel is too old.
    #[error("the kernel is {version}, and COI needs Linux 5.15 or later, for its mounts and its monitor")]
    OldKernel {
        /// Its version.
        version: String,
    },
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
        State::Stopped => {
            format!("if it is to stay, `coi shell` starts it again; remove it with `coi kill {name}`")
        }
        State::Frozen => {
            format!("see why in `coi audit path {name}`, let it go on with `coi unfreeze {name}`")
        }
    }
}

fn no_program(name: &str, image: &str, program: &str) -> String {
    let what = format!("the image {image} has no {program}, which the session in {name} needs. ");
    match program {
        "tmux" | "bash" => what + "Use another image (--image), or `coi run`",
        _ => what + "Use an image that has it (--image), or a plain shell: --tool bash",
    }
}

fn nothing_to_resume(path: &std::path::Path, tool: Option<&str>, id: Option<&str>) -> String {
    let tool = tool.map(|tool| format!("{tool} ")).unwrap_or_default();
    let id = id.map(|id| format!(" whose name begins with {id}")).unwrap_or_default();
    format!(
        "there is no saved {tool}session of {}{id}. `coi list --all` shows those of all workspaces; without --resume a new \
         one begins",
        path.display()
    )
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
            Error::WhichOne { path: path.clone(), names: vec![name.clone(), "coi-1a2b3c4d-2".into()] },
            Error::Vanished { name: name.clone() },
            Error::Left { name: name.clone(), why: "Incus could not stop it: busy".into() },
            Error::NoProgram { name: name.clone(), image: "coi-tiny".into(), program: "tmux" },
            Error::NoProgram { name: name.clone(), image: "coi-default".into(), program: "claude" },
            Error::SlotTaken { slot: 1, name: name.clone() },
            Error::NothingToResume { path: path.clone(), tool: None, id: None },
            Error::NothingToResume {
                path: path.clone(),
                tool: Some("codex".into()),
                id: Some("0d5b".into()),
            },
            Error::WhichSession { ids: vec!["0d5b5e0e".into(), "0d5b5e0f".into()] },
            Error::NoSession { name, why: "can't find session: coi".into() },
            Error::NoTerminal,
            Error::NoIncusClient { why: "No such file or directory (os error 2)".into() },
            Error::Privileged { what: "the profile coi".into() },
            Error::OldIncus { version: "5.21.2".into() },
            Error::OldKernel { version: "5.10.0-28-amd64".into() },
        ];
        insta::assert_snapshot!(all.map(|e| e.to_string()).join("\n"));
    }
}
