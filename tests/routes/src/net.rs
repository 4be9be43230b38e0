//! What the network's routes have in common: sockets, and addresses as the kernel takes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use crate::sys::{Entry::Native, call, low};

/// Linux's own number for multipath TCP.
pub(crate) const IPPROTO_MPTCP: i32 = 262;

/// An address in memory that both entries can reach.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) at: u64,
    pub(crate) len: u32,
}

/// An address as the kernel takes it.
pub(crate) fn name(address: SocketAddr) -> Name {
    let bytes = low::bytes(&raw(address));
    Name { at: bytes.as_ptr() as u64, len: bytes.len() as u32 }
}

/// An address as the kernel lays it out: `struct sockaddr_in` or `struct sockaddr_in6`.
pub(crate) fn raw(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    let family = |family: i32| (family as u16).to_ne_bytes();
    match address.ip() {
        IpAddr::V4(ip) => [&family(libc::AF_INET)[..], &port, &ip.octets(), &[0; 8]].concat(),
        IpAddr::V6(ip) => [&family(libc::AF_INET6)[..], &port, &[0; 4], &ip.octets(), &[0; 4]].concat(),
    }
}

/// An address of the kernel's.
fn address(raw: &[u8; 28]) -> SocketAddr {
    let port = u16::from_be_bytes([raw[2], raw[3]]);
    let ip = if raw[0] == libc::AF_INET as u8 {
        IpAddr::from(<[u8; 4]>::try_from(&raw[4..8]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&raw[8..24]).unwrap())
    };
    SocketAddr::from((ip, port))
}

/// An address of IPv4 in the clothes of IPv6.
pub(crate) fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), address.port())),
        IpAddr::V6(_) => address,
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

/// A new UDP socket of IPv6.
pub(crate) fn udp_v6() -> i32 {
    socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)
}

/// A new TCP socket of IPv6.
pub(crate) fn tcp_v6() -> i32 {
    socket(libc::AF_INET6, libc::SOCK_STREAM, 0)
}

/// Where a socket is bound.
pub(crate) fn bound_to(socket: i32) -> SocketAddr {
    let (mut raw, mut len) = ([0; 28], 28_u32);
    call!(Native, libc::SYS_getsockname, socket, &raw mut raw, &raw mut len).unwrap();
    address(&raw)
}

/// Somebody who listens.
pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    listener_at(Ipv4Addr::LOCALHOST.into())
}

/// Somebody who listens over IPv6.
pub(crate) fn listener_v6() -> (TcpListener, SocketAddr) {
    listener_at(Ipv6Addr::LOCALHOST.into())
}

/// Somebody who listens at an address of this machine.
pub(crate) fn listener_at(ip: IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
