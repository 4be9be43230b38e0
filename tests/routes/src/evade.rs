//! The act is a plain one; everything around it is there to hide it.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use crate::Route;
use crate::exec::{PROGRAM, execve, execve_with, myself, run};
use crate::net::{listener, name, raw, tcp, udp};
use crate::report::{Report, absolute, file};
use crate::sys::Entry::Native;
use crate::sys::{self, Errno, Result, call, low};

/// What kernel threads are called.
const KERNEL_THREAD: &str = "[kworker/0:1]";

pub(crate) const ROUTES: &[Route] = &[
    // The payload lies behind more padding than anybody keeps.
    ("evade-long-arguments", |name| {
        let padding = "x".repeat(64 << 10);
        run(|| execve_with(Native, PROGRAM, &["true", &padding, name])).text("path", PROGRAM)
    }),
    // argv[0] and the thread's name say something else than the file.
    ("evade-name", |name| {
        if env::args().next().as_deref() != Some(KERNEL_THREAD) {
            let Err(Errno(errno)) = execve_with(Native, &myself(), &[KERNEL_THREAD, name]) else {
                unreachable!()
            };
            panic!("this program cannot be run again: {errno}");
        }
        call!(Native, libc::SYS_prctl, libc::PR_SET_NAME, low::text(KERNEL_THREAD)).unwrap();
        connect().text("executable", myself())
    }),
    // A file of another name with the same content.
    ("evade-renamed", |name| {
        let copy = absolute("git");
        if !myself().ends_with("/git") {
            fs::copy(myself(), &copy).unwrap();
            let result = execve_with(Native, copy.to_str().unwrap(), &["git", name]);
            panic!("the copy cannot be run: {result:?}");
        }
        connect().text("executable", myself())
    }),
    ("evade-namespaces", |name| {
        hidden(name, || {
            let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID;
            call!(Native, libc::SYS_unshare, flags)
        })
    }),
    ("evade-cgroup", |name| {
        let cgroup = own_cgroup().map(|own| format!("{own}/{name}"));
        let report = hidden(name, || {
            let cgroup = cgroup.as_ref().ok_or(Errno(libc::ENOENT))?;
            fs::create_dir_all(cgroup).map_err(|error| sys::errno(&error))?;
            fs::write(format!("{cgroup}/cgroup.procs"), "0").map_err(|error| sys::errno(&error))?;
            Ok(0)
        });
        report.text("cgroup", cgroup.unwrap_or_default())
    }),
    // Its parent is gone, its session is another.
    ("evade-orphan", |name| hidden(name, || call!(Native, libc::SYS_setsid))),
    ("evade-flood-opens", |name| {
        let path = file(name, b"");
        let path = low::text(path);
        flood(20_000, |_| {
            let fd = call!(Native, libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY, 0)?;
            call!(Native, libc::SYS_close, fd)
        })
    }),
    ("evade-flood-forks", |_| {
        flood(3_000, |_| {
            sys::wait(sys::fork(|| 0));
            Ok(0)
        })
    }),
    ("evade-flood-execs", |name| flood(500, |_| sys::in_child(|| execve(Native, PROGRAM, name)).0)),
    ("evade-flood-sends", |_| {
        let (socket, data) = (udp(), low::bytes(b"x"));
        flood(20_000, |n| {
            let to = raw(SocketAddr::from((Ipv4Addr::new(127, 2, (n >> 8) as u8, n as u8), 9)));
            call!(Native, libc::SYS_sendto, socket, data.as_ptr(), 1, 0, to.as_ptr(), to.len())
        })
    }),
];

fn connect() -> Report {
    let (_listener, address): (_, SocketAddr) = listener();
    let to = name(address);
    Report::of(call!(Native, libc::SYS_connect, tcp(), to.at, to.len)).address(address)
}

/// Does something many times, and then connects.
fn flood(times: u32, mut act: impl FnMut(u32) -> Result) -> Report {
    for n in 0..times {
        act(n).unwrap();
    }
    connect().text("executable", myself())
}

/// Runs the usual program in a grandchild whose parent has hidden itself and does not wait for it.
fn hidden(name: &str, hide: impl FnOnce() -> Result) -> Report {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let fd = writer.as_raw_fd();
    let child = sys::fork(|| {
        // What the grandchild holds to its end.
        call!(Native, libc::SYS_fcntl, fd, libc::F_SETFD, 0).unwrap();
        if let Err(Errno(errno)) = hide() {
            return errno;
        }
        sys::fork(|| {
            let _ = execve(Native, PROGRAM, name);
            127
        });
        0
    });
    drop(writer);
    let code = sys::wait(child);
    // Ends when nobody holds the other end any more.
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    let result = if code == 0 { Ok(0) } else { Err(Errno(code)) };
    Report::of(result).pid(0).text("path", PROGRAM)
}

/// The directory of this process's cgroup, if the unified hierarchy can be reached.
fn own_cgroup() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let root = mounts.lines().find_map(|mount| {
        let mut fields = mount.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| place.to_owned())
    })?;
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(format!("{root}{}", own.trim_end_matches('/')))
}
