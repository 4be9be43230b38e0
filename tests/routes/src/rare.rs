//! System calls that honest work hardly ever makes and escapes do. Each is made so that nothing comes of it beyond the
//! process or the mount namespace that it is made in; many are refused, which is to be seen as well.

use std::fs::File;
use std::os::fd::IntoRawFd;

use crate::Route;
use crate::report::{Report, absolute, directory, file};
use crate::sys::Entry::{self, Int80, Native};
use crate::sys::{self, Result, call, low};

const MOUNT_32: i64 = 21;
const PTRACE_32: i64 = 26;
const UNSHARE_32: i64 = 310;
const SETNS_32: i64 = 346;
const MEMFD_CREATE_32: i64 = 356;
/// In place of a descriptor, or of any processor.
const NONE: i32 = -1;
const CWD: i32 = libc::AT_FDCWD;
const PTRACE_SEIZE: u32 = 0x4206;
const UFFD_USER_MODE_ONLY: u32 = 1;
const KEYCTL_GET_KEYRING_ID: i32 = 0;
const KEY_SPEC_PROCESS_KEYRING: i32 = -2;
const KEY_SPEC_SESSION_KEYRING: i32 = -3;
const FSCONFIG_CMD_CREATE: u32 = 6;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const OPEN_TREE_CLONE: u32 = 1;

pub(crate) const ROUTES: &[Route] = &[
    ("mount", |name| on_directory("mount", name, |path| mount(Native, path))),
    ("mount-int80", |name| on_directory("mount", name, |path| mount(Int80, path))),
    ("umount2", |name| {
        on_directory("umount2", name, |path| {
            mount(Native, path)?;
            call!(Native, libc::SYS_umount2, path, 0)
        })
    }),
    ("pivot-root", |name| {
        on_directory("pivot_root", name, |path| call!(Native, libc::SYS_pivot_root, path, path))
    }),
    ("chroot", |name| on_directory("chroot", name, |path| call!(Native, libc::SYS_chroot, path))),
    ("unshare-user", |_| plain("unshare", || call!(Native, libc::SYS_unshare, libc::CLONE_NEWUSER))),
    ("unshare-mount", |_| plain("unshare", || call!(Native, libc::SYS_unshare, libc::CLONE_NEWNS))),
    ("unshare-int80", |_| plain("unshare", || call!(Int80, UNSHARE_32, libc::CLONE_NEWUSER))),
    ("setns", |_| plain("setns", || call!(Native, libc::SYS_setns, open("/proc/self/ns/uts"), 0))),
    ("setns-int80", |_| plain("setns", || call!(Int80, SETNS_32, open("/proc/self/ns/uts"), 0))),
    ("clone-user", |_| {
        plain("clone", || {
            let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
            in_clone(call!(Native, libc::SYS_clone, flags, 0, 0, 0, 0))
        })
    }),
    ("clone3-user", |_| {
        plain("clone3", || {
            // `struct clone_args`: flags, three results, the signal at its end, and no stack of its own.
            let arguments = [libc::CLONE_NEWUSER as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
            in_clone(call!(Native, libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)))
        })
    }),
    ("ptrace", |_| on_child("ptrace", |pid| call!(Native, libc::SYS_ptrace, PTRACE_SEIZE, pid, 0, 0))),
    ("ptrace-int80", |_| on_child("ptrace", |pid| call!(Int80, PTRACE_32, PTRACE_SEIZE, pid, 0, 0))),
    ("process-vm-readv", |_| {
        let (here, there) = (vector(), vector());
        on_child("process_vm_readv", |pid| {
            call!(Native, libc::SYS_process_vm_readv, pid, here, 1, there, 1, 0)
        })
    }),
    ("process-vm-writev", |_| {
        let (here, there) = (vector(), vector());
        on_child("process_vm_writev", |pid| {
            call!(Native, libc::SYS_process_vm_writev, pid, here, 1, there, 1, 0)
        })
    }),
    ("bpf", |_| {
        plain("bpf", || {
            // BPF_MAP_CREATE: an array of one value.
            let map: [u32; 18] = std::array::from_fn(|n| [2, 4, 4, 1].get(n).copied().unwrap_or(0));
            call!(Native, libc::SYS_bpf, 0, &raw const map, size_of_val(&map))
        })
    }),
    ("userfaultfd", |_| plain("userfaultfd", || call!(Native, libc::SYS_userfaultfd, UFFD_USER_MODE_ONLY))),
    ("perf-event-open", |_| {
        plain("perf_event_open", || {
            // `struct perf_event_attr`: a counter of the software, the clock, for user mode.
            let mut attributes = [0_u32; 16];
            (attributes[0], attributes[1], attributes[10]) = (1, 64, 0b110_0000);
            call!(Native, libc::SYS_perf_event_open, &raw const attributes, 0, NONE, NONE, 0)
        })
    }),
    ("keyctl", |_| {
        plain("keyctl", || {
            call!(Native, libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0)
        })
    }),
    ("add-key", |name| {
        named("add_key", "user", |kind| {
            let (name, key) = (low::text(name), low::text("key"));
            call!(Native, libc::SYS_add_key, kind, name, key, 3, KEY_SPEC_PROCESS_KEYRING)
        })
    }),
    ("request-key", |name| {
        named("request_key", "user", |kind| call!(Native, libc::SYS_request_key, kind, low::text(name), 0, 0))
    }),
    ("init-module", |_| plain("init_module", || call!(Native, libc::SYS_init_module, 0, 0, low::text("")))),
    ("finit-module", |_| {
        plain("finit_module", || call!(Native, libc::SYS_finit_module, NONE, low::text(""), 0))
    }),
    ("delete-module", |_| {
        plain("delete_module", || {
            call!(Native, libc::SYS_delete_module, low::text("no-such-module"), libc::O_NONBLOCK)
        })
    }),
    ("kexec-load", |_| plain("kexec_load", || call!(Native, libc::SYS_kexec_load, 0, 0, 0, 0))),
    ("kexec-file-load", |_| {
        plain("kexec_file_load", || call!(Native, libc::SYS_kexec_file_load, NONE, NONE, 0, low::text(""), 0))
    }),
    ("open-by-handle-at", |name| {
        let path = file(name, b"content");
        let handle = low::place([128_u32; 40]);
        (handle[0], handle[1]) = (128, 0);
        let mount = low::place(0_i32);
        let path = low::text(&path);
        call!(Native, libc::SYS_name_to_handle_at, CWD, path, &raw mut *handle, &raw mut *mount, 0).unwrap();
        let here = open(".");
        plain("open_by_handle_at", || {
            call!(Native, libc::SYS_open_by_handle_at, here, &raw const *handle, libc::O_RDONLY)
        })
    }),
    ("memfd-create", |name| {
        named("memfd_create", name, |text| call!(Native, libc::SYS_memfd_create, text, 0))
    }),
    ("memfd-create-int80", |name| named("memfd_create", name, |text| call!(Int80, MEMFD_CREATE_32, text, 0))),
    ("pidfd-getfd", |_| {
        plain("pidfd_getfd", || {
            let me = call!(Native, libc::SYS_pidfd_open, std::process::id(), 0)?;
            call!(Native, libc::SYS_pidfd_getfd, me, 1, 0)
        })
    }),
    ("io-uring-setup", |_| {
        plain("io_uring_setup", || {
            let params = low::place([0_u32; 30]);
            call!(Native, libc::SYS_io_uring_setup, 1, &raw mut *params)
        })
    }),
    ("fsopen", |_| named("fsopen", "tmpfs", |text| call!(Native, libc::SYS_fsopen, text, 0))),
    ("fsmount", |_| plain("fsmount", new_mount)),
    ("move-mount", |name| {
        on_directory("move_mount", name, |path| {
            let empty = low::text("");
            call!(Native, libc::SYS_move_mount, new_mount()?, empty, CWD, path, MOVE_MOUNT_F_EMPTY_PATH)
        })
    }),
    ("open-tree", |name| {
        on_directory("open_tree", name, |path| call!(Native, libc::SYS_open_tree, CWD, path, OPEN_TREE_CLONE))
    }),
    ("mount-setattr", |name| {
        on_directory("mount_setattr", name, |path| {
            let nothing = [0_u64; 4];
            call!(Native, libc::SYS_mount_setattr, CWD, path, 0, &raw const nothing, size_of_val(&nothing))
        })
    }),
];

fn plain(syscall: &str, act: impl FnOnce() -> Result) -> Report {
    Report::of(act()).text("syscall", syscall)
}

/// On a directory, by its whole path.
fn on_directory(syscall: &str, name: &str, act: impl FnOnce(u64) -> Result) -> Report {
    let path = absolute(&directory(name));
    let text = low::text(path.to_str().unwrap());
    plain(syscall, || act(text)).text("path", path.display())
}

/// With a text that is no path, but is told as if it were.
fn named(syscall: &str, text: &str, act: impl FnOnce(u64) -> Result) -> Report {
    plain(syscall, || act(low::text(text))).text("path", text)
}

/// On another process.
fn on_child(syscall: &str, act: impl FnOnce(i32) -> Result) -> Report {
    let child = sys::fork(|| {
        loop {
            let _ = call!(Native, libc::SYS_pause);
        }
    });
    let report = plain(syscall, || act(child));
    call!(Native, libc::SYS_kill, child, libc::SIGKILL).unwrap();
    assert_eq!(sys::wait(child), 128 + libc::SIGKILL);
    report
}

/// What a call gave that returns twice; the second process ends at once.
fn in_clone(result: Result) -> Result {
    match result? {
        0 => {
            let _ = call!(Native, libc::SYS_exit_group, 0);
            unreachable!("it has ended")
        }
        child => {
            assert_eq!(sys::wait(child as i32), 0);
            Ok(child)
        }
    }
}

fn mount(entry: Entry, path: u64) -> Result {
    let number = if entry == Native { libc::SYS_mount } else { MOUNT_32 };
    let kind = low::text("tmpfs");
    call!(entry, number, kind, path, kind, 0, 0)
}

/// A mount that is nowhere yet.
fn new_mount() -> Result {
    let context = call!(Native, libc::SYS_fsopen, low::text("tmpfs"), 0)?;
    call!(Native, libc::SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0)?;
    call!(Native, libc::SYS_fsmount, context, 0, 0)
}

/// One word that is at the same address in this process and in its children.
fn vector() -> u64 {
    let word = low::place(7_u64);
    let vector = libc::iovec { iov_base: (&raw mut *word).cast(), iov_len: 8 };
    &raw const *low::place(vector) as u64
}

fn open(path: &str) -> i32 {
    File::open(path).unwrap().into_raw_fd()
}
