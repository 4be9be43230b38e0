//! Who acts.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use coi_common::{Header, Kind};

use crate::{
    kernel::{current, offset, pointer, read},
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
    unsafe { header_of(to, current(), kind, watched.flags(), watched.id) };
}

/// Writes the header of a record about this task. In place: a program's stack has 512 bytes.
///
/// # Safety
/// `to` may be written to.
#[inline(always)]
pub unsafe fn header_of(to: *mut Header, task: u64, kind: Kind, flags: u32, scope: u64) {
    let leader = pointer(task + offset!(task_group_leader)).unwrap_or(task);
    let parent = pointer(task + offset!(task_real_parent)).unwrap_or(0);
    let parent_leader = pointer(parent + offset!(task_group_leader)).unwrap_or(parent);
    let signal = pointer(task + offset!(task_signal)).unwrap_or(0);
    let cred = pointer(task + offset!(task_cred)).unwrap_or(0);
    // SAFETY: the caller's promise; the helper takes no arguments and cannot fail.
    unsafe {
        (*to).time = bpf_ktime_get_boot_ns();
        (*to).scope = scope;
        (*to).start_time = read(leader + offset!(task_start_boottime)).unwrap_or(0);
        (*to).parent_start_time = read(parent_leader + offset!(task_start_boottime)).unwrap_or(0);
        (*to).kind = kind as u32;
        (*to).flags = flags;
        (*to).tgid = read(task + offset!(task_tgid)).unwrap_or(0);
        (*to).tid = read(task + offset!(task_pid)).unwrap_or(0);
        (*to).vpid = innermost(leader).map_or(0, |innermost| innermost.number);
        (*to).parent_tgid = read(parent + offset!(task_tgid)).unwrap_or(0);
        (*to).pgid = number_of(pointer(signal + offset!(signal_pids) + 8 * PIDTYPE_PGID));
        (*to).sid = number_of(pointer(signal + offset!(signal_pids) + 8 * PIDTYPE_SID));
        (*to).uid = read(cred + offset!(cred_euid)).unwrap_or(u32::MAX);
        (*to).reserved = 0;
        (*to).capabilities = read(cred + offset!(cred_cap_effective)).unwrap_or(0);
    }
}

/// A struct pid's number on the host.
#[inline(always)]
fn number_of(pid: Option<u64>) -> u32 {
    pid.and_then(|pid| read(pid + offset!(pid_numbers))).unwrap_or(0)
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
pub fn innermost(task: u64) -> Option<Innermost> {
    let pid = pointer(task + offset!(task_thread_pid))?;
    let level: u32 = read(pid + offset!(pid_level))?;
    let upid = pid + offset!(pid_numbers) + u64::from(level & 31) * offset!(upid_size);
    Some(Innermost { level, number: read(upid)?, namespace: read(upid + offset!(upid_ns))? })
}
