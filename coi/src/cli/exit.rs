//! Exit codes, and which failure has which.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::image;
use crate::launch;
use crate::monitor::guard::GuardError;
use crate::monitor::rulefiles::RuleFilesError;
use crate::monitor::rules::recording::RecordingError;
use crate::monitor::service::{self, client};
use crate::session::save::SaveError;
use crate::{http, incus};

/// What `coi --help` says about them.
pub(super) const HELP: &str = "\
Exit codes:
  0    it is done
  1    it failed
  2    the command line is wrong
  3    Incus cannot be used
  4    nothing can monitor
  5    no such container, image, session or workspace
  6    a rule or the configuration is wrong (`coi rules test`: 2, and 1 if a test fails)
  7    an audit log is not what was written (`coi audit verify`)
  137  a rule killed it
  128+N  signal N interrupted it
`coi run` and `coi watch` end with the exit code of the command they ran.";

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u8);

impl Code {
    /// It is done.
    pub const OK: Self = Self(0);
    /// It failed.
    pub const FAILURE: Self = Self(1);
    /// The command line is wrong.
    pub const USAGE: Self = Self(2);
    /// Incus cannot be used.
    pub const INCUS: Self = Self(3);
    /// Nothing can monitor.
    pub const MONITOR: Self = Self(4);
    /// No such container, image or workspace.
    pub const NOT_FOUND: Self = Self(5);
    /// A rule or the configuration is wrong.
    pub const RULE: Self = Self(6);
    /// An audit log is not what was written.
    pub const ALTERED: Self = Self(7);
    /// A rule killed it.
    pub const KILLED: Self = Self(137);

    /// The code that a command ended with, as far as an exit code can hold it.
    pub(super) fn of_command(code: i32) -> Self {
        Self(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
    }

    /// The code of something that this signal ended.
    pub(super) fn of_signal(signal: i32) -> Self {
        Self::of_command(128 + signal)
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.0)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A container could not be launched or used.
    #[error(transparent)]
    Launch(#[from] launch::Error),
    /// An image could not be built.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The daemon would not, or there is none.
    #[error(transparent)]
    Monitor(#[from] client::Error),
    /// Arguments that do not go together, or that say what is not so.
    #[error("{0}")]
    Usage(String),
    /// Only root may do that.
    #[error("{what} needs root. Run `sudo {again}`")]
    NotRoot {
        /// What.
        what: &'static str,
        /// The same command line.
        again: String,
    },
    /// The system would not.
    #[error("{what}: {source}")]
    System {
        /// What was being done, to what.
        what: String,
        /// Its word for it.
        source: io::Error,
    },
    /// There is no set of rules.
    #[error(transparent)]
    Rules(RuleFilesError),
    /// A recording cannot be read.
    #[error("{}: {error}", path.display())]
    Recording {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: RecordingError,
    },
    /// Incus has no instance of that name.
    #[error("there is no container {name}. `incus list` shows those there are")]
    NoInstance {
        /// The name.
        name: String,
    },
    /// There is no audit log of that name.
    #[error("there is no audit log of {name}: nothing of that name was ever watched here")]
    NoAudit {
        /// The name.
        name: String,
    },
    /// There is no such evidence.
    #[error("there is no evidence {id} of {name}. `coi audit evidence {name}` shows what there is")]
    NoEvidence {
        /// The container's name.
        name: String,
        /// Which was asked for.
        id: String,
    },
    /// systemd's units could not be put there or taken away.
    #[error(transparent)]
    Install(#[from] service::install::InstallError),
    /// The daemon could not do its work.
    #[error(transparent)]
    Daemon(#[from] service::ServerError),
    /// The guard does not run.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A session was not saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// There is neither a container nor a session of that name.
    #[error(
        "there is neither a container nor a saved session {name}. `coi list --all` shows those there are"
    )]
    Unknown {
        /// The name.
        name: String,
    },
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Launch(error.into())
    }
}

impl From<incus::Error> for Failure {
    fn from(error: incus::Error) -> Self {
        Self::Launch(error.into())
    }
}

impl Failure {
    /// Turns an I/O error into one that says what was being done.
    pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// What to print, if anything: a reader who left knows, and so does who interrupted.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::System { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => None,
            // Each error has been shown in its place.
            Self::Rules(RuleFilesError::Wrong(errors)) => Some(match errors.len() {
                1 => "no rules are used while that is wrong".to_owned(),
                n => format!("no rules are used while these {n} things are wrong"),
            }),
            other => Some(other.to_string()),
        }
    }

    /// Its exit code.
    pub fn code(&self) -> Code {
        match self {
            Self::Launch(error) => of_launch(error),
            Self::Image(error) => of_image(error),
            Self::Monitor(error) => of_monitor(error),
            Self::Recording { .. } | Self::Install(_) | Self::Save(_) => Code::FAILURE,
            Self::Usage(_) => Code::USAGE,
            Self::Rules(RuleFilesError::Read { .. }) => Code::FAILURE,
            Self::Rules(RuleFilesError::Wrong(_)) | Self::Daemon(service::ServerError::Rules(_)) => {
                Code::RULE
            }
            Self::NoInstance { .. }
            | Self::NoAudit { .. }
            | Self::NoEvidence { .. }
            | Self::Unknown { .. } => Code::NOT_FOUND,
            Self::NotRoot { .. } | Self::Daemon(_) | Self::Guard(_) => Code::MONITOR,
            Self::System { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => Code::OK,
            Self::System { .. } => Code::FAILURE,
        }
    }
}

fn of_launch(error: &launch::Error) -> Code {
    use launch::Error;
    match error {
        Error::NoWorkspace { .. }
        | Error::NotADirectory { .. }
        | Error::UnusableWorkspace { .. }
        | Error::NoImage { .. }
        | Error::NoContainer { .. }
        | Error::NotOurs { .. }
        | Error::NothingToAttach { .. }
        | Error::NothingToResume { .. } => Code::NOT_FOUND,
        Error::Rules(_) | Error::Config(_) | Error::NoZoneNamed | Error::NoZone { .. } => Code::RULE,
        Error::Path(_)
        | Error::NoSuchUser { .. }
        | Error::WhichOne { .. }
        | Error::WhichSession { .. }
        | Error::NoTerminal
        | Error::NoProgramGiven => Code::USAGE,
        // As shells do it.
        Error::NotStarted { source, .. } if source.kind() == io::ErrorKind::NotFound => Code(127),
        Error::NotStarted { .. } => Code(126),
        Error::NoCgroupHierarchy => Code::MONITOR,
        Error::NoIncusClient { .. } | Error::OldIncus { .. } => Code::INCUS,
        Error::Interrupted { signal } => Code::of_signal(*signal),
        Error::Monitor(error) => of_monitor(error),
        Error::Incus(error) => of_incus(error),
        Error::NoSlot { .. }
        | Error::SlotTaken { .. }
        | Error::NoSession { .. }
        | Error::NoDisk { .. }
        | Error::NotRunning { .. }
        | Error::Vanished { .. }
        | Error::Left { .. }
        | Error::NoProgram { .. }
        | Error::Host { .. }
        | Error::Privileged { .. }
        | Error::OldKernel { .. }
        | Error::Signals(_) => Code::FAILURE,
    }
}

fn of_image(error: &image::Error) -> Code {
    use image::Error;
    match error {
        Error::OnItself { .. } => Code::USAGE,
        Error::NoBase { .. } => Code::NOT_FOUND,
        Error::Untrusted { .. } => Code::RULE,
        Error::Launch(error) => of_launch(error),
        Error::Step { .. }
        | Error::NotOurs { .. }
        | Error::Fetch { .. }
        | Error::NotRoot { .. }
        | Error::NoDebootstrap { .. }
        | Error::NoAuthorities { .. }
        | Error::Authority { .. }
        | Error::NoHome
        | Error::Place(_)
        | Error::Pack { .. }
        | Error::System { .. } => Code::FAILURE,
    }
}

fn of_incus(error: &incus::Error) -> Code {
    match error {
        incus::Error::Unreachable(_) | incus::Error::Broken { .. } | incus::Error::Unfinished { .. } => {
            Code::INCUS
        }
        incus::Error::NotFound { .. } => Code::NOT_FOUND,
        incus::Error::NotStarted { code, .. } => Code::of_command(*code),
        incus::Error::Exists { .. } | incus::Error::Refused { .. } => Code::FAILURE,
    }
}

fn of_monitor(error: &client::Error) -> Code {
    match error {
        client::Error::Refused(refusal) => match refusal.code.as_str() {
            "not_found" => Code::NOT_FOUND,
            "bad_request" => Code::USAGE,
            "incus" => Code::INCUS,
            "workspace" => Code::FAILURE,
            "rules" => Code::RULE,
            _ => Code::MONITOR,
        },
        client::Error::NotRunning { .. }
        | client::Error::NotPermitted { .. }
        | client::Error::Start { .. }
        | client::Error::Unreachable(
            http::Error::NoSocket { .. }
            | http::Error::NotPermitted { .. }
            | http::Error::Refused { .. }
            | http::Error::Deadline { .. }
            | http::Error::Protocol { .. },
        ) => Code::MONITOR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::service::api::ApiError;

    fn refused(code: &str) -> client::Error {
        client::Error::Refused(ApiError { code: code.into(), message: String::new() })
    }

    #[test]
    fn bad_input_has_its_code() {
        let path = std::path::PathBuf::from("/p");
        let no_socket = || http::Error::NoSocket { path: path.clone() };
        let denied = http::Error::NotPermitted { path: path.clone() };
        let hanging =
            http::Error::Deadline { path: path.clone(), call: "GET /".into(), within: Default::default() };
        let name = || "x".to_owned();
        let failures: [(Failure, Code); 11] = [
            (incus::Error::from(no_socket()).into(), Code::INCUS),
            (incus::Error::from(denied).into(), Code::INCUS),
            (incus::Error::from(hanging).into(), Code::INCUS),
            (launch::Error::NoImage { alias: name(), have: vec![] }.into(), Code::NOT_FOUND),
            (launch::Error::NoWorkspace { path: path.clone() }.into(), Code::NOT_FOUND),
            (launch::Error::NoContainer { name: name() }.into(), Code::NOT_FOUND),
            (client::Error::NotRunning { socket: path.clone(), program: path.clone() }.into(), Code::MONITOR),
            (client::Error::Start { why: name() }.into(), Code::MONITOR),
            (refused("not_found").into(), Code::NOT_FOUND),
            (Failure::Rules(RuleFilesError::Wrong(vec![])), Code::RULE),
            (launch::Error::Interrupted { signal: 2 }.into(), Code(130)),
        ];
        for (failure, code) in failures {
            assert_eq!(failure.code(), code, "{failure}");
        }
    }

    #[test]
    fn what_a_command_ended_with() {
        assert_eq!(Code::of_command(7), Code(7));
        assert_eq!(Code::of_command(256 + 3), Code(3));
        assert_eq!(Code::of_signal(15), Code(143));
    }
}
