//! The two rings to user space, and the count of what did not get through.
//!
//! The *priority* ring carries what is rare and decisive, the *bulk* ring what comes in storms; a storm of opens
//! cannot crowd out a connection. Each container may have so many bytes on the way ([`PRIORITY_BUDGET`] and the
//! like): what goes beyond is counted instead of sent, so that a flood in one container delays nobody else's records.
//! What decides most, a connection or a shell on a socket, may go further than what a flood is made of.
//!
//! A wake-up is dear, some microseconds of the caller's time. The reader says when it sleeps ([`SLEEPS`]), and only
//! then a priority record wakes it; a bulk record does when the container's budget is half used.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{Array, HashMap, PerCpuHashMap, RingBuf},
};
use coi_common::{
    BULK_BUDGET, DECISIVE_BUDGET, Flow, Kind, LOST_BUDGET, LOST_RING, LossKey, PRIORITY_BUDGET,
};

use crate::memory;

/// What is rare and decisive.
#[map]
static PRIORITY: RingBuf = RingBuf::with_byte_size(4 << 20, 0);
/// What comes in storms: as much as sixteen containers may have on the way that all flood at once.
#[map]
static BULK: RingBuf = RingBuf::with_byte_size(8 << 20, 0);
/// Records that did not get through, by watched cgroup and kind.
#[map]
static LOST: PerCpuHashMap<LossKey, u64> = PerCpuHashMap::with_max_entries(8192, 0);
/// What each watched cgroup has sent so far.
#[map]
static SENT: HashMap<u64, Flow> = HashMap::with_max_entries(4096, 0);
/// What user space has taken of it; written by user space only.
#[map]
static TAKEN: HashMap<u64, Flow> = HashMap::with_max_entries(4096, 0);
/// The watched cgroups of which somebody wants to see every event, whether a rule needs it or not. Apart from [`TAKEN`]:
/// what is written as often as that may be read while it becomes another's.
#[map]
static LOOKED: HashMap<u64, u8> = HashMap::with_max_entries(4096, 0);
/// One number: 1 while the reader sleeps.
#[map]
static SLEEPS: Array<u32> = Array::with_max_entries(1, 0);

/// How much a record matters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It comes in storms.
    Bulk,
    /// It is rare, but can be made in numbers.
    Common,
    /// An attack may be seen by it alone.
    Decisive,
}

impl Weight {
    /// What a record of this kind usually weighs.
    #[inline(always)]
    pub const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Open | Kind::Read | Kind::Send | Kind::Map | Kind::Change => Self::Bulk,
            Kind::Exec
            | Kind::ExecFailed
            | Kind::Fork
            | Kind::Exit
            | Kind::Bind
            | Kind::Syscall
            | Kind::IoUring => Self::Common,
            _ => Self::Decisive,
        }
    }
}

/// Is every event of this watched cgroup wanted?
#[inline(always)]
pub fn everything(scope: u64) -> bool {
    // SAFETY: the value is not looked at.
    unsafe { LOOKED.get(scope) }.is_some()
}

/// A cgroup comes into scope.
#[inline(always)]
pub fn begin(scope: u64, everything: u32) {
    let _ = SENT.insert(scope, Flow { priority: 0, bulk: 0 }, 0);
    let _ = TAKEN.insert(scope, Flow { priority: 0, bulk: 0 }, 0);
    if everything != 0 {
        let _ = LOOKED.insert(scope, 1, 0);
    }
}

/// A cgroup goes out of scope.
#[inline(always)]
pub fn end(scope: u64) {
    let _ = SENT.remove(scope);
    let _ = TAKEN.remove(scope);
    let _ = LOOKED.remove(scope);
}

/// Lets a record of `len` bytes pass, and gives the flags to send it with.
#[inline(always)]
fn admit(weight: Weight, scope: u64, len: u64) -> Option<u64> {
    // Without an entry there is no budget: a cgroup that is just being put in scope or taken out.
    let (Some(sent), Some(taken)) = (SENT.get_ptr_mut(scope), TAKEN.get_ptr(scope)) else {
        return Some(wake(weight != Weight::Bulk));
    };
    // SAFETY: pointers to maps' values stay valid while the program runs; the counter is only added to atomically.
    let (counter, taken) = unsafe {
        match weight {
            Weight::Bulk => (&raw mut (*sent).bulk, (*taken).bulk),
            _ => (&raw mut (*sent).priority, (*taken).priority),
        }
    };
    // SAFETY: as above.
    let on_the_way = unsafe { core::ptr::read_volatile(counter) }.wrapping_sub(taken);
    let budget = match weight {
        Weight::Bulk => BULK_BUDGET,
        Weight::Common => PRIORITY_BUDGET,
        Weight::Decisive => DECISIVE_BUDGET,
    };
    if on_the_way > budget {
        return None;
    }
    // SAFETY: `counter` points into a map's value and is aligned; BPF has no other atomic addition in Rust.
    unsafe { core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) len) };
    Some(wake(weight != Weight::Bulk || on_the_way > BULK_BUDGET / 2))
}

/// The flag that wakes the reader if it sleeps and is `due` to wake.
#[inline(always)]
fn wake(due: bool) -> u64 {
    if due && let Some(sleeps) = SLEEPS.get_ptr_mut(0) {
        // SAFETY: an aligned number; two programs that both see it set wake the reader twice, nothing worse.
        unsafe {
            if core::ptr::read_volatile(sleeps) != 0 {
                core::ptr::write_volatile(sleeps, 0);
                return u64::from(BPF_RB_FORCE_WAKEUP);
            }
        }
    }
    u64::from(BPF_RB_NO_WAKEUP)
}

/// The reader waits at the priority ring only: an empty, discarded record wakes it for the bulk ring's sake.
#[inline(always)]
fn nudge(flags: u64) {
    if flags == u64::from(BPF_RB_FORCE_WAKEUP)
        && let Some(entry) = PRIORITY.reserve::<u64>(0)
    {
        entry.discard(flags);
    }
}

/// Sends `len` bytes at `record`, or counts their loss.
///
/// # Safety
/// `len` bytes at `record` are readable and initialised.
#[inline(always)]
pub unsafe fn send(kind: Kind, weight: Weight, scope: u64, record: *const u8, len: usize) {
    let Some(flags) = admit(weight, scope, len as u64) else { return lose(kind, scope, LOST_BUDGET) };
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(record, len) };
    let sent = if weight == Weight::Bulk {
        nudge(flags);
        BULK.output::<[u8]>(bytes, u64::from(BPF_RB_NO_WAKEUP))
    } else {
        PRIORITY.output::<[u8]>(bytes, flags)
    };
    if sent.is_err() {
        lose(kind, scope, LOST_RING);
        return_budget(weight, scope, len as u64);
    }
}

/// Sends a record of fixed size that `fill` writes into place, or counts its loss. The place begins zeroed.
#[inline(always)]
pub fn send_in_place<T: Copy + 'static>(kind: Kind, weight: Weight, scope: u64, fill: impl FnOnce(*mut T)) {
    let len = size_of::<T>() as u64;
    let Some(flags) = admit(weight, scope, len) else { return lose(kind, scope, LOST_BUDGET) };
    let bulk = weight == Weight::Bulk;
    let ring = if bulk { &BULK } else { &PRIORITY };
    match ring.reserve::<T>(0) {
        Some(mut entry) => {
            let place = entry.as_mut_ptr();
            // SAFETY: the place is reserved for one T, and T is plain numbers, for which zero is valid.
            unsafe { memory::zero(place) };
            fill(place);
            entry.submit(if bulk { u64::from(BPF_RB_NO_WAKEUP) } else { flags });
        }
        None => {
            lose(kind, scope, LOST_RING);
            return_budget(weight, scope, len);
        }
    }
    if bulk {
        nudge(flags);
    }
}

/// What was admitted did not get on its way.
#[inline(always)]
fn return_budget(weight: Weight, scope: u64, len: u64) {
    if let Some(sent) = SENT.get_ptr_mut(scope) {
        // SAFETY: a pointer to a map's value stays valid while the program runs.
        unsafe {
            let counter =
                if weight == Weight::Bulk { &raw mut (*sent).bulk } else { &raw mut (*sent).priority };
            core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) 0u64.wrapping_sub(len));
        }
    }
}

/// Atomically: programs at cgroup hooks can be interrupted by others on the same CPU.
///
/// # Safety
/// `count` points into a map's value and is aligned.
#[inline(always)]
unsafe fn count_one(count: *mut u64) {
    // SAFETY: the caller's promise; a map's value stays valid while the program runs.
    unsafe { core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1u64) };
}

#[inline(always)]
fn lose(kind: Kind, scope: u64, reason: u32) {
    let key = LossKey { scope, kind: kind as u32, reason };
    match LOST.get_ptr_mut(key) {
        // SAFETY: a value of the map, a number.
        Some(count) => unsafe { count_one(count) },
        None => {
            // Another program may have been quicker, on this CPU too where programs can be interrupted.
            let _ = LOST.insert(key, 0, u64::from(BPF_NOEXIST));
            if let Some(count) = LOST.get_ptr_mut(key) {
                // SAFETY: as above.
                unsafe { count_one(count) };
            }
        }
    }
}
