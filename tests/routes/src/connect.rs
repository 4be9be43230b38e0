//! A TCP connection is begun.

use std::net::SocketAddr;

use crate::Route;
use crate::net::{IPPROTO_MPTCP, Name, listener, listener_v6, mapped, name, tcp, tcp_v6};
use crate::report::Report;
use crate::sys::Entry::{Int80, Native};
use crate::sys::{Result, call, low};
use crate::uring::{self, Request, opcode};

const CONNECT_32: i64 = 362;
pub(crate) const SOCKETCALL_32: i64 = 102;
const SOCKETCALL_CONNECT: u64 = 3;
const TCP_FASTOPEN_CONNECT: i32 = 30;

pub(crate) const ROUTES: &[Route] = &[
    ("connect", |_| to_listener(|name| native(tcp(), name))),
    ("connect-ipv6", |_| {
        let (_listener, address) = listener_v6();
        act(address, |name| native(tcp_v6(), name))
    }),
    // A socket of IPv6 that speaks IPv4.
    ("connect-mapped", |_| {
        let (_listener, address) = listener();
        Report::of(native(tcp_v6(), &name(mapped(address)))).address(address)
    }),
    ("connect-mptcp", |_| {
        to_listener(|name| {
            let socket =
                call!(Native, libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP)? as i32;
            native(socket, name)
        })
    }),
    ("connect-int80", |_| to_listener(|name| call!(Int80, CONNECT_32, tcp(), name.at, name.len))),
    ("connect-int80-socketcall", |_| {
        to_listener(|name| {
            let arguments: &mut [u32; 3] = low::place([tcp() as u32, name.at as u32, name.len]);
            call!(Int80, SOCKETCALL_32, SOCKETCALL_CONNECT, &raw const *arguments)
        })
    }),
    ("connect-io-uring", |_| to_listener(|name| uring::once(request(name)))),
    ("connect-io-uring-async", |_| {
        to_listener(|name| uring::once(Request { flags: uring::IOSQE_ASYNC, ..request(name) }))
    }),
    ("connect-io-uring-sqpoll", |_| {
        to_listener(|name| uring::once_with(uring::IORING_SETUP_SQPOLL, request(name)))
    }),
    ("connect-fastopen", |_| {
        to_listener(|name| {
            let data = low::bytes(b"data");
            call!(
                Native,
                libc::SYS_sendto,
                tcp(),
                data.as_ptr(),
                data.len(),
                libc::MSG_FASTOPEN,
                name.at,
                name.len
            )
        })
    }),
    // connect(2) sends nothing here; the first write does.
    ("connect-deferred", |_| {
        to_listener(|name| {
            let (socket, on) = (tcp(), low::place(1_i32));
            let value = &raw const *on;
            call!(Native, libc::SYS_setsockopt, socket, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, value, 4)?;
            native(socket, name)?;
            let data = low::bytes(b"data");
            call!(Native, libc::SYS_write, socket, data.as_ptr(), data.len())
        })
    }),
];

fn native(socket: i32, name: &Name) -> Result {
    call!(Native, libc::SYS_connect, socket, name.at, name.len)
}

fn request(name: &Name) -> Request {
    Request {
        opcode: opcode::CONNECT,
        fd: tcp(),
        address: name.at,
        offset: name.len.into(),
        ..Request::default()
    }
}

fn to_listener(connect: impl FnOnce(&Name) -> Result) -> Report {
    let (_listener, address) = listener();
    act(address, connect)
}

fn act(address: SocketAddr, connect: impl FnOnce(&Name) -> Result) -> Report {
    Report::of(connect(&name(address))).address(address)
}
