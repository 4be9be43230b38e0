//! Sessions: what is kept of an agent's conversation when its container ends.
//!
//! A session is a directory `~/.coi/sessions-TOOL/ID`: `metadata.json`, and below `home/` what lay in the home of the
//! container's user. The daemon reads it out of the stopped container ([`crate::monitor::service`]) and hands it to a
//! process that runs as the session's owner ([`save`]), in the form of [`frame`]; the launcher finds sessions and puts
//! them back ([`store`]).
//!
//! What comes out of a container is hostile. This module promises that nothing but plain files and directories is
//! written, nothing outside the session's own directory, no more than [`MOST_BYTES`] in [`MOST_FILES`] files, and that
//! a session is replaced whole or not at all.

pub mod frame;
pub mod save;
pub mod store;

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How much of a conversation is kept.
pub const MOST_BYTES: u64 = 512 << 20;
/// In how many files and directories.
pub const MOST_FILES: usize = 10_000;
/// How deep they may lie.
pub const MOST_DEPTH: usize = 16;

/// The file that says what a session is.
pub const METADATA: &str = "metadata.json";
/// The directory that stands for the home of the container's user.
pub const HOME: &str = "home";

/// What a session is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// What it is called.
    pub session_id: String,
    /// The container that it ran in last.
    pub container: String,
    /// The directory on the host that it works on.
    pub workspace: String,
    /// The tool whose conversation it is.
    pub tool: String,
    /// The profile that it was started with.
    #[serde(default)]
    pub profile: Option<String>,
    /// The image of its container.
    #[serde(default)]
    pub image: String,
    /// Its container was to stay.
    #[serde(default)]
    pub persistent: bool,
    /// When it was saved, RFC 3339.
    #[serde(default)]
    pub saved_at: String,
}

/// What of a container is saved, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The directory of the tool's sessions on the host, a path of the owner's.
    pub directory: PathBuf,
    /// The home of the container's user, as seen inside.
    pub home: String,
    /// What is saved of it: files and directories below the home.
    pub paths: Vec<String>,
    /// What the session is.
    pub metadata: Metadata,
}

/// A session that was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// What it is called.
    pub session_id: String,
    /// The tool whose conversation it is.
    pub tool: String,
    /// Where it is.
    pub directory: PathBuf,
    /// How many files.
    pub files: u64,
    /// How much is in them.
    pub bytes: u64,
    /// What was left out: more than a session may have, or nothing that is saved, such as links.
    pub left_out: u64,
}

/// The directory of a tool's sessions in a home.
pub fn directory(home: &Path, tool: &str) -> PathBuf {
    home.join(".coi").join(format!("sessions-{tool}"))
}

/// A new session's name.
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Whether this may be a session's name.
pub fn is_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

impl Plan {
    /// Why this plan is not carried out, if it is not: it comes from whoever may talk to the daemon.
    pub fn check(&self) -> Result<(), String> {
        if !self.directory.is_absolute() || !self.home.starts_with('/') {
            return Err("a session's directory and home are absolute paths".to_owned());
        }
        if !is_id(&self.metadata.session_id) {
            return Err(format!("{:?} is no session's name", self.metadata.session_id));
        }
        let is_below = |path: &str| {
            !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
        };
        match self.paths.iter().find(|path| !is_below(path)) {
            Some(path) => Err(format!("{path:?} does not lie below a home")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) fn example() -> Plan {
    Plan {
        directory: "/home/ann/.coi/sessions-claude".into(),
        home: "/home/code".into(),
        paths: vec![".claude/projects".into()],
        metadata: Metadata {
            session_id: "0d5b5e0e-0000-4000-8000-000000000001".into(),
            container: "coi-1a2b3c4d-1".into(),
            workspace: "/home/ann/app".into(),
            tool: "claude".into(),
            profile: None,
            image: "coi-default".into(),
            persistent: false,
            saved_at: String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plan() {
        assert_eq!(example().check(), Ok(()));
        let wrong: [fn(&mut Plan); 6] = [
            |plan| plan.directory = "sessions".into(),
            |plan| plan.home = "home".into(),
            |plan| plan.metadata.session_id = "../x".into(),
            |plan| plan.paths.push("../x".into()),
            |plan| plan.paths.push("/etc".into()),
            |plan| plan.paths.push(String::new()),
        ];
        for spoil in wrong {
            let mut plan = example();
            spoil(&mut plan);
            assert!(plan.check().is_err(), "{plan:?}");
        }
    }

    #[test]
    fn a_new_name_is_one() {
        assert!(is_id(&new_id()));
        assert!(!is_id("ABCDEF00-0000-4000-8000-000000000001") && !is_id(""));
    }
}
