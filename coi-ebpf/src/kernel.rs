//! Reading the kernel's own structures.
//!
//! Rust has no CO-RE: user space takes each member's place from the running kernel's BTF and freezes it into
//! [`OFFSETS`] before the programs are loaded, so the verifier sees constants.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_probe_read_kernel, generated},
};
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

/// A structure of the kernel's, however its members are read.
pub trait Structure: Copy {
    /// A member that is a number.
    fn number<T: Copy + Default>(self, offset: u64) -> T;
    /// A member that points to another structure, unless it is null.
    fn follow(self, offset: u64) -> Option<Self>;
    /// Where it is.
    fn address(self) -> u64;
}

/// A structure that is known by its address only: each read calls a helper.
impl Structure for u64 {
    #[inline(always)]
    fn number<T: Copy + Default>(self, offset: u64) -> T {
        read(self + offset).unwrap_or_default()
    }

    #[inline(always)]
    fn follow(self, offset: u64) -> Option<Self> {
        pointer(self + offset)
    }

    #[inline(always)]
    fn address(self) -> u64 {
        self
    }
}

/// A structure whose type the verifier knows: a member is read by a plain load, which the kernel lets fail to zero
/// where nothing is mapped. It costs a nanosecond where the helper costs ten.
#[derive(Clone, Copy)]
pub struct Typed(*const u8);

impl Structure for Typed {
    #[inline(always)]
    fn number<T: Copy + Default>(self, offset: u64) -> T {
        // SAFETY: the verifier has checked the type and the offset; volatile so that the load stays as it is.
        unsafe { core::ptr::read_volatile(self.0.add(offset as usize).cast()) }
    }

    #[inline(always)]
    fn follow(self, offset: u64) -> Option<Self> {
        // SAFETY: as above.
        let to: *const u8 = unsafe { core::ptr::read_volatile(self.0.add(offset as usize).cast()) };
        (!to.is_null()).then_some(Self(to))
    }

    #[inline(always)]
    fn address(self) -> u64 {
        self.0 as u64
    }
}

/// A structure that a program is given, at a hook where the verifier knows the types of what it is given.
#[inline(always)]
pub fn given(ctx: &impl EbpfContext, place: usize) -> Typed {
    // SAFETY: what such a program is given is an array of eight-byte values; the verifier checks the place.
    Typed(unsafe { *ctx.as_ptr().cast::<*const u8>().add(place) })
}

/// The acting task.
#[inline(always)]
pub fn current() -> Typed {
    // SAFETY: no arguments, cannot fail.
    Typed(unsafe { generated::bpf_get_current_task_btf() } as *const u8)
}

/// The saved user registers of the acting task: at a system call's end they still hold its arguments.
#[inline(always)]
pub fn registers() -> Typed {
    // SAFETY: the helper takes the current task as the one before it gives it.
    Typed(unsafe { generated::bpf_task_pt_regs(generated::bpf_get_current_task_btf()) } as *const u8)
}

/// A native system call's argument by its place, 0 to 5.
#[inline(always)]
pub fn argument(place: u32) -> u64 {
    registers().number(match place {
        0 => offset!(regs_di),
        1 => offset!(regs_si),
        2 => offset!(regs_dx),
        3 => offset!(regs_r10),
        4 => offset!(regs_r8),
        _ => offset!(regs_r9),
    })
}

/// The number of the system call that the acting task is in; something else where it is in none.
#[inline(always)]
pub fn syscall() -> u64 {
    registers().number(offset!(regs_orig_ax))
}
