//! Layers: who wrote which rules, and what each may change about those of the others.
//!
//! Rules come in layers: COI's own, the administrator's, the user's, the workspace's. Each may add rules, lists and
//! macros under names that are free, and make rules below it stricter. Who may make them milder:
//! - the administrator, all of them;
//! - a user, by [`Leeway`]; unless said otherwise those that the administrator has left as they came;
//! - a workspace, none: what it says may come from whoever wrote the repository, or from what runs in the container.
//!
//! What users and workspaces bring is bounded, as files and as what becomes of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::model::Rule;

/// How many files a user and a workspace may bring together.
pub const MOST_FILES: usize = 64;
/// How many bytes these may have together, with their names.
pub const MOST_BYTES: usize = 256 << 10;

/// Who wrote a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// COI brings it along.
    #[default]
    Builtin,
    /// The administrator of this machine.
    System,
    /// The user for whom something is watched.
    User,
    /// Whoever writes to the workspace.
    Workspace,
}

impl Origin {
    /// The name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::System => "system",
            Self::User => "user",
            Self::Workspace => "workspace",
        }
    }

    /// Who forbids whoever this is to make a rule milder; `None` if it may be done.
    pub(super) fn bound(self, users: Leeway, rule: &Rule) -> Option<Bound> {
        match (self, users) {
            _ if rule.origin == self => None,
            (Self::Builtin | Self::System, _) | (Self::User, Leeway::Full) => None,
            (Self::User, Leeway::Defaults) => rule.administered.then_some(Bound::Administered),
            (Self::User, Leeway::Tighten) => Some(Bound::User),
            (Self::Workspace, _) => Some(Bound::Workspace),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which rules a user may make milder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leeway {
    /// None.
    Tighten,
    /// COI's own, where the administrator has not changed them.
    #[default]
    Defaults,
    /// All.
    Full,
}

impl Leeway {
    /// All of them, by the names that the configuration uses.
    pub const ALL: [(&'static str, Self); 3] =
        [("tighten", Self::Tighten), ("defaults", Self::Defaults), ("full", Self::Full)];
}

/// Why somebody may not make a rule milder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The administrator wrote or changed it.
    Administered,
    /// Users may change none.
    User,
    /// Workspaces may change none.
    Workspace,
}

impl Bound {
    /// As the beginning of a sentence.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Administered => "the administrator has set this rule",
            Self::User => "users may only tighten rules here",
            Self::Workspace => "a workspace may only tighten rules",
        }
    }

    /// What to do about it.
    pub(super) const fn help(self) -> &'static str {
        match self {
            Self::Administered | Self::User => {
                "take it out, or ask the administrator: `[users]` in /etc/coi/config.toml says what users may"
            }
            Self::Workspace => {
                "take it out; if you mean it, say so in your own ~/.coi/rules: what is watched can write to a workspace"
            }
        }
    }
}

/// A rule file that somebody brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleText {
    /// Its path, for people.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// The rule files that a user and a workspace bring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OwnRules {
    /// The user's.
    pub user: Vec<RuleText>,
    /// The workspace's.
    pub workspace: Vec<RuleText>,
}

/// Somebody brings too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the rule files of the user and the workspace are more than {MOST_FILES}, or together larger than {} KiB",
    MOST_BYTES >> 10
)]
pub struct TooMuch;

impl OwnRules {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files().next().is_none()
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &RuleText> {
        self.user.iter().chain(&self.workspace)
    }

    /// Whether there is no more of it than there may be.
    pub fn check(&self) -> Result<(), TooMuch> {
        let bytes: usize = self.files().map(|file| file.name.len() + file.text.len()).sum();
        if self.files().count() > MOST_FILES || bytes > MOST_BYTES { Err(TooMuch) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_may_be_only_so_much() {
        let files = |count, size: usize| OwnRules {
            user: vec![RuleText { name: "n".into(), text: "t".repeat(size) }; count],
            workspace: vec![RuleText { name: "n".into(), text: "t".repeat(size) }; count],
        };
        assert!(OwnRules::default().is_empty() && OwnRules::default().check().is_ok());
        assert_eq!((files(32, 1).check(), files(33, 1).check()), (Ok(()), Err(TooMuch)));
        assert_eq!(
            (files(1, (MOST_BYTES / 2) - 1).check(), files(1, MOST_BYTES / 2).check()),
            (Ok(()), Err(TooMuch))
        );
    }
}
