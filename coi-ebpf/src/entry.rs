//! The end of every system call, native or 32-bit (int 0x80 from any program, and the calls of 32-bit programs).
//!
//! One program for all of them: a call that nobody looks at costs a load from a table, and so many tracepoints of their own
//! would cost each call that somebody looks at more. What a watched task's call was is put down in [`RETURNED`] in one form,
//! whichever entry it came by; then the program for it goes on.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_tail_call,
    macros::{btf_tracepoint, map},
    maps::{Array, PerCpuArray, ProgramArray},
    programs::BtfTracePointContext,
};
use coi_common::{CALLS, Entry, Form, I386_SOCKETCALL, PROGRAMS, READ};

use crate::{
    call::{Call, user},
    io,
    kernel::{self, Structure, Typed, current, offset},
    scope,
};

/// `arch/x86/include/asm/thread_info.h`: the task is in a 32-bit system call.
const TS_COMPAT: u32 = 2;
/// How many calls socketcall(2) has room for in the table.
const SOCKETCALLS: u32 = CALLS - I386_SOCKETCALL;

/// What is done with a call, by its number; those of socketcall(2) from [`I386_SOCKETCALL`] on. Set by user space.
#[map]
static ENTRIES: Array<[Entry; 2]> = Array::with_max_entries(CALLS, 0);
/// The programs that [`Entry`] names; set by user space.
#[map]
static SEERS: ProgramArray = ProgramArray::with_max_entries(PROGRAMS, 0);
/// The call that has just returned.
#[map]
static RETURNED: PerCpuArray<Returned> = PerCpuArray::with_max_entries(1, 0);

/// A call, in one form for both entries.
#[repr(C)]
pub struct Returned {
    result: i64,
    arguments: [u64; 6],
    /// On x86-64.
    number: u32,
    /// As in [`Entry`].
    text: u8,
    is_compat: bool,
}

impl Call for Returned {
    #[inline(always)]
    fn result(&self) -> Option<i64> {
        Some(self.result)
    }

    #[inline(always)]
    fn number(&self) -> u32 {
        self.number
    }

    #[inline(always)]
    fn argument(&self, place: u32) -> u64 {
        // Volatile: what the verifier has seen written here would else be followed value by value.
        // SAFETY: a place in the array, of which there are six.
        unsafe { core::ptr::read_volatile(&raw const self.arguments[place as usize]) }
    }

    #[inline(always)]
    fn message(&self, header: u64) -> Option<(u64, u64)> {
        if self.is_compat {
            return Some((user::<u32>(header)?.into(), user::<u32>(header + 4)?.into()));
        }
        Some((user::<u64>(header)?, user::<u32>(header + 8)?.into()))
    }
}

impl Returned {
    /// Which argument is a text, unless it is none.
    #[inline(always)]
    pub fn text(&self) -> Option<u64> {
        match self.text {
            0 => Some(self.argument(0)),
            1 => Some(self.argument(1)),
            3 => Some(self.argument(3)),
            _ => None,
        }
    }
}

/// The call that has just returned, for the programs that [`exit`] goes on with.
#[inline(always)]
pub fn call() -> Option<&'static Returned> {
    // SAFETY: a per-CPU value that stays as it is while they run: programs do not move between CPUs, and nothing
    // interrupts them that has a system call's end of its own.
    RETURNED.get_ptr(0).map(|returned| unsafe { &*returned })
}

/// After every system call of the machine. Costs each that nobody looks at some nanoseconds, `cargo xtask bench overhead`
/// says how many; others the scope's look-up. Linux 5.15 on.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit(ctx: BtfTracePointContext) -> i32 {
    let registers = kernel::given(&ctx, 0);
    let number: u64 = registers.number(offset!(regs_orig_ax));
    let Some([native, compat]) = ENTRIES.get(number as u32) else { return 0 };
    if native.program | compat.program == 0 {
        return 0;
    }
    let is_compat = current().number::<u32>(offset!(task_thread_status)) & TS_COMPAT != 0;
    let entry = if !is_compat {
        native
    } else if compat.form == Form::Socketcall as u8 {
        let which: u32 = registers.number(offset!(regs_bx));
        match ENTRIES.get(I386_SOCKETCALL + which.min(SOCKETCALLS)) {
            Some([_, entry]) => entry,
            None => return 0,
        }
    } else {
        compat
    };
    let program = u32::from(entry.program);
    if program == 0 {
        return 0;
    }
    let Some(watched) = scope::watched() else { return 0 };
    let Some(call) = take(registers, entry, is_compat, ctx.arg(1)) else { return 0 };
    if program == READ {
        // What is called most goes on here: a jump costs as much as the rest of it.
        let _ = io::was_read(call, &watched);
        return 0;
    }
    go_on(&ctx, program);
    0
}

/// Goes on with another of [`SEERS`]; comes back if there is none.
#[inline(always)]
pub fn go_on(ctx: &BtfTracePointContext, program: u32) {
    // SAFETY: a context and a map of programs, as the helper wants them.
    unsafe { bpf_tail_call(ctx.as_ptr(), (&raw const SEERS).cast_mut().cast(), program) };
}

/// Puts a call down.
#[inline(always)]
fn take(registers: Typed, entry: &Entry, is_compat: bool, result: i64) -> Option<&'static Returned> {
    let place = RETURNED.get_ptr_mut(0)?;
    // SAFETY: as in `call`.
    let returned = unsafe { &mut *place };
    returned.result = result;
    returned.number = entry.number.into();
    returned.text = entry.text;
    returned.is_compat = is_compat;
    if !is_compat {
        returned.arguments = [
            registers.number(offset!(regs_di)),
            registers.number(offset!(regs_si)),
            registers.number(offset!(regs_dx)),
            registers.number(offset!(regs_r10)),
            registers.number(offset!(regs_r8)),
            registers.number(offset!(regs_r9)),
        ];
        return call();
    }
    let words: [u32; 6] = match entry.form {
        form if form == Form::Block as u8 => block(registers.number::<u32>(offset!(regs_bx))),
        form if form == Form::Socketcall as u8 => block(registers.number::<u32>(offset!(regs_cx))),
        _ => [
            registers.number(offset!(regs_bx)),
            registers.number(offset!(regs_cx)),
            registers.number(offset!(regs_dx)),
            registers.number(offset!(regs_si)),
            registers.number(offset!(regs_di)),
            registers.number(offset!(regs_bp)),
        ],
    };
    for (argument, word) in returned.arguments.iter_mut().zip(words) {
        *argument = word.into();
    }
    call()
}

/// Arguments that lie in the caller's memory.
#[inline(always)]
fn block(from: u32) -> [u32; 6] {
    // One by one: behind the last there may be no memory.
    [0, 4, 8, 12, 16, 20].map(|place| user(u64::from(from) + place).unwrap_or(u32::MAX))
}
