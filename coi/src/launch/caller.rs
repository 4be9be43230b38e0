//! Who called: behind root there may be a user who called sudo.

use std::env;
use std::path::{Path, PathBuf};
use std::thread;

use nix::unistd::{Uid, User, getegid, geteuid, getgrouplist};

use super::{Error, Result};
use crate::config::{self, Key, Loader};
use crate::monitor::ownfiles::Reader;
use crate::monitor::rules::OwnRules;
use crate::monitor::service::become_user;
use crate::places::Owner;

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
    let caller = Caller::find()?;
    Ok(Reader { uid: caller.uid, home: caller.home.as_deref() }.read(workspace)?)
}

/// What reads the caller's configuration for a workspace, with what flags set.
pub fn loader(workspace: Option<&Path>, flags: Vec<(&'static Key, toml::Value)>) -> Result<Loader> {
    let caller = Caller::find()?;
    Ok(Loader {
        uid: caller.uid,
        gid: caller.gid,
        home: caller.home,
        workspace: workspace.map(Path::to_owned),
        system: config::SYSTEM.into(),
        variables: env::vars_os().collect(),
        flags,
    })
}

/// Who called.
#[derive(Clone, Debug)]
pub struct Caller {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: Option<PathBuf>,
    /// Whom this process has to become for their files.
    other: Option<User>,
}

impl Caller {
    /// Whoever called sudo, else whoever this process is.
    pub fn find() -> Result<Self> {
        Ok(match sudo_user()? {
            Some(user) => Self {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
                home: Some(user.dir.clone()),
                other: Some(user),
            },
            None => Self { uid: geteuid().as_raw(), gid: getegid().as_raw(), home: home(), other: None },
        })
    }

    /// Them, as the owner of what is made for them.
    pub(crate) const fn owner(&self) -> Owner {
        Owner { uid: self.uid, gid: self.gid }
    }

    /// Their home, if they have one.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// Does something with their rights over files: what lies in their home may lead anywhere, and root must not
    /// follow.
    pub fn act<T: Send>(&self, act: impl FnOnce(Option<&Path>) -> T + Send) -> Result<T> {
        let Some(user) = &self.other else { return Ok(act(self.home())) };
        let failed = |source: std::io::Error| Error::Host { what: user.dir.clone(), source };
        let name = std::ffi::CString::new(user.name.as_str()).unwrap_or_default();
        let groups = getgrouplist(&name, user.gid).map_err(|e| failed(e.into()))?;
        let groups: Vec<_> = groups.into_iter().map(nix::unistd::Gid::as_raw).collect();
        // The identity is this thread's alone, and ends with it.
        let done = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                become_user(user.uid.as_raw(), user.gid.as_raw(), &groups)?;
                Ok(act(self.home()))
            });
            thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread has panicked")))
        });
        done.map_err(failed)
    }
}

/// The home of whoever this process is.
fn home() -> Option<PathBuf> {
    let named = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    named.or_else(|| User::from_uid(geteuid()).ok().flatten().map(|user| user.dir))
}
