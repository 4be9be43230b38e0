//! Refusing connections, and cutting the network: programs for the cgroup of one watched container.
//!
//! An object of its own with maps of its own, loaded once for each container that it is attached to: nobody else pays
//! for it, and it needs no look at who acts. It acts and tells nothing; the attempt is an event like any other, told by
//! the programs that look at all cgroups.
//!
//! What counts is the cgroup of the socket: where it was made. A socket that was made elsewhere and handed in is not
//! refused anything, nor is one that is no internet socket (AF_UNIX, AF_PACKET).
#![no_std]
#![no_main]

#[expect(dead_code, reason = "the other object needs more of it")]
mod memory;
mod object;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock_addr, map},
    maps::{Array, LpmTrie, lpm_trie::Key},
    programs::{SkBuffContext, SockAddrContext},
};

const REFUSE: i32 = 0;
const ALLOW: i32 = 1;
/// Each network namespace's own: the kernel gives its loopback the first number.
const LOOPBACK_IFINDEX: u32 = 1;
/// The upper twelve bytes of an IPv4 address as IPv6 writes it.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// For the addresses of a network: a bit for each class of ports that is refused. IPv4 as ::ffff:192.0.2.1.
#[map]
static NETWORKS: LpmTrie<[u8; 16], u64> = LpmTrie::with_max_entries(2048, 0);
/// The class of ports that begin with these bits.
#[map]
static PORTS: LpmTrie<[u8; 2], u32> = LpmTrie::with_max_entries(16384, 0);
/// One number: whether the network is cut.
#[map]
static CUT: Array<u32> = Array::with_max_entries(1, 0);

/// Refuses a connect of an IPv4 socket, by whatever route. Linux 4.17 on, as are the other three.
#[cgroup_sock_addr(connect4)]
pub fn deny_connect4(ctx: SockAddrContext) -> i32 {
    judge(ipv4(&ctx), &ctx)
}

/// The same for IPv6.
#[cgroup_sock_addr(connect6)]
pub fn deny_connect6(ctx: SockAddrContext) -> i32 {
    judge(ipv6(&ctx), &ctx)
}

/// Refuses a datagram to an address of its own, IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn deny_sendmsg4(ctx: SockAddrContext) -> i32 {
    judge(ipv4(&ctx), &ctx)
}

/// The same for IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn deny_sendmsg6(ctx: SockAddrContext) -> i32 {
    judge(ipv6(&ctx), &ctx)
}

/// Drops what comes in and goes out while the network is cut, loopback apart. Attached only then. Linux 4.10 on.
#[cgroup_skb]
pub fn cut(ctx: SkBuffContext) -> i32 {
    // SAFETY: the context's own field; the verifier checks the access.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    if is_cut() && device != LOOPBACK_IFINDEX { REFUSE } else { ALLOW }
}

#[inline(always)]
fn is_cut() -> bool {
    CUT.get(0).is_some_and(|cut| *cut != 0)
}

#[inline(always)]
fn ipv4(ctx: &SockAddrContext) -> [u8; 16] {
    // SAFETY: the context's own field; the verifier checks the access.
    let ip = unsafe { (*ctx.sock_addr).user_ip4 };
    let ip = ip.to_ne_bytes();
    let mut address = [0; 16];
    address[..12].copy_from_slice(&MAPPED);
    address[12..].copy_from_slice(&ip);
    address
}

#[inline(always)]
fn ipv6(ctx: &SockAddrContext) -> [u8; 16] {
    let mut words = [0; 4];
    for (at, word) in words.iter_mut().enumerate() {
        // SAFETY: as above; volatile, since the context is read word by word only.
        *word = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[at]) };
    }
    memory::octets(words)
}

#[inline(always)]
fn judge(address: [u8; 16], ctx: &SockAddrContext) -> i32 {
    let address = meant(address);
    if is_cut() && !is_loopback(&address) {
        return REFUSE;
    }
    // SAFETY: the context's own field; the port is its first two bytes, in network order.
    let port = unsafe { (*ctx.sock_addr).user_port } as u16;
    let Some(refused) = NETWORKS.get(Key::new(128, address)) else { return ALLOW };
    let Some(class) = PORTS.get(Key::new(16, port.to_ne_bytes())) else { return ALLOW };
    if *refused >> (*class & 63) & 1 == 1 { REFUSE } else { ALLOW }
}

/// The address that the kernel connects to: nowhere stands for this machine.
#[inline(always)]
fn meant(address: [u8; 16]) -> [u8; 16] {
    let mut address = address;
    if address[..12] == MAPPED && address[12..] == [0; 4] {
        address[12] = 127;
        address[15] = 1;
    } else if address == [0; 16] {
        address[15] = 1;
    }
    address
}

#[inline(always)]
fn is_loopback(address: &[u8; 16]) -> bool {
    address[..12] == MAPPED && address[12] == 127 || address[..15] == [0; 15] && address[15] == 1
}
