//! Who acts.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use coi_common::{Header, Kind, Scope};

use crate::{
    exec::bounded,
    kernel::{Structure, current, offset, read},
    scope::Watched,
};

const PIDTYPE_PGID: u64 = 2;
const PIDTYPE_SID: u64 = 3;

/// Writes the header of a record about the acting task.
///
/// # Safety
/// `to` may be written to.
#[inline(always)]
pub unsafe fn header(to: *mut Header, kind: Kind, watched: &Watched) {
    // SAFETY: the caller's promise.
    unsafe { write_header(to, kind as u32, watched.scope, watched.id) };
}

/// What [`header`] does, checked once (see [`crate`]): for each pointer that is followed from the acting task the verifier
/// searches all types of the kernel, several times and from the first to the last.
///
/// # Safety
/// As [`header`]; `scope` is an entry of a map.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn write_header(to: *mut Header, kind: u32, scope: *mut Scope, id: u64) -> u32 {
    if to.is_null() || scope.is_null() {
        return 1;
    }
    let watched = Watched { id, scope };
    // SAFETY: the caller's promise.
    unsafe { header_of(to, current(), kind, watched.flags(), id) };
    0
}

/// Writes the header of a record about this task. In place: a program's stack has 512 bytes.
///
/// # Safety
/// `to` may be written to.
#[inline(always)]
pub unsafe fn header_of(to: *mut Header, task: impl Structure, kind: u32, flags: u32, scope: u64) {
    // SAFETY: the caller's promise; the helper takes no arguments and cannot fail.
    unsafe {
        (*to).time = bpf_ktime_get_boot_ns();
        (*to).scope = scope;
        (*to).kind = kind;
        (*to).flags = flags;
        (*to).tgid = task.number(offset!(task_tgid));
        (*to).tid = task.number(offset!(task_pid));
        (*to).vpid = 0;
        (*to).start_time = 0;
        if let Some(leader) = task.follow(offset!(task_group_leader)) {
            (*to).start_time = leader.number(offset!(task_start_boottime));
            (*to).vpid = number(leader);
        }
        (*to).parent_tgid = 0;
        (*to).parent_start_time = 0;
        if let Some(parent) = task.follow(offset!(task_real_parent)) {
            (*to).parent_tgid = parent.number(offset!(task_tgid));
            if let Some(leader) = parent.follow(offset!(task_group_leader)) {
                (*to).parent_start_time = leader.number(offset!(task_start_boottime));
            }
        }
        (*to).pgid = 0;
        (*to).sid = 0;
        if let Some(signal) = task.follow(offset!(task_signal)) {
            let number = |place| {
                let pid = signal.follow(offset!(signal_pids) + 8 * place);
                pid.map_or(0, |pid| pid.number(offset!(pid_numbers)))
            };
            (*to).pgid = number(PIDTYPE_PGID);
            (*to).sid = number(PIDTYPE_SID);
        }
        (*to).uid = u32::MAX;
        (*to).reserved = 0;
        (*to).capabilities = 0;
        if let Some(cred) = task.follow(offset!(task_cred)) {
            (*to).uid = cred.number(offset!(cred_euid));
            (*to).capabilities = cred.number(offset!(cred_cap_effective));
        }
    }
}

/// A task's place in its own PID namespace.
#[derive(Clone, Copy)]
pub struct Innermost {
    /// How deep the namespace is below the host's.
    pub level: u32,
    /// The task's number in it.
    pub number: u32,
    /// The namespace, by its address.
    pub namespace: u64,
}

/// A task's place in its own PID namespace.
#[inline(always)]
pub fn innermost(task: impl Structure) -> Option<Innermost> {
    let (level, upid) = upid(task)?;
    Some(Innermost { level, number: read(upid)?, namespace: read(upid + offset!(upid_ns))? })
}

/// A task's number in its own PID namespace, zero where it has none.
#[inline(always)]
fn number(task: impl Structure) -> u32 {
    upid(task).and_then(|(_, upid)| read(upid)).unwrap_or(0)
}

/// The level of a task's own PID namespace, and the address of the `struct upid` that is about it.
#[inline(always)]
fn upid(task: impl Structure) -> Option<(u32, u64)> {
    let pid = task.follow(offset!(task_thread_pid))?;
    let level: u32 = pid.number(offset!(pid_level));
    Some((level, pid.address() + offset!(pid_numbers) + bounded(level.into(), 31) * offset!(upid_size)))
}
