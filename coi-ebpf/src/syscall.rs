//! The rare system calls by which a container is left, another process is taken over, or the kernel is changed.
//!
//! The arguments are what the caller passed; what the kernel made of them is not known here, and a text among them is
//! what lies in the caller's memory when the call returns.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user_str,
    macros::{map, tracepoint},
    maps::PerCpuArray,
    programs::TracePointContext,
};
use coi_common::{FLAG_PATH_TRUNCATED, FLAG_PATH_UNREADABLE, Header, Kind, PATH_KEPT, Syscall};

use crate::{
    call::{Call, ENOSYS, user},
    exec::bounded,
    path::{PATH_MASK, PATH_SPACE},
    ring::{self, Weight},
    scope::{self, Watched},
    task, wanted,
};

/// The flags of clone(2) and unshare(2) that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0080;
const PTRACE_TRACEME: u64 = 0;
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SEIZE: u64 = 0x4206;

#[derive(Clone, Copy)]
#[repr(C)]
struct SyscallRecord {
    header: Header,
    body: Syscall,
    text: [u8; PATH_SPACE],
}

/// Room to put a record together.
#[map]
static SYSCALLS: PerCpuArray<SyscallRecord> = PerCpuArray::with_max_entries(1, 0);

/// After a rare call none of whose arguments is a text. Costs others nothing but the attachment. Linux 5.15 on.
#[tracepoint]
pub fn exit_rare(ctx: TracePointContext) -> u32 {
    let _ = told(&ctx, None);
    0
}

/// After a rare call whose first argument is a text. As [`exit_rare`].
#[tracepoint]
pub fn exit_rare_text0(ctx: TracePointContext) -> u32 {
    let _ = told(&ctx, Some(0));
    0
}

/// After a rare call whose second argument is a text. As [`exit_rare`].
#[tracepoint]
pub fn exit_rare_text1(ctx: TracePointContext) -> u32 {
    let _ = told(&ctx, Some(1));
    0
}

/// After move_mount(2), whose fourth argument is a text. As [`exit_rare`].
#[tracepoint]
pub fn exit_rare_text3(ctx: TracePointContext) -> u32 {
    let _ = told(&ctx, Some(3));
    0
}

/// After ptrace(2): only what takes a process over, not every look into it. As [`exit_rare`].
#[tracepoint]
pub fn exit_ptrace(ctx: TracePointContext) -> u32 {
    let _ = traced(&ctx);
    0
}

/// After clone(2), if it makes namespaces. Costs others the attachment. Linux 5.15 on.
#[tracepoint]
pub fn exit_clone(ctx: TracePointContext) -> u32 {
    let _ = cloned(&ctx);
    0
}

/// After clone3(2), whose flags are in memory. As [`exit_clone`].
#[tracepoint]
pub fn exit_clone3(ctx: TracePointContext) -> u32 {
    let _ = cloned3(&ctx);
    0
}

/// What [`exit_ptrace`] does.
#[inline(always)]
pub fn traced(call: &impl Call) -> Option<()> {
    if !matches!(call.argument(0), PTRACE_TRACEME | PTRACE_ATTACH | PTRACE_SEIZE) {
        return None;
    }
    told(call, None)
}

/// What [`exit_clone`] does.
#[inline(always)]
pub fn cloned(call: &impl Call) -> Option<()> {
    // It returns twice; the child's own 0 says nothing more.
    if call.argument(0) & NEW_NAMESPACES == 0 || call.result()? == 0 {
        return None;
    }
    told(call, None)
}

/// What [`exit_clone3`] does.
#[inline(always)]
pub fn cloned3(call: &impl Call) -> Option<()> {
    if call.result()? == 0 {
        return None;
    }
    let watched = scope::watched()?;
    let flags = user::<u64>(call.argument(0)).filter(|flags| flags & NEW_NAMESPACES != 0)?;
    tell(call, &watched, 0, flags)
}

/// What [`exit_rare`] and its kin do; the argument at this place is a text.
#[inline(always)]
pub fn told(call: &impl Call, text: Option<u32>) -> Option<()> {
    let watched = scope::watched()?;
    tell(call, &watched, text.map_or(0, |place| call.argument(place)), call.argument(0))
}

#[inline(always)]
fn tell(call: &impl Call, watched: &Watched, text: u64, first: u64) -> Option<()> {
    let result = call.result()?;
    // There is no such call here, or it is closed: nothing happened.
    if result == ENOSYS || !wanted::kind(Kind::Syscall, watched) {
        return None;
    }
    let record = SYSCALLS.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    // SAFETY: the record is ours.
    unsafe { task::header(&raw mut record.header, Kind::Syscall, watched) };
    let mut text_len = 0;
    if text != 0 {
        // SAFETY: the record has room for PATH_KEPT bytes; the helper checks the address itself.
        let read = unsafe {
            bpf_probe_read_user_str(record.text.as_mut_ptr().cast(), PATH_KEPT as u32, text as *const _)
        };
        if read <= 0 {
            record.header.flags |= FLAG_PATH_UNREADABLE;
        } else {
            text_len = bounded(read as u64, PATH_MASK);
            if text_len == PATH_KEPT as u64 {
                record.header.flags |= FLAG_PATH_TRUNCATED;
            }
        }
    }
    record.body = Syscall {
        number: call.number(),
        text_len: text_len as u32,
        result,
        arguments: [first, call.argument(1), call.argument(2), call.argument(3)],
    };
    let len = size_of::<Header>() + size_of::<Syscall>() + bounded(text_len, PATH_MASK) as usize;
    // SAFETY: `len` is at most the record's size, and what is unread of the text is an older record's bytes.
    unsafe { ring::send(Kind::Syscall, Weight::Common, watched.id, (&raw const *record).cast(), len) };
    Some(())
}
