//! Datagrams are sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ptr;

use crate::Route;
use crate::connect::SOCKETCALL_32;
use crate::net::{Name, mapped, name, socket, udp, udp_v6};
use crate::report::Report;
use crate::sys::Entry::{Int80, Native};
use crate::sys::{Result, call, low};
use crate::uring::{self, Request, opcode};

pub(crate) const SENDMSG_32: i64 = 370;
const SOCKETCALL_SENDTO: u64 = 11;

pub(crate) const ROUTES: &[Route] = &[
    ("udp-connect", |_| act(|name| connect(udp(), name))),
    ("udp-connect-send", |_| {
        act(|name| {
            let (socket, data) = (udp(), low::bytes(DATA));
            connect(socket, name)?;
            call!(Native, libc::SYS_sendto, socket, data.as_ptr(), data.len(), 0, 0, 0)
        })
    }),
    ("udp-sendto", |_| act(|name| sendto(udp(), name))),
    // The address that is passed wins over the one that is connected to.
    ("udp-sendto-elsewhere", |_| {
        let (_first, address) = receiver(LOCALHOST);
        act(|to| {
            let socket = udp();
            connect(socket, &name(address))?;
            sendto(socket, to)
        })
    }),
    ("udp-sendto-ipv6", |_| {
        let (_receiver, address) = receiver(Ipv6Addr::LOCALHOST.into());
        Report::of(sendto(udp_v6(), &name(address))).address(address)
    }),
    // A socket of IPv6 that speaks IPv4.
    ("udp-sendto-mapped", |_| {
        let (_receiver, address) = receiver(LOCALHOST);
        Report::of(sendto(udp_v6(), &name(mapped(address)))).address(address)
    }),
    ("udp-connect-mapped", |_| {
        let (_receiver, address) = receiver(LOCALHOST);
        Report::of(connect(udp_v6(), &name(mapped(address)))).address(address)
    }),
    ("udp-sendmsg", |_| {
        act(|name| call!(Native, libc::SYS_sendmsg, udp(), &raw const *low::place(message(name)), 0))
    }),
    ("udp-sendmmsg", |_| {
        act(|name| {
            let messages = low::place(libc::mmsghdr { msg_hdr: message(name), msg_len: 0 });
            call!(Native, libc::SYS_sendmmsg, udp(), &raw const *messages, 1, 0)
        })
    }),
    ("udp-sendto-int80-socketcall", |_| {
        act(|name| {
            let data = low::bytes(DATA);
            let data = [data.as_ptr() as u32, data.len() as u32];
            let arguments = low::place([udp() as u32, data[0], data[1], 0, name.at as u32, name.len]);
            call!(Int80, SOCKETCALL_32, SOCKETCALL_SENDTO, &raw const *arguments)
        })
    }),
    ("udp-sendmsg-int80", |_| {
        act(|name| {
            let message = low::place(message_32_of(name, DATA));
            call!(Int80, SENDMSG_32, udp(), &raw const *message, 0)
        })
    }),
    ("udp-sendmsg-io-uring", |_| {
        act(|name| {
            let message = &raw const *low::place(message(name)) as u64;
            uring::once(Request {
                opcode: opcode::SENDMSG,
                fd: udp(),
                address: message,
                len: 1,
                ..Request::default()
            })
        })
    }),
    // A packet of its own making: an echo request. It takes CAP_NET_RAW.
    ("raw-sendto", |_| {
        raw(|socket, name| {
            let request = low::bytes(ECHO);
            let (data, len) = (request.as_ptr(), request.len());
            call!(Native, libc::SYS_sendto, socket, data, len, 0, name.at, name.len)
        })
    }),
    ("raw-sendmsg", |_| {
        raw(|socket, name| {
            let message = message_of(name, ECHO);
            call!(Native, libc::SYS_sendmsg, socket, &raw const message, 0)
        })
    }),
    ("raw-sendmmsg", |_| {
        raw(|socket, name| {
            let messages = [libc::mmsghdr { msg_hdr: message_of(name, ECHO), msg_len: 0 }];
            call!(Native, libc::SYS_sendmmsg, socket, &raw const messages, 1, 0)
        })
    }),
    ("raw-connect", |_| raw(connect)),
    // A frame of its own making, to the loopback device.
    ("packet-sendto", |_| {
        let frame = low::bytes(&[0; 32]);
        let to = low::place(libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0x88b5_u16.to_be(),
            sll_ifindex: 1,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        });
        let (socket, data, len) = (socket(libc::AF_PACKET, libc::SOCK_RAW, 0), frame.as_ptr(), frame.len());
        let name_len = size_of::<libc::sockaddr_ll>();
        Report::of(call!(Native, libc::SYS_sendto, socket, data, len, 0, &raw const *to, name_len))
    }),
];

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DATA: &[u8] = b"datagram";
/// An echo request.
const ECHO: &[u8] = &[8, 0, 0xf7, 0xff, 0, 0, 0, 0];

fn connect(socket: i32, name: &Name) -> Result {
    call!(Native, libc::SYS_connect, socket, name.at, name.len)
}

fn sendto(socket: i32, name: &Name) -> Result {
    let data = low::bytes(DATA);
    call!(Native, libc::SYS_sendto, socket, data.as_ptr(), data.len(), 0, name.at, name.len)
}

/// Somebody who takes datagrams.
fn receiver(ip: IpAddr) -> (UdpSocket, SocketAddr) {
    let receiver = UdpSocket::bind((ip, 0)).unwrap();
    let address = receiver.local_addr().unwrap();
    (receiver, address)
}

fn act(send: impl FnOnce(&Name) -> Result) -> Report {
    let (_receiver, address) = receiver(LOCALHOST);
    Report::of(send(&name(address))).address(address)
}

/// A raw socket, and an address that has no port.
fn raw(send: impl FnOnce(i32, &Name) -> Result) -> Report {
    let to = SocketAddr::from((LOCALHOST, 0));
    let socket = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
    Report::of(send(socket, &name(to))).address(to)
}

/// A message with an address.
fn message(name: &Name) -> libc::msghdr {
    message_of(name, DATA)
}

/// A message of this, with an address.
pub(crate) fn message_of(name: &Name, data: &[u8]) -> libc::msghdr {
    let data = low::bytes(data);
    let vector = low::place(libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() });
    libc::msghdr {
        msg_name: name.at as *mut _,
        msg_namelen: name.len,
        msg_iov: vector,
        msg_iovlen: 1,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

/// The same for the 32-bit entry: `struct compat_msghdr`.
pub(crate) fn message_32_of(name: &Name, data: &[u8]) -> [u32; 7] {
    let data = low::bytes(data);
    let vector = low::place([data.as_ptr() as u32, data.len() as u32]);
    [name.at as u32, name.len, &raw const *vector as u32, 1, 0, 0, 0]
}
