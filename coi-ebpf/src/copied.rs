//! Structures of the kernel of which the beginning is copied at once: one call of the helper that reads kernel memory costs
//! more than the bytes do.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, maps::PerCpuArray};

use crate::{exec::bounded, kernel};

/// How much is copied; what lies behind is read by itself. A power of two, so that a mask bounds a place.
const LEN: usize = 128;

/// Room for a copy: a program's stack is too small for it.
pub type Room = PerCpuArray<[u64; LEN / 8]>;

/// [`Room`] for one.
pub const fn room() -> Room {
    PerCpuArray::with_max_entries(1, 0)
}

/// A structure. Only the latest in a [`Room`] on each CPU is one: the next takes its place.
#[derive(Clone, Copy)]
pub struct Copied {
    at: u64,
    copy: *const u8,
}

impl Copied {
    /// The structure at this address, unless nothing is there.
    #[inline(always)]
    pub fn from(at: u64, room: &Room) -> Option<Self> {
        let copy = room.get_ptr_mut(0)?;
        // SAFETY: there is room; the helper checks the other address itself.
        let read = unsafe { bpf_probe_read_kernel(copy.cast(), LEN as u32, at as *const _) };
        (read == 0).then_some(Self { at, copy: copy.cast() })
    }

    /// Where it is.
    #[inline(always)]
    pub fn address(&self) -> u64 {
        self.at
    }

    /// A member.
    #[inline(always)]
    pub fn member<T: Copy + Default>(&self, offset: u64) -> T {
        if offset as usize > LEN - size_of::<T>() {
            return kernel::read(self.at + offset).unwrap_or_default();
        }
        // SAFETY: within the copy, a per-CPU value, and an aligned number; programs do not move between CPUs.
        unsafe { self.copy.add(offset as usize).cast::<T>().read() }
    }

    /// The byte at this address, which may be within the structure.
    #[inline(always)]
    pub fn byte(&self, at: u64) -> u8 {
        let offset = at.wrapping_sub(self.at);
        if offset >= LEN as u64 {
            return kernel::read(at).unwrap_or(0);
        }
        // SAFETY: within the copy, as above.
        unsafe { self.copy.add(bounded(offset, LEN as u64 - 1) as usize).read() }
    }
}
