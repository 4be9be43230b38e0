//! Cgroups that a bench makes, and what the kernel says of them.
//!
//! Promises: what is put into one ends with it, and it is gone when its value is, whichever way the work ended.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::process::Command;

use crate::coi::{CoiError, io_error};

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// The kernel would not.
    #[error(transparent)]
    Coi(#[from] CoiError),
    /// There is no unified hierarchy.
    #[error("no cgroup2 file system is mounted; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup")]
    NoHierarchy,
}

/// Where the unified cgroup hierarchy is mounted.
pub(super) fn hierarchy() -> Result<PathBuf, CgroupError> {
    const MOUNTS: &str = "/proc/self/mounts";
    let mounts = fs::read_to_string(MOUNTS).map_err(io_error(MOUNTS))?;
    let mounted = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, place, "cgroup2", ..] => Some(place),
        _ => None,
    });
    Ok(mounted.ok_or(CgroupError::NoHierarchy)?.into())
}

/// A cgroup of our own.
#[derive(Debug)]
pub(crate) struct Cgroup {
    name: String,
    dir: PathBuf,
}

impl Cgroup {
    /// Makes one below the hierarchy's root; `role` tells it from our others.
    pub(crate) fn make(role: &str) -> Result<Self, CgroupError> {
        let name = format!("coi.bench-{}-{role}", std::process::id());
        let dir = hierarchy()?.join(&name);
        fs::create_dir(&dir).map_err(io_error(dir.display().to_string()))?;
        Ok(Self { name, dir })
    }

    /// As `coi` names its watch.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its path in the hierarchy.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that moves in, prints an empty line, and then becomes `program`. Moving in takes the kernel longer
    /// than much that is measured: the clock starts at that line.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$0\" && echo && exec \"$@\""]);
        command.arg(self.dir.join("cgroup.procs")).arg(program).kill_on_drop(true);
        command
    }

    /// Moves a process in.
    pub(super) fn take(&self, pid: u32) -> Result<(), CoiError> {
        let procs = self.dir.join("cgroup.procs");
        fs::write(&procs, pid.to_string()).map_err(io_error(procs.display().to_string()))
    }

    /// The CPU time of all that ever ran in it.
    pub(super) fn cpu(&self) -> Result<Duration, CoiError> {
        let path = self.dir.join("cpu.stat");
        let stat = fs::read_to_string(&path).map_err(io_error(path.display().to_string()))?;
        let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
        let none = || io::Error::new(io::ErrorKind::InvalidData, "it has no usage_usec");
        Ok(Duration::from_micros(usage.ok_or_else(none).map_err(io_error(path.display().to_string()))?))
    }

    fn remove(&self) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.kill"), "1")?;
        let mut events = Events::of(&self.dir)?;
        while events.read()?.contains("populated 1") {
            events.wait(REMOVAL)?;
        }
        fs::remove_dir(&self.dir)
    }
}

/// How long what was killed may take to be gone.
const REMOVAL: Duration = Duration::from_secs(10);

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            let dir = self.dir.display();
            anstream::eprintln!("the cgroup {dir} is left ({error}); remove it: rmdir {dir}");
        }
    }
}

/// A cgroup's `cgroup.events`, and with it the moment at which something changes there.
#[derive(Debug)]
pub(super) struct Events(File);

impl Events {
    /// Of the cgroup in this directory.
    pub(super) fn of(cgroup: &Path) -> io::Result<Self> {
        File::open(cgroup.join("cgroup.events")).map(Self)
    }

    /// What it says now.
    pub(super) fn read(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.0.rewind()?;
        self.0.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Waits until it has changed since it was read.
    pub(super) fn wait(&self, limit: Duration) -> io::Result<()> {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLPRI)], limit)? {
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, "it did not happen")),
            _ => Ok(()),
        }
    }
}
