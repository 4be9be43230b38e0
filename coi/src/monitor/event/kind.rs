//! The kinds of events.

use std::fmt;

/// What kind of thing happened. The name is ECS's `event.action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EventKind {
    /// A process replaced its image: the program it now runs, with the kernel's copy of the arguments.
    Exec,
    /// An execve(2) was refused for another reason than a missing file.
    ExecFailed,
    /// A process was made.
    Fork,
    /// A process ended (its last thread).
    Exit,
    /// An outgoing connection was begun: TCP at its SYN, others when connect(2) returned.
    Connect,
    /// An incoming connection was accepted.
    Accept,
    /// Standard input, output or error was put onto a socket with dup(2) and its kin.
    Redirect,
    /// The standard input and output of a process have come to lead to an internet socket, directly or
    /// through pipes, a terminal or a relay. Derived from the events above; once per program and process.
    Link,
    /// A file was opened, or an attempt was refused for another reason than a missing file.
    Open,
    /// A process read this much more of the workspace's files: a sum, never a single read.
    Read,
    /// A process sent this much more to addresses that are not loopback: a sum, never a single send.
    Send,
    /// Events were lost before anybody saw them.
    Loss,
    /// A socket was bound to an address and port.
    Bind,
    /// A socket listens.
    Listen,
    /// A name was made, renamed or removed, or a mode, an owner or a length changed, or an attempt was refused.
    Change,
    /// A file of the workspace was mapped into memory; reading it from there is not seen.
    Map,
    /// One of the rare system calls by which a container is left, another process is taken over or the kernel is changed.
    Syscall,
    /// A process asks for this kind of thing through io_uring, for the first time in a while.
    IoUring,
    /// What a caller passed to the kernel is not what the kernel took: it was changed meanwhile, or, for a path, leads
    /// elsewhere. Derived from a connect or an open; once for each pair.
    Mismatch,
}

impl EventKind {
    /// What a record of this kind becomes; `None` for what is told to the daemon, not to rules.
    pub fn of_record(kind: coi_common::Kind) -> Option<Self> {
        use coi_common::Kind;
        Some(match kind {
            Kind::Exec => Self::Exec,
            Kind::ExecFailed => Self::ExecFailed,
            Kind::Fork => Self::Fork,
            Kind::Exit => Self::Exit,
            Kind::Connect => Self::Connect,
            Kind::Accept => Self::Accept,
            Kind::Redirect => Self::Redirect,
            Kind::Open => Self::Open,
            Kind::Read => Self::Read,
            Kind::Send => Self::Send,
            Kind::Bind => Self::Bind,
            Kind::Listen => Self::Listen,
            Kind::Change => Self::Change,
            Kind::Map => Self::Map,
            Kind::Syscall => Self::Syscall,
            Kind::IoUring => Self::IoUring,
            Kind::CgroupMade | Kind::CgroupGone => return None,
        })
    }

    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 19] = [
        Self::Exec,
        Self::ExecFailed,
        Self::Fork,
        Self::Exit,
        Self::Connect,
        Self::Accept,
        Self::Redirect,
        Self::Link,
        Self::Open,
        Self::Read,
        Self::Send,
        Self::Loss,
        Self::Bind,
        Self::Listen,
        Self::Change,
        Self::Map,
        Self::Syscall,
        Self::IoUring,
        Self::Mismatch,
    ];

    /// The name used in rules, in the audit log and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::ExecFailed => "exec-failed",
            Self::Fork => "fork",
            Self::Exit => "exit",
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Redirect => "redirect",
            Self::Link => "link",
            Self::Open => "open",
            Self::Read => "read",
            Self::Send => "send",
            Self::Loss => "loss",
            Self::Bind => "bind",
            Self::Listen => "listen",
            Self::Change => "change",
            Self::Map => "map",
            Self::Syscall => "syscall",
            Self::IoUring => "io_uring",
            Self::Mismatch => "mismatch",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
