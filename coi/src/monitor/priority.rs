//! Who of the daemon's threads goes before others where processors are scarce.
//!
//! A flood in a container must not keep the monitor from its turn. Where the system refuses a priority, the monitor works
//! all the same, later.

use std::time::{Duration, Instant};

use nix::libc;

/// The niceness of the daemon's threads: what the pipeline has decided is carried out and written down by them.
const NICENESS: libc::c_int = -10;
/// Above all ordinary work, and below whatever else is real-time.
const REAL_TIME: libc::c_int = 1;
/// Who wakes so much later than it asked to has been kept waiting for a processor.
const LATE: Duration = Duration::from_micros(500);
/// How long nothing has happened before the pipeline's thread is an ordinary one again.
const CALM: Duration = Duration::from_secs(1);

/// Puts this process's threads before ordinary ones, and those that they will make.
pub(super) fn prefer_daemon() {
    for thread in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        if let Some(id) = thread.file_name().to_str().and_then(|id| id.parse().ok()) {
            nice(id, NICENESS);
        }
    }
}

/// How the pipeline's thread stands to all others.
///
/// It decides in microseconds, and what it decides on is worth that it goes first: it becomes a real-time thread once it
/// has been kept waiting, and must rest now and then. Before that it had better not be one. The kernel wakes a real-time
/// thread where it last ran, whoever is at work there and whatever other processor has nothing to do; an ordinary one
/// goes to a free processor, and costs nobody a turn.
#[derive(Debug)]
pub(super) struct Precedence {
    is_real_time: bool,
}

impl Precedence {
    /// Puts this thread before ordinary ones.
    pub(super) fn of_this_thread() -> Self {
        // Looking by the clock needs one that is exact; the kernel rounds an ordinary thread's sleep up by 50 us.
        if let Err(error) = nix::sys::prctl::set_timerslack(1) {
            tracing::warn!(%error, "the monitor's thread looks less often than it should");
        }
        nice(0, -20);
        Self { is_real_time: false }
    }

    /// It asked to sleep for so long, and nothing woke it before.
    pub(super) fn slept(&mut self, asked: Duration, began: Instant) {
        if !self.is_real_time && began.elapsed() > asked + LATE {
            self.is_real_time = schedule(libc::SCHED_RR, REAL_TIME);
        }
    }

    /// Nothing has happened for so long.
    pub(super) fn was_idle(&mut self, quiet: Duration) {
        if self.is_real_time && quiet >= CALM {
            self.is_real_time = !schedule(libc::SCHED_OTHER, 0);
        }
    }
}

/// Has the calling thread scheduled so; says whether it is.
fn schedule(policy: libc::c_int, priority: libc::c_int) -> bool {
    let (policy, priority) =
        (policy | libc::SCHED_RESET_ON_FORK, libc::sched_param { sched_priority: priority });
    // SAFETY: 0 is the calling thread; the parameters are read during the call only.
    let answer = unsafe { libc::sched_setscheduler(0, policy, &raw const priority) };
    if answer != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "the monitor's thread gets no other priority");
    }
    answer == 0
}

/// Of a thread of this process; 0 is the calling one.
fn nice(thread: libc::id_t, niceness: libc::c_int) {
    // SAFETY: plain numbers.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, niceness) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, thread, "a thread of the monitor keeps its usual priority");
    }
}
