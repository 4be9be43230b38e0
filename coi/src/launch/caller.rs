//! Who called: behind root there may be a user who called sudo.

use std::env;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, geteuid};

use super::{Error, Result};
use crate::monitor::ownfiles::Reader;
use crate::monitor::rules::OwnRules;

/// The user who called sudo to become root, if somebody did.
pub fn sudo_user() -> Result<Option<User>> {
    let Ok(uid) = env::var("SUDO_UID") else { return Ok(None) };
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = uid.parse().ok().and_then(|id| User::from_uid(Uid::from_raw(id)).ok().flatten());
    user.map(Some).ok_or(Error::NoSuchUser { uid })
}

/// The rules that the caller brings, and a workspace, if there is one.
pub fn own_rules(workspace: Option<&Path>) -> Result<OwnRules> {
    let (uid, home) = match sudo_user()? {
        Some(user) => (user.uid, Some(user.dir)),
        None => (geteuid(), home()),
    };
    Ok(Reader { uid: uid.as_raw(), home: home.as_deref() }.read(workspace)?)
}

/// The home of whoever this process is.
fn home() -> Option<PathBuf> {
    let named = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    named.or_else(|| User::from_uid(geteuid()).ok().flatten().map(|user| user.dir))
}
