//! What is asked of the kernel through io_uring instead of system calls.
//!
//! Names and the addresses of datagrams are told when a request is submitted: from the kernel's own copy, which is gone
//! when it has been carried out, so that the outcome is not known. What reads, accepts or connects is told with its outcome when it is completed, by the
//! same functions as system calls. A completion that nobody sees tells nothing: one that its owner has suppressed
//! (IOSQE_CQE_SKIP_SUCCESS), for which its ring had no room, or that is one of several of a request. What
//! [`crate::chokepoint`] tells is not told here.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::LruHashMap,
    programs::BtfTracePointContext,
};
use coi_common::{Header, Kind, Submission, TOLD_ACCEPTS, TOLD_OPENS};

use crate::{
    call::{COMPLETION, Call},
    change::{self, Act, SYS_LINKAT, SYS_MKDIRAT, SYS_RENAMEAT2, SYS_SYMLINKAT, SYS_UNLINKAT},
    chokepoint, connect, io,
    kernel::{self, Structure, Typed, current, offset, pointer, read},
    listen,
    name::{NOWHERE, Name, Passed},
    open,
    ring::{self, Weight},
    scope::{self, Watched},
    sendto, stream, task, wanted,
};

/// Requests, by their numbers in `include/uapi/linux/io_uring.h`.
const READV: u8 = 1;
const READ_FIXED: u8 = 4;
const SENDMSG: u8 = 9;
const ACCEPT: u8 = 13;
const CONNECT: u8 = 16;
const OPENAT: u8 = 18;
const READ: u8 = 22;
const SEND: u8 = 26;
const OPENAT2: u8 = 28;
const SPLICE: u8 = 30;
const RENAMEAT: u8 = 35;
const UNLINKAT: u8 = 36;
const MKDIRAT: u8 = 37;
const SYMLINKAT: u8 = 38;
const LINKAT: u8 = 39;
const SEND_ZC: u8 = 47;
const SENDMSG_ZC: u8 = 48;
/// `include/uapi/linux/io_uring.h`: the source of a splice is not a descriptor of the process.
const SPLICE_F_FD_IN_FIXED: u32 = 1 << 31;
/// The same, of a request: what it is about is not a descriptor of the process.
const IOSQE_FIXED_FILE: u64 = 1;
/// Where a `struct io_uring_cqe` of the same file has its result.
const CQE_RES: u64 = 8;

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

/// A request is submitted: once for each process and kind of request that it is one of this kind, and each time what it
/// names. Costs, watched, some 50 ns of a request, a microsecond if it has a name. Linux 6.4 on; before, the tracepoint
/// has another name.
#[btf_tracepoint(function = "io_uring_submit_req")]
pub fn uring_submit(ctx: BtfTracePointContext) -> i32 {
    let Some(watched) = scope::watched() else { return 0 };
    let request = kernel::given(&ctx, 0);
    let opcode: u8 = request.number(offset!(io_kiocb_opcode));
    let _ = tell(&watched, opcode);
    let _ = match opcode {
        SEND | SENDMSG | SEND_ZC | SENDMSG_ZC => addressed(&watched, request.address()),
        _ => named(&watched, request.address(), opcode),
    };
    0
}

#[inline(always)]
fn tell(watched: &Watched, opcode: u8) -> Option<()> {
    let task = current();
    let asked = Asked {
        start_time: task.follow(offset!(task_group_leader))?.number(offset!(task_start_boottime)),
        tgid: task.number(offset!(task_tgid)),
        opcode: opcode.into(),
    };
    // SAFETY: the value is not looked at.
    if unsafe { ASKED.get(asked) }.is_some() || !wanted::kind(Kind::IoUring, watched) {
        return None;
    }
    let _ = ASKED.insert(asked, 1, 0);
    ring::send_in_place(
        Kind::IoUring,
        Weight::of(Kind::IoUring),
        watched.id,
        |record: *mut SubmissionRecord| {
            // SAFETY: the place is reserved.
            unsafe {
                task::header(&raw mut (*record).header, Kind::IoUring, watched);
                (*record).body.opcode = opcode.into();
            }
        },
    );
    Some(())
}

/// Tells what a request names.
#[inline(always)]
fn named(watched: &Watched, request: u64, opcode: u8) -> Option<()> {
    let number = |place: u64| read::<u32>(request + place).unwrap_or(0);
    // What cannot be read is an unreadable text.
    let address = |at: u64| read::<u64>(at).unwrap_or(0);
    let text = |place: u64| Passed::copied(address(address(request + place) + offset!(filename_name)));
    let name = |directory: u64, place: u64| Name { directory: number(directory) as i32, text: text(place) };
    let (syscall, argument2, affected, other) = match opcode {
        OPENAT | OPENAT2 if chokepoint::tells(TOLD_OPENS) => return None,
        OPENAT | OPENAT2 => {
            let name = name(offset!(io_open_dfd), offset!(io_open_filename));
            return open::asked(watched, number(offset!(io_open_flags)), name);
        }
        RENAMEAT => (
            SYS_RENAMEAT2,
            0,
            name(offset!(io_rename_new_dfd), offset!(io_rename_newpath)),
            name(offset!(io_rename_old_dfd), offset!(io_rename_oldpath)),
        ),
        LINKAT => (
            SYS_LINKAT,
            0,
            name(offset!(io_link_new_dfd), offset!(io_link_newpath)),
            name(offset!(io_link_old_dfd), offset!(io_link_oldpath)),
        ),
        SYMLINKAT => (
            SYS_SYMLINKAT,
            0,
            name(offset!(io_link_new_dfd), offset!(io_link_newpath)),
            Name { directory: NOWHERE, text: text(offset!(io_link_oldpath)) },
        ),
        UNLINKAT => (
            SYS_UNLINKAT,
            number(offset!(io_unlink_flags)).into(),
            name(offset!(io_unlink_dfd), offset!(io_unlink_filename)),
            Name::NONE,
        ),
        MKDIRAT => (SYS_MKDIRAT, 0, name(offset!(io_mkdir_dfd), offset!(io_mkdir_filename)), Name::NONE),
        _ => return None,
    };
    change::asked(watched, Act { syscall, argument2, affected, other })
}

/// Tells where a request sends something.
#[inline(always)]
fn addressed(watched: &Watched, request: u64) -> Option<()> {
    if read::<u64>(request + offset!(io_kiocb_flags))? & IOSQE_FIXED_FILE != 0 {
        return None;
    }
    let file = stream::file(read::<u32>(request + offset!(io_kiocb_fd))?.into())?;
    let message = pointer(request + offset!(io_kiocb_async_data))? + offset!(io_async_msghdr_msg);
    let name = Passed::copied(read(message + offset!(msghdr_name))?);
    sendto::asked(watched, file, name, read::<u32>(message + offset!(msghdr_namelen))?.into())
}

/// A request that has been completed.
struct Completed {
    request: u64,
    opcode: u8,
    result: i64,
}

impl Call for Completed {
    #[inline(always)]
    fn result(&self) -> Option<i64> {
        Some(self.result)
    }

    #[inline(always)]
    fn number(&self) -> u32 {
        COMPLETION
    }

    /// They are gone.
    #[inline(always)]
    fn argument(&self, _place: u32) -> u64 {
        0
    }

    #[inline(always)]
    fn file(&self, _place: u32) -> Option<u64> {
        if self.opcode != SPLICE {
            return pointer(self.request + offset!(io_kiocb_file));
        }
        if read::<u32>(self.request + offset!(io_splice_flags))? & SPLICE_F_FD_IN_FIXED != 0 {
            return None;
        }
        stream::file(read::<u32>(self.request + offset!(io_splice_fd_in))?.into())
    }

    #[inline(always)]
    fn message(&self, _header: u64) -> Option<(u64, u64)> {
        None
    }
}

/// A request has been completed, in its owner's context. Costs, watched, what the system call's program does. Linux 6.18;
/// not 6.12, where the types of what the tracepoint gives are others.
#[btf_tracepoint(function = "io_uring_complete")]
pub fn uring_complete(ctx: BtfTracePointContext) -> i32 {
    let Some(watched) = scope::watched() else { return 0 };
    let request = ctx.arg::<u64>(1);
    let completion: Typed = kernel::given(&ctx, 2);
    let result = i64::from(completion.number::<i32>(CQE_RES));
    let opcode = read::<u8>(request + offset!(io_kiocb_opcode)).unwrap_or(0);
    let call = &Completed { request, opcode, result };
    let _ = match opcode {
        READV | READ_FIXED | READ | SPLICE => io::was_read(call, &watched),
        ACCEPT if chokepoint::tells(TOLD_ACCEPTS) => None,
        // Into a slot of the ring's own: there is no descriptor.
        ACCEPT if read::<u32>(request + offset!(io_accept_file_slot)) != Some(0) => None,
        ACCEPT => listen::accepted(call),
        CONNECT => connect::connected(call),
        _ => None,
    };
    0
}
