//! A process runs another program.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user,
    macros::{btf_tracepoint, map, raw_tracepoint},
    maps::PerCpuArray,
    programs::{BtfTracePointContext, RawTracePointContext},
};
use coi_common::{
    ARGS_KEPT, Exec, FLAG_ARGS_TRUNCATED, FLAG_ARGS_UNREADABLE, FLAG_EXEC_SECURE, FLAG_PATH_UNREADABLE,
    Header, Kind, StreamKind,
};

use crate::{
    call::Call,
    entry::{self, Returned},
    kernel::{Structure, current, offset, read},
    name::{AT_FDCWD, Name, Passed},
    open::refused,
    path::{self, PATH_MASK, PATH_SPACE, Place},
    ring::{self, Weight},
    scope, stream, task,
};

/// execve(2) on x86-64.
const SYS_EXECVE: u32 = 59;

#[derive(Clone, Copy)]
#[repr(C)]
struct ExecRecord {
    header: Header,
    body: Exec,
    tail: [u8; PATH_SPACE + ARGS_KEPT],
}

/// Room to put a record together.
#[map]
static EXECS: PerCpuArray<ExecRecord> = PerCpuArray::with_max_entries(1, 0);

/// After an exec that worked, by whatever route: the program's file and arguments are the kernel's own. The
/// arguments lie on the new stack, which the kernel has just written, so they can be read without faulting.
/// Costs some microseconds of a call that takes hundreds. Linux 5.15 on.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    let _ = exec(&ctx);
    0
}

#[inline(always)]
fn exec(ctx: &RawTracePointContext) -> Option<()> {
    let watched = scope::watched()?;
    let task = current();
    // SAFETY: a pointer to a map's value stays valid while the program runs.
    let scope = unsafe { &mut *watched.scope };
    if scope.started == 0
        && let Some(innermost) = task::innermost(task)
        && innermost.number == 1
        && innermost.level > 0
    {
        // LXC's own set-up ends where the container's process 1 becomes its init.
        scope.init_namespace = innermost.namespace;
        scope.started = 1;
    }

    let record = EXECS.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    // SAFETY: the record is ours.
    unsafe { task::header(&raw mut record.header, Kind::Exec, &watched) };
    // SAFETY: the record is ours.
    unsafe { stream::stdio(&raw mut record.body.stdio) };

    let mm = task.follow(offset!(task_mm))?;
    let program = mm.follow(offset!(mm_exe_file)).and_then(|file| Place::of_file(file.address()));
    let (path_len, path_flags) = match program {
        // SAFETY: the record has room for a path and more.
        Some(place) => unsafe { path::write(place, record.tail.as_mut_ptr()) },
        None => (0, FLAG_PATH_UNREADABLE),
    };
    let start: u64 = mm.number(offset!(mm_arg_start));
    let end: u64 = mm.number(offset!(mm_arg_end));
    let mut flags = path_flags;
    let binprm = ctx.arg::<*const u8>(2) as u64;
    let secure: u8 = read(binprm + offset!(binprm_secureexec)).unwrap_or(0);
    if secure >> (offset!(binprm_secureexec_bit) & 7) & 1 == 1 {
        flags |= FLAG_EXEC_SECURE;
    }
    let mut args_len = end.saturating_sub(start);
    if args_len > ARGS_KEPT as u64 - 1 {
        args_len = ARGS_KEPT as u64 - 1;
        flags |= FLAG_ARGS_TRUNCATED;
    }
    // SAFETY: path_len + args_len is at most the tail's size; the helper checks the address itself.
    let failed = unsafe {
        bpf_probe_read_user(
            record.tail.as_mut_ptr().add(bounded(path_len, PATH_MASK) as usize).cast(),
            bounded(args_len, ARGS_KEPT as u64 - 1) as u32,
            start as *const _,
        )
    } != 0;
    if failed || end <= start {
        flags |= FLAG_ARGS_UNREADABLE;
    }
    record.header.flags |= flags;
    record.body.path_len = path_len as u32;
    record.body.args_len = args_len as u32;
    // A program with a socket as standard input or output may be all that is seen of an attack.
    let inet = |fd: usize| record.body.stdio[fd].kind == StreamKind::Inet as u8;
    let weight = if inet(0) || inet(1) { Weight::Decisive } else { Weight::Common };
    let tail = bounded(path_len, PATH_MASK) + bounded(args_len, ARGS_KEPT as u64 - 1);
    let len = size_of::<Header>() + size_of::<Exec>() + tail as usize;
    // SAFETY: `len` is at most the record's size, and what is unread of the tail is an older record's bytes.
    unsafe { ring::send(Kind::Exec, weight, watched.id, (&raw const *record).cast(), len) };
    Some(())
}

/// Cuts a number to the bits of `mask`, which it does not go beyond anyway, where the verifier sees it. A comparison
/// would say the same, but up to Linux 6.1 the verifier loses it on the way, also to the stack and back: cut a number where
/// it is used.
#[inline(always)]
pub fn bounded(number: u64, mask: u64) -> u64 {
    let mut number = number;
    // SAFETY: does nothing; it keeps the compiler from dropping the mask as already proven.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) number) };
    number & mask
}

/// After execve(2) and execveat(2), which return into the old program only when they failed. Linux 5.15 on.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_exec(_ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(failed);
    0
}

#[inline(always)]
fn failed(call: &Returned) -> Option<()> {
    let result = call.result().filter(|result| *result < 0)?;
    let watched = scope::watched()?;
    let name = if call.number() == SYS_EXECVE {
        Name { directory: AT_FDCWD, text: Passed::by_caller(call.argument(0)) }
    } else {
        Name { directory: call.argument(0) as i32, text: Passed::by_caller(call.argument(1)) }
    };
    refused(&watched, Kind::ExecFailed, result, name)
}
