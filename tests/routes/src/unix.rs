//! A connection to another process by a path: the way to a service of the host that was mounted in.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use crate::Route;
use crate::net::{Name, socket};
use crate::report::{Report, absolute};
use crate::sys::Entry::{Int80, Native};
use crate::sys::{Result, call, low};
use crate::udp::{SENDMSG_32, message_32_of, message_of};
use crate::uring::{self, Request, opcode};

const CONNECT_32: i64 = 362;

pub(crate) const ROUTES: &[Route] = &[
    ("unix-stream", |name| stream(name, |to| call!(Native, libc::SYS_connect, new_stream(), to.at, to.len))),
    ("unix-stream-relative", |route| {
        let path = path(route);
        let _listener = UnixListener::bind(&path).unwrap();
        let to = name(&path);
        let result = call!(Native, libc::SYS_connect, new_stream(), to.at, to.len);
        Report::of(result).path(&path).text("passed", path)
    }),
    ("unix-stream-abstract", |route| {
        let address = SocketAddr::from_abstract_name(route).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let to = name(&format!("\0{route}"));
        let result = call!(Native, libc::SYS_connect, new_stream(), to.at, to.len);
        Report::of(result).text("path", format_args!("@{route}"))
    }),
    ("unix-stream-int80", |name| stream(name, |to| call!(Int80, CONNECT_32, new_stream(), to.at, to.len))),
    ("unix-stream-io-uring", |name| {
        stream(name, |to| {
            let (address, offset) = (to.at, to.len.into());
            uring::once(Request {
                opcode: opcode::CONNECT,
                fd: new_stream(),
                address,
                offset,
                ..Request::default()
            })
        })
    }),
    ("unix-datagram", |name| {
        datagram(name, |to| call!(Native, libc::SYS_connect, new_datagram(), to.at, to.len))
    }),
    ("unix-datagram-sendto", |name| {
        datagram(name, |to| {
            let data = low::bytes(b"datagram");
            call!(Native, libc::SYS_sendto, new_datagram(), data.as_ptr(), data.len(), 0, to.at, to.len)
        })
    }),
    ("unix-datagram-sendto-abstract", |route| {
        let address = SocketAddr::from_abstract_name(route).unwrap();
        let _receiver = UnixDatagram::bind_addr(&address).unwrap();
        let (to, data) = (name(&format!("\0{route}")), low::bytes(b"datagram"));
        let socket = new_datagram();
        let result = call!(Native, libc::SYS_sendto, socket, data.as_ptr(), data.len(), 0, to.at, to.len);
        Report::of(result).text("path", format_args!("@{route}"))
    }),
    ("unix-datagram-sendmsg", |name| {
        datagram(name, |to| {
            let message = message_of(to, b"datagram");
            call!(Native, libc::SYS_sendmsg, new_datagram(), &raw const message, 0)
        })
    }),
    ("unix-datagram-sendmsg-int80", |name| {
        datagram(name, |to| {
            let message = low::place(message_32_of(to, b"datagram"));
            call!(Int80, SENDMSG_32, new_datagram(), &raw const *message, 0)
        })
    }),
    ("unix-datagram-sendmsg-io-uring", |name| {
        datagram(name, |to| {
            let message = low::place(message_of(to, b"datagram"));
            let (address, fd) = (&raw const *message as u64, new_datagram());
            uring::once(Request { opcode: opcode::SENDMSG, fd, address, len: 1, ..Request::default() })
        })
    }),
    ("unix-datagram-sendmmsg", |name| {
        datagram(name, |to| {
            let messages = [libc::mmsghdr { msg_hdr: message_of(to, b"datagram"), msg_len: 0 }];
            call!(Native, libc::SYS_sendmmsg, new_datagram(), &raw const messages, 1, 0)
        })
    }),
];

fn new_stream() -> i32 {
    socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)
}

fn new_datagram() -> i32 {
    socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)
}

fn path(route: &str) -> String {
    let path = format!("at-{route}");
    let _ = fs::remove_file(&path);
    path
}

fn stream(route: &str, connect: impl FnOnce(&Name) -> Result) -> Report {
    let path = path(route);
    let _listener = UnixListener::bind(&path).unwrap();
    Report::of(connect(&absolute_name(&path))).path(&path)
}

fn datagram(route: &str, send: impl FnOnce(&Name) -> Result) -> Report {
    let path = path(route);
    let _receiver = UnixDatagram::bind(&path).unwrap();
    Report::of(send(&absolute_name(&path))).path(&path)
}

fn absolute_name(path: &str) -> Name {
    name(absolute(path).to_str().unwrap())
}

/// `struct sockaddr_un`.
fn name(path: &str) -> Name {
    let family = (libc::AF_UNIX as u16).to_ne_bytes();
    let bytes = low::bytes(&[&family, path.as_bytes()].concat());
    Name { at: bytes.as_ptr() as u64, len: bytes.len() as u32 }
}
