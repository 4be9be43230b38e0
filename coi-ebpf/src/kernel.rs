//! Reading the kernel's own structures.
//!
//! Rust has no CO-RE: user space takes each member's place from the running kernel's BTF and freezes it into
//! [`OFFSETS`] before the programs are loaded, so the verifier sees constants.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};
use coi_common::Offsets;

/// Filled in by user space at load.
// SAFETY: all zero is a valid value of a structure of integers.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = unsafe { core::mem::zeroed() };

/// The place of a member, such as `offset!(task_files)`.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::frozen(&raw const $crate::kernel::OFFSETS.$field)
    };
}
pub(crate) use offset;

/// Reads one of [`OFFSETS`]; what the macro [`offset`] becomes.
#[inline(always)]
pub fn frozen(place: *const u32) -> u64 {
    // SAFETY: a read of a static; volatile since user space fills it in behind the compiler's back.
    u64::from(unsafe { core::ptr::read_volatile(place) })
}

/// Reads a value at a kernel address; `None` where nothing is mapped.
#[inline(always)]
pub fn read<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address itself and fails on a bad one.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// Reads a pointer at a kernel address; `None` where nothing is mapped or the pointer is null.
#[inline(always)]
pub fn pointer(address: u64) -> Option<u64> {
    read::<u64>(address).filter(|pointer| *pointer != 0)
}

/// The acting task.
#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: no arguments, cannot fail.
    unsafe { generated::bpf_get_current_task() }
}

/// The saved user registers of the acting task: at a system call's end they still hold its arguments.
#[inline(always)]
fn registers() -> u64 {
    // SAFETY: the helper takes the current task as the one before it gives it.
    unsafe { generated::bpf_task_pt_regs(generated::bpf_get_current_task_btf()) as u64 }
}

/// The system call's first argument.
#[inline(always)]
pub fn argument0() -> u64 {
    read(registers() + offset!(regs_di)).unwrap_or(0)
}

/// The system call's second argument.
#[inline(always)]
pub fn argument1() -> u64 {
    read(registers() + offset!(regs_si)).unwrap_or(0)
}

/// The system call's third argument.
#[inline(always)]
pub fn argument2() -> u64 {
    read(registers() + offset!(regs_dx)).unwrap_or(0)
}

/// The system call's fourth argument.
#[inline(always)]
pub fn argument3() -> u64 {
    read(registers() + offset!(regs_r10)).unwrap_or(0)
}

/// The system call's fifth argument.
#[inline(always)]
pub fn argument4() -> u64 {
    read(registers() + offset!(regs_r8)).unwrap_or(0)
}

/// The number of the system call that the acting task is in; something else where it is in none.
#[inline(always)]
pub fn syscall() -> u64 {
    read(registers() + offset!(regs_orig_ax)).unwrap_or(u64::MAX)
}
