//! The third way into the kernel: a ring in shared memory. By hand, for one request at a time.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::{Entry::Native, Errno, Result, call};

/// `include/uapi/linux/io_uring.h`: what a request asks for.
pub(crate) mod opcode {
    pub(crate) const READV: u8 = 1;
    pub(crate) const SENDMSG: u8 = 9;
    pub(crate) const ACCEPT: u8 = 13;
    pub(crate) const CONNECT: u8 = 16;
    pub(crate) const OPENAT: u8 = 18;
    pub(crate) const READ: u8 = 22;
    pub(crate) const SEND: u8 = 26;
    pub(crate) const OPENAT2: u8 = 28;
    pub(crate) const SPLICE: u8 = 30;
    pub(crate) const RENAMEAT: u8 = 35;
    pub(crate) const UNLINKAT: u8 = 36;
    pub(crate) const MKDIRAT: u8 = 37;
    pub(crate) const SYMLINKAT: u8 = 38;
    pub(crate) const LINKAT: u8 = 39;
    pub(crate) const BIND: u8 = 56;
    pub(crate) const LISTEN: u8 = 57;
}

/// In a request's flags: a worker is to do it, not the caller.
pub(crate) const IOSQE_ASYNC: u8 = 1 << 4;
/// For a ring: a thread of the kernel's submits, so that no system call does.
pub(crate) const IORING_SETUP_SQPOLL: u32 = 1 << 1;
const IORING_ENTER_GETEVENTS: u32 = 1 << 0;
const IORING_ENTER_SQ_WAKEUP: u32 = 1 << 1;
const IORING_OFF_SQ_RING: i64 = 0;
const IORING_OFF_CQ_RING: i64 = 0x800_0000;
const IORING_OFF_SQES: i64 = 0x1000_0000;

/// A request: `struct io_uring_sqe`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Request {
    pub(crate) opcode: u8,
    pub(crate) flags: u8,
    pub(crate) priority: u16,
    pub(crate) fd: i32,
    /// Also the second address.
    pub(crate) offset: u64,
    /// Also the offset to splice from.
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) op_flags: u32,
    pub(crate) user_data: u64,
    pub(crate) buffer: u16,
    pub(crate) personality: u16,
    pub(crate) splice_fd: i32,
    pub(crate) more: [u64; 2],
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Offsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    /// The submission ring's flags; the completion ring's overflow.
    flags: u32,
    /// The submission ring's dropped; the completion ring's entries.
    entries: u32,
    /// The submission ring's entries.
    array: u32,
    reserved: u32,
    address: u64,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    submission: Offsets,
    completion: Offsets,
}

const _: () = assert!(size_of::<Request>() == 64 && size_of::<Params>() == 120);

/// Makes a ring, has it do one thing, and gives the result.
pub(crate) fn once(request: Request) -> Result {
    once_with(0, request)
}

/// The same with flags for the ring.
pub(crate) fn once_with(flags: u32, request: Request) -> Result {
    let mut params = Params { flags, ..Params::default() };
    let ring = call!(Native, libc::SYS_io_uring_setup, 1, &raw mut params)? as i32;
    let result = submit(ring, &params, request);
    call!(Native, libc::SYS_close, ring)?;
    result
}

fn submit(ring: i32, params: &Params, request: Request) -> Result {
    let (sq, cq) = (&params.submission, &params.completion);
    let submissions = map(ring, IORING_OFF_SQ_RING, sq.array as usize + size_of::<u32>());
    let requests = map(ring, IORING_OFF_SQES, size_of::<Request>());
    let completions = map(ring, IORING_OFF_CQ_RING, cq.entries as usize + 16);
    // SAFETY: the kernel gave these places in rings that are mapped; entry 0 of a new ring is ours. `array[0]` is
    // zero as all of a new ring.
    unsafe {
        requests.cast::<Request>().write(request);
        (*submissions.add(sq.tail as usize).cast::<AtomicU32>()).store(1, Ordering::Release);
    }
    let flags = IORING_ENTER_GETEVENTS
        | if params.flags & IORING_SETUP_SQPOLL != 0 { IORING_ENTER_SQ_WAKEUP } else { 0 };
    call!(Native, libc::SYS_io_uring_enter, ring, 1, 1, flags, 0, 0)?;
    // SAFETY: as above; the completion's result lies behind its 8 bytes of user data.
    let result = unsafe {
        let tail = (*completions.add(cq.tail as usize).cast::<AtomicU32>()).load(Ordering::Acquire);
        assert_eq!(tail, 1, "nothing is completed");
        completions.add(cq.entries as usize + 8).cast::<i32>().read()
    };
    if result < 0 { Err(Errno(-result)) } else { Ok(result as u64) }
}

/// Maps a part of a ring, for as long as the process lives.
fn map(ring: i32, offset: i64, size: usize) -> *mut u8 {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: new memory, at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(ptr::null_mut(), size, access, libc::MAP_SHARED | libc::MAP_POPULATE, ring, offset)
    };
    assert_ne!(address, libc::MAP_FAILED, "io_uring: {}", io::Error::last_os_error());
    address.cast()
}
