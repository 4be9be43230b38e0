//! The two rings to user space, and the count of what did not fit.
//!
//! The *priority* ring carries what is rare and decisive, the *bulk* ring what comes in storms; a storm of
//! opens cannot crowd out a connection. A priority record wakes the reader if it sleeps; bulk records never
//! do: the reader drains them before it judges a priority record, and on a timer.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    macros::map,
    maps::{PerCpuHashMap, RingBuf},
};
use coi_common::{Kind, LossKey};

/// Sized by user space at load.
#[map]
static PRIORITY: RingBuf = RingBuf::with_byte_size(4 << 20, 0);
/// Sized by user space at load.
#[map]
static BULK: RingBuf = RingBuf::with_byte_size(16 << 20, 0);
/// Records that found no room, by watched cgroup and kind.
#[map]
static LOST: PerCpuHashMap<LossKey, u64> = PerCpuHashMap::with_max_entries(8192, 0);

#[inline(always)]
fn is_bulk(kind: Kind) -> bool {
    matches!(kind, Kind::Open | Kind::Read | Kind::Send)
}

/// Sends `len` bytes at `record`, or counts their loss.
///
/// # Safety
/// `len` bytes at `record` are readable and initialised.
#[inline(always)]
pub unsafe fn send(kind: Kind, scope: u64, record: *const u8, len: usize) {
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(record, len) };
    let sent = if is_bulk(kind) {
        BULK.output::<[u8]>(bytes, u64::from(BPF_RB_NO_WAKEUP))
    } else {
        PRIORITY.output::<[u8]>(bytes, 0)
    };
    if sent.is_err() {
        lose(kind, scope);
    }
}

/// Sends a record of fixed size that `fill` writes into place, or counts its loss. The place begins zeroed.
#[inline(always)]
pub fn send_in_place<T: Copy + 'static>(kind: Kind, scope: u64, fill: impl FnOnce(*mut T)) {
    let (ring, flags) = if is_bulk(kind) { (&BULK, u64::from(BPF_RB_NO_WAKEUP)) } else { (&PRIORITY, 0) };
    match ring.reserve::<T>(0) {
        Some(mut entry) => {
            let place = entry.as_mut_ptr();
            // SAFETY: the place is reserved for one T, and T is plain numbers, for which zero is valid.
            unsafe { core::ptr::write_bytes(place, 0, 1) };
            fill(place);
            entry.submit(flags);
        }
        None => lose(kind, scope),
    }
}

#[inline(always)]
fn lose(kind: Kind, scope: u64) {
    let key = LossKey { scope, kind: kind as u32, reserved: 0 };
    match LOST.get_ptr_mut(key) {
        // SAFETY: a per-CPU value, and programs do not move between CPUs.
        Some(count) => unsafe { *count += 1 },
        None => {
            let _ = LOST.insert(key, 1, 0);
        }
    }
}
