//! Connections.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user,
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};
use coi_common::{Address, Connect, FLAG_ADDRESS_AS_PASSED, Header, Kind};

use crate::{
    kernel::{argument0, argument1, argument2, offset, read},
    open::result,
    ring,
    scope::{self, Watched},
    stream::{self, AF_INET, AF_INET6, AF_UNIX},
    task,
};

const TCP_SYN_SENT: i32 = 2;
const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// Linux's own number for multipath TCP; its subflows report themselves as TCP.
const IPPROTO_MPTCP: u32 = 262;
const EINPROGRESS: i64 = -115;
/// The result of a call that has not returned yet.
const UNKNOWN: i32 = 1;
/// The longest `sun_path`.
const UNIX_PATH: usize = 108;

#[derive(Clone, Copy)]
#[repr(C)]
struct ConnectRecord {
    header: Header,
    body: Connect,
    path: [u8; UNIX_PATH],
}

/// A TCP connection begins, by whatever route: connect(2), int80, io_uring, fast open. The address is the
/// socket's own. It runs in the caller's context, before the call returns. Linux 5.0 on.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn sock_set_state(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<i32>(2) != TCP_SYN_SENT {
        return 0;
    }
    let Some(watched) = scope::watched() else { return 0 };
    let sk = ctx.arg::<*const u8>(0) as u64;
    let protocol = u32::from(read::<u16>(sk + offset!(sk_protocol)).unwrap_or(0));
    if protocol == IPPROTO_MPTCP {
        return 0;
    }
    send(&watched, Kind::Connect, sk, stream::peer(sk), UNKNOWN, protocol, 0);
    0
}

#[inline(always)]
fn send(watched: &Watched, kind: Kind, sk: u64, peer: Address, result: i32, protocol: u32, flags: u32) {
    ring::send_in_place(kind, watched.id, |record: *mut ConnectRecord| {
        // SAFETY: the place is reserved.
        unsafe {
            (*record).header = task::header(kind, watched);
            (*record).header.flags |= flags;
            stream::stdio(&raw mut (*record).body.stdio);
            (*record).body.inode = stream::inode_of_sock(sk);
            (*record).body.peer = peer;
            (*record).body.result = result;
            (*record).body.protocol = protocol;
        }
    });
}

/// After connect(2): everything but TCP, and TCP that was refused before a SYN. Costs some 100 ns of a call
/// that takes microseconds. Linux 5.15 on.
#[tracepoint]
pub fn exit_connect(ctx: TracePointContext) -> u32 {
    let _ = connected(&ctx);
    0
}

#[inline(always)]
fn connected(ctx: &TracePointContext) -> Option<()> {
    let watched = scope::watched()?;
    let result = result(ctx)?;
    let (socket, sk) = stream::socket(stream::file(argument0())?)?;
    let family: u16 = read(sk + offset!(sk_family))?;
    if family == AF_UNIX {
        return unix(&watched, sk, result);
    }
    if family != AF_INET && family != AF_INET6 {
        return None;
    }
    if read::<u16>(socket + offset!(socket_type))? == SOCK_STREAM {
        // What sent a SYN is told already; left are those that the kernel refused at once.
        if !matches!(result, -1 | -13 | -101 | -113) {
            return None;
        }
        send(&watched, Kind::Connect, sk, passed()?, result as i32, IPPROTO_TCP, FLAG_ADDRESS_AS_PASSED);
        return Some(());
    }
    let (peer, flags) = if result == 0 { (stream::peer(sk), 0) } else { (passed()?, FLAG_ADDRESS_AS_PASSED) };
    send(&watched, Kind::Connect, sk, peer, result as i32, IPPROTO_UDP, flags);
    Some(())
}

/// The address that the caller passed to connect(2).
#[inline(always)]
fn passed() -> Option<Address> {
    let mut raw = [0u8; 28];
    let len = argument2();
    let size = if len >= 28 { 28 } else { 16 };
    // SAFETY: `raw` has room for either size; the helper checks the address itself.
    if unsafe { bpf_probe_read_user(raw.as_mut_ptr().cast(), size, argument1() as *const _) } != 0 {
        return None;
    }
    let family = u16::from_ne_bytes([raw[0], raw[1]]);
    let port = u16::from_be_bytes([raw[2], raw[3]]);
    let mut ip = [0; 16];
    if family == AF_INET {
        ip[..4].copy_from_slice(&raw[4..8]);
    } else {
        ip.copy_from_slice(&raw[8..24]);
    }
    Some(Address { ip, family, port })
}

#[inline(always)]
fn unix(watched: &Watched, sk: u64, result: i64) -> Option<()> {
    if result != 0 && result != EINPROGRESS && result != -13 && result != -1 {
        return None;
    }
    let len = argument2();
    let address = argument1();
    ring::send_in_place(Kind::Connect, watched.id, |record: *mut ConnectRecord| {
        // SAFETY: the place is reserved.
        unsafe {
            (*record).header = task::header(Kind::Connect, watched);
            (*record).header.flags |= FLAG_ADDRESS_AS_PASSED;
            stream::stdio(&raw mut (*record).body.stdio);
            (*record).body.inode = stream::inode_of_sock(sk);
            (*record).body.peer.family = AF_UNIX;
            (*record).body.result = result as i32;
            let path_len = crate::exec::bounded(len.saturating_sub(2), UNIX_PATH as u64);
            let to = (&raw mut (*record).path).cast();
            if bpf_probe_read_user(to, path_len as u32, (address + 2) as *const _) == 0 {
                (*record).body.path_len = path_len as u32;
            }
        }
    });
    Some(())
}

/// After accept(2) and accept4(2). Linux 5.15 on.
#[tracepoint]
pub fn exit_accept(ctx: TracePointContext) -> u32 {
    let _ = accepted(&ctx);
    0
}

#[inline(always)]
fn accepted(ctx: &TracePointContext) -> Option<()> {
    let watched = scope::watched()?;
    let fd = result(ctx).filter(|fd| *fd >= 0)?;
    let (_, sk) = stream::socket(stream::file(fd as u64)?)?;
    let peer = stream::peer(sk);
    if peer.family != AF_INET && peer.family != AF_INET6 {
        return None;
    }
    let protocol = u32::from(read::<u16>(sk + offset!(sk_protocol)).unwrap_or(0));
    send(&watched, Kind::Accept, sk, peer, 0, protocol, 0);
    Some(())
}
