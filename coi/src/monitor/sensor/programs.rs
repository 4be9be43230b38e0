//! Which kernel program is attached where, and what is not seen without it.

use std::{io, path::PathBuf};

use aya::{
    Ebpf,
    programs::{ProgramError, RawTracePoint, TracePoint},
};

use crate::monitor::service::api::Hole;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// A tracepoint, as category and name.
    Tracepoint(&'static str, &'static str),
    /// A raw tracepoint.
    Raw(&'static str),
}

/// One attachment.
pub(super) struct Attachment {
    /// The program's name in the object.
    pub(super) program: &'static str,
    /// Where it goes.
    pub(super) hook: Hook,
    /// What is not seen without it; `None` if there is no monitoring at all without it.
    pub(super) otherwise: Option<&'static str>,
}

const fn needed(program: &'static str, hook: Hook) -> Attachment {
    Attachment { program, hook, otherwise: None }
}

const fn optional(program: &'static str, hook: Hook, otherwise: &'static str) -> Attachment {
    Attachment { program, hook, otherwise: Some(otherwise) }
}

const fn syscall(name: &'static str) -> Hook {
    Hook::Tracepoint("syscalls", name)
}

/// All attachments. Those that put cgroups in scope come last, so that nothing is in scope half watched.
pub(super) const ATTACHMENTS: &[Attachment] = &[
    needed("process_exec", Hook::Raw("sched_process_exec")),
    needed("process_fork", Hook::Raw("sched_process_fork")),
    needed("process_exit", Hook::Raw("sched_process_exit")),
    needed("sock_set_state", Hook::Raw("inet_sock_set_state")),
    needed("exit_execve", syscall("sys_exit_execve")),
    needed("exit_connect", syscall("sys_exit_connect")),
    needed("exit_openat", syscall("sys_exit_openat")),
    needed("exit_read", syscall("sys_exit_read")),
    optional("exit_openat", syscall("sys_exit_openat2"), "files opened with openat2(2)"),
    optional("exit_open", syscall("sys_exit_open"), "files opened with open(2)"),
    optional("exit_open", syscall("sys_exit_creat"), "files made with creat(2)"),
    optional("exit_read", syscall("sys_exit_pread64"), "bytes read with pread(2)"),
    optional("exit_read", syscall("sys_exit_readv"), "bytes read with readv(2)"),
    optional("exit_read", syscall("sys_exit_preadv"), "bytes read with preadv(2)"),
    optional("exit_read", syscall("sys_exit_preadv2"), "bytes read with preadv2(2)"),
    optional("exit_read", syscall("sys_exit_splice"), "bytes read with splice(2)"),
    optional("exit_read", syscall("sys_exit_copy_file_range"), "bytes read with copy_file_range(2)"),
    optional("exit_sendfile", syscall("sys_exit_sendfile64"), "bytes read with sendfile(2)"),
    optional("exit_accept", syscall("sys_exit_accept"), "connections accepted with accept(2)"),
    optional("exit_accept", syscall("sys_exit_accept4"), "connections accepted with accept4(2)"),
    optional("exit_dup", syscall("sys_exit_dup"), "standard streams redirected with dup(2)"),
    optional("exit_dup", syscall("sys_exit_dup2"), "standard streams redirected with dup2(2)"),
    optional("exit_dup", syscall("sys_exit_dup3"), "standard streams redirected with dup3(2)"),
    optional("exit_fcntl", syscall("sys_exit_fcntl"), "standard streams redirected with fcntl(2)"),
    optional("sock_send", Hook::Raw("sock_send_length"), "bytes sent (the kernel is older than 6.3)"),
    needed("cgroup_rmdir", Hook::Tracepoint("cgroup", "cgroup_rmdir")),
    needed("cgroup_mkdir", Hook::Tracepoint("cgroup", "cgroup_mkdir")),
];

/// What cannot be seen with these programs on any kernel, as far as it is known. The list grows and shrinks
/// with the programs; runtime-security literature calls these routes.
const KNOWN_HOLES: &[(&str, &str)] = &[
    (
        "files opened and read by int 0x80 (32-bit entry) or io_uring",
        "these entries pass no system call tracepoint; execs and TCP connections by them are seen",
    ),
    (
        "bytes read by mmap",
        "a page fault passes no tracepoint that says which file; the opening of the file is seen",
    ),
    ("UDP without connect(2)", "only the bytes sent are counted, not where to"),
    (
        "a relay that holds both ends privately and is not known by name",
        "a coding agent that runs shells over pipes looks the same; see the rule reverse-shell-relay",
    ),
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
        source: Box<ProgramError>,
    },
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

/// Loads and attaches everything; gives the names of what is attached, and the holes.
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<(Vec<String>, Vec<Hole>), AttachError> {
    let mut attached = Vec::new();
    let mut holes: Vec<_> = KNOWN_HOLES
        .iter()
        .map(|(what, why)| Hole { what: (*what).to_owned(), why: (*why).to_owned() })
        .collect();
    let mut loaded = std::collections::HashSet::new();
    for attachment in ATTACHMENTS {
        let program = attachment.program;
        let outcome = attach_one(ebpf, attachment, loaded.insert(program));
        let hook = match attachment.hook {
            Hook::Tracepoint(category, name) => format!("{category}/{name}"),
            Hook::Raw(name) => format!("raw/{name}"),
        };
        match (outcome, attachment.otherwise) {
            (Ok(()), _) => attached.push(hook),
            (Err(Failure::Missing), _) => return Err(AttachError::Missing { program }),
            (Err(Failure::Program(source)), None) => {
                return Err(AttachError::Refused { program, hook, source });
            }
            (Err(Failure::Program(source)), Some(what)) => {
                holes.push(Hole {
                    what: what.to_owned(),
                    why: format!("{hook} cannot be attached: {source}"),
                });
            }
        }
    }
    Ok((attached, holes))
}

enum Failure {
    Missing,
    Program(Box<ProgramError>),
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
}

fn attach_one(ebpf: &mut Ebpf, attachment: &Attachment, load: bool) -> Result<(), Failure> {
    let program = ebpf.program_mut(attachment.program).ok_or(Failure::Missing)?;
    match attachment.hook {
        Hook::Tracepoint(category, name) => {
            let program: &mut TracePoint = program.try_into()?;
            if load {
                program.load()?;
            }
            program.attach(category, name)?;
        }
        Hook::Raw(name) => {
            let program: &mut RawTracePoint = program.try_into()?;
            if load {
                program.load()?;
            }
            program.attach(name)?;
        }
    }
    Ok(())
}
