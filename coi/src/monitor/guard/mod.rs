//! What freezes when there is no daemon: a small process that does not end with it.
//!
//! It promises that what is to be frozen without a monitor is frozen within a second after the daemon has gone without a
//! word ([`keeper`]), that a planned end gives the next daemon time to take over, and that the next daemon is told what
//! was done ([`Loss`]). It knows no rules, no events, no Incus and no disk: open directories of cgroups, one connection,
//! and a note in the runtime directory.
//!
//! One guard outlives any number of daemons: each connects to the one that is there ([`link`]), or starts one. That it has
//! gone is noticed by the daemon, which then starts another. If both are killed at once, nobody freezes.
//!
//! A daemon that is there and does not get on is as good as none: the thread that judges events gives a sign of life
//! every half second, through the daemon's side of the connection. Without one for [`SILENCE`] the guard does the same as
//! if the daemon had gone; when it hears one again, the daemon is told so, thaws, and records it. Time in which the guard
//! itself does not run (the machine sleeps, or is moved) does not count.
//!
//! A container that starts while no daemon lives is frozen too, if its cgroup gets the name that it had (`lxc.payload.NAME`); one that LXC gives another
//! name after an unclean end (`NAME-1`) is not seen until the next daemon looks.

pub mod keeper;
pub mod link;
mod socket;

use std::{io, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub use link::{Guard, News, Ward};

use super::{
    private::{Lasting, Private, PrivateError},
    sensor::boottime,
    standing::boot_id,
};

/// The version of what is said on the socket. Who finds another one there has it end, and starts its own.
const PROTOCOL: u32 = 2;
/// How long a daemon may give no sign of life. Its monitor's thread goes before all others, its messenger does not.
pub const SILENCE: Duration = Duration::from_secs(5);
/// How often it gives one.
const SIGN: Duration = Duration::from_millis(500);
/// The name of the socket in the runtime directory.
const SOCKET: &str = "guard.sock";
/// The name of the note.
const NOTE: &str = "loss.json";
/// How long a note may be: some hundred bytes for each cgroup.
const LONGEST_NOTE: u64 = 16 << 20;

/// There is no guard to be had.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// It does not start, or does not answer.
    #[error("the guard, which freezes containers when the daemon is gone, cannot be used ({path}): {source}")]
    Socket {
        /// Its socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What the daemon says. A message is a packet, and at most one descriptor goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum Say {
    /// Here is a daemon.
    Hello {
        /// Its [`PROTOCOL`].
        protocol: u32,
    },
    /// This is watched from now on. With its cgroup's directory, if it has one.
    Watch {
        /// What to call it.
        key: String,
        /// The path at which its next cgroup will be made; `None` if there will be none.
        next: Option<String>,
        /// The path of the directory that comes along.
        path: String,
        /// It is to be frozen without a monitor.
        freeze: bool,
    },
    /// It is watched no longer.
    Forget {
        /// How it was called.
        key: String,
    },
    /// The thread that judges events gets on.
    Alive,
    /// All that is watched has been told, and what the note says is dealt with.
    Settled {
        /// [`Loss::since`] of that note, if there was one.
        note: Option<u64>,
    },
    /// The daemon is about to end, and another one will come.
    Leaving {
        /// How long that may take.
        grace_ms: u64,
    },
    /// The guard is to end.
    End,
}

/// What the guard answers to [`Say::Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Welcome {
    protocol: u32,
    pid: u32,
}

/// What the guard says later, and nothing else: it had taken the daemon for dead, and hears it again. What it has done
/// meanwhile is in its note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Heard {}

/// A daemon has gone, or does not get on: the guard's note for the next one, or for the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The boot of the machine.
    boot: String,
    /// Since when there is none, by the kernel's clock.
    pub since: u64,
    /// It had said that it would.
    pub planned: bool,
    /// It was there, and gave no sign of life from then on.
    pub silent: bool,
    /// What was frozen because of that.
    pub frozen: Vec<Frozen>,
}

/// A cgroup that was frozen for want of a monitor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// How the watch is called.
    pub key: String,
    /// The cgroup's id and path.
    pub cgroup: u64,
    /// Its path.
    pub path: String,
    /// When, by the kernel's clock.
    pub at: u64,
    /// `None` if it worked.
    pub error: Option<String>,
}

impl Loss {
    fn now(planned: bool, silent: bool) -> Self {
        Self { boot: boot_id(), since: boottime(), planned, silent, frozen: Vec::new() }
    }

    /// The note in this directory, if there is one of this boot.
    pub fn read(directory: &Private) -> Option<Self> {
        let text = match directory.read(NOTE, LONGEST_NOTE) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(%error, "the guard's note cannot be read; what it froze stays frozen");
                return None;
            }
        };
        let loss: Self = serde_json::from_slice(&text)
            .inspect_err(
                |error| tracing::error!(%error, "the guard's note is damaged; what it froze stays frozen"),
            )
            .ok()?;
        (loss.boot == boot_id()).then_some(loss)
    }

    fn write(&self, directory: &Private) -> io::Result<()> {
        directory.write(NOTE, &serde_json::to_vec(self)?, Lasting::ThisBoot)
    }

    fn remove(directory: &Private) -> io::Result<()> {
        directory.remove(NOTE, Lasting::ThisBoot)
    }

    /// When this cgroup was frozen, if it was.
    pub fn of(&self, cgroup: u64) -> Option<&Frozen> {
        self.frozen.iter().find(|frozen| frozen.cgroup == cgroup)
    }
}
