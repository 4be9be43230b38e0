//! The 32-bit system calls by which something is done that COI watches: how to see them, and how to close them.
//!
//! It promises to have what the programs of the sensor see natively, but for what is seen whichever entry it comes by
//! (execs, connections of TCP, datagrams of UDP, binds, listening, bytes sent) and what Incus denies everywhere (kernel
//! modules, kexec, open_by_handle_at).

use coi_common::I386_SOCKETCALL;
use nix::libc;

/// A call at this entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Its number here (`arch/x86/entry/syscalls/syscall_32.tbl`), or [`I386_SOCKETCALL`] and which of socketcall(2)'s.
    pub(super) number: u32,
    /// Its number on x86-64.
    pub(super) native: i64,
    /// The kernel program that sees it.
    pub(super) program: &'static str,
    /// How a filter of LXC's can close it.
    pub(super) name: Name,
}

/// What libseccomp calls a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// As the native call.
    Shared(&'static str),
    /// There is no native call of that name.
    Own(&'static str),
    /// It knows the call by a number of its own only, which LXC passes over.
    None,
}

const fn call(name: &'static str, number: u32, native: i64, program: &'static str) -> Call {
    Call { number, native, program, name: Name::Shared(name) }
}

const fn own(name: &'static str, number: u32, native: i64, program: &'static str) -> Call {
    Call { number, native, program, name: Name::Own(name) }
}

const fn socket(number: u32, native: i64, program: &'static str) -> Call {
    Call { number, native, program, name: Name::None }
}

const fn socketcall(number: u32, native: i64, program: &'static str) -> Call {
    Call { number: I386_SOCKETCALL + number, native, program, name: Name::Own("socketcall") }
}

/// All of them.
pub(super) const CALLS: &[Call] = &[
    call("open", 5, libc::SYS_open, "i386_open"),
    call("creat", 8, libc::SYS_creat, "i386_open"),
    call("openat", 295, libc::SYS_openat, "i386_open"),
    call("openat2", 437, libc::SYS_openat2, "i386_open"),
    call("mmap", 90, libc::SYS_mmap, "i386_mmap"),
    own("mmap2", 192, libc::SYS_mmap, "i386_mmap2"),
    call("read", 3, libc::SYS_read, "i386_read"),
    call("pread64", 180, libc::SYS_pread64, "i386_read"),
    call("readv", 145, libc::SYS_readv, "i386_read"),
    call("preadv", 333, libc::SYS_preadv, "i386_read"),
    call("preadv2", 378, libc::SYS_preadv2, "i386_read"),
    call("splice", 313, libc::SYS_splice, "i386_read"),
    call("copy_file_range", 377, libc::SYS_copy_file_range, "i386_read"),
    call("sendfile", 187, libc::SYS_sendfile, "i386_sendfile"),
    own("sendfile64", 239, libc::SYS_sendfile, "i386_sendfile"),
    call("dup", 41, libc::SYS_dup, "i386_dup"),
    call("dup2", 63, libc::SYS_dup2, "i386_dup"),
    call("dup3", 330, libc::SYS_dup3, "i386_dup"),
    call("fcntl", 55, libc::SYS_fcntl, "i386_fcntl"),
    own("fcntl64", 221, libc::SYS_fcntl, "i386_fcntl"),
    call("chmod", 15, libc::SYS_chmod, "i386_change"),
    call("fchmod", 94, libc::SYS_fchmod, "i386_change"),
    call("fchmodat", 306, libc::SYS_fchmodat, "i386_change"),
    call("fchmodat2", 452, libc::SYS_fchmodat2, "i386_change"),
    call("chown", 182, libc::SYS_chown, "i386_change"),
    call("lchown", 16, libc::SYS_lchown, "i386_change"),
    call("fchown", 95, libc::SYS_fchown, "i386_change"),
    call("fchownat", 298, libc::SYS_fchownat, "i386_change"),
    call("link", 9, libc::SYS_link, "i386_change"),
    call("linkat", 303, libc::SYS_linkat, "i386_change"),
    call("mkdir", 39, libc::SYS_mkdir, "i386_change"),
    call("mkdirat", 296, libc::SYS_mkdirat, "i386_change"),
    call("rename", 38, libc::SYS_rename, "i386_change"),
    call("renameat", 302, libc::SYS_renameat, "i386_change"),
    call("renameat2", 353, libc::SYS_renameat2, "i386_change"),
    call("rmdir", 40, libc::SYS_rmdir, "i386_change"),
    call("symlink", 83, libc::SYS_symlink, "i386_change"),
    call("symlinkat", 304, libc::SYS_symlinkat, "i386_change"),
    call("truncate", 92, libc::SYS_truncate, "i386_change"),
    call("ftruncate", 93, libc::SYS_ftruncate, "i386_change"),
    call("unlink", 10, libc::SYS_unlink, "i386_change"),
    call("unlinkat", 301, libc::SYS_unlinkat, "i386_change"),
    own("chown32", 212, libc::SYS_chown, "i386_change"),
    own("lchown32", 198, libc::SYS_lchown, "i386_change"),
    own("fchown32", 207, libc::SYS_fchown, "i386_change"),
    own("truncate64", 193, libc::SYS_truncate, "i386_change"),
    own("ftruncate64", 194, libc::SYS_ftruncate, "i386_change"),
    call("ptrace", 26, libc::SYS_ptrace, "i386_ptrace"),
    call("clone", 120, libc::SYS_clone, "i386_clone"),
    call("clone3", 435, libc::SYS_clone3, "i386_clone3"),
    call("unshare", 310, libc::SYS_unshare, "i386_rare"),
    call("setns", 346, libc::SYS_setns, "i386_rare"),
    call("process_vm_readv", 347, libc::SYS_process_vm_readv, "i386_rare"),
    call("process_vm_writev", 348, libc::SYS_process_vm_writev, "i386_rare"),
    call("pidfd_getfd", 438, libc::SYS_pidfd_getfd, "i386_rare"),
    call("bpf", 357, libc::SYS_bpf, "i386_rare"),
    call("userfaultfd", 374, libc::SYS_userfaultfd, "i386_rare"),
    call("perf_event_open", 336, libc::SYS_perf_event_open, "i386_rare"),
    call("io_uring_setup", 425, libc::SYS_io_uring_setup, "i386_rare"),
    call("keyctl", 288, libc::SYS_keyctl, "i386_rare"),
    call("fsmount", 432, libc::SYS_fsmount, "i386_rare"),
    call("add_key", 286, libc::SYS_add_key, "i386_rare_text0"),
    call("request_key", 287, libc::SYS_request_key, "i386_rare_text0"),
    call("memfd_create", 356, libc::SYS_memfd_create, "i386_rare_text0"),
    call("fsopen", 430, libc::SYS_fsopen, "i386_rare_text0"),
    call("umount2", 52, libc::SYS_umount2, "i386_rare_text0"),
    call("chroot", 61, libc::SYS_chroot, "i386_rare_text0"),
    call("pivot_root", 217, libc::SYS_pivot_root, "i386_rare_text0"),
    own("umount", 22, libc::SYS_umount2, "i386_rare_text0"),
    call("mount", 21, libc::SYS_mount, "i386_rare_text1"),
    call("open_tree", 428, libc::SYS_open_tree, "i386_rare_text1"),
    call("mount_setattr", 442, libc::SYS_mount_setattr, "i386_rare_text1"),
    call("move_mount", 429, libc::SYS_move_mount, "i386_rare_text3"),
    socket(362, libc::SYS_connect, "i386_connect"),
    socket(364, libc::SYS_accept4, "i386_accept"),
    socket(369, libc::SYS_sendto, "i386_send"),
    socket(370, libc::SYS_sendmsg, "i386_send"),
    socket(345, libc::SYS_sendmmsg, "i386_send"),
    // `include/uapi/linux/net.h`
    socketcall(3, libc::SYS_connect, "i386_socketcall_connect"),
    socketcall(5, libc::SYS_accept, "i386_socketcall_accept"),
    socketcall(18, libc::SYS_accept4, "i386_socketcall_accept"),
    socketcall(11, libc::SYS_sendto, "i386_socketcall_send"),
    socketcall(16, libc::SYS_sendmsg, "i386_socketcall_send"),
    socketcall(20, libc::SYS_sendmmsg, "i386_socketcall_send"),
];
