//! Who of the daemon's threads goes before others where processors are scarce.
//!
//! A flood in a container must not keep the monitor from its turn. Where the system refuses a priority, the monitor works
//! all the same, later.

use nix::libc;

/// The niceness of the daemon's threads: what the pipeline has decided is carried out and written down by them.
const NICENESS: libc::c_int = -10;
/// Above all ordinary work, and below whatever else is real-time.
const REAL_TIME: libc::c_int = 1;

/// Puts this process's threads before ordinary ones, and those that they will make.
pub(super) fn prefer_daemon() {
    for thread in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        if let Some(id) = thread.file_name().to_str().and_then(|id| id.parse().ok()) {
            nice(id, NICENESS);
        }
    }
}

/// Puts this thread before all ordinary ones: it decides in microseconds, and what it decides on is worth it. It must
/// rest now and then.
pub(super) fn prefer_pipeline() {
    // Looking by the clock needs one that is exact; the kernel rounds an ordinary thread's sleep up by 50 us.
    if let Err(error) = nix::sys::prctl::set_timerslack(1) {
        tracing::warn!(%error, "the monitor's thread looks less often than it should");
    }
    let priority = libc::sched_param { sched_priority: REAL_TIME };
    // SAFETY: 0 is the calling thread; the parameters are read during the call only.
    let set = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const priority)
    };
    if set != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "the monitor's thread gets no real-time priority");
        nice(0, -20);
    }
}

/// Of a thread of this process; 0 is the calling one.
fn nice(thread: libc::id_t, niceness: libc::c_int) {
    // SAFETY: plain numbers.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, niceness) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, thread, "a thread of the monitor keeps its usual priority");
    }
}
