//! Ending one process with all that it has started, in a cgroup that stands still.
//!
//! It promises that no process is hit but those that were meant: each is held by a descriptor before its start time is
//! compared, so that a process id that was used again is never taken for the old one. Nothing of a frozen cgroup forks or
//! ends by itself, so what is found is all there is. Whose children are meant is said by the lineage, which remembers those
//! whose parents are gone; /proc adds what the lineage may have missed.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::monitor::{
    cgroup::{Cgroup, CgroupError},
    event::ProcessKey,
    lineage::{Place, TICK, members, place},
};

/// Why a process lives on.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The kernel would not.
    #[error("cannot end process {pid}: {source}")]
    Signal {
        /// Its id on the host.
        pid: u32,
        /// Why not.
        source: io::Error,
    },
    /// They are kept from it.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// It takes too long.
    #[error("{left} of the processes to be ended are still there after {within:?}, process {pid} among them")]
    Deadline {
        /// How many.
        left: usize,
        /// One of them.
        pid: u32,
        /// How long it was waited for.
        within: Duration,
    },
}

/// Ends these processes of a frozen cgroup and their children. Gives how many there were.
pub fn kill(cgroup: &Cgroup, meant: &[ProcessKey], within: Duration) -> Result<usize, ProcessError> {
    let deadline = Instant::now() + within;
    let there: HashMap<u32, Place> =
        members(&cgroup.directory()).into_iter().filter_map(|pid| Some((pid, place(pid)?))).collect();
    let doomed = doomed(&there, meant);
    let mut held = Vec::new();
    for pid in doomed {
        if let Some(descriptor) = hold(pid, there[&pid])? {
            match pidfd_send_signal(&descriptor, Signal::KILL) {
                Ok(()) => held.push((pid, descriptor)),
                Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(ProcessError::Signal { pid, source: error.into() }),
            }
        }
    }
    cgroup.let_end()?;
    let count = held.len();
    held.retain(|(_, descriptor)| !ends(descriptor, deadline));
    match held.first() {
        Some((pid, _)) => Err(ProcessError::Deadline { left: held.len(), pid: *pid, within }),
        None => Ok(count),
    }
}

/// Those that are meant and their children, as far as they are there.
fn doomed(there: &HashMap<u32, Place>, meant: &[ProcessKey]) -> HashSet<u32> {
    let is_there = |key: &&ProcessKey| {
        there.get(&key.pid).is_some_and(|place| place.start_ticks == key.start_time / TICK)
    };
    let mut doomed: HashSet<u32> = meant.iter().filter(is_there).map(|key| key.pid).collect();
    loop {
        let before = doomed.len();
        let children = there.iter().filter(|(_, place)| doomed.contains(&place.parent)).map(|(pid, _)| *pid);
        let children: Vec<u32> = children.collect();
        doomed.extend(children);
        if doomed.len() == before {
            return doomed;
        }
    }
}

/// A descriptor for a process, if it is still the same one.
fn hold(pid: u32, place_then: Place) -> Result<Option<OwnedFd>, ProcessError> {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let descriptor = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(ProcessError::Signal { pid, source: error.into() }),
    };
    let is_same = place(pid).is_some_and(|now| now.start_ticks == place_then.start_ticks);
    Ok(is_same.then_some(descriptor))
}

/// Whether a process ends in time.
fn ends(descriptor: &OwnedFd, deadline: Instant) -> bool {
    use std::os::fd::AsFd as _;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(1..) => return true,
            Err(nix::errno::Errno::EINTR) if !left.is_zero() => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_meant_and_their_children() {
        let there = |all: &[(u32, u32, u64)]| -> HashMap<u32, Place> {
            all.iter().map(|&(pid, parent, start_ticks)| (pid, Place { parent, start_ticks })).collect()
        };
        let key = |pid, ticks| ProcessKey { pid, start_time: ticks * TICK + 4711 };
        let all = there(&[(1, 0, 10), (20, 1, 20), (21, 20, 21), (22, 21, 22), (30, 1, 30), (40, 1, 40)]);
        let doomed = |meant: &[ProcessKey]| {
            let mut pids: Vec<_> = super::doomed(&all, meant).into_iter().collect();
            pids.sort_unstable();
            pids
        };
        assert_eq!(doomed(&[key(20, 20)]), [20, 21, 22]);
        // 40 had a parent that is gone; the lineage knows it.
        assert_eq!(doomed(&[key(20, 20), key(40, 40)]), [20, 21, 22, 40]);
        // The id was used again.
        assert_eq!(doomed(&[key(20, 19)]), [0; 0]);
        assert_eq!(doomed(&[key(99, 99)]), [0; 0]);
    }

    #[test]
    fn a_process_that_is_another_one_is_not_held() {
        let own = std::process::id();
        let here = place(own).unwrap();
        assert!(hold(own, here).unwrap().is_some());
        assert!(hold(own, Place { start_ticks: here.start_ticks + 1, ..here }).unwrap().is_none());
    }
}
