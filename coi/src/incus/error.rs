//! What can go wrong with Incus, and what a person can do about it.

use std::time::Duration;

use crate::http;

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why Incus did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Incus cannot be talked to at all.
    #[error("{}", unreachable(.0))]
    Unreachable(#[source] http::Error),
    /// What was named does not exist.
    #[error("Incus has no {what}")]
    NotFound {
        /// Kind and name, such as `instance coi-1`.
        what: String,
    },
    /// The name is taken.
    #[error("Incus already has {what}")]
    Exists {
        /// Kind and name.
        what: String,
    },
    /// Incus understood and refused.
    #[error("Incus could not {what}: {why}")]
    Refused {
        /// What it was asked to do.
        what: String,
        /// In its words.
        why: String,
    },
    /// The command does not exist in the instance, or is not one.
    #[error("Incus could not {what}: {why}")]
    NotStarted {
        /// What it was asked to do.
        what: String,
        /// In its words.
        why: String,
        /// The exit code that shells give for it: 127 or 126.
        code: i32,
    },
    /// Incus took the job and did not finish it in time.
    #[error(
        "Incus did not {what} within {} s; it may still be at it: see `incus operation list`",
        within.as_secs()
    )]
    Unfinished {
        /// What it was asked to do.
        what: String,
        /// How long it had.
        within: Duration,
    },
    /// The connection that carries a command's input and output broke.
    #[error("lost the connection to Incus while it should {what}: {why}")]
    Broken {
        /// What it was asked to do.
        what: String,
        /// What was wrong.
        why: String,
    },
}

fn unreachable(error: &http::Error) -> String {
    match error {
        http::Error::NoSocket { path } => format!(
            "Incus is not running: there is no socket at {}. Install and start Incus, \
             or say in INCUS_SOCKET where it listens",
            path.display()
        ),
        http::Error::NotPermitted { path } => format!(
            "you may not use Incus: no permission on its socket {}. Become a member of its group \
             (`sudo usermod -aG incus-admin $USER`, then log in anew) or run this as root; \
             members of that group can become root on this machine",
            path.display()
        ),
        http::Error::Refused { path } => format!(
            "Incus is not running: nothing listens on its socket {}. Start it again \
             (`sudo systemctl restart incus`)",
            path.display()
        ),
        http::Error::Deadline { .. } => format!(
            "Incus does not answer: {error}. Look at its log (`journalctl -u incus`) and start it again"
        ),
        http::Error::Protocol { .. } => {
            format!("Incus does not answer as it should: {error}. Is it Incus that listens there?")
        }
    }
}

impl From<http::Error> for Error {
    fn from(error: http::Error) -> Self {
        Self::Unreachable(error)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_to_do_about_it() {
        let path = PathBuf::from("/var/lib/incus/unix.socket");
        let call = "GET /1.0".to_owned();
        let all = [
            Error::from(http::Error::NoSocket { path: path.clone() }),
            http::Error::NotPermitted { path: path.clone() }.into(),
            http::Error::Refused { path: path.clone() }.into(),
            http::Error::Deadline { path: path.clone(), call: call.clone(), within: Duration::from_secs(5) }
                .into(),
            http::Error::Protocol { path, call, why: "invalid HTTP version parsed".into() }.into(),
            Error::NotFound { what: "instance web".into() },
            Error::Exists { what: "instance web".into() },
            Error::Refused { what: "start web".into(), why: "The instance is already running".into() },
            Error::Unfinished { what: "start web".into(), within: Duration::from_secs(60) },
            Error::Broken { what: "run `true` in web".into(), why: "connection reset".into() },
        ];
        insta::assert_snapshot!(all.map(|e| e.to_string()).join("\n"));
    }
}
