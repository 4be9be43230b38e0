//! A connection becomes a standard stream.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use crate::Route;
use crate::exec::{PROGRAM, execve, run};
use crate::net::{listener, name, tcp};
use crate::report::Report;
use crate::sys::Entry::{Int80, Native};
use crate::sys::{Result, call, low};

const DUP2_32: i64 = 63;
const FCNTL64_32: i64 = 221;

pub(crate) const ROUTES: &[Route] = &[
    ("dup", |_| {
        act(0, |socket| {
            close(0)?;
            call!(Native, libc::SYS_dup, socket)
        })
    }),
    ("dup2", |_| act(0, |socket| call!(Native, libc::SYS_dup2, socket, 0))),
    ("dup3", |_| act(2, |socket| call!(Native, libc::SYS_dup3, socket, 2, 0))),
    ("dup2-int80", |_| act(0, |socket| call!(Int80, DUP2_32, socket, 0))),
    ("fcntl-dupfd", |_| {
        act(0, |socket| {
            close(0)?;
            call!(Native, libc::SYS_fcntl, socket, libc::F_DUPFD, 0)
        })
    }),
    ("fcntl-dupfd-cloexec", |_| {
        act(0, |socket| {
            close(0)?;
            call!(Native, libc::SYS_fcntl, socket, libc::F_DUPFD_CLOEXEC, 0)
        })
    }),
    ("fcntl-dupfd-int80", |_| {
        act(0, |socket| {
            close(0)?;
            call!(Int80, FCNTL64_32, socket, libc::F_DUPFD, 0)
        })
    }),
    // No call puts it there: it is the lowest free number.
    ("stdin-connect", |_| {
        let (_listener, address) = listener();
        close(0).unwrap();
        let (socket, to) = (tcp(), name(address));
        assert_eq!(socket, 0, "another descriptor is free");
        Report::of(call!(Native, libc::SYS_connect, socket, to.at, to.len)).address(address).number("fd", 0)
    }),
    ("stdin-accept", |_| {
        let (listener, address) = listener();
        let peer = TcpStream::connect(address).unwrap();
        close(0).unwrap();
        let result = call!(Native, libc::SYS_accept, listener.as_raw_fd(), 0, 0);
        Report::of(result).address(peer.local_addr().unwrap()).number("fd", 0)
    }),
    // From another process; what runs next has it.
    ("stdin-pidfd-getfd", |name| {
        handed_over(name, |socket| {
            let me = call!(Native, libc::SYS_pidfd_open, std::process::id(), 0)?;
            close(0)?;
            call!(Native, libc::SYS_pidfd_getfd, me, socket, 0)
        })
    }),
    ("stdin-scm-rights", |name| handed_over(name, received)),
];

/// Closes a descriptor.
fn close(fd: i32) -> Result {
    call!(Native, libc::SYS_close, fd)
}

/// A connection: the descriptor, its other end, and what keeps it.
fn connection() -> (OwnedFd, SocketAddr, impl Sized) {
    let (listener, address) = listener();
    let stream = TcpStream::connect(address).unwrap();
    let keep = listener.accept().unwrap();
    (stream.into(), address, (listener, keep))
}

fn act(fd: u64, redirect: impl FnOnce(i32) -> Result) -> Report {
    let (socket, address, _keep) = connection();
    let result = redirect(socket.as_raw_fd());
    if let Ok(got) = result {
        assert_eq!(got, fd, "another descriptor is free");
    }
    Report::of(result).address(address).number("fd", fd)
}

/// A descriptor that comes to be standard input without a call that COI would know by its number; the program that
/// runs next shows it.
fn handed_over(name: &str, take: impl FnOnce(i32) -> Result) -> Report {
    let (socket, address, _keep) = connection();
    let report = run(|| {
        let got = take(socket.as_raw_fd())?;
        assert_eq!(got, 0, "another descriptor is free");
        // pidfd_getfd(2) gives descriptors that end with the program.
        call!(Native, libc::SYS_fcntl, 0, libc::F_SETFD, 0)?;
        execve(Native, PROGRAM, name)
    });
    report.text("path", PROGRAM).address(address).number("fd", 0)
}

/// Sends a descriptor to itself, and receives it as the lowest free one.
fn received(socket: i32) -> Result {
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let (near, far) = (near.into_raw_fd(), far.into_raw_fd());
    let data = low::bytes(b"x");
    let vector = low::place(libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: 1 });
    // `struct cmsghdr` with one descriptor, padded.
    let (len, level, kind) = (20_u64, libc::SOL_SOCKET, libc::SCM_RIGHTS);
    let control = low::place([len, level as u64 | (kind as u64) << 32, socket as u64]);
    let message = low::place(libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: vector,
        msg_iovlen: 1,
        msg_control: control.as_mut_ptr().cast(),
        msg_controllen: 24,
        msg_flags: 0,
    });
    call!(Native, libc::SYS_sendmsg, near, &raw const *message, 0)?;
    close(0)?;
    call!(Native, libc::SYS_recvmsg, far, &raw mut *message, 0)?;
    Ok(control[2] & 0xffff_ffff)
}
