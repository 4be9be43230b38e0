//! Others are waited for: bind, listen, accept.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use crate::Route;
use crate::connect::SOCKETCALL_32;
use crate::net::{IPPROTO_MPTCP, Name, bound_to, listener, name, socket, tcp, tcp_v6, udp};
use crate::report::Report;
use crate::sys::Entry::{Int80, Native};
use crate::sys::{Result, call, low};
use crate::uring::{self, Request, opcode};

const BIND_32: i64 = 361;
const LISTEN_32: i64 = 363;
const ACCEPT4_32: i64 = 364;
const SOCKETCALL_ACCEPT: u64 = 5;
const BACKLOG: u32 = 8;

pub(crate) const ROUTES: &[Route] = &[
    ("bind", |_| bind(tcp(), |socket, name| call!(Native, libc::SYS_bind, socket, name.at, name.len))),
    ("bind-udp", |_| bind(udp(), |socket, name| call!(Native, libc::SYS_bind, socket, name.at, name.len))),
    ("bind-ipv6", |_| {
        let (socket, anywhere) = (tcp_v6(), name(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))));
        let result = call!(Native, libc::SYS_bind, socket, anywhere.at, anywhere.len);
        Report::of(result).address(bound_to(socket))
    }),
    ("bind-int80", |_| bind(tcp(), |socket, name| call!(Int80, BIND_32, socket, name.at, name.len))),
    ("bind-io-uring", |_| {
        bind(tcp(), |socket, name| {
            let (address, offset) = (name.at, name.len.into());
            uring::once(Request { opcode: opcode::BIND, fd: socket, address, offset, ..Request::default() })
        })
    }),
    ("listen", |_| listen(true, |socket| call!(Native, libc::SYS_listen, socket, BACKLOG))),
    // The kernel chooses the port.
    ("listen-unbound", |_| listen(false, |socket| call!(Native, libc::SYS_listen, socket, BACKLOG))),
    ("listen-int80", |_| listen(true, |socket| call!(Int80, LISTEN_32, socket, BACKLOG))),
    ("listen-io-uring", |_| {
        listen(true, |socket| {
            uring::once(Request { opcode: opcode::LISTEN, fd: socket, len: BACKLOG, ..Request::default() })
        })
    }),
    ("accept", |_| accept(|socket| call!(Native, libc::SYS_accept, socket, 0, 0))),
    ("accept4", |_| accept(|socket| call!(Native, libc::SYS_accept4, socket, 0, 0, 0))),
    ("accept-mptcp", |_| {
        let (listener, anywhere) = (mptcp(), name(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
        call!(Native, libc::SYS_bind, listener, anywhere.at, anywhere.len).unwrap();
        call!(Native, libc::SYS_listen, listener, BACKLOG).unwrap();
        let (peer, to) = (mptcp(), name(bound_to(listener)));
        call!(Native, libc::SYS_connect, peer, to.at, to.len).unwrap();
        Report::of(call!(Native, libc::SYS_accept, listener, 0, 0)).address(bound_to(peer))
    }),
    ("accept-int80", |_| accept(|socket| call!(Int80, ACCEPT4_32, socket, 0, 0, 0))),
    ("accept-int80-socketcall", |_| {
        accept(|socket| {
            let arguments = low::place([socket as u32, 0, 0]);
            call!(Int80, SOCKETCALL_32, SOCKETCALL_ACCEPT, &raw const *arguments)
        })
    }),
    ("accept-io-uring", |_| {
        accept(|socket| uring::once(Request { opcode: opcode::ACCEPT, fd: socket, ..Request::default() }))
    }),
];

fn mptcp() -> i32 {
    socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP)
}

fn bind(socket: i32, act: impl FnOnce(i32, &Name) -> Result) -> Report {
    let anywhere = name(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let result = act(socket, &anywhere);
    Report::of(result).address(bound_to(socket))
}

fn listen(bound: bool, act: impl FnOnce(i32) -> Result) -> Report {
    let socket = tcp();
    if bound {
        let anywhere = name(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        call!(Native, libc::SYS_bind, socket, anywhere.at, anywhere.len).unwrap();
    }
    let result = act(socket);
    Report::of(result).address(bound_to(socket))
}

/// The peer, whom the kernel lets in before anybody accepts, is this process as well.
fn accept(act: impl FnOnce(i32) -> Result) -> Report {
    let (listener, address): (TcpListener, _) = listener();
    let peer = TcpStream::connect(address).unwrap();
    Report::of(act(listener.as_raw_fd())).address(peer.local_addr().unwrap())
}
