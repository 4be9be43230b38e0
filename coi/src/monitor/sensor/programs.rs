//! Which kernel program is attached where, and what is not seen without it.

use std::{
    collections::HashMap,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use aya::{
    Btf, Ebpf,
    maps::{Array, MapError, ProgramArray},
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSock, CgroupSockAddr, FExit, Program, ProgramError,
        RawTracePoint,
    },
};

use coi_common::{TOLD_ACCEPTS, TOLD_OPENS, TOLD_UNIX_CONNECTS, TOLD_UNIX_DATAGRAMS};

use super::{
    WireEntries,
    calls::{self, CALLS, Call},
    holes::{KNOWN_HOLES, Part, part},
};
use crate::monitor::{
    cgroup::{self, CgroupError},
    service::api::Hole,
};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// A raw tracepoint.
    Raw(&'static str),
    /// A raw tracepoint of which the verifier knows the types.
    Typed(&'static str),
    /// The end of a function of the kernel.
    Exit(&'static str),
    /// A hook for addresses on the root of the cgroups.
    Address(&'static str),
    /// The same, for what came of it below.
    Verdict(&'static str),
    /// A hook for sockets on the root of the cgroups.
    Socket(&'static str),
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Raw(name) | Self::Typed(name) => write!(f, "raw/{name}"),
            Self::Exit(name) => write!(f, "fexit/{name}"),
            Self::Address(name) | Self::Socket(name) => write!(f, "cgroup/{name}"),
            Self::Verdict(name) => write!(f, "cgroup/{name}-refused"),
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

/// All attachments. Those that put cgroups in scope come last, so that nothing is in scope half watched.
pub(super) const ATTACHMENTS: &[Attachment] = &[
    needed("process_exec", Hook::Raw("sched_process_exec")),
    needed("process_fork", Hook::Typed("sched_process_fork")),
    needed("process_exit", Hook::Raw("sched_process_exit")),
    needed("sock_set_state", Hook::Typed("inet_sock_set_state")),
    optional("connect4", Hook::Address("connect4"), "UDP connections over IPv4", UDP),
    optional("connect6", Hook::Address("connect6"), "UDP connections over IPv6", UDP),
    // After those whose notes they take up.
    optional("refused4", Hook::Verdict("connect4"), REFUSED, &[]),
    optional("refused6", Hook::Verdict("connect6"), REFUSED, &[]),
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
        "sock_send",
        Hook::Typed("sock_send_length"),
        "bytes sent (the kernel is older than 6.3)",
        SENDS,
    ),
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
    EXIT,
    needed("cgroup_rmdir", Hook::Typed("cgroup_rmdir")),
    needed("cgroup_mkdir", Hook::Typed("cgroup_mkdir")),
];

/// At the end of every system call; it goes on with the programs for [`CALLS`].
const EXIT: Attachment = needed("exit", Hook::Typed("sys_exit"));

const REFUSED: &str = "connections that rules deny, by fast open or io_uring (the kernel is older than 6.1)";
const UDP: &[&str] = &["udp-connect", "udp-sendto", "udp-sendmsg", "udp-sendmmsg"];
const SENDS: &[&str] =
    &["send-write", "send-sendto", "send-writev", "send-sendfile", "send-int80", "send-io-uring"];

/// Programs at functions of the kernel that every route passes, some of which pass nothing else. Not every kernel takes
/// them: it is all of one or what they stand in for.
pub(super) struct Chokepoint {
    /// What they tell: one of `TOLD_*`.
    told: u32,
    /// The programs.
    pub(super) attachments: &'static [Attachment],
    /// The system calls that need not be looked at with them.
    instead_of: &'static [&'static str],
}

/// All of them.
pub(super) const CHOKEPOINTS: &[Chokepoint] = &[
    Chokepoint {
        told: TOLD_OPENS,
        attachments: &[needed("exit_filp_open", Hook::Exit("do_filp_open"))],
        instead_of: &["openat", "openat2", "open", "creat"],
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
    },
    // The same of the calls that send.
    Chokepoint {
        told: TOLD_UNIX_DATAGRAMS,
        attachments: &[needed("exit_unix_dgram_sendmsg", Hook::Exit("unix_dgram_sendmsg"))],
        instead_of: &[],
    },
    Chokepoint {
        told: TOLD_ACCEPTS,
        attachments: &[needed("exit_sock_graft", Hook::Exit("security_sock_graft"))],
        instead_of: &["accept", "accept4"],
    },
];

/// Why the programs could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
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

/// Loads and attaches everything; gives the names of what is attached, with the system calls that are looked at, and the
/// holes.
pub(super) fn attach(ebpf: &mut Ebpf, types: &Btf) -> Result<(Vec<String>, Vec<Hole>), AttachError> {
    let root = cgroup::mount_point()?;
    // First, since not all of the others are needed then. Nothing is in scope before all is attached.
    let chokepoints = attach_chokepoints(ebpf, types, &root)?;
    let stands_in =
        |call: &Call| chokepoints.iter().any(|chokepoint| chokepoint.instead_of.contains(&call.name));
    let calls: Vec<_> = CALLS.iter().filter(|call| !stands_in(call)).collect();
    let mut hooks: HashMap<_, _> =
        ATTACHMENTS.iter().map(|attachment| (attachment.program, attachment.hook)).collect();
    hooks.extend(calls.iter().filter_map(|call| call.program()).map(|(program, _)| (program, EXIT.hook)));
    let refused = load(ebpf, &hooks, types);
    fill(ebpf, &calls, &refused)?;
    let at_chokepoints = chokepoints.iter().flat_map(|chokepoint| chokepoint.attachments);
    let mut attached: Vec<_> = at_chokepoints.map(|attachment| attachment.hook.to_string()).collect();
    attached.extend(calls.iter().map(|call| format!("syscalls/{}", call.name)));
    let told = chokepoints.iter().fold(0, |told, chokepoint| told | chokepoint.told);
    let mut holes = Vec::new();
    for attachment in ATTACHMENTS {
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
            (Err(Failure::Program(source)), Some(what)) => {
                tracing::debug!(error = ?source, hook, "not attached");
                let also: Vec<_> = attachment.also.iter().filter(|part| part.told & told == 0).collect();
                let parts = also.iter().map(|part| part.what);
                let routes = also.iter().flat_map(|part| part.routes);
                holes.push(Hole {
                    what: [what].into_iter().chain(parts).collect::<Vec<_>>().join(", "),
                    why: format!("{hook} cannot be attached: {source}"),
                    routes: attachment.routes.iter().chain(routes).map(ToString::to_string).collect(),
                    id: hook,
                });
            }
        }
    }
    holes.extend(KNOWN_HOLES.iter().filter_map(|hole| hole.left(told)));
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
            let began = Instant::now();
            let loaded = load_one(program, hook, types);
            let steps = program.info().ok().and_then(|info| info.verified_instruction_count());
            tracing::debug!(name, steps, took = ?began.elapsed(), "verified");
            if let Err(error) = loaded {
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
        Hook::Raw(_) => <&mut RawTracePoint>::try_from(program)?.load(),
        Hook::Typed(name) => <&mut BtfTracePoint>::try_from(program)?.load(name, types),
        Hook::Exit(name) => <&mut FExit>::try_from(program)?.load(name, types),
        Hook::Address(_) | Hook::Verdict(_) => <&mut CgroupSockAddr>::try_from(program)?.load(),
        Hook::Socket(_) => <&mut CgroupSock>::try_from(program)?.load(),
    }
}

/// Says what is done with which of these calls. The table of programs stays with the object: without a descriptor that holds
/// it, the kernel empties it.
fn fill(
    ebpf: &mut Ebpf,
    calls: &[&Call],
    refused: &HashMap<&'static str, Arc<ProgramError>>,
) -> Result<(), AttachError> {
    let hook = || EXIT.hook.to_string();
    let refusal = |program| move |source| AttachError::Refused { program, hook: hook(), source };
    let unset = |error: MapError| refusal(EXIT.program)(Arc::new(error.into()));
    let missing = |program| AttachError::Missing { program };
    let programs: HashMap<_, _> = calls.iter().filter_map(|call| call.program()).collect();
    for (name, number) in programs {
        if let Some(error) = refused.get(name) {
            return Err(refusal(name)(error.clone()));
        }
        let program = ebpf.program(name).ok_or_else(|| missing(name))?;
        let fd = program.fd().map_err(|error| refusal(name)(Arc::new(error)))?;
        let fd = fd.try_clone().map_err(|error| refusal(name)(Arc::new(ProgramError::IOError(error))))?;
        let seers = ebpf.map_mut("SEERS").ok_or_else(|| missing("SEERS"))?;
        ProgramArray::try_from(seers).and_then(|mut seers| seers.set(number, &fd, 0)).map_err(unset)?;
    }
    let entries = ebpf.map_mut("ENTRIES").ok_or_else(|| missing("ENTRIES"))?;
    let mut entries = Array::<_, WireEntries>::try_from(entries).map_err(unset)?;
    for (number, both) in (0..).zip(calls::table(calls)) {
        entries.set(number, WireEntries(both), 0).map_err(unset)?;
    }
    Ok(())
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
        Hook::Raw(name) => {
            <&mut RawTracePoint>::try_from(program)?.attach(name)?;
        }
        Hook::Typed(_) => {
            <&mut BtfTracePoint>::try_from(program)?.attach()?;
        }
        Hook::Exit(_) => {
            <&mut FExit>::try_from(program)?.attach()?;
        }
        Hook::Address(_) | Hook::Verdict(_) => {
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
    use super::*;
    use crate::monitor::event::EventKind;

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
        }
    }

    /// What docs/rules.md and `coi rules check` say of events rests on these names.
    #[test]
    fn what_reports_an_event_is_attached() {
        let at_chokepoints = CHOKEPOINTS.iter().flat_map(|chokepoint| chokepoint.attachments);
        let hooks = ATTACHMENTS.iter().chain(at_chokepoints).map(|attachment| attachment.hook.to_string());
        let calls = CALLS.iter().map(|call| format!("syscalls/{}", call.name));
        let attached: Vec<String> = hooks.chain(calls).collect();
        for kind in EventKind::ALL {
            let missing: Vec<_> =
                kind.programs().iter().filter(|name| !attached.contains(&(**name).to_owned())).collect();
            assert_eq!(missing, Vec::<&&str>::new(), "{kind} is reported by what is attached nowhere");
        }
    }
}
