//! What the network's routes have in common: sockets, and addresses as the kernel takes them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener};

use crate::sys::{Entry::Native, call, low};

/// An address in memory that both entries can reach.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) at: u64,
    pub(crate) len: u32,
}

/// An address as the kernel takes it.
pub(crate) fn name(address: SocketAddr) -> Name {
    let (at, len) = match address {
        SocketAddr::V4(v4) => {
            let place: &'static mut libc::sockaddr_in = low::place(raw(v4));
            (&raw const *place as u64, size_of::<libc::sockaddr_in>())
        }
        SocketAddr::V6(v6) => {
            let place: &'static mut libc::sockaddr_in6 = low::place(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: 0,
            });
            (&raw const *place as u64, size_of::<libc::sockaddr_in6>())
        }
    };
    Name { at, len: len as u32 }
}

/// An IPv4 address as the kernel lays it out.
pub(crate) fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// A new socket.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> i32 {
    call!(Native, libc::SYS_socket, family, kind, protocol).unwrap() as i32
}

/// A new TCP socket of IPv4.
pub(crate) fn tcp() -> i32 {
    socket(libc::AF_INET, libc::SOCK_STREAM, 0)
}

/// A new UDP socket of IPv4.
pub(crate) fn udp() -> i32 {
    socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
}

/// Where a socket is bound.
pub(crate) fn bound_to(socket: i32) -> SocketAddr {
    let place = low::place(raw(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)));
    let len = low::place(size_of::<libc::sockaddr_in>() as u32);
    call!(Native, libc::SYS_getsockname, socket, &raw mut *place, &raw mut *len).unwrap();
    address(place)
}

/// An address of the kernel's.
pub(crate) fn address(raw: &libc::sockaddr_in) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes()), u16::from_be(raw.sin_port)))
}

/// Somebody who listens.
pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    listener_at(Ipv4Addr::LOCALHOST)
}

/// Somebody who listens at an address of this machine.
pub(crate) fn listener_at(ip: Ipv4Addr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The same over IPv6.
pub(crate) fn listener_v6() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
