//! The 32-bit system calls: int 0x80 from any program, and the calls of 32-bit programs. They pass no tracepoint of
//! their own, only the one at the end of every call, so that seeing them costs every call something: it can be switched off.
//!
//! [`exit_i386`] finds out that a call came by this entry and jumps to the program for it, which is made of the same
//! functions as the native one.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_tail_call,
    macros::{map, raw_tracepoint},
    maps::{Array, ProgramArray},
    programs::RawTracePointContext,
};
use coi_common::{I386_CALLS, I386_SOCKETCALL};

use crate::{
    call::{Call, user},
    change, connect, io,
    kernel::{Structure, current, offset, registers},
    listen, open, redirect, scope, sendto, syscall,
};

/// `arch/x86/include/asm/thread_info.h`: the task is in a 32-bit system call.
const TS_COMPAT: u32 = 2;
/// socketcall(2), which says in its first argument which call it is and has the arguments in memory.
const SOCKETCALL: u32 = 102;

/// The programs for the calls, by their numbers, those of socketcall(2) from [`I386_SOCKETCALL`] on; set by user space.
#[map]
static ENTRIES: ProgramArray = ProgramArray::with_max_entries(I386_CALLS, 0);
/// The numbers on x86-64, as [`ENTRIES`].
#[map]
static NATIVE: Array<u32> = Array::with_max_entries(I386_CALLS, 0);

/// Where a call is in the tables.
#[inline(always)]
fn place() -> u32 {
    let number: u32 = registers().number(offset!(regs_orig_ax));
    let socketcall: u32 = registers().number(offset!(regs_bx));
    let place = if number == SOCKETCALL { I386_SOCKETCALL.wrapping_add(socketcall) } else { number };
    if place < I386_CALLS { place } else { 0 }
}

/// A 32-bit call.
struct Entered {
    ctx: RawTracePointContext,
    /// Where in memory its arguments are, if they are not in registers: of socketcall(2), and of the old mmap(2).
    block: Option<u64>,
}

impl Call for Entered {
    #[inline(always)]
    fn result(&self) -> Option<i64> {
        Some(self.ctx.arg::<i64>(1))
    }

    #[inline(always)]
    fn number(&self) -> u32 {
        NATIVE.get(place()).copied().unwrap_or(u32::MAX)
    }

    #[inline(always)]
    fn argument(&self, place: u32) -> u64 {
        if let Some(block) = self.block {
            return u64::from(user::<u32>(block + 4 * u64::from(place)).unwrap_or(u32::MAX));
        }
        u64::from(registers().number::<u32>(match place {
            0 => offset!(regs_bx),
            1 => offset!(regs_cx),
            2 => offset!(regs_dx),
            3 => offset!(regs_si),
            4 => offset!(regs_di),
            _ => offset!(regs_bp),
        }))
    }

    /// A `struct msghdr` of 32-bit programs.
    #[inline(always)]
    fn message(&self, header: u64) -> Option<(u64, u64)> {
        Some((u64::from(user::<u32>(header)?), u64::from(user::<u32>(header + 4)?)))
    }
}

/// After every system call of the machine. Costs each some tens of nanoseconds; `cargo xtask bench overhead` says how
/// many. Linux 5.15 on.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_i386(ctx: RawTracePointContext) -> i32 {
    let status: u32 = current().number(offset!(task_thread_status));
    if status & TS_COMPAT == 0 || scope::watched().is_none() {
        return 0;
    }
    // SAFETY: a context and a map of programs, as the helper wants them; it comes back if there is no program.
    unsafe { bpf_tail_call(ctx.as_ptr(), (&raw const ENTRIES).cast_mut().cast(), place()) };
    0
}

/// Programs that [`exit_i386`] jumps to: what they do with a call, and in which form its arguments are.
macro_rules! entries {
    ($($program:ident: $form:ident, |$call:ident| $does:expr;)*) => {$(
        /// See [`exit_i386`].
        #[raw_tracepoint]
        pub fn $program(ctx: RawTracePointContext) -> i32 {
            let $call = &Entered { ctx, block: block!($form) };
            let _ = $does;
            0
        }
    )*};
}

macro_rules! block {
    (registers) => {
        None
    };
    (socketcall) => {
        Some(u64::from(registers().number::<u32>(offset!(regs_cx))))
    };
    (block) => {
        Some(u64::from(registers().number::<u32>(offset!(regs_bx))))
    };
}

entries! {
    i386_open: registers, |call| open::opened(call);
    i386_mmap2: registers, |call| open::mapped(call);
    i386_mmap: block, |call| open::mapped(call);
    i386_read: registers, |call| io::was_read(call, 0);
    i386_sendfile: registers, |call| io::was_read(call, 1);
    i386_dup: registers, |call| redirect::duplicated(call);
    i386_fcntl: registers, |call| redirect::duplicated_by_fcntl(call);
    i386_change: registers, |call| change::changed(call);
    i386_connect: registers, |call| connect::connected(call);
    i386_accept: registers, |call| listen::accepted(call);
    i386_send: registers, |call| sendto::sent(call);
    i386_socketcall_connect: socketcall, |call| connect::connected(call);
    i386_socketcall_accept: socketcall, |call| listen::accepted(call);
    i386_socketcall_send: socketcall, |call| sendto::sent(call);
    i386_ptrace: registers, |call| syscall::traced(call);
    i386_clone: registers, |call| syscall::cloned(call);
    i386_clone3: registers, |call| syscall::cloned3(call);
    i386_rare: registers, |call| syscall::told(call, None);
    i386_rare_text0: registers, |call| syscall::told(call, Some(0));
    i386_rare_text1: registers, |call| syscall::told(call, Some(1));
    i386_rare_text3: registers, |call| syscall::told(call, Some(3));
}
