//! Which kernel program is attached where, and what is not seen without it.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use aya::{
    Btf, Ebpf,
    maps::{Array, MapError, ProgramArray},
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSock, CgroupSockAddr, FExit, Program, ProgramError,
        RawTracePoint, TracePoint, trace_point::TracePointError,
    },
};

use coi_common::{TOLD_ACCEPTS, TOLD_OPENS, TOLD_UNIX_CONNECTS, TOLD_UNIX_DATAGRAMS};

use crate::monitor::{
    cgroup::{self, CgroupError},
    i386,
    service::api::Hole,
};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// A tracepoint, as category and name.
    Tracepoint(&'static str, &'static str),
    /// A raw tracepoint.
    Raw(&'static str),
    /// A raw tracepoint of which the verifier knows the types.
    Typed(&'static str),
    /// The end of a function of the kernel.
    Exit(&'static str),
    /// A hook for addresses on the root of the cgroups.
    Address(&'static str),
    /// A hook for sockets on the root of the cgroups.
    Socket(&'static str),
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tracepoint(category, name) => write!(f, "{category}/{name}"),
            Self::Raw(name) | Self::Typed(name) => write!(f, "raw/{name}"),
            Self::Exit(name) => write!(f, "fexit/{name}"),
            Self::Address(name) | Self::Socket(name) => write!(f, "cgroup/{name}"),
        }
    }
}

/// One attachment.
pub(super) struct Attachment {
    /// The program's name in the object.
    pub(super) program: &'static str,
    /// Where it goes.
    pub(super) hook: Hook,
    /// What is not seen without it; `None` if there is no monitoring at all without it.
    pub(super) otherwise: Option<&'static str>,
    /// The ways to do it, as the tests name them.
    pub(super) routes: &'static [&'static str],
    /// What else is not seen without it, unless a [`Chokepoint`] sees it.
    also: &'static [Part],
}

/// A part of what is not seen.
struct Part {
    what: &'static str,
    /// The [`Chokepoint`] that sees it where the kernel takes it, or 0.
    told: u32,
    routes: &'static [&'static str],
}

const fn part(what: &'static str, told: u32, routes: &'static [&'static str]) -> Part {
    Part { what, told, routes }
}

const fn needed(program: &'static str, hook: Hook) -> Attachment {
    Attachment { program, hook, otherwise: None, routes: &[], also: &[] }
}

const fn optional(
    program: &'static str,
    hook: Hook,
    otherwise: &'static str,
    routes: &'static [&'static str],
) -> Attachment {
    Attachment { program, hook, otherwise: Some(otherwise), routes, also: &[] }
}

const fn syscall(name: &'static str) -> Hook {
    Hook::Tracepoint("syscalls", name)
}

/// All attachments. Those that put cgroups in scope come last, so that nothing is in scope half watched.
pub(super) const ATTACHMENTS: &[Attachment] = &[
    needed("process_exec", Hook::Raw("sched_process_exec")),
    needed("process_fork", Hook::Typed("sched_process_fork")),
    needed("process_exit", Hook::Raw("sched_process_exit")),
    needed("sock_set_state", Hook::Typed("inet_sock_set_state")),
    needed("exit_execve", syscall("sys_exit_execve")),
    needed("exit_connect", syscall("sys_exit_connect")),
    needed("exit_open", syscall("sys_exit_openat")),
    needed("exit_read", syscall("sys_exit_read")),
    optional("exit_execveat", syscall("sys_exit_execveat"), "execs refused to execveat(2)", &[]),
    optional("connect4", Hook::Address("connect4"), "UDP connections over IPv4", UDP),
    optional("connect6", Hook::Address("connect6"), "UDP connections over IPv6", UDP),
    optional("sendmsg4", Hook::Address("sendmsg4"), "where datagrams go over IPv4", UDP),
    optional("sendmsg6", Hook::Address("sendmsg6"), "where datagrams go over IPv6", UDP),
    optional(
        "bind4",
        Hook::Socket("post_bind4"),
        "binds to an IPv4 address",
        &["bind", "bind-udp", "bind-int80"],
    ),
    optional("bind6", Hook::Socket("post_bind6"), "binds to an IPv6 address", &["bind-ipv6"]),
    optional(
        "exit_listen",
        syscall("sys_exit_listen"),
        "the port of a socket that listens without a bind",
        &["listen-unbound"],
    ),
    optional("exit_open", syscall("sys_exit_openat2"), "files opened with openat2(2)", &["openat2"]),
    optional("exit_open", syscall("sys_exit_open"), "files opened with open(2)", &["open"]),
    optional("exit_open", syscall("sys_exit_creat"), "files made with creat(2)", &["creat"]),
    optional(
        "exit_open",
        syscall("sys_exit_open_by_handle_at"),
        "files opened by handle",
        &["open-by-handle-at"],
    ),
    optional("exit_mmap", syscall("sys_exit_mmap"), "files of the workspace mapped with mmap(2)", &["mmap"]),
    optional("exit_read", syscall("sys_exit_pread64"), "bytes read with pread(2)", &["pread64"]),
    optional("exit_read", syscall("sys_exit_readv"), "bytes read with readv(2)", &["readv"]),
    optional("exit_read", syscall("sys_exit_preadv"), "bytes read with preadv(2)", &["preadv"]),
    optional("exit_read", syscall("sys_exit_preadv2"), "bytes read with preadv2(2)", &["preadv2"]),
    optional("exit_read", syscall("sys_exit_splice"), "bytes read with splice(2)", &["splice"]),
    optional(
        "exit_read",
        syscall("sys_exit_copy_file_range"),
        "bytes read with copy_file_range(2)",
        &["copy-file-range"],
    ),
    optional("exit_sendfile", syscall("sys_exit_sendfile64"), "bytes read with sendfile(2)", &["sendfile"]),
    optional("exit_accept", syscall("sys_exit_accept"), "connections accepted with accept(2)", &["accept"]),
    optional(
        "exit_accept",
        syscall("sys_exit_accept4"),
        "connections accepted with accept4(2)",
        &["accept4"],
    ),
    optional("exit_dup", syscall("sys_exit_dup"), "standard streams redirected with dup(2)", &["dup"]),
    optional("exit_dup", syscall("sys_exit_dup2"), "standard streams redirected with dup2(2)", &["dup2"]),
    optional("exit_dup", syscall("sys_exit_dup3"), "standard streams redirected with dup3(2)", &["dup3"]),
    optional(
        "exit_fcntl",
        syscall("sys_exit_fcntl"),
        "standard streams redirected with fcntl(2)",
        &["fcntl-dupfd"],
    ),
    optional(
        "sock_send",
        Hook::Typed("sock_send_length"),
        "bytes sent (the kernel is older than 6.3)",
        &["send-write"],
    ),
    optional("exit_send", syscall("sys_exit_sendto"), UNHOOKED, &["raw-sendto", "unix-datagram-sendto"]),
    optional("exit_send", syscall("sys_exit_sendmsg"), UNHOOKED, &["raw-sendmsg", "unix-datagram-sendmsg"]),
    optional(
        "exit_send",
        syscall("sys_exit_sendmmsg"),
        UNHOOKED,
        &["raw-sendmmsg", "unix-datagram-sendmmsg"],
    ),
    optional("exit_sendmmsg", syscall("sys_exit_sendmmsg"), UNHOOKED, &[]),
    Attachment {
        also: &[
            part(
                "what is opened through io_uring",
                TOLD_OPENS,
                &["open-io-uring", "open-io-uring-async", "open-io-uring-sqpoll", "openat2-io-uring"],
            ),
            part(
                "where datagrams over AF_UNIX go through io_uring",
                TOLD_UNIX_DATAGRAMS,
                &["unix-datagram-sendmsg-io-uring"],
            ),
        ],
        ..optional(
            "uring_submit",
            Hook::Typed("io_uring_submit_req"),
            "names that io_uring changes, and for which kinds of thing it is asked",
            &["link-io-uring", "mkdir-io-uring", "rename-io-uring", "symlink-io-uring", "unlink-io-uring"],
        )
    },
    Attachment {
        also: &[
            part("what is accepted through io_uring", TOLD_ACCEPTS, &["accept-io-uring"]),
            part(
                "what is connected to over AF_UNIX through io_uring",
                TOLD_UNIX_CONNECTS,
                &["unix-stream-io-uring"],
            ),
        ],
        ..optional(
            "uring_complete",
            Hook::Typed("io_uring_complete"),
            "what is read through io_uring",
            &["read-io-uring", "readv-io-uring", "splice-io-uring"],
        )
    },
    change("sys_exit_unlink"),
    change("sys_exit_rmdir"),
    change("sys_exit_mkdir"),
    change("sys_exit_chmod"),
    change("sys_exit_chown"),
    change("sys_exit_lchown"),
    change("sys_exit_truncate"),
    change("sys_exit_unlinkat"),
    change("sys_exit_mkdirat"),
    change("sys_exit_fchmodat"),
    change("sys_exit_fchmodat2"),
    change("sys_exit_fchownat"),
    change("sys_exit_fchmod"),
    change("sys_exit_fchown"),
    change("sys_exit_ftruncate"),
    change("sys_exit_rename"),
    change("sys_exit_link"),
    change("sys_exit_renameat"),
    change("sys_exit_renameat2"),
    change("sys_exit_linkat"),
    change("sys_exit_symlink"),
    change("sys_exit_symlinkat"),
    optional("exit_clone", syscall("sys_exit_clone"), "namespaces made with clone(2)", &["clone-user"]),
    optional("exit_clone3", syscall("sys_exit_clone3"), "namespaces made with clone3(2)", &["clone3-user"]),
    rare("exit_ptrace", "sys_exit_ptrace"),
    optional(
        "exit_rare",
        syscall("sys_exit_unshare"),
        "namespaces made with unshare(2)",
        &["unshare-user", "unshare-mount"],
    ),
    rare("exit_rare", "sys_exit_setns"),
    rare("exit_rare", "sys_exit_process_vm_readv"),
    rare("exit_rare", "sys_exit_process_vm_writev"),
    rare("exit_rare", "sys_exit_pidfd_getfd"),
    rare("exit_rare", "sys_exit_bpf"),
    rare("exit_rare", "sys_exit_userfaultfd"),
    rare("exit_rare", "sys_exit_perf_event_open"),
    rare("exit_rare", "sys_exit_io_uring_setup"),
    rare("exit_rare", "sys_exit_keyctl"),
    rare("exit_rare", "sys_exit_init_module"),
    rare("exit_rare", "sys_exit_finit_module"),
    rare("exit_rare", "sys_exit_kexec_load"),
    rare("exit_rare", "sys_exit_kexec_file_load"),
    rare("exit_rare", "sys_exit_fsmount"),
    rare("exit_rare_text0", "sys_exit_delete_module"),
    rare("exit_rare_text0", "sys_exit_add_key"),
    rare("exit_rare_text0", "sys_exit_request_key"),
    rare("exit_rare_text0", "sys_exit_memfd_create"),
    rare("exit_rare_text0", "sys_exit_fsopen"),
    optional("exit_rare_text0", syscall("sys_exit_umount"), "unmounting with umount2(2)", &["umount2"]),
    rare("exit_rare_text0", "sys_exit_chroot"),
    rare("exit_rare_text1", "sys_exit_mount"),
    rare("exit_rare_text0", "sys_exit_pivot_root"),
    rare("exit_rare_text1", "sys_exit_open_tree"),
    rare("exit_rare_text1", "sys_exit_mount_setattr"),
    rare("exit_rare_text3", "sys_exit_move_mount"),
    needed("cgroup_rmdir", Hook::Tracepoint("cgroup", "cgroup_rmdir")),
    needed("cgroup_mkdir", Hook::Tracepoint("cgroup", "cgroup_mkdir")),
];

/// What is attached for the 32-bit system calls.
const EXIT_I386: Attachment = needed("exit_i386", Hook::Raw("sys_exit"));

const UNHOOKED: &str = "where datagrams of AF_UNIX and packets of raw sockets go";
const UDP: &[&str] = &["udp-connect", "udp-sendto", "udp-sendmsg", "udp-sendmmsg"];

const fn change(tracepoint: &'static str) -> Attachment {
    optional("exit_change", syscall(tracepoint), "changes of names, modes and owners by one system call", &[])
}

const fn rare(program: &'static str, tracepoint: &'static str) -> Attachment {
    optional(program, syscall(tracepoint), "one of the rare system calls", &[])
}

/// Programs at functions of the kernel that every route passes, some of which pass nothing else. Not every kernel takes
/// them: it is all of one or what they stand in for.
pub(super) struct Chokepoint {
    /// What they tell: one of `TOLD_*`.
    told: u32,
    /// The programs.
    pub(super) attachments: &'static [Attachment],
    /// What is not needed with them.
    instead_of: &'static [Hook],
    /// Of the programs for 32-bit system calls, those that are not needed with them.
    i386: &'static [&'static str],
}

/// All of them.
pub(super) const CHOKEPOINTS: &[Chokepoint] = &[
    Chokepoint {
        told: TOLD_OPENS,
        attachments: &[needed("exit_filp_open", Hook::Exit("do_filp_open"))],
        instead_of: &[
            syscall("sys_exit_openat"),
            syscall("sys_exit_openat2"),
            syscall("sys_exit_open"),
            syscall("sys_exit_creat"),
        ],
        i386: &["i386_open"],
    },
    // connect(2) has more to tell than these connections: what is at its end stays, and leaves these out.
    Chokepoint {
        told: TOLD_UNIX_CONNECTS,
        attachments: &[
            needed("exit_unix_stream_connect", Hook::Exit("unix_stream_connect")),
            needed("exit_unix_dgram_connect", Hook::Exit("unix_dgram_connect")),
            needed("exit_may_connect", Hook::Exit("security_socket_connect")),
        ],
        instead_of: &[],
        i386: &[],
    },
    // The same of the calls that send.
    Chokepoint {
        told: TOLD_UNIX_DATAGRAMS,
        attachments: &[needed("exit_unix_dgram_sendmsg", Hook::Exit("unix_dgram_sendmsg"))],
        instead_of: &[],
        i386: &[],
    },
    Chokepoint {
        told: TOLD_ACCEPTS,
        attachments: &[needed("exit_sock_graft", Hook::Exit("security_sock_graft"))],
        instead_of: &[syscall("sys_exit_accept"), syscall("sys_exit_accept4")],
        i386: &["i386_accept", "i386_socketcall_accept"],
    },
];

/// A hole that is there with all that is needed attached.
struct Known {
    id: &'static str,
    parts: &'static [Part],
    /// By which way.
    by: &'static str,
    why: &'static str,
    /// The programs for the 32-bit system calls see it.
    i386: bool,
}

impl Known {
    /// What is left of it where this is told at chokepoints.
    fn left(&self, told: u32) -> Option<Hole> {
        let parts: Vec<_> = self.parts.iter().filter(|part| part.told & told == 0).collect();
        let what: Vec<_> = parts.iter().map(|part| part.what).collect();
        let routes = parts.iter().flat_map(|part| part.routes);
        (!parts.is_empty()).then(|| Hole {
            id: self.id.to_owned(),
            what: format!("{}{}", what.join(", "), self.by),
            why: self.why.to_owned(),
            routes: routes.map(ToString::to_string).collect(),
        })
    }
}

/// What cannot be seen with these programs on any kernel, as far as it is known. The list grows and shrinks
/// with the programs; the end-to-end test of the routes holds it against what they really do.
const KNOWN_HOLES: &[Known] = &[
    Known {
        id: "int80",
        i386: true,
        parts: &[
            part(
                "files opened",
                TOLD_OPENS,
                &["creat-int80", "open-int80", "openat-int80", "openat-refused-int80", "openat2-int80"],
            ),
            part("connections accepted with socketcall(2)", TOLD_ACCEPTS, &["accept-int80-socketcall"]),
            part(
                "files read, renamed and the like, rare system calls and redirections",
                0,
                &[
                    "chmod-int80",
                    "dup2-int80",
                    "fcntl-dupfd-int80",
                    "link-int80",
                    "memfd-create-int80",
                    "mmap-int80",
                    "mount-int80",
                    "pread64-int80",
                    "ptrace-int80",
                    "read-int80",
                    "readv-int80",
                    "rename-int80",
                    "sendfile-int80",
                    "setns-int80",
                    "symlink-int80",
                    "unlink-int80",
                    "unshare-int80",
                ],
            ),
        ],
        by: " by int 0x80 (32-bit entry)",
        why: "this entry passes no system call tracepoint; execs, connections, datagrams, binds and listening by it are seen",
    },
    Known {
        id: "int80-sockets",
        i386: true,
        parts: &[
            part("connections accepted", TOLD_ACCEPTS, &["accept-int80"]),
            part("connections over AF_UNIX", TOLD_UNIX_CONNECTS, &["unix-stream-int80"]),
            part("datagrams over AF_UNIX", TOLD_UNIX_DATAGRAMS, &["unix-datagram-sendmsg-int80"]),
        ],
        by: " by int 0x80 (32-bit entry)",
        why: "this entry passes no system call tracepoint, and libseccomp cannot close these calls by their names",
    },
    Known {
        id: "io-uring",
        i386: false,
        parts: &[
            part("what came of files opened", TOLD_OPENS, &[]),
            part("what came of files changed", 0, &[]),
            part("files read without a completion", 0, &[]),
            part("connections accepted without a completion", TOLD_ACCEPTS, &[]),
            part("connections over AF_UNIX without a completion", TOLD_UNIX_CONNECTS, &[]),
            part("datagrams over AF_UNIX of registered sockets", TOLD_UNIX_DATAGRAMS, &[]),
        ],
        by: " through io_uring",
        why: "a request's names are there when it is submitted, its result when it is completed; completions can be suppressed \
              or find no room. COI closes io_uring in its own containers",
    },
    Known {
        id: "mmap-bytes",
        i386: false,
        parts: &[part("bytes read", 0, &["mmap-read"])],
        by: " by mmap",
        why: "a page fault passes no tracepoint that says which file; opening and mapping the file are seen",
    },
    Known {
        id: "private-relay",
        i386: false,
        parts: &[part("a relay that holds both ends privately and is not known by name", 0, &[])],
        by: "",
        why: "a coding agent that runs shells over pipes looks the same; see the rule reverse-shell-relay",
    },
];

/// Why the programs could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The tracepoints' directory is not there and could not be mounted.
    #[error(
        "the kernel's tracing file system cannot be mounted on {path}: {source}; run COI's daemon as root on a \
         kernel with CONFIG_FTRACE_SYSCALLS, or mount it: mount -t tracefs tracefs {path}"
    )]
    Tracefs {
        /// Where it should be.
        path: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A tracepoint's fields are not where the programs expect them.
    #[error("the tracepoint {name} of this kernel has other fields than COI knows ({path})")]
    Fields {
        /// The tracepoint.
        name: &'static str,
        /// Its description.
        path: PathBuf,
    },
    /// The kernel refused a program that is needed.
    #[error("the kernel refuses the program {program} on {hook:?}: {source}")]
    Refused {
        /// The program.
        program: &'static str,
        /// Where it should go.
        hook: String,
        /// The verifier's or the kernel's answer.
        source: Arc<ProgramError>,
    },
    /// The root of the cgroups is needed to attach to.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The object has no such program: a build that went wrong.
    #[error("the kernel object has no program {program}; rebuild COI")]
    Missing {
        /// The program.
        program: &'static str,
    },
}

const TRACEFS: &str = "/sys/kernel/tracing";

/// Mounts tracefs where systemd would have done so, if nobody has.
pub(super) fn ensure_tracefs() -> Result<(), AttachError> {
    let events = |root: &str| PathBuf::from(root).join("events").is_dir();
    if events(TRACEFS) || events("/sys/kernel/debug/tracing") {
        return Ok(());
    }
    nix::mount::mount(
        Some("tracefs"),
        TRACEFS,
        Some("tracefs"),
        nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC,
        None::<&str>,
    )
    .map_err(|errno| AttachError::Tracefs { path: TRACEFS, source: errno.into() })
}

/// The fields that the programs read at fixed places.
pub(super) fn check_fields() -> Result<(), AttachError> {
    const CGROUP: &[&str] =
        &["int root;\toffset:8;", "int level;\toffset:12;", "u64 id;\toffset:16;", "path;\toffset:24;"];
    for name in ["cgroup_mkdir", "cgroup_rmdir"] {
        let path = PathBuf::from(TRACEFS).join("events/cgroup").join(name).join("format");
        let format = std::fs::read_to_string(&path).unwrap_or_default();
        if !CGROUP.iter().all(|field| format.contains(field)) {
            return Err(AttachError::Fields { name, path });
        }
    }
    Ok(())
}

/// Loads and attaches everything, the programs for the 32-bit system calls if they are asked for; gives the names of
/// what is attached, and the holes.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    types: &Btf,
    i386: bool,
) -> Result<(Vec<String>, Vec<Hole>), AttachError> {
    let root = cgroup::mount_point()?;
    // First, since not all of the others are needed then. Nothing is in scope before all is attached.
    let chokepoints = attach_chokepoints(ebpf, types, &root)?;
    let stand_in = |what: &dyn Fn(&Chokepoint) -> bool| chokepoints.iter().any(|chokepoint| what(chokepoint));
    let attachments = i386.then_some(&EXIT_I386).into_iter().chain(ATTACHMENTS);
    let attachments: Vec<_> = attachments
        .filter(|attachment| !stand_in(&|chokepoint| chokepoint.instead_of.contains(&attachment.hook)))
        .collect();
    let calls = i386::CALLS.iter().filter(|_| i386);
    let calls: Vec<_> =
        calls.filter(|call| !stand_in(&|chokepoint| chokepoint.i386.contains(&call.program))).collect();
    let mut hooks: HashMap<_, _> =
        attachments.iter().map(|attachment| (attachment.program, attachment.hook)).collect();
    hooks.extend(calls.iter().map(|call| (call.program, EXIT_I386.hook)));
    let refused = load(ebpf, &hooks, types);
    fill_i386(ebpf, &calls, &refused)?;
    let mut attached: Vec<_> = chokepoints
        .iter()
        .flat_map(|chokepoint| chokepoint.attachments)
        .map(|attachment| attachment.hook.to_string())
        .collect();
    let told = chokepoints.iter().fold(0, |told, chokepoint| told | chokepoint.told);
    let mut holes = Vec::new();
    for attachment in attachments {
        let program = attachment.program;
        let outcome = match refused.get(program) {
            Some(error) => Err(Failure::Program(error.clone())),
            None => attach_one(ebpf, attachment, &root),
        };
        let hook = attachment.hook.to_string();
        match (outcome, attachment.otherwise) {
            (Ok(()), _) => attached.push(hook),
            (Err(Failure::Missing), _) => return Err(AttachError::Missing { program }),
            (Err(Failure::Program(source)), None) => {
                return Err(AttachError::Refused { program, hook, source });
            }
            // The kernel was built without this system call: there is nothing to miss.
            (Err(Failure::Program(source)), Some(_)) if is_no_syscall(&source) => {
                tracing::debug!(hook, "not in this kernel");
            }
            (Err(Failure::Program(source)), Some(what)) => {
                tracing::debug!(error = ?source, hook, "not attached");
                let also: Vec<_> = attachment.also.iter().filter(|part| part.told & told == 0).collect();
                holes.push(Hole {
                    what: [&[what][..], &also.iter().map(|part| part.what).collect::<Vec<_>>()]
                        .concat()
                        .join(", "),
                    why: format!("{hook} cannot be attached: {source}"),
                    routes: also
                        .iter()
                        .fold(routes(attachment), |routes, part| [routes, owned(part.routes)].concat()),
                    id: hook,
                });
            }
        }
    }
    let known = KNOWN_HOLES.iter().filter(|hole| !(i386 && hole.i386));
    holes.extend(known.filter_map(|hole| hole.left(told)));
    Ok((attached, holes))
}

/// Attaches those that this kernel takes, says so to the programs that would tell the same, and gives them.
fn attach_chokepoints(
    ebpf: &mut Ebpf,
    types: &Btf,
    root: &Path,
) -> Result<Vec<&'static Chokepoint>, AttachError> {
    let all = CHOKEPOINTS.iter().flat_map(|chokepoint| chokepoint.attachments);
    let hooks = all.map(|attachment| (attachment.program, attachment.hook)).collect();
    let refused = load(ebpf, &hooks, types);
    let mut chokepoints = Vec::new();
    for chokepoint in CHOKEPOINTS {
        let mut taken = true;
        for attachment in chokepoint.attachments {
            let program = attachment.program;
            let outcome = match refused.get(program) {
                Some(error) => Err(Failure::Program(error.clone())),
                None => attach_one(ebpf, attachment, root),
            };
            match outcome {
                Ok(()) => {}
                Err(Failure::Missing) => return Err(AttachError::Missing { program }),
                Err(Failure::Program(error)) => {
                    tracing::debug!(?error, hook = %attachment.hook, "not taken; the system calls are watched instead");
                    taken = false;
                }
            }
        }
        if taken {
            chokepoints.push(chokepoint);
            continue;
        }
        for attachment in chokepoint.attachments {
            if let Some(program) = ebpf.program_mut(attachment.program)
                && let Ok(program) = <&mut FExit>::try_from(program)
            {
                // What was never loaded cannot be unloaded either; with what was, its link goes.
                let _ = program.unload();
            }
        }
    }
    let refusal = |error: MapError| {
        let (program, hook) = ("CHOKEPOINTS", "fexit".to_owned());
        AttachError::Refused { program, hook, source: Arc::new(error.into()) }
    };
    let told = ebpf.map_mut("CHOKEPOINTS").ok_or(AttachError::Missing { program: "CHOKEPOINTS" })?;
    let mut told = Array::<_, u32>::try_from(told).map_err(refusal)?;
    let bits = chokepoints.iter().fold(0, |bits, chokepoint| bits | chokepoint.told);
    told.set(0, bits, 0).map_err(refusal)?;
    Ok(chokepoints)
}

/// Puts the programs that have a hook through the verifier, which takes the longest of all, on all processors; gives those
/// that it refused.
fn load(
    ebpf: &mut Ebpf,
    hooks: &HashMap<&'static str, Hook>,
    types: &Btf,
) -> HashMap<&'static str, Arc<ProgramError>> {
    let queue = ebpf
        .programs_mut()
        .filter_map(|(name, program)| hooks.get_key_value(name).map(|(name, hook)| (*name, *hook, program)));
    let queue = Mutex::new(queue.collect::<Vec<_>>());
    let refused = Mutex::new(HashMap::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || {
        while let Some((name, hook, program)) = next() {
            if let Err(error) = load_one(program, hook, types) {
                refused.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(error));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    refused.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn load_one(program: &mut Program, hook: Hook, types: &Btf) -> Result<(), ProgramError> {
    match hook {
        Hook::Tracepoint(..) => <&mut TracePoint>::try_from(program)?.load(),
        Hook::Raw(_) => <&mut RawTracePoint>::try_from(program)?.load(),
        Hook::Typed(name) => <&mut BtfTracePoint>::try_from(program)?.load(name, types),
        Hook::Exit(name) => <&mut FExit>::try_from(program)?.load(name, types),
        Hook::Address(_) => <&mut CgroupSockAddr>::try_from(program)?.load(),
        Hook::Socket(_) => <&mut CgroupSock>::try_from(program)?.load(),
    }
}

/// Says which program is for which of these 32-bit system calls. The tables stay with the object: without a descriptor
/// that holds it, the kernel empties a table of programs.
fn fill_i386(
    ebpf: &mut Ebpf,
    calls: &[&i386::Call],
    refused: &HashMap<&'static str, Arc<ProgramError>>,
) -> Result<(), AttachError> {
    let refusal =
        |source, program| AttachError::Refused { program, hook: EXIT_I386.hook.to_string(), source };
    let mut programs = HashMap::new();
    for call in calls {
        let name = call.program;
        if programs.contains_key(name) {
            continue;
        }
        if let Some(error) = refused.get(name) {
            return Err(refusal(error.clone(), name));
        }
        let program = ebpf.program(name).ok_or(AttachError::Missing { program: name })?;
        let fd = program.fd().map_err(|error| refusal(Arc::new(error), name))?;
        let fd = fd.try_clone().map_err(|error| refusal(Arc::new(ProgramError::IOError(error)), name))?;
        programs.insert(name, fd);
    }
    let unset = |error: MapError| refusal(Arc::new(error.into()), EXIT_I386.program);
    let missing = |program| AttachError::Missing { program };
    let native = ebpf.map_mut("NATIVE").ok_or_else(|| missing("NATIVE"))?;
    let mut native = Array::<_, u32>::try_from(native).map_err(unset)?;
    for call in calls {
        native.set(call.number, call.native as u32, 0).map_err(unset)?;
    }
    let entries = ebpf.map_mut("ENTRIES").ok_or_else(|| missing("ENTRIES"))?;
    let mut entries = ProgramArray::try_from(entries).map_err(unset)?;
    for call in calls {
        if let Some(fd) = programs.get(call.program) {
            entries.set(call.number, fd, 0).map_err(unset)?;
        }
    }
    Ok(())
}

fn is_no_syscall(error: &ProgramError) -> bool {
    match error {
        ProgramError::TracePointError(TracePointError::FileError { io_error, .. }) => {
            io_error.kind() == io::ErrorKind::NotFound
        }
        _ => false,
    }
}

/// The ways that an attachment's absence leaves unseen: what it says, else what its system call is called.
fn routes(attachment: &Attachment) -> Vec<String> {
    match attachment.hook {
        Hook::Tracepoint(_, name) if attachment.routes.is_empty() => {
            vec![name.trim_start_matches("sys_exit_").replace('_', "-")]
        }
        _ => owned(attachment.routes),
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

enum Failure {
    Missing,
    Program(Arc<ProgramError>),
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Self {
        Self::Program(Arc::new(error))
    }
}

fn attach_one(ebpf: &mut Ebpf, attachment: &Attachment, root: &Path) -> Result<(), Failure> {
    let program = ebpf.program_mut(attachment.program).ok_or(Failure::Missing)?;
    let root = || File::open(root).map_err(ProgramError::IOError);
    // A link, which this becomes, stands beside whatever programs others have there.
    let mode = CgroupAttachMode::Single;
    match attachment.hook {
        Hook::Tracepoint(category, name) => {
            <&mut TracePoint>::try_from(program)?.attach(category, name)?;
        }
        Hook::Raw(name) => {
            <&mut RawTracePoint>::try_from(program)?.attach(name)?;
        }
        Hook::Typed(_) => {
            <&mut BtfTracePoint>::try_from(program)?.attach()?;
        }
        Hook::Exit(_) => {
            <&mut FExit>::try_from(program)?.attach()?;
        }
        Hook::Address(_) => {
            <&mut CgroupSockAddr>::try_from(program)?.attach(root()?, mode)?;
        }
        Hook::Socket(_) => {
            <&mut CgroupSock>::try_from(program)?.attach(root()?, mode)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::monitor::{event::EventKind, seccomp};

    /// Those that are seen by whatever entry, that Incus denies to everybody, that have no 32-bit form, or that cannot be
    /// closed by name.
    const ELSEWHERE: &[&str] = &[
        "accept",
        "accept4",
        "connect",
        "delete_module",
        "execve",
        "execveat",
        "finit_module",
        "init_module",
        "kexec_file_load",
        "kexec_load",
        "listen",
        "open_by_handle_at",
        "sendmmsg",
        "sendmsg",
        "sendto",
    ];

    #[test]
    fn what_is_watched_natively_is_closed_at_the_32_bit_entry() {
        let policy = seccomp::policy(&[]);
        let closed: BTreeSet<_> = policy.lines().filter_map(|line| line.split(' ').next()).collect();
        let open: Vec<_> = ATTACHMENTS
            .iter()
            .filter_map(|attachment| match attachment.hook {
                Hook::Tracepoint("syscalls", name) => name.strip_prefix("sys_exit_"),
                _ => None,
            })
            .filter(|call| !closed.contains(call) && !ELSEWHERE.contains(call))
            .collect();
        assert_eq!(open, [""; 0]);
    }

    #[test]
    fn what_chokepoints_see_is_in_no_hole() {
        let all = CHOKEPOINTS.iter().fold(0, |told, chokepoint| told | chokepoint.told);
        assert_eq!(all.count_ones() as usize, CHOKEPOINTS.len());
        let left = |told| KNOWN_HOLES.iter().filter_map(move |hole| hole.left(told));
        assert_eq!(left(0).count(), KNOWN_HOLES.len());
        let seen = ["open", "creat", "accept", "unix"];
        for hole in left(all) {
            assert!(
                !hole.routes.iter().any(|route| seen.iter().any(|seen| route.starts_with(seen))),
                "{hole:?}"
            );
            assert_ne!(hole.id, "int80-sockets");
        }
    }

    /// What docs/rules.md and `coi rules check` say of events rests on these names.
    #[test]
    fn what_reports_an_event_is_attached() {
        let at_chokepoints = CHOKEPOINTS.iter().flat_map(|chokepoint| chokepoint.attachments);
        let attached: Vec<String> =
            ATTACHMENTS.iter().chain(at_chokepoints).map(|attachment| attachment.hook.to_string()).collect();
        for kind in EventKind::ALL {
            let missing: Vec<_> =
                kind.programs().iter().filter(|name| !attached.contains(&(**name).to_owned())).collect();
            assert_eq!(missing, Vec::<&&str>::new(), "{kind} is reported by what is attached nowhere");
        }
    }
}
