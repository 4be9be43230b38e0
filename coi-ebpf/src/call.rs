//! A system call that has returned, whichever entry it came by.

use aya_ebpf::helpers::generated::bpf_probe_read_user;

use crate::stream;

/// What a call gives back when it fails; `include/uapi/asm-generic/errno-base.h` and `errno.h`.
pub const EPERM: i64 = -1;
/// In place of a system call's number, of what io_uring has completed.
pub const COMPLETION: u32 = u32::MAX;
pub const EACCES: i64 = -13;
pub const EROFS: i64 = -30;
pub const ENOSYS: i64 = -38;
pub const ENETUNREACH: i64 = -101;
pub const EHOSTUNREACH: i64 = -113;
pub const EINPROGRESS: i64 = -115;

/// In place of a result: the call has not returned yet.
pub const UNKNOWN: i32 = 1;

/// What programs ask of a call.
pub trait Call {
    /// What it gave back.
    fn result(&self) -> Option<i64>;
    /// Its number on x86-64.
    fn number(&self) -> u32;
    /// Its arguments by their places, 0 to 5.
    fn argument(&self, place: u32) -> u64;
    /// The open file that it is about, whose descriptor is the argument at this place.
    #[inline(always)]
    fn file(&self, place: u32) -> Option<u64> {
        stream::file(self.argument(place))
    }
    /// The address in a `struct msghdr` of the caller's memory, and its length.
    fn message(&self, header: u64) -> Option<(u64, u64)>;
}

/// Reads a number of the caller's memory.
#[inline(always)]
pub fn user<T: Copy + Default>(from: u64) -> Option<T> {
    let mut to = T::default();
    // SAFETY: room for one T, a plain number; the helper checks the other address itself.
    let read = unsafe { bpf_probe_read_user((&raw mut to).cast(), size_of::<T>() as u32, from as *const _) };
    (read == 0).then_some(to)
}
