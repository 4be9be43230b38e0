//! A file or directory is changed from outside: its name, its links, its mode, its owner, its length.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;

use crate::Route;
use crate::report::{Report, absolute, directory, file};
use crate::sys::Entry::{Int80, Native};
use crate::sys::{Result, call, low};
use crate::uring::{self, Request, opcode};

const LINK_32: i64 = 9;
const UNLINK_32: i64 = 10;
const CHMOD_32: i64 = 15;
const RENAME_32: i64 = 38;
const SYMLINK_32: i64 = 83;
const CWD: i32 = libc::AT_FDCWD;

pub(crate) const ROUTES: &[Route] = &[
    ("rename", |name| moved("rename", name, |from, to| call!(Native, libc::SYS_rename, from, to))),
    ("renameat", |name| {
        moved("rename", name, |from, to| call!(Native, libc::SYS_renameat, CWD, from, CWD, to))
    }),
    ("renameat2", |name| {
        moved("rename", name, |from, to| call!(Native, libc::SYS_renameat2, CWD, from, CWD, to, 0))
    }),
    ("renameat-dirfd", |name| {
        let (from, to) = (file(name, b""), directory(name));
        let result = {
            let to = File::open(&to).unwrap();
            call!(Native, libc::SYS_renameat, CWD, low::text(&from), to.as_raw_fd(), low::text("new"))
        };
        done("rename", result).path(&format!("{to}/new")).text("source", absolute(&from).display())
    }),
    ("rename-int80", |name| moved("rename", name, |from, to| call!(Int80, RENAME_32, from, to))),
    ("rename-io-uring", |name| {
        moved("rename", name, |from, to| uring::once(two(opcode::RENAMEAT, from, to)))
    }),
    ("link", |name| moved("link", name, |from, to| call!(Native, libc::SYS_link, from, to))),
    ("linkat", |name| moved("link", name, |from, to| call!(Native, libc::SYS_linkat, CWD, from, CWD, to, 0))),
    ("link-int80", |name| moved("link", name, |from, to| call!(Int80, LINK_32, from, to))),
    ("link-io-uring", |name| moved("link", name, |from, to| uring::once(two(opcode::LINKAT, from, to)))),
    ("symlink", |name| symlinked(name, |text, link| call!(Native, libc::SYS_symlink, text, link))),
    ("symlinkat", |name| symlinked(name, |text, link| call!(Native, libc::SYS_symlinkat, text, CWD, link))),
    ("symlink-int80", |name| symlinked(name, |text, link| call!(Int80, SYMLINK_32, text, link))),
    ("symlink-io-uring", |name| {
        symlinked(name, |text, link| {
            let (fd, address, offset) = (CWD, text, link);
            uring::once(Request { opcode: opcode::SYMLINKAT, fd, address, offset, ..Request::default() })
        })
    }),
    ("unlink", |name| on_file("unlink", name, |path| call!(Native, libc::SYS_unlink, path))),
    ("unlinkat", |name| on_file("unlink", name, |path| call!(Native, libc::SYS_unlinkat, CWD, path, 0))),
    ("unlink-int80", |name| on_file("unlink", name, |path| call!(Int80, UNLINK_32, path))),
    ("unlink-io-uring", |name| on_file("unlink", name, |path| uring::once(one(opcode::UNLINKAT, path)))),
    ("rmdir", |name| on_directory(name, |path| call!(Native, libc::SYS_rmdir, path))),
    ("unlinkat-directory", |name| {
        on_directory(name, |path| call!(Native, libc::SYS_unlinkat, CWD, path, libc::AT_REMOVEDIR))
    }),
    ("mkdir", |name| on_nothing(name, |path| call!(Native, libc::SYS_mkdir, path, 0o755))),
    ("mkdirat", |name| on_nothing(name, |path| call!(Native, libc::SYS_mkdirat, CWD, path, 0o755))),
    ("mkdir-io-uring", |name| on_nothing(name, |path| uring::once(one(opcode::MKDIRAT, path)))),
    ("chmod", |name| on_file("chmod", name, |path| call!(Native, libc::SYS_chmod, path, 0o700))),
    ("fchmod", |name| on_open("chmod", name, |file| call!(Native, libc::SYS_fchmod, file, 0o700))),
    ("fchmodat", |name| on_file("chmod", name, |path| call!(Native, libc::SYS_fchmodat, CWD, path, 0o700))),
    ("fchmodat2", |name| {
        on_file("chmod", name, |path| call!(Native, libc::SYS_fchmodat2, CWD, path, 0o700, 0))
    }),
    ("chmod-int80", |name| on_file("chmod", name, |path| call!(Int80, CHMOD_32, path, 0o700))),
    ("chown", |name| on_file("chown", name, |path| call!(Native, libc::SYS_chown, path, OWNER, OWNER))),
    ("lchown", |name| on_file("chown", name, |path| call!(Native, libc::SYS_lchown, path, OWNER, OWNER))),
    ("fchown", |name| on_open("chown", name, |file| call!(Native, libc::SYS_fchown, file, OWNER, OWNER))),
    ("fchownat", |name| {
        on_file("chown", name, |path| call!(Native, libc::SYS_fchownat, CWD, path, OWNER, OWNER, 0))
    }),
    ("truncate", |name| on_file("truncate", name, |path| call!(Native, libc::SYS_truncate, path, 0))),
    ("ftruncate", |name| on_open("truncate", name, |file| call!(Native, libc::SYS_ftruncate, file, 0))),
];

/// The images' user.
const OWNER: u32 = 1000;

/// What came of it, and what kind of change it is.
fn done(change: &str, result: Result) -> Report {
    Report::of(result).text("change", change)
}

fn moved(change: &str, name: &str, act: impl FnOnce(u64, u64) -> Result) -> Report {
    let (from, to) = (file(name, b"content"), format!("moved-{name}"));
    let _ = fs::remove_file(&to);
    let result = act(low::text(&from), low::text(&to));
    done(change, result).path(&to).text("source", absolute(&from).display())
}

fn symlinked(name: &str, act: impl FnOnce(u64, u64) -> Result) -> Report {
    let (text, link) = (format!("text-of-{name}"), format!("at-{name}"));
    let _ = fs::remove_file(&link);
    let result = act(low::text(&text), low::text(&link));
    done("symlink", result).path(&link).text("source", text)
}

fn on_file(change: &str, name: &str, act: impl FnOnce(u64) -> Result) -> Report {
    let path = file(name, b"content");
    done(change, act(low::text(&path))).path(&path)
}

fn on_open(change: &str, name: &str, act: impl FnOnce(i32) -> Result) -> Report {
    let path = file(name, b"content");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    done(change, act(file.as_raw_fd())).path(&path)
}

fn on_directory(name: &str, act: impl FnOnce(u64) -> Result) -> Report {
    let path = directory(name);
    done("rmdir", act(low::text(&path))).path(&path)
}

fn on_nothing(name: &str, act: impl FnOnce(u64) -> Result) -> Report {
    let path = format!("at-{name}");
    let _ = fs::remove_dir(&path);
    done("mkdir", act(low::text(&path))).path(&path)
}

/// A request about one path.
fn one(opcode: u8, path: u64) -> Request {
    Request { opcode, fd: CWD, address: path, ..Request::default() }
}

/// A request about two.
fn two(opcode: u8, from: u64, to: u64) -> Request {
    Request { opcode, fd: CWD, address: from, len: CWD as u32, offset: to, ..Request::default() }
}
