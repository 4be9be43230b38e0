//! A command of the host in a cgroup of its own: monitoring without Incus.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User, getgrouplist, getpgrp, setgid, setgroups, setuid, tcgetpgrp, write};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::monitored::{AFTERMATH, Life, Monitored, is_over, launched};
use super::run::is_suspicious;
use super::{Error, Notices, Outcome, Result, Signals};
use crate::monitor::rules::OwnRules;
use crate::monitor::service::api::{Subject, WatchRequest};
use crate::monitor::service::client;

/// How long killed processes may take to be gone.
const EMPTY: Duration = Duration::from_secs(5);

/// A command to be watched.
#[derive(Debug)]
pub struct HostCommand {
    /// Program and arguments.
    pub words: Vec<String>,
    /// Whose it is; nobody's else than ours if `None`.
    pub user: Option<User>,
    /// The directory whose files are the workspace.
    pub workspace: PathBuf,
    /// The rules that the user and the workspace bring.
    pub rules: OwnRules,
}

/// Where the unified cgroup hierarchy is mounted.
pub fn cgroup_root() -> Result<PathBuf> {
    const MOUNTS: &str = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(MOUNTS).map_err(|e| cgroup(MOUNTS, e))?;
    hierarchy(&mounts).ok_or(Error::NoCgroupHierarchy)
}

/// The mount point of the whole hierarchy.
fn hierarchy(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // A blank in a path reads \040; nobody mounts cgroups at such a place.
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })
}

/// Runs a command in a cgroup that is watched before the command's first instruction; `ready` is called
/// when it is armed. What the command leaves running ends with it, for nobody would watch it any more.
pub async fn watch(
    daemon: client::Client,
    command: &HostCommand,
    signals: &mut Signals,
    notices: &mut impl Notices,
    ready: impl FnOnce(),
) -> Result<Outcome> {
    let daemon = daemon.ensure().await?;
    let group = Cgroup::make()?;
    let subject = Subject::Cgroup { path: group.path.clone() };
    let request = WatchRequest {
        workspace: Some(command.workspace.clone()),
        ephemeral: true,
        ..launched(subject, Some(command.rules.clone()))
    };
    let mut monitored = Monitored::arm(daemon, request, Life::Cgroup(group.dir.clone())).await?;
    ready();
    let mut child = group.spawn(command)?;
    let mut asked = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break Some(status),
            state = monitored.follow(notices) => {
                if is_over(state) {
                    break timeout(AFTERMATH, child.wait()).await.ok();
                }
            }
            signal = signals.next() => {
                if asked {
                    break None;
                }
                asked = true;
                // The terminal gave its own signals to the command already.
                if !in_foreground() {
                    hand_on(&child, signal);
                }
                if group.is_frozen() {
                    break None;
                }
            }
        }
    };
    let code = match status {
        Some(status) => Some(code(status.map_err(|e| cgroup(&command.words[0], e))?)),
        None => None,
    };
    let killed = monitored.killed(code.is_none_or(is_suspicious), notices).await?;
    group.remove()?;
    Ok(match (killed, code) {
        (Some(action), _) => Outcome::Killed(action),
        (None, Some(code)) => Outcome::Exited(code),
        (None, None) => Outcome::GivenUp(nix::libc::SIGKILL),
    })
}

fn cgroup(what: impl AsRef<Path>, source: io::Error) -> Error {
    Error::Host { what: what.as_ref().to_owned(), source }
}

/// A cgroup that goes when this does.
#[derive(Debug)]
struct Cgroup {
    dir: PathBuf,
    path: String,
    removed: bool,
}

impl Cgroup {
    fn make() -> Result<Self> {
        let name = format!("coi.watch-{}", std::process::id());
        let dir = cgroup_root()?.join(&name);
        fs::create_dir(&dir).map_err(|e| cgroup(&dir, e))?;
        Ok(Self { dir, path: format!("/{name}"), removed: false })
    }

    /// Starts the command in here, as its user.
    fn spawn(&self, command: &HostCommand) -> Result<Child> {
        let Some((program, arguments)) = command.words.split_first() else {
            return Err(Error::NoProgramGiven);
        };
        let procs = self.dir.join("cgroup.procs");
        let procs: File = OpenOptions::new().write(true).open(&procs).map_err(|e| cgroup(&procs, e))?;
        let mut child = Command::new(program);
        child.args(arguments);
        let mut identity = None;
        if let Some(user) = &command.user {
            let name = CString::new(user.name.as_str()).unwrap_or_default();
            let groups = getgrouplist(&name, user.gid).map_err(|e| cgroup(&user.name, e.into()))?;
            identity = Some((user.uid, user.gid, groups));
            child.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name);
            child.env("SHELL", &user.shell);
            for key in ["SUDO_USER", "SUDO_UID", "SUDO_GID", "SUDO_COMMAND"] {
                child.env_remove(key);
            }
        }
        // SAFETY: between fork and exec only write(2), setgroups(2), setgid(2) and setuid(2) are called, all
        // async-signal-safe; nothing is allocated.
        unsafe {
            child.pre_exec(move || {
                // Zero is whoever writes it.
                write(procs.as_fd(), b"0")?;
                if let Some((uid, gid, groups)) = &identity {
                    become_user(*uid, *gid, groups)?;
                }
                Ok(())
            });
        }
        child.spawn().map_err(|source| Error::NotStarted { program: program.clone(), source })
    }

    fn is_frozen(&self) -> bool {
        fs::read_to_string(self.dir.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
    }

    /// Ends what is left in here, and removes it.
    fn remove(mut self) -> Result<()> {
        self.removed = true;
        self.clear()
    }

    fn clear(&self) -> Result<()> {
        let events = self.dir.join("cgroup.events");
        let _ = fs::write(self.dir.join("cgroup.kill"), "1");
        // The kernel reports a change of this file as urgent data, from the last reading on.
        let file = File::open(&events).map_err(|e| cgroup(&events, e))?;
        let deadline = std::time::Instant::now() + EMPTY;
        while fs::read_to_string(&events).is_ok_and(|text| text.lines().any(|line| line == "populated 1")) {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            if left.is_zero() || poll(&mut polled, timeout).is_err() {
                break;
            }
        }
        fs::remove_dir(&self.dir).map_err(|e| cgroup(&self.dir, e))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.removed {
            let _ = self.clear();
        }
    }
}

fn become_user(uid: Uid, gid: Gid, groups: &[Gid]) -> io::Result<()> {
    setgroups(groups)?;
    setgid(gid)?;
    setuid(uid)?;
    Ok(())
}

/// Whether the terminal's signals come to us, and so to the command, which is in our process group.
fn in_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|tty| tcgetpgrp(&tty).is_ok_and(|group| group == getpgrp()))
}

pub(super) fn hand_on(child: &Child, signal: i32) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let (Some(pid), Ok(signal)) = (pid, Signal::try_from(signal)) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

pub(super) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_cgroup2_is() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchy(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let a_part = "41 31 0:38 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(hierarchy(a_part), None);
    }
}
