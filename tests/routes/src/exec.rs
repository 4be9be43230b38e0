//! Another program is run.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::Route;
use crate::report::Report;
use crate::sys::Entry::{self, Int80, Native};
use crate::sys::{self, Result, call, low};

/// What is run, unless the route is about the file: as `true`, with the route's name behind it.
pub(crate) const PROGRAM: &str = "/bin/busybox";

/// A user without any privilege.
const NOBODY: u32 = 65534;

const EXECVE_32: i64 = 11;
const EXECVEAT_32: i64 = 358;

pub(crate) const ROUTES: &[Route] = &[
    ("exec", |name| plain(|| execve(Native, PROGRAM, name))),
    ("exec-execveat", |name| plain(|| execveat(Native, libc::AT_FDCWD, PROGRAM, name, 0))),
    ("exec-execveat-dirfd", |name| {
        let directory = File::open("/bin").unwrap();
        plain(|| execveat(Native, directory.as_raw_fd(), "busybox", name, 0))
    }),
    ("exec-proc-fd", |name| {
        let program = File::open(PROGRAM).unwrap();
        plain(|| execve(Native, &by_descriptor(&program), name))
    }),
    ("exec-memfd", |name| {
        memfd(name, |file| execveat(Native, file.as_raw_fd(), "", name, libc::AT_EMPTY_PATH))
    }),
    ("exec-memfd-proc-fd", |name| memfd(name, |file| execve(Native, &by_descriptor(file), name))),
    ("exec-int80", |name| plain(|| execve(Int80, PROGRAM, name))),
    ("exec-execveat-int80", |name| plain(|| execveat(Int80, libc::AT_FDCWD, PROGRAM, name, 0))),
    ("exec-thread", |name| plain(|| sys::in_thread(|| execve(Native, PROGRAM, name)))),
    ("exec-relative", |name| {
        let copy = copy(name);
        let report = run(|| execve(Native, &copy, name));
        report.path(&copy)
    }),
    ("exec-symlink", |name| {
        let link = format!("at-{name}");
        let _ = fs::remove_file(&link);
        symlink(PROGRAM, &link).unwrap();
        plain(|| execve(Native, &link, name))
    }),
    ("exec-script", |name| {
        let script = format!("at-{name}");
        fs::write(&script, format!("#!{PROGRAM} true\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        plain(|| execve(Native, &script, name))
    }),
    // A program that makes whoever runs it root.
    ("exec-setuid", |name| {
        let copy = copy(name);
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
        let report = run(|| {
            call!(Native, libc::SYS_setresuid, NOBODY, NOBODY, NOBODY)?;
            execve(Native, &copy, name)
        });
        report.path(&copy)
    }),
    ("exec-deleted", |name| {
        let copy = copy(name);
        let file = File::open(&copy).unwrap();
        fs::remove_file(&copy).unwrap();
        let report = run(|| execveat(Native, file.as_raw_fd(), "", name, libc::AT_EMPTY_PATH));
        report.path(&copy)
    }),
];

/// Runs the usual program in a process of its own.
fn plain(act: impl FnOnce() -> Result) -> Report {
    run(act).text("path", PROGRAM)
}

/// Runs something in a process of its own.
pub(crate) fn run(act: impl FnOnce() -> Result) -> Report {
    let (result, child) = sys::in_child(act);
    Report::of(result).pid(child)
}

/// Runs what lies in memory only.
fn memfd(name: &str, act: impl FnOnce(&File) -> Result) -> Report {
    let label = low::text(name);
    let fd = call!(Native, libc::SYS_memfd_create, label, 0).unwrap() as i32;
    // SAFETY: it was just made, for us alone.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&fs::read(PROGRAM).unwrap()).unwrap();
    // What is open for writing cannot be run.
    let readable = File::open(by_descriptor(&file)).unwrap();
    drop(file);
    run(|| act(&readable)).text("path", format_args!("/memfd:{name}"))
}

/// A copy of the usual program in the working directory.
pub(crate) fn copy(name: &str) -> String {
    let copy = format!("at-{name}");
    let _ = fs::remove_file(&copy);
    fs::copy(PROGRAM, &copy).unwrap();
    copy
}

/// The path that leads to an open file.
pub(crate) fn by_descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// The addresses of texts, as this entry takes them.
fn vector(entry: Entry, texts: &[&str]) -> u64 {
    let addresses = texts.iter().map(low::text).chain([0]);
    let bytes: Vec<u8> = match entry {
        Native => addresses.flat_map(u64::to_ne_bytes).collect(),
        Int80 => addresses.flat_map(|address| (address as u32).to_ne_bytes()).collect(),
    };
    low::bytes(&bytes).as_ptr() as u64
}

/// execve(2) of busybox's `true`, wherever the path leads, with the route's name as argument.
pub(crate) fn execve(entry: Entry, path: &str, name: &str) -> Result {
    execve_with(entry, path, &["true", name])
}

/// execve(2).
pub(crate) fn execve_with(entry: Entry, path: &str, arguments: &[&str]) -> Result {
    let number = if entry == Native { libc::SYS_execve } else { EXECVE_32 };
    call!(entry, number, low::text(path), vector(entry, arguments), vector(entry, &[]))
}

fn execveat(entry: Entry, directory: i32, path: &str, name: &str, flags: i32) -> Result {
    let number = if entry == Native { libc::SYS_execveat } else { EXECVEAT_32 };
    let arguments = vector(entry, &["true", name]);
    call!(entry, number, directory, low::text(path), arguments, vector(entry, &[]), flags)
}

/// This program, without opening it under its name.
pub(crate) fn myself() -> String {
    env::current_exe().unwrap().to_str().unwrap().to_owned()
}
