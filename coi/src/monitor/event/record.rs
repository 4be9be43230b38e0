//! An event with everything that is known about who stands behind it.

use std::{fmt::Write as _, net::IpAddr, sync::Arc};

use coi_common::{Stream, StreamKind};

use super::{EventKind, Field, Process, Record, Value, process::last_part};
use crate::monitor::sensor::decode::address;

/// The container, or cgroup, that an event happened in.
#[derive(Debug)]
pub struct Container {
    /// Its name; for a cgroup its path without the leading slash.
    pub name: String,
    /// volatile.uuid, or the cgroup's id.
    pub id: String,
}

/// The numbers of the acting process when it acted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Actor {
    /// The process id on the host.
    pub pid: u32,
    /// The same in the process's own PID namespace.
    pub vpid: u32,
    /// The thread on the host.
    pub tid: u32,
    /// The parent on the host.
    pub parent_pid: u32,
    /// The process group on the host.
    pub group: u32,
    /// The session on the host.
    pub session: u32,
    /// The effective user id in the container's view.
    pub user: Text,
}

/// An event, ready for rules and printers.
#[derive(Clone, Debug)]
pub struct Event {
    /// What kind of thing happened.
    pub kind: EventKind,
    /// CLOCK_BOOTTIME in nanoseconds.
    pub time: u64,
    /// LXC's own doing, before the container's init ran.
    pub setup: bool,
    /// Where.
    pub container: Arc<Container>,
    /// Who, in numbers.
    pub actor: Actor,
    /// Who; `None` for what no process stands behind.
    pub process: Option<Arc<Process>>,
    /// Who made them, if it is in the same container.
    pub parent: Option<Arc<Process>>,
    /// The effective capabilities of the acting thread.
    pub capabilities: Texts,
    /// What.
    pub detail: Detail,
}

/// Texts that many events share.
pub type Texts = Arc<[Arc<str>]>;

/// What belongs to one kind of event.
#[derive(Clone, Debug)]
pub enum Detail {
    /// Nothing more.
    None,
    /// Exec.
    Exec {
        /// The standard streams.
        stdio: [Stream; 3],
        /// Effective capabilities that the process did not have before.
        gained: Texts,
        /// The program was made in memory.
        memfd: bool,
    },
    /// Redirect: the standard streams.
    Stdio([Stream; 3]),
    /// Exit.
    Exit {
        /// The code, or 128 + N for signal N.
        code: i64,
    },
    /// Connect, accept.
    Connection {
        /// The standard streams.
        stdio: [Stream; 3],
        /// The other end's address and port, unless it is AF_UNIX.
        remote: Option<(IpAddr, u16)>,
        /// tcp, udp or unix.
        transport: &'static str,
        /// AF_UNIX's.
        path: Option<String>,
        /// 0, an error number, or `None` where the call had not returned.
        result: Option<i32>,
        /// The address is what the caller passed.
        as_passed: bool,
    },
    /// Link.
    Link(Box<LinkDetail>),
    /// Bind, listen.
    Local {
        /// The socket's own address and port.
        local: (IpAddr, u16),
        /// tcp or udp.
        transport: &'static str,
    },
    /// Open, exec-failed, map.
    File(Box<FileDetail>),
    /// Change.
    Change(Box<Changed>),
    /// Mismatch.
    Mismatch(Box<Mismatch>),
    /// Read, send.
    Bytes {
        /// How many.
        bytes: u64,
        /// Files that had not been read for a while, where they are counted.
        files: Option<u64>,
    },
    /// Syscall.
    Syscall {
        /// Its name.
        name: &'static str,
        /// A path or name among its arguments.
        text: Option<String>,
        /// What it gave back.
        result: i64,
    },
    /// IoUring.
    IoUring {
        /// What was asked for.
        request: &'static str,
    },
    /// Loss.
    Loss {
        /// ring or budget.
        reason: &'static str,
        /// The kind of what was lost.
        kind: &'static str,
        /// How many.
        count: u64,
    },
}

/// How a process's standard input and output lead to a socket.
#[derive(Clone, Debug)]
pub struct LinkDetail {
    /// socket, pipes, ancestor or held.
    pub kind: &'static str,
    /// The standard streams of the linked process.
    pub stdio: [Stream; 3],
    /// Input and output lead through one relay.
    pub same_relay: bool,
    /// What stands between, if anything.
    pub relay: Option<Arc<Process>>,
    /// The other end.
    pub remote: (IpAddr, u16),
}

/// A change of names, modes or owners.
#[derive(Clone, Debug)]
pub struct Changed {
    /// What was done.
    pub what: &'static str,
    /// To what.
    pub file: FileDetail,
    /// The old name, or what a symbolic link says.
    pub source: Option<String>,
}

/// What a caller passed that is not what the kernel took.
#[derive(Clone, Debug)]
pub enum Mismatch {
    /// An address.
    Address {
        /// Where the kernel connected to.
        taken: (IpAddr, u16),
        /// What was in the caller's memory meanwhile.
        passed: (IpAddr, u16),
    },
    /// A path.
    Path {
        /// What the kernel opened.
        taken: FileDetail,
        /// What was in the caller's memory when the call returned.
        passed: String,
    },
}

/// A file that was opened or should have been.
#[derive(Clone, Debug)]
pub struct FileDetail {
    /// Its path.
    pub path: String,
    /// The path is what the caller passed.
    pub as_passed: bool,
    /// Device and inode as one text.
    pub inode: Text,
    /// In the workspace.
    pub workspace: bool,
    /// Opened for writing.
    pub write: bool,
    /// Made by this open.
    pub created: bool,
    /// The path's beginning is missing.
    pub truncated: bool,
    /// The path could not be read.
    pub unreadable: bool,
    /// 0, an error number, or `None` where the call had not returned.
    pub errno: Option<i32>,
}

/// A short text without an allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text {
    bytes: [u8; 32],
    len: u8,
}

impl Text {
    /// What `arguments` print, as far as it fits.
    pub fn of(arguments: std::fmt::Arguments<'_>) -> Self {
        let mut text = Self::default();
        // It never fails; what does not fit is dropped.
        let _ = text.write_fmt(arguments);
        text
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes().filter(u8::is_ascii) {
            let Some(place) = self.bytes.get_mut(usize::from(self.len)) else { break };
            *place = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// The name of a standard stream's kind.
pub fn stream_kind(stream: &Stream) -> &'static str {
    match StreamKind::from_u8(stream.kind) {
        StreamKind::Closed => "closed",
        StreamKind::File => "file",
        StreamKind::Pipe => "pipe",
        StreamKind::Fifo => "fifo",
        StreamKind::Pty => "pty",
        StreamKind::Tty => "tty",
        StreamKind::Device => "device",
        StreamKind::Inet => "inet",
        StreamKind::Unix => "unix",
        StreamKind::Other => "other",
    }
}

impl Event {
    fn stdio(&self) -> Option<&[Stream; 3]> {
        match &self.detail {
            Detail::Exec { stdio, .. } | Detail::Stdio(stdio) | Detail::Connection { stdio, .. } => {
                Some(stdio)
            }
            Detail::Link(link) => Some(&link.stdio),
            _ => None,
        }
    }

    /// The other end of a standard stream that is an internet socket.
    fn peer(&self, fd: usize) -> Option<(IpAddr, u16)> {
        let stream = &self.stdio()?[fd];
        (StreamKind::from_u8(stream.kind) == StreamKind::Inet && stream.peer.port != 0)
            .then(|| (address(&stream.peer), stream.peer.port))
    }

    fn file(&self) -> Option<&FileDetail> {
        match &self.detail {
            Detail::File(file) => Some(file),
            Detail::Change(change) => Some(&change.file),
            Detail::Mismatch(mismatch) => match &**mismatch {
                Mismatch::Path { taken, .. } => Some(taken),
                Mismatch::Address { .. } => None,
            },
            _ => None,
        }
    }

    /// A file that was opened.
    fn opened(&self) -> Option<&FileDetail> {
        match self.detail {
            Detail::Change(_) => None,
            _ => self.file(),
        }
    }

    fn link(&self) -> Option<&LinkDetail> {
        match &self.detail {
            Detail::Link(link) => Some(link),
            _ => None,
        }
    }

    fn local(&self) -> Option<(IpAddr, u16)> {
        match &self.detail {
            Detail::Local { local, .. } => Some(*local),
            _ => None,
        }
    }

    fn passed(&self) -> Option<(IpAddr, u16)> {
        match &self.detail {
            Detail::Mismatch(mismatch) => match **mismatch {
                Mismatch::Address { passed, .. } => Some(passed),
                Mismatch::Path { .. } => None,
            },
            _ => None,
        }
    }

    /// The result of the call, where it has one: 0 or an error number; inner `None` if it had not returned.
    fn result(&self) -> Option<Option<i32>> {
        match &self.detail {
            Detail::File(file) if self.kind != EventKind::Map => Some(file.errno),
            Detail::Change(change) => Some(change.file.errno),
            Detail::Connection { result, .. } if self.kind == EventKind::Connect => Some(*result),
            Detail::Syscall { result, .. } => Some(Some(match *result {
                // What the kernel calls an error: the last page of addresses.
                errno @ -4095..0 => i32::try_from(-errno).unwrap_or(i32::MAX),
                _ => 0,
            })),
            _ => None,
        }
    }

    /// The address and port at the other end of a connection.
    pub fn remote(&self) -> Option<(IpAddr, u16)> {
        match &self.detail {
            Detail::Connection { remote, .. } => *remote,
            Detail::Link(link) => Some(link.remote),
            Detail::Mismatch(mismatch) => match **mismatch {
                Mismatch::Address { taken, .. } => Some(taken),
                Mismatch::Path { .. } => None,
            },
            _ => None,
        }
    }
}

/// A text, unless it is empty for want of knowledge.
fn known(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then_some(Value::Keyword(text))
}

impl Record for Event {
    fn kind(&self) -> EventKind {
        self.kind
    }

    fn time(&self) -> u64 {
        self.time
    }

    fn get(&self, field: Field) -> Option<Value<'_>> {
        use Value::{Boolean, Integer, Keyword, Keywords};
        let actor = || self.process.as_ref().map(|_| &self.actor);
        let process = || self.process.as_deref();
        let parent = || self.parent.as_deref();
        // Nothing has the number 0 here; it stands for what is not known.
        let number = |number: u32| (number != 0).then(|| Integer(number.into()));
        match field {
            Field::EventAction => Some(Keyword(self.kind.name())),
            Field::EventOutcome => Some(Keyword(match self.result()? {
                Some(0) => "success",
                Some(_) => "failure",
                None => "unknown",
            })),
            Field::Errno => self.result()?.filter(|errno| *errno != 0).map(|errno| Integer(errno.into())),
            Field::Phase => Some(Keyword(if self.setup { "setup" } else { "guest" })),
            Field::ContainerName => Some(Keyword(&self.container.name)),
            Field::ContainerId => Some(Keyword(&self.container.id)),

            Field::ProcessPid => number(actor()?.pid),
            Field::ProcessVpid => number(actor()?.vpid),
            Field::ThreadId => number(actor()?.tid),
            Field::ProcessUserId => known(actor()?.user.as_str()),
            Field::Capabilities => actor().map(|_| Keywords(&self.capabilities)),
            Field::CapabilitiesGained => match &self.detail {
                Detail::Exec { gained, .. } => Some(Keywords(gained)),
                _ => None,
            },
            Field::ProcessMemfd => match self.detail {
                Detail::Exec { memfd, .. } => Some(Boolean(memfd)),
                _ => None,
            },
            Field::ProcessGroupLeaderPid => number(actor()?.group),
            Field::ProcessSessionLeaderPid => number(actor()?.session),
            Field::ParentPid => number(actor()?.parent_pid),
            Field::ProcessEntityId => Some(Keyword(&process()?.entity_id)),
            Field::ProcessExecutable => known(&process()?.executable),
            Field::ProcessName => known(process()?.name()),
            Field::ProcessArgs => Some(Keywords(&process()?.args)),
            Field::ProcessArgsCount => Some(Integer(process()?.args.len() as i64)),
            Field::ProcessCommandLine => Some(Keyword(&process()?.command_line)),
            Field::ArgsTruncated => Some(Boolean(process()?.args_truncated)),
            Field::ArgsUnreadable => Some(Boolean(process()?.args_unreadable)),
            Field::Ancestors => Some(Keywords(&process()?.ancestors)),
            Field::ParentEntityId => Some(Keyword(&parent()?.entity_id)),
            Field::ParentExecutable => Some(Keyword(&parent()?.executable)),
            Field::ParentName => Some(Keyword(parent()?.name())),
            Field::ParentCommandLine => Some(Keyword(&parent()?.command_line)),
            Field::ExitCode => match self.detail {
                Detail::Exit { code } => Some(Integer(code)),
                _ => None,
            },

            Field::StdinKind => Some(Keyword(stream_kind(&self.stdio()?[0]))),
            Field::StdoutKind => Some(Keyword(stream_kind(&self.stdio()?[1]))),
            Field::StderrKind => Some(Keyword(stream_kind(&self.stdio()?[2]))),
            Field::StdinIp => Some(Value::Ip(self.peer(0)?.0)),
            Field::StdinPort => number(self.peer(0)?.1.into()),
            Field::StdoutIp => Some(Value::Ip(self.peer(1)?.0)),
            Field::StdoutPort => number(self.peer(1)?.1.into()),
            Field::StderrIp => Some(Value::Ip(self.peer(2)?.0)),
            Field::StderrPort => number(self.peer(2)?.1.into()),
            Field::LinkKind => Some(Keyword(self.link()?.kind)),
            Field::LinkStream => Some(Keyword(stream_kind(&self.link()?.stdio[0]))),
            Field::LinkLoop => Some(Boolean(self.link()?.same_relay)),
            Field::LinkRelayPid => number(self.link()?.relay.as_ref()?.key.pid),
            Field::LinkRelayExecutable => Some(Keyword(&self.link()?.relay.as_ref()?.executable)),
            Field::LinkRelayName => Some(Keyword(self.link()?.relay.as_ref()?.name())),
            Field::LinkRelayCommandLine => Some(Keyword(&self.link()?.relay.as_ref()?.command_line)),

            Field::DestinationIp if self.kind != EventKind::Accept => Some(Value::Ip(self.remote()?.0)),
            Field::DestinationPort if self.kind != EventKind::Accept => number(self.remote()?.1.into()),
            Field::SourceIp if self.kind == EventKind::Accept => Some(Value::Ip(self.remote()?.0)),
            Field::SourcePort if self.kind == EventKind::Accept => number(self.remote()?.1.into()),
            Field::DestinationIp | Field::DestinationPort | Field::SourceIp | Field::SourcePort => None,
            Field::NetworkTransport => match &self.detail {
                Detail::Connection { transport, .. } | Detail::Local { transport, .. } => {
                    Some(Keyword(transport))
                }
                _ => None,
            },
            Field::SocketPath => match &self.detail {
                Detail::Connection { path, .. } => path.as_deref().map(Keyword),
                _ => None,
            },

            Field::SocketAsPassed => match self.detail {
                Detail::Connection { as_passed, .. } => Some(Boolean(as_passed)),
                _ => None,
            },
            Field::ServerIp => Some(Value::Ip(self.local()?.0)),
            Field::ServerPort => number(self.local()?.1.into()),
            Field::PassedIp => Some(Value::Ip(self.passed()?.0)),
            Field::PassedPort => number(self.passed()?.1.into()),
            Field::PassedPath => match &self.detail {
                Detail::Mismatch(mismatch) => match &**mismatch {
                    Mismatch::Path { passed, .. } => Some(Keyword(passed)),
                    Mismatch::Address { .. } => None,
                },
                _ => None,
            },

            Field::FilePath => Some(Keyword(&self.file()?.path)),
            Field::FileName => Some(Keyword(last_part(&self.file()?.path))),
            Field::FileExtension => {
                last_part(&self.file()?.path).rsplit_once('.').map(|(_, extension)| Keyword(extension))
            }
            Field::FileAsPassed => Some(Boolean(self.file()?.as_passed)),
            Field::FileChange => match &self.detail {
                Detail::Change(change) => Some(Keyword(change.what)),
                _ => None,
            },
            Field::FileSource => match &self.detail {
                Detail::Change(change) => change.source.as_deref().map(Keyword),
                _ => None,
            },
            Field::FileInode => known(self.opened()?.inode.as_str()),
            Field::FileWorkspace if self.kind != EventKind::ExecFailed => {
                Some(Boolean(self.file()?.workspace))
            }
            Field::FileWrite if self.kind == EventKind::Open => Some(Boolean(self.file()?.write)),
            Field::FileCreate if self.kind == EventKind::Open => Some(Boolean(self.file()?.created)),
            Field::FileWorkspace | Field::FileWrite | Field::FileCreate => None,
            Field::FilePathTruncated => Some(Boolean(self.file()?.truncated)),
            Field::FilePathUnreadable => Some(Boolean(self.file()?.unreadable)),

            Field::IoBytes => match self.detail {
                Detail::Bytes { bytes, .. } => Some(Integer(bytes as i64)),
                _ => None,
            },
            Field::IoFiles => match self.detail {
                Detail::Bytes { files, .. } => files.map(|files| Integer(files as i64)),
                _ => None,
            },
            Field::SyscallName => match self.detail {
                Detail::Syscall { name, .. } => Some(Keyword(name)),
                _ => None,
            },
            Field::SyscallPath => match &self.detail {
                Detail::Syscall { text, .. } => text.as_deref().map(Keyword),
                _ => None,
            },
            Field::SyscallResult => match self.detail {
                Detail::Syscall { result, .. } => Some(Integer(result)),
                _ => None,
            },
            Field::IoUringOpcode => match self.detail {
                Detail::IoUring { request } => Some(Keyword(request)),
                _ => None,
            },
            Field::LossReason => match self.detail {
                Detail::Loss { reason, .. } => Some(Keyword(reason)),
                _ => None,
            },
            Field::LossKind => match self.detail {
                Detail::Loss { kind, .. } => Some(Keyword(kind)),
                _ => None,
            },
            Field::LossCount => match self.detail {
                Detail::Loss { count, .. } => Some(Integer(count as i64)),
                _ => None,
            },
        }
    }
}
