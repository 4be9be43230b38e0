//! The one table of fields.
//!
//! Each field is defined here once, with its name (Elastic Common Schema where ECS has one, `coi.*` where it
//! has none), its type, the kinds of events that carry it, its meaning and where its value comes from. The
//! rule checker, the audit log and the documentation are all made from this table.

use std::{net::IpAddr, sync::Arc};

use super::EventKind::{self, *};

/// The type of a field, as rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Text, compared byte by byte.
    Keyword,
    /// A signed 64-bit number.
    Integer,
    /// True or false.
    Boolean,
    /// An IPv4 or IPv6 address.
    Ip,
    /// An ordered list of texts.
    Keywords,
}

impl Type {
    /// The name used in messages and in the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keyword => "keyword",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Ip => "ip",
            Self::Keywords => "list of keywords",
        }
    }
}

/// The value of a field of one event, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A [`Type::Keyword`].
    Keyword(&'a str),
    /// A [`Type::Integer`].
    Integer(i64),
    /// A [`Type::Boolean`].
    Boolean(bool),
    /// A [`Type::Ip`].
    Ip(IpAddr),
    /// A [`Type::Keywords`].
    Keywords(&'a [Arc<str>]),
}

/// An event as rules and printers see it.
pub trait Record {
    /// What kind of thing happened.
    fn kind(&self) -> EventKind;
    /// When, in nanoseconds since the machine's boot (the kernel's CLOCK_BOOTTIME).
    fn time(&self) -> u64;
    /// The value of a field, or `None` where this event does not have it. The value has the field's type.
    fn get(&self, field: Field) -> Option<Value<'_>>;

    /// The text of a field of type keyword; empty where this event does not have it.
    fn keyword(&self, field: Field) -> &str {
        match self.get(field) {
            Some(Value::Keyword(text)) => text,
            _ => "",
        }
    }
}

/// The definition of a field.
#[derive(Debug)]
pub struct FieldDef {
    /// The field itself.
    pub field: Field,
    /// Its name, dotted as in ECS.
    pub name: &'static str,
    /// Its type.
    pub ty: Type,
    /// The kinds of events that can carry it.
    pub kinds: &'static [EventKind],
    /// What it means, in one line.
    pub doc: &'static str,
}

macro_rules! fields {
    ($($variant:ident, $name:literal, $ty:ident, $kinds:expr, $doc:literal;)*) => {
        /// A field of an event; its definition is [`Field::def`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Field {
            $(#[doc = $doc] $variant,)*
        }

        impl Field {
            /// The table of all fields, in the order of their discriminants.
            pub const TABLE: &'static [FieldDef] = &[
                $(FieldDef { field: Self::$variant, name: $name, ty: Type::$ty, kinds: $kinds, doc: $doc },)*
            ];
        }
    };
}

/// Every kind of event that a process stands behind.
const PROCESS: &[EventKind] = &[
    Exec, ExecFailed, Fork, Exit, Connect, Accept, Redirect, Link, Open, Read, Send, Bind, Listen, Change,
    Map, Syscall, IoUring, Mismatch,
];
const ANY: &[EventKind] = &EventKind::ALL;
const STDIO: &[EventKind] = &[Exec, Connect, Accept, Redirect, Link];
const REMOTE: &[EventKind] = &[Connect, Link, Mismatch];
const LOCAL: &[EventKind] = &[Bind, Listen];
const RESULT: &[EventKind] = &[Open, ExecFailed, Connect, Change, Syscall];
/// Events about a file.
const NAMED: &[EventKind] = &[Open, ExecFailed, Change, Map, Mismatch];
/// Events about a file that was opened.
const OPENED: &[EventKind] = &[Open, Map, Mismatch];

fields! {
    EventAction, "event.action", Keyword, ANY, "The kind of the event.";
    EventOutcome, "event.outcome", Keyword, RESULT, "success, failure, or unknown where the call had not returned.";
    Errno, "coi.errno", Integer, RESULT, "The error number of a call that failed, positive.";
    Phase, "coi.phase", Keyword, ANY, "guest, or setup for what LXC itself does before the container's init runs.";
    ContainerName, "container.name", Keyword, ANY, "The Incus instance's name, or the watched cgroup's path.";
    ContainerId, "container.id", Keyword, ANY, "The Incus instance's volatile.uuid, or the watched cgroup's id.";

    ProcessPid, "process.pid", Integer, PROCESS, "The process id on the host.";
    ProcessVpid, "process.vpid", Integer, PROCESS, "The process id in the process's own PID namespace.";
    ThreadId, "process.thread.id", Integer, PROCESS, "The id of the acting thread on the host.";
    ProcessEntityId, "process.entity_id", Keyword, PROCESS, "Identifies the process on this host for good: process id and start time.";
    ProcessExecutable, "process.executable", Keyword, PROCESS, "The path of the running program's file in the container's view, from the kernel, whatever argv[0] or the name say.";
    ProcessName, "process.name", Keyword, PROCESS, "The last part of process.executable.";
    ProcessArgs, "process.args", Keywords, PROCESS, "The arguments, argv[0] first, as the kernel copied them at exec.";
    ProcessArgsCount, "process.args_count", Integer, PROCESS, "How many arguments there are in process.args.";
    ProcessCommandLine, "process.command_line", Keyword, PROCESS, "The arguments joined by spaces.";
    ArgsTruncated, "coi.process.args_truncated", Boolean, PROCESS, "The arguments were longer than what was kept of them.";
    ArgsUnreadable, "coi.process.args_unreadable", Boolean, PROCESS, "The arguments could not be read from the process's memory.";
    ProcessUserId, "process.user.id", Keyword, PROCESS, "The effective user id in the container's view.";
    Capabilities, "process.thread.capabilities.effective", Keywords, PROCESS, "The effective capabilities in the process's user namespace, such as CAP_NET_RAW.";
    CapabilitiesGained, "coi.process.capabilities_gained", Keywords, &[Exec], "The effective capabilities that the process did not have before this exec.";
    ProcessMemfd, "coi.process.memfd", Boolean, &[Exec], "The program has no file in any directory: it was made in memory.";
    ProcessGroupLeaderPid, "process.group_leader.pid", Integer, PROCESS, "The process group's id on the host.";
    ProcessSessionLeaderPid, "process.session_leader.pid", Integer, PROCESS, "The session's id on the host.";
    ParentPid, "process.parent.pid", Integer, PROCESS, "The parent's process id on the host.";
    ParentEntityId, "process.parent.entity_id", Keyword, PROCESS, "The parent's process.entity_id.";
    ParentExecutable, "process.parent.executable", Keyword, PROCESS, "The parent's program.";
    ParentName, "process.parent.name", Keyword, PROCESS, "The last part of process.parent.executable.";
    ParentCommandLine, "process.parent.command_line", Keyword, PROCESS, "The parent's arguments joined by spaces.";
    Ancestors, "coi.process.ancestors", Keywords, PROCESS, "The programs of parent, grandparent and so on up to the container's init, as they were when the process was made; at most 16.";
    ExitCode, "process.exit_code", Integer, &[Exit], "The exit code, or 128 + N for a process ended by signal N.";

    StdinKind, "coi.process.stdin.kind", Keyword, STDIO, "What standard input is: inet, unix, pipe, fifo, pty, tty, file, device, other or closed.";
    StdoutKind, "coi.process.stdout.kind", Keyword, STDIO, "What standard output is, as coi.process.stdin.kind.";
    StderrKind, "coi.process.stderr.kind", Keyword, STDIO, "What standard error is, as coi.process.stdin.kind.";
    StdinIp, "coi.process.stdin.ip", Ip, STDIO, "The other end's address, where standard input is an internet socket.";
    StdinPort, "coi.process.stdin.port", Integer, STDIO, "The other end's port, where standard input is an internet socket.";
    StdoutIp, "coi.process.stdout.ip", Ip, STDIO, "As coi.process.stdin.ip, of standard output.";
    StdoutPort, "coi.process.stdout.port", Integer, STDIO, "As coi.process.stdin.port, of standard output.";
    StderrIp, "coi.process.stderr.ip", Ip, STDIO, "As coi.process.stdin.ip, of standard error.";
    StderrPort, "coi.process.stderr.port", Integer, STDIO, "As coi.process.stdin.port, of standard error.";
    LinkKind, "coi.link.kind", Keyword, &[Link], "How the standard streams lead to the socket: socket (they are it), pipes (through a program whose own standard streams are the pipes' other ends), ancestor (an ancestor's own standard streams are the socket), or held (the parent made the streams and has a connection; alone this means nothing, every coding agent looks so).";
    LinkStream, "coi.link.stream", Keyword, &[Link], "What the linked process itself has as standard input: inet, pipe, fifo, unix or pty.";
    LinkLoop, "coi.link.loop", Boolean, &[Link], "Input and output lead through one and the same relay process.";
    LinkRelayPid, "coi.link.relay.pid", Integer, &[Link], "The process id of the program between the process and the socket, where there is one.";
    LinkRelayExecutable, "coi.link.relay.executable", Keyword, &[Link], "The program between the process and the socket, where there is one.";
    LinkRelayName, "coi.link.relay.name", Keyword, &[Link], "The last part of coi.link.relay.executable.";
    LinkRelayCommandLine, "coi.link.relay.command_line", Keyword, &[Link], "The relay's arguments joined by spaces.";

    DestinationIp, "destination.ip", Ip, REMOTE, "The address at the other end of the connection, from the kernel's socket unless coi.socket.as_passed is true.";
    DestinationPort, "destination.port", Integer, REMOTE, "The port at the other end of the connection.";
    SourceIp, "source.ip", Ip, &[Accept], "The peer of an accepted connection.";
    SourcePort, "source.port", Integer, &[Accept], "The peer's port of an accepted connection.";
    ServerIp, "server.ip", Ip, LOCAL, "The socket's own address.";
    ServerPort, "server.port", Integer, LOCAL, "The socket's own port.";
    NetworkTransport, "network.transport", Keyword, &[Connect, Accept, Bind, Listen], "tcp, udp, unix, or raw: packets of the process's own making.";
    SocketPath, "coi.socket.path", Keyword, &[Connect], "The path of an AF_UNIX address; an abstract one begins with @.";
    SocketAsPassed, "coi.socket.as_passed", Boolean, &[Connect], "The address is what the caller passed: the call was refused, or it sent a datagram of AF_UNIX or a raw packet.";

    PassedIp, "coi.passed.ip", Ip, &[Mismatch], "The address in the caller's memory, when destination.ip is where the kernel connected to.";
    PassedPort, "coi.passed.port", Integer, &[Mismatch], "The port in the caller's memory, as coi.passed.ip.";
    PassedPath, "coi.passed.path", Keyword, &[Mismatch], "The path in the caller's memory when the call returned, when file.path is what the kernel opened.";

    FilePath, "file.path", Keyword, NAMED, "The file's path in the container's view, from the kernel's own tables: symbolic links and relative names are resolved. Where coi.file.as_passed is true: what the caller passed, from the directory it is relative to.";
    FileName, "file.name", Keyword, NAMED, "The last part of file.path.";
    FileAsPassed, "coi.file.as_passed", Boolean, NAMED, "file.path is what the caller passed: the call was refused, or is one of those of which no more is seen.";
    FileChange, "coi.file.change", Keyword, &[Change], "rename, link, symlink, unlink, rmdir, mkdir, chmod, chown or truncate.";
    FileSource, "coi.file.source", Keyword, &[Change], "The old name of a rename or link, or what a symbolic link says.";
    FileExtension, "file.extension", Keyword, NAMED, "What follows the last dot of file.name, without the dot.";
    FileInode, "file.inode", Keyword, OPENED, "Device and inode number of the opened file, as device:inode.";
    FileWorkspace, "coi.file.workspace", Boolean, &[Open, Change, Map, Mismatch], "The file is in the workspace.";
    FileWrite, "coi.file.write", Boolean, &[Open], "Opened for writing.";
    FileCreate, "coi.file.create", Boolean, &[Open], "The open made the file.";
    FilePathTruncated, "coi.file.path_truncated", Boolean, NAMED, "The path was longer or deeper than what was kept of it; the end is there, the beginning is not.";
    FilePathUnreadable, "coi.file.path_unreadable", Boolean, NAMED, "The path could not be read.";

    IoBytes, "coi.io.bytes", Integer, &[Read, Send], "How many bytes more since the process's last such event.";
    IoFiles, "coi.io.files", Integer, &[Read], "How many files were read that had not been read in the last ten seconds, since the process's last such event.";
    SyscallName, "coi.syscall.name", Keyword, &[Syscall], "The system call's name.";
    SyscallPath, "coi.syscall.path", Keyword, &[Syscall], "The path or name among its arguments, as the caller passed it.";
    SyscallResult, "coi.syscall.result", Integer, &[Syscall], "What it gave back.";
    IoUringOpcode, "coi.io_uring.opcode", Keyword, &[IoUring], "What was asked for: the name of IORING_OP_* without that.";
    LossReason, "coi.loss.reason", Keyword, &[Loss], "budget: the container had more on the way than one may have, and only its own events were held back; ring: there was no room.";
    LossKind, "coi.loss.kind", Keyword, &[Loss], "The kind of the lost events.";
    LossCount, "coi.loss.count", Integer, &[Loss], "How many were lost since the last loss event.";
}

impl Field {
    /// The definition of this field.
    pub fn def(self) -> &'static FieldDef {
        &Self::TABLE[self as usize]
    }

    /// The field with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|def| def.name == name).map(|def| def.field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_names_are_unique() {
        for (i, def) in Field::TABLE.iter().enumerate() {
            assert_eq!(def.field as usize, i);
            assert_eq!(Field::from_name(def.name), Some(def.field), "{}", def.name);
        }
        for (i, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
            assert_eq!(EventKind::from_name(kind.name()), Some(kind));
        }
    }
}
