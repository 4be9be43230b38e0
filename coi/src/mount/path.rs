//! Paths inside a workspace.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How long one may be, and of how many parts.
const LONGEST: usize = 1024;
const DEEPEST: usize = 32;

/// A path inside a workspace: not empty, and it leads nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Inner(String);

/// What was meant as a path inside the workspace is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is no path inside the workspace: {why}. Write it as in \".git/hooks\"")]
pub struct NotInner {
    /// As it was given.
    pub path: String,
    /// Why not.
    pub why: &'static str,
}

impl Inner {
    /// Its parts, of which there is at least one.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.0.split('/')
    }

    /// The directories above it, the highest first, and its name.
    pub fn split(&self) -> (Option<&str>, &str) {
        match self.0.rsplit_once('/') {
            Some((above, name)) => (Some(above), name),
            None => (None, &self.0),
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it this one, or below it?
    pub fn is_within(&self, other: &Self) -> bool {
        self.below(&other.0).is_some()
    }

    /// What follows a path that it is below; empty if it is that path.
    pub fn below(&self, above: &str) -> Option<&str> {
        let rest = self.0.strip_prefix(above)?;
        if rest.is_empty() || above.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }

    /// A path below this one.
    pub fn join(&self, name: &str) -> Result<Self, NotInner> {
        Self::try_from(format!("{}/{name}", self.0))
    }
}

impl TryFrom<String> for Inner {
    type Error = NotInner;

    fn try_from(path: String) -> Result<Self, NotInner> {
        let why = if path.is_empty() {
            "it is empty"
        } else if path.starts_with('/') {
            "it begins with a slash"
        } else if path.len() > LONGEST || path.split('/').count() > DEEPEST {
            "it is too long"
        } else if path.contains('\0') {
            "it has a zero byte in it"
        } else if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            "it has an empty part, `.` or `..` in it"
        } else {
            return Ok(Self(path));
        };
        Err(NotInner { path, why })
    }
}

impl TryFrom<&str> for Inner {
    type Error = NotInner;

    fn try_from(path: &str) -> Result<Self, NotInner> {
        Self::try_from(path.to_owned())
    }
}

impl From<Inner> for String {
    fn from(inner: Inner) -> Self {
        inner.0
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_leads_elsewhere_is_none() {
        for path in ["", "/etc", "..", "a/..", "a/../b", "./a", "a//b", "a/", "a\0b"] {
            assert!(Inner::try_from(path).is_err(), "{path:?}");
        }
        assert!(Inner::try_from("a/".repeat(DEEPEST) + "a").is_err());
        assert_eq!(Inner::try_from(".git/hooks").unwrap().split(), (Some(".git"), "hooks"));
        assert_eq!(Inner::try_from(".husky").unwrap().split(), (None, ".husky"));
    }

    #[test]
    fn below_counts_whole_parts() {
        let path = |text: &str| Inner::try_from(text).unwrap();
        assert!(path(".git/hooks").is_within(&path(".git")));
        assert!(path(".git").is_within(&path(".git")));
        assert!(!path(".github").is_within(&path(".git")));
        assert_eq!(path("a/b/c").below("a"), Some("b/c"));
        assert_eq!(path("a/b").below(""), Some("a/b"));
        assert_eq!(path("a").below("a"), Some(""));
        assert_eq!(path("ab").below("a"), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_stays_inside(path in "[a./\\x00]{0,12}") {
            if let Ok(inner) = Inner::try_from(path.as_str()) {
                let resolved = std::path::Path::new("/w").join(inner.as_str());
                let all_normal = resolved.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
                prop_assert!(all_normal && resolved.starts_with("/w") && inner.parts().count() > 0);
            }
        }
    }
}
