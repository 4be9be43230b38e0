//! The rare system calls by which a container is left, another process is taken over, or the kernel is changed.
//!
//! The arguments are what the caller passed; what the kernel made of them is not known here, and a text among them is
//! what lies in the caller's memory when the call returns.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user_str,
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use coi_common::{FLAG_PATH_TRUNCATED, FLAG_PATH_UNREADABLE, Header, Kind, PATH_KEPT, Syscall};

use crate::{
    call::{Call, ENOSYS, user},
    entry::{self, Returned},
    exec::bounded,
    path::{PATH_MASK, PATH_SPACE},
    ring::{self, Weight},
    scope::{self, Watched},
    task, wanted,
};

/// The flags of clone(2) and unshare(2) that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0080;
/// System calls, as numbered on x86-64.
const SYS_CLONE: u32 = 56;
const SYS_PTRACE: u32 = 101;
const SYS_CLONE3: u32 = 435;
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

/// After a rare call. Linux 5.15 on.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_rare(_ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(told);
    0
}

#[inline(always)]
fn told(call: &Returned) -> Option<()> {
    let watched = scope::watched()?;
    let first = match call.number() {
        // Only what takes a process over, not every look into it.
        SYS_PTRACE if !matches!(call.argument(0), PTRACE_TRACEME | PTRACE_ATTACH | PTRACE_SEIZE) => {
            return None;
        }
        // These return twice; the child's own 0 says nothing more.
        SYS_CLONE | SYS_CLONE3 if call.result()? == 0 => return None,
        SYS_CLONE => Some(call.argument(0)).filter(|flags| flags & NEW_NAMESPACES != 0)?,
        SYS_CLONE3 => user::<u64>(call.argument(0)).filter(|flags| flags & NEW_NAMESPACES != 0)?,
        _ => call.argument(0),
    };
    tell(call, &watched, call.text().unwrap_or(0), first)
}

#[inline(always)]
fn tell(call: &Returned, watched: &Watched, text: u64, first: u64) -> Option<()> {
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
