//! Where an event and each of its fields come from: which kernel program, or what they are derived from.

use super::{
    EventKind::{self, *},
    Field::{self, *},
};

/// Where the value of a field comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The kernel program that reports the event; see [`EventKind::programs`].
    Kernel,
    /// Earlier events of the process and of those that made it.
    Lineage,
    /// What the container was attached as.
    Watch,
    /// Other fields of the event.
    Derived,
}

impl Source {
    /// The name used in the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Lineage => "lineage",
            Self::Watch => "watch",
            Self::Derived => "derived",
        }
    }
}

impl Field {
    /// Where its value comes from.
    pub const fn source(self) -> Source {
        match self {
            ContainerName | ContainerId => Source::Watch,
            EventAction | EventOutcome | ProcessEntityId | ProcessName | ProcessArgsCount
            | ProcessCommandLine | ParentName | LinkRelayName | FileName | FileExtension => Source::Derived,
            CapabilitiesGained | ProcessExecutable | ProcessArgs | ArgsTruncated | ArgsUnreadable
            | ParentEntityId | ParentExecutable | ParentCommandLine | Ancestors | LinkKind | LinkLoop
            | LinkRelayPid | LinkRelayExecutable | LinkRelayCommandLine => Source::Lineage,
            _ => Source::Kernel,
        }
    }
}

impl EventKind {
    /// Where the kernel programs that report it are attached, by the names in the daemon's status; any of them is
    /// enough to see some. An event that is derived from others has those of the others.
    pub const fn programs(self) -> &'static [&'static str] {
        match self {
            Exec | Loss => &["raw/sched_process_exec"],
            ExecFailed => &["syscalls/execve"],
            Fork => &["raw/sched_process_fork"],
            Exit => &["raw/sched_process_exit"],
            Connect => &[
                "raw/inet_sock_set_state",
                "syscalls/connect",
                "cgroup/connect4",
                "cgroup/connect6",
                "cgroup/sendmsg4",
                "cgroup/sendmsg6",
                "fexit/unix_stream_connect",
                "fexit/unix_dgram_connect",
                "fexit/unix_dgram_sendmsg",
            ],
            Accept => &["syscalls/accept", "syscalls/accept4", "fexit/security_sock_graft"],
            Redirect => &["syscalls/dup", "syscalls/dup2", "syscalls/dup3", "syscalls/fcntl"],
            Link => &["raw/sched_process_exec", "raw/inet_sock_set_state", "syscalls/dup2"],
            Open => &[
                "syscalls/openat",
                "syscalls/openat2",
                "syscalls/open",
                "syscalls/creat",
                "fexit/do_filp_open",
            ],
            Read => &["syscalls/read", "syscalls/pread64", "syscalls/sendfile"],
            Send => &["raw/sock_send_length"],
            Bind => &["cgroup/post_bind4", "cgroup/post_bind6"],
            Listen => &["raw/inet_sock_set_state"],
            Change => &[
                "syscalls/renameat2",
                "syscalls/rename",
                "syscalls/unlinkat",
                "syscalls/linkat",
                "syscalls/symlinkat",
                "syscalls/fchmodat",
                "syscalls/fchownat",
                "syscalls/ftruncate",
            ],
            Map => &["syscalls/mmap"],
            Syscall => &[
                "syscalls/unshare",
                "syscalls/setns",
                "syscalls/mount",
                "syscalls/ptrace",
                "syscalls/bpf",
                "syscalls/memfd_create",
            ],
            IoUring => &["raw/io_uring_submit_req"],
            Mismatch => &["raw/inet_sock_set_state", "syscalls/openat"],
        }
    }

    /// What happened, in one line.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exec => "A process replaced its image.",
            ExecFailed => "An execve(2) was refused for another reason than a missing file.",
            Fork => "A process was made.",
            Exit => "A process ended.",
            Connect => {
                "An outgoing connection was begun: TCP at its SYN, AF_UNIX when it is made or refused, datagrams once for each process and destination."
            }
            Accept => "An incoming connection was accepted.",
            Redirect => "A standard stream was put onto a socket with dup(2) and its kin.",
            Link => "The standard input and output of a process have come to lead to an internet socket.",
            Open => "A file was opened, or an attempt was refused for another reason than a missing file.",
            Read => "A process read this much more of the workspace's files: a sum, never a single read.",
            Send => "A process sent this much more to addresses that are not loopback: a sum.",
            Loss => "Events were lost before anybody saw them.",
            Bind => "A socket was given an address of its own.",
            Listen => "A socket waits for connections.",
            Change => {
                "A name, a mode, an owner or a length of a file was changed, or an attempt was refused."
            }
            Map => "A file of the workspace was mapped into memory; reading it from there is not seen.",
            Syscall => {
                "One of the rare system calls by which a container is left, a process taken over, the kernel changed."
            }
            IoUring => {
                "A process asks for this kind of thing through io_uring, for the first time in a while."
            }
            Mismatch => "What a caller passed to the kernel is not what the kernel took.",
        }
    }
}
