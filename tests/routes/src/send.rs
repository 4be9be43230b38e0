//! Bytes leave the container: to the address that is the program's second argument, or to loopback.

use std::env;
use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::thread;

use crate::Route;
use crate::net::{listener_at, name, tcp};
use crate::report::{Report, file};
use crate::sys::Entry::{Int80, Native};
use crate::sys::{Result, call, low};
use crate::uring::{self, Request, opcode};

const WRITE_32: i64 = 4;

/// An odd size, so that the sum is recognised.
const SIZE: usize = 50_023;

pub(crate) const ROUTES: &[Route] = &[
    ("send-write", |_| act(|socket, data| call!(Native, libc::SYS_write, socket, data, SIZE))),
    ("send-sendto", |_| act(|socket, data| call!(Native, libc::SYS_sendto, socket, data, SIZE, 0, 0, 0))),
    ("send-writev", |_| act(|socket, data| call!(Native, libc::SYS_writev, socket, vector(data), 1))),
    ("send-sendfile", |name| {
        let file = File::open(file(name, &[b'x'; SIZE])).unwrap();
        act(|socket, _| call!(Native, libc::SYS_sendfile, socket, file.as_raw_fd(), 0, SIZE))
    }),
    ("send-int80", |_| act(|socket, data| call!(Int80, WRITE_32, socket, data, SIZE))),
    ("send-io-uring", |_| {
        act(|fd, address| {
            uring::once(Request { opcode: opcode::SEND, fd, address, len: SIZE as u32, ..Request::default() })
        })
    }),
];

fn act(send: impl FnOnce(i32, u64) -> Result) -> Report {
    let ip = env::args().nth(2).map_or(Ipv4Addr::LOCALHOST.into(), |ip| ip.parse().unwrap());
    let (listener, address) = listener_at(ip);
    let taker = thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        peer.read_to_end(&mut Vec::new()).unwrap()
    });
    let (socket, to) = (tcp(), name(address));
    call!(Native, libc::SYS_connect, socket, to.at, to.len).unwrap();
    let result = send(socket, low::bytes(&[b'x'; SIZE]).as_ptr() as u64);
    call!(Native, libc::SYS_close, socket).unwrap();
    let taken = taker.join().unwrap();
    if let Ok(bytes) = result {
        assert_eq!(bytes, taken as u64, "part of it was sent");
    }
    Report::of(result).address(address).number("bytes", taken as u64)
}

/// `struct iovec`.
fn vector(data: u64) -> u64 {
    &raw const *low::place(libc::iovec { iov_base: data as *mut _, iov_len: SIZE }) as u64
}
