//! What the daemon and its clients say to each other: JSON over HTTP on a unix socket, below `/v1`.
//!
//! The calls are listed in [`super::calls`], of which docs/api.md is made. A failure is an [`ApiError`] with a status of 400
//! or above.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::mount::Inner;
use crate::{
    monitor::{
        event::EventKind,
        rules::{Action, Origin, OwnRules, Rule, Severity},
    },
    session::{Plan, Saved},
};

/// Where the daemon listens unless `COI_SOCKET` names another place.
pub const DEFAULT_SOCKET: &str = "/run/coi/coi.sock";

/// What a watch watches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Subject {
    /// An Incus container, running or not: it is watched from its next start on.
    Container {
        /// The instance's name.
        name: String,
        /// Its project; left out, the default one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project: Option<String>,
    },
    /// A cgroup of the unified hierarchy that exists.
    Cgroup {
        /// Its path from the hierarchy's root, such as `/coi.watch-4711`.
        path: String,
    },
}

impl Subject {
    /// A container of the default project.
    pub fn container(name: impl Into<String>) -> Self {
        Self::Container { name: name.into(), project: None }
    }

    /// What its watch is called: a container of another project as Incus itself calls it on the host, `PROJECT_NAME`.
    /// No instance's name has an underscore.
    pub fn watch_name(&self) -> String {
        match self {
            Self::Container { name, project: None } => name.clone(),
            Self::Container { name, project: Some(project) } => format!("{project}_{name}"),
            Self::Cgroup { path } => path.trim_matches('/').to_owned(),
        }
    }
}

/// Asks for a container or cgroup to be watched. Asking again changes `respond` to true if it was not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchRequest {
    /// What to watch.
    pub subject: Subject,
    /// Freeze and kill by the rules; else only observe.
    pub respond: bool,
    /// Whether what happens in it is seen. Without that it is accompanied only: its workspace is protected, its time is
    /// limited, its session is saved; no rule judges it, and it goes on without a daemon. Only a container that COI has
    /// launched can be without.
    #[serde(default = "yes")]
    pub monitored: bool,
    /// The directory on the host whose files are the workspace. For a container it may be left out: then it
    /// is the source of the disk device that is mounted at `/workspace`, if there is one.
    pub workspace: Option<PathBuf>,
    /// End the watch when the container is deleted, or the cgroup removed. Always so for cgroups.
    #[serde(default)]
    pub ephemeral: bool,
    /// The rules that the user and the workspace bring. A watch that there is already keeps those that it began with;
    /// see [`Watch::passed_over`].
    #[serde(default)]
    pub rules: OwnRules,
    /// The uid of whom the container belongs to, who may read its audit log: the caller's own if left out. Only root may
    /// name another. It holds from the first watch on.
    #[serde(default)]
    pub owner: Option<u32>,
    /// COI has launched it itself.
    #[serde(default)]
    pub launched: bool,
    /// What becomes of it without a monitor. Left out, that is what the configuration says for what COI has launched, and
    /// anything else goes on. Asking again changes `continue` to `freeze`, not the other way round.
    #[serde(default)]
    pub on_monitor_loss: Option<OnMonitorLoss>,
    /// The id of the [`Tree`] that it gets its workspace from: it is kept whole as long as the watch is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
    /// How long a container that COI has launched may run, and what becomes of it when it has stopped. Left out, nothing
    /// does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<Life>,
}

fn yes() -> bool {
    true
}

/// How long a container lives, and what becomes of it when it has stopped. The daemon sees to it: nobody's terminal has
/// to be there for that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// It is deleted when it has stopped and its session is saved.
    pub delete: bool,
    /// It is stopped when it has run for so many seconds.
    #[serde(default)]
    pub max_seconds: Option<u64>,
    /// So many seconds it then has to shut down by itself.
    #[serde(default)]
    pub grace_seconds: u64,
    /// A session has begun in it: it is stopped when nothing of that runs any more.
    #[serde(default)]
    pub has_session: bool,
    /// What of it is saved when it has stopped; nothing until this is told.
    #[serde(default)]
    pub session: Option<Plan>,
}

/// What is to become of a stopped container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// What was said when it was launched.
    #[default]
    AsPlanned,
    /// It is deleted, once its session is saved.
    Delete,
    /// It is deleted, whatever becomes of its session.
    GiveUp,
}

/// A container has come to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What was saved, if there was something to be saved.
    pub session: Option<Saved>,
    /// The container is gone; else it is stopped, and kept.
    pub deleted: bool,
    /// Why the daemon has stopped it, if it has.
    pub why: Option<String>,
}

impl WatchRequest {
    /// To observe it, and nothing else.
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            respond: false,
            monitored: true,
            workspace: None,
            ephemeral: false,
            rules: OwnRules::default(),
            owner: None,
            launched: false,
            on_monitor_loss: None,
            tree: None,
            life: None,
        }
    }
}

/// Where COI's containers see their workspace unless it is said otherwise.
pub const INSIDE: &str = "/workspace";

/// What of a workspace says which programs run on the host, or what they may do: it can be read in a container, and not changed.
pub const PROTECTED: [&str; 11] = [
    ".git/hooks",
    ".git/config",
    ".git/config.worktree",
    ".git/commondir",
    ".git/info/attributes",
    ".husky",
    ".vscode",
    ".claude/settings.json",
    ".claude/settings.local.json",
    ".codex/config.toml",
    ".coi",
];

/// Asks for the mounts of a container that is to be started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TreeRequest {
    /// The workspace on the host.
    pub workspace: PathBuf,
    /// Where the container sees it.
    #[serde(default = "inside")]
    pub inside: String,
    /// What can only be read, as paths from the workspace: a file, a directory, or what is none yet. Of a repository the
    /// same is protected in its worktrees and modules; a `.git` that is a file is protected itself.
    #[serde(default)]
    pub protected: Vec<Inner>,
    /// What is not to be seen: something empty is in its place.
    #[serde(default)]
    pub secret: Vec<Inner>,
    /// The workspace's `.env` files are not to be seen either.
    #[serde(default)]
    pub mask_env: bool,
    /// What else of the host it gets.
    #[serde(default)]
    pub mounts: Vec<ExtraMount>,
    /// The id of a tree of the caller's that is to be made anew, for a container that is started again.
    #[serde(default)]
    pub id: Option<String>,
}

impl TreeRequest {
    /// A workspace with its usual protection.
    pub fn new(workspace: PathBuf) -> Self {
        let protected = PROTECTED.into_iter().filter_map(|path| Inner::try_from(path).ok()).collect();
        Self {
            workspace,
            inside: inside(),
            protected,
            secret: Vec::new(),
            mask_env: false,
            mounts: Vec::new(),
            id: None,
        }
    }
}

fn inside() -> String {
    INSIDE.to_owned()
}

/// Something of the host that a container gets beside its workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraMount {
    /// A directory or file, opened as the caller. Who is not root mounts what is their own.
    pub host: PathBuf,
    /// Where the container sees it.
    pub container: String,
    /// It can only be read.
    #[serde(default)]
    pub readonly: bool,
}

/// Mounts that were made, in Incus's mount namespace: they are there until the container runs, a minute without a watch, or
/// the end of its watch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tree {
    /// Its id.
    pub id: String,
    /// The source of the workspace's disk device, with `shift=true` and `recursive=true`.
    pub workspace: PathBuf,
    /// The sources of the further mounts' devices, in the order of the request.
    pub mounts: Vec<PathBuf>,
    /// What is there and held.
    pub held: Vec<String>,
    /// What people should know.
    pub notes: Vec<String>,
}

/// What becomes of what is watched when the daemon has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMonitorLoss {
    /// It is frozen within a second, until it is watched again.
    #[default]
    Freeze,
    /// It goes on, and nobody sees what it does.
    Continue,
}

/// The state of what is watched, as the daemon knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchState {
    /// Armed; nothing runs in it yet, or no longer.
    Armed,
    /// Something runs in it.
    Running,
    /// Frozen by a rule.
    Frozen,
    /// Killed by a rule.
    Killed,
    /// It is gone without COI's doing.
    Gone,
}

/// What was done to a container or cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActionName {
    /// Nothing but the record.
    Log,
    /// The kernel has refused a connection.
    Deny,
    /// A process ended, with all that it has started.
    KillProcess,
    /// No network any more.
    CutNetwork,
    /// All its processes stopped.
    Freeze,
    /// All its processes ended.
    Kill,
    /// All its processes going on.
    Thaw,
    /// The network is back.
    RestoreNetwork,
}

impl ActionName {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Log,
        Self::Deny,
        Self::KillProcess,
        Self::CutNetwork,
        Self::Freeze,
        Self::Kill,
        Self::Thaw,
        Self::RestoreNetwork,
    ];

    /// The name used in the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Deny => "deny",
            Self::KillProcess => "kill-process",
            Self::CutNetwork => "cut-network",
            Self::Freeze => "freeze",
            Self::Kill => "kill",
            Self::Thaw => "thaw",
            Self::RestoreNetwork => "restore-network",
        }
    }
}

/// An action that a rule asked for, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActionTaken {
    /// What was done.
    pub action: ActionName,
    /// `None` if it worked, else why not.
    pub error: Option<String>,
    /// From the event in the kernel to the action's end, in microseconds.
    pub latency_us: u64,
    /// The rule that asked for it.
    pub rule_id: String,
    /// The rule's severity.
    pub severity: Severity,
    /// The rule's message about this event.
    pub message: String,
    /// The process it was about: its program, on the host its pid.
    pub process_executable: String,
    /// The host's process id.
    pub process_pid: u32,
    /// RFC 3339, when the event happened.
    pub timestamp: String,
}

/// One watched container or cgroup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watch {
    /// The container's name, or the cgroup's path without the leading slash.
    pub name: String,
    /// What is watched.
    pub subject: Subject,
    /// Freezes and kills by the rules.
    pub respond: bool,
    /// What happens in it is seen.
    #[serde(default = "yes")]
    pub monitored: bool,
    /// Its state.
    pub state: WatchState,
    /// The uid of whom it belongs to.
    #[serde(default)]
    pub owner: u32,
    /// What becomes of it without a monitor.
    #[serde(default)]
    pub on_monitor_loss: OnMonitorLoss,
    /// Its audit log on the host.
    pub audit: PathBuf,
    /// The gravest action since the last unfreeze.
    pub last_action: Option<ActionTaken>,
    /// A rule has cut its network; `unfreeze` ends that.
    #[serde(default)]
    pub network_cut: bool,
    /// Alerts so far.
    pub alerts: u64,
    /// Events lost or throttled so far.
    pub lost: u64,
    /// What became of its events so far, by kind.
    #[serde(default)]
    pub events: BTreeMap<String, Tally>,
    /// In the answer to a [`WatchRequest`]: the rule files of the request that are not in force, since the watch is
    /// older and began without them, or with others of their names.
    #[serde(default)]
    pub passed_over: Vec<String>,
}

/// What became of all events of one kind that were wanted of a watch: the three together are what its processes did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// They were judged.
    pub delivered: u64,
    /// They found no room on the way.
    pub lost: u64,
    /// The container had more on the way than one may have.
    pub throttled: u64,
}

/// The daemon itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The kernel programs that are attached.
    pub programs: Vec<String>,
    /// What cannot be seen on this machine, each with its reason.
    pub holes: Vec<Hole>,
    /// How many of the machine's rules are in force.
    pub rules: usize,
    /// How many watches there are.
    pub watches: usize,
    /// Why nothing can be monitored; nothing if it can.
    #[serde(default)]
    pub monitor: Option<String>,
}

/// A rule, as it is in force.
#[derive(Clone, Debug, Serialize)]
pub struct RuleInForce {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// How grave it is.
    pub severity: Severity,
    /// What is done when it fires.
    pub action: Action,
    /// Does it count?
    pub enabled: bool,
    /// The kinds of events that it looks at.
    pub events: Vec<&'static str>,
    /// ATT&CK techniques.
    pub attack: Vec<String>,
    /// Where it comes from.
    pub origin: Origin,
    /// The file that it is in.
    pub file: String,
}

impl RuleInForce {
    /// As it is told.
    pub fn of(rule: &Rule) -> Self {
        Self {
            id: rule.id.clone(),
            title: rule.title.clone(),
            severity: rule.severity,
            action: rule.action(),
            enabled: rule.enabled,
            events: rule.kinds.iter().map(EventKind::name).collect(),
            attack: rule.attack.clone(),
            origin: rule.origin,
            file: rule.file().to_owned(),
        }
    }
}

/// The rules were read again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reloaded {
    /// How many of the machine's are in force.
    pub rules: usize,
    /// The watches that keep the rules they had, since what they brought does not go with the machine's any more.
    #[serde(default)]
    pub kept: Vec<Kept>,
}

/// A watch that keeps its rules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Its name.
    pub watch: String,
    /// What is wrong with its own rules.
    pub why: String,
}

/// Something that cannot be seen on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// For programs: what stays the same when the wording changes.
    pub id: String,
    /// What is not seen.
    pub what: String,
    /// Why.
    pub why: String,
    /// The ways by which it can be done, as the tests name them.
    pub routes: Vec<String>,
}

/// A call that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiError {
    /// For programs: `not_found`, `bad_request`, `incus`, `rules`, `workspace`, `denied`, `busy`, `monitor`, `internal`.
    pub code: String,
    /// For people: what happened, to what, and what to do.
    pub message: String,
}
