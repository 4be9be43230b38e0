//! What is asked of the kernel through io_uring instead of system calls.

use aya_ebpf::{
    macros::{map, raw_tracepoint},
    maps::LruHashMap,
    programs::RawTracePointContext,
};
use coi_common::{Header, Kind, Submission};

use crate::{
    kernel::{Structure, current, offset, read},
    ring, scope, task, wanted,
};

/// What a process has asked for.
#[derive(Clone, Copy)]
#[repr(C)]
struct Asked {
    start_time: u64,
    tgid: u32,
    opcode: u32,
}

/// What was told; what falls out is told again.
#[map]
static ASKED: LruHashMap<Asked, u8> = LruHashMap::with_max_entries(16384, 0);

#[derive(Clone, Copy)]
#[repr(C)]
struct SubmissionRecord {
    header: Header,
    body: Submission,
}

/// A request is submitted: once for each process and kind of request, since what it is about is not to be had here.
/// Costs, watched, some 50 ns of a request. Linux 6.4 on; before, the tracepoint has another name.
#[raw_tracepoint(tracepoint = "io_uring_submit_req")]
pub fn uring_submit(ctx: RawTracePointContext) -> i32 {
    let Some(watched) = scope::watched() else { return 0 };
    let request = ctx.arg::<*const u8>(0) as u64;
    let opcode = u32::from(read::<u8>(request + offset!(io_kiocb_opcode)).unwrap_or(0));
    let task = current();
    let Some(leader) = task.follow(offset!(task_group_leader)) else { return 0 };
    let asked = Asked {
        start_time: leader.number(offset!(task_start_boottime)),
        tgid: task.number(offset!(task_tgid)),
        opcode,
    };
    // SAFETY: the value is not looked at.
    if unsafe { ASKED.get(asked) }.is_some() || !wanted::kind(Kind::IoUring, &watched) {
        return 0;
    }
    let _ = ASKED.insert(asked, 1, 0);
    ring::send_in_place(Kind::IoUring, watched.id, |record: *mut SubmissionRecord| {
        // SAFETY: the place is reserved.
        unsafe {
            task::header(&raw mut (*record).header, Kind::IoUring, &watched);
            (*record).body.opcode = opcode;
        }
    });
    0
}
