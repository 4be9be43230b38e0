//! What the allocator keeps for itself.
//!
//! A daemon runs for months, and its threads come and go. As it stands, GNU's allocator gives nearly every thread a heap of
//! its own, and what one has needed once stays with it. Elsewhere nothing is asked of the allocator.

#[cfg(target_env = "gnu")]
use nix::libc;

/// How many heaps the threads share. The monitor's own allocates little that is not at hand in its thread.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;
/// What is larger is the system's again as soon as it is freed. Said outright, since the allocator else raises its own limit
/// with what it sees.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;

/// Has little kept, from now on: heaps that there are already stay.
pub(super) fn confine() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [(libc::M_ARENA_MAX, HEAPS), (libc::M_MMAP_THRESHOLD, LARGE)] {
        // SAFETY: the allocator's own function, for any thread at any time; it takes plain numbers.
        if unsafe { libc::mallopt(what, value) } != 1 {
            tracing::debug!(what, value, "the allocator keeps what it likes");
        }
    }
}

/// Gives back to the system what is needed no more: loading programs or rules takes several times what stays, and a watch
/// that ends leaves megabytes of events between what is remembered of it, where the allocator would keep them.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator's own function, for any thread at any time; it takes a plain number.
    unsafe {
        libc::malloc_trim(0);
    }
}
