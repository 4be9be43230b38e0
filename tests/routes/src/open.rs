//! A file is opened.

use std::env;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt as _, symlink};

use crate::Route;
use crate::exec::by_descriptor;
use crate::report::{Report, directory, file};
use crate::sys::Entry::{self, Int80, Native};
use crate::sys::{Errno, Result, call, low};
use crate::uring::{self, Request, opcode};

/// Nobody's user id.
const NOBODY: u32 = 65534;
const OPEN_32: i64 = 5;
const CREAT_32: i64 = 8;
const OPENAT_32: i64 = 295;
const OPENAT2_32: i64 = 437;

pub(crate) const ROUTES: &[Route] = &[
    ("open", |name| act(name, |path| call!(Native, libc::SYS_open, low::text(path), libc::O_RDONLY))),
    ("creat", |name| create(name, |path| call!(Native, libc::SYS_creat, low::text(path), 0o600))),
    ("openat", |name| act(name, |path| openat(Native, libc::AT_FDCWD, path))),
    ("openat-absolute", |name| {
        let cwd = env::current_dir().unwrap();
        act(name, |path| openat(Native, libc::AT_FDCWD, cwd.join(path).to_str().unwrap()))
    }),
    ("openat-dirfd", |name| {
        let directory = directory(name);
        let inside = format!("{directory}/file");
        fs::rename(file(name, b""), &inside).unwrap();
        let directory = File::open(&directory).unwrap();
        Report::of(openat(Native, directory.as_raw_fd(), "file")).path(&inside)
    }),
    ("openat-dot-dot", |name| {
        let directory = directory(name);
        act(name, |path| openat(Native, libc::AT_FDCWD, &format!("{directory}/../{path}")))
    }),
    ("openat-symlink", |name| {
        let link = format!("to-{name}");
        act(name, |path| {
            let _ = fs::remove_file(&link);
            symlink(path, &link).unwrap();
            openat(Native, libc::AT_FDCWD, &link)
        })
    }),
    ("openat-proc-root", |name| {
        let cwd = env::current_dir().unwrap();
        let cwd = cwd.display();
        act(name, |path| openat(Native, libc::AT_FDCWD, &format!("/proc/self/root{cwd}/{path}")))
    }),
    ("openat-proc-cwd", |name| {
        act(name, |path| openat(Native, libc::AT_FDCWD, &format!("/proc/self/cwd/{path}")))
    }),
    // First only as a place, which is no access; then what is at that place.
    ("openat-proc-fd", |name| {
        act(name, |path| {
            let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
            openat(Native, libc::AT_FDCWD, &by_descriptor(&place))
        })
    }),
    ("openat2", |name| act(name, |path| openat2(Native, path))),
    ("openat-refused", |name| refused(name, |path| openat(Native, libc::AT_FDCWD, path))),
    ("openat-refused-int80", |name| refused(name, |path| openat(Int80, libc::AT_FDCWD, path))),
    ("open-int80", |name| act(name, |path| call!(Int80, OPEN_32, low::text(path), libc::O_RDONLY))),
    ("creat-int80", |name| create(name, |path| call!(Int80, CREAT_32, low::text(path), 0o600))),
    ("openat-int80", |name| act(name, |path| openat(Int80, libc::AT_FDCWD, path))),
    ("openat2-int80", |name| act(name, |path| openat2(Int80, path))),
    ("open-io-uring", |name| act(name, |path| uring::once(request(path)))),
    ("open-io-uring-async", |name| {
        act(name, |path| uring::once(Request { flags: uring::IOSQE_ASYNC, ..request(path) }))
    }),
    ("open-io-uring-sqpoll", |name| {
        act(name, |path| uring::once_with(uring::IORING_SETUP_SQPOLL, request(path)))
    }),
    ("openat2-io-uring", |name| {
        act(name, |path| {
            uring::once(Request {
                opcode: opcode::OPENAT2,
                fd: libc::AT_FDCWD,
                address: low::text(path),
                len: size_of::<How>() as u32,
                offset: &raw const *low::place(How::default()) as u64,
                ..Request::default()
            })
        })
    }),
];

/// `struct open_how`: all zero opens for reading.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn act(name: &str, open: impl FnOnce(&str) -> Result) -> Report {
    let path = file(name, b"content");
    Report::of(open(&path)).path(&path)
}

/// A file that its owner has closed to others, of whom this process becomes one.
fn refused(name: &str, open: impl FnOnce(&str) -> Result) -> Report {
    let path = file(name, b"content");
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    call!(Native, libc::SYS_setuid, NOBODY).unwrap();
    let result = open(&path);
    let refused = result == Err(Errno(libc::EACCES));
    Report::of(result).path(&path).text("refused", refused)
}

fn create(name: &str, create: impl FnOnce(&str) -> Result) -> Report {
    let path = format!("at-{name}");
    let _ = fs::remove_file(&path);
    Report::of(create(&path)).path(&path)
}

pub(crate) fn openat(entry: Entry, directory: i32, path: &str) -> Result {
    let number = if entry == Native { libc::SYS_openat } else { OPENAT_32 };
    call!(entry, number, directory, low::text(path), libc::O_RDONLY, 0)
}

fn openat2(entry: Entry, path: &str) -> Result {
    let number = if entry == Native { libc::SYS_openat2 } else { OPENAT2_32 };
    let how = &raw const *low::place(How::default());
    call!(entry, number, libc::AT_FDCWD, low::text(path), how, size_of::<How>())
}

fn request(path: &str) -> Request {
    Request { opcode: opcode::OPENAT, fd: libc::AT_FDCWD, address: low::text(path), ..Request::default() }
}
