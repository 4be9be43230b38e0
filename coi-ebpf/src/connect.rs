//! Connections to somewhere, and datagrams.
//!
//! Addresses are the kernel's own copies: of the socket, or of what a cgroup hook is given. Only where a TCP
//! connect was refused before any of them saw it is the caller's memory all there is, and the record says so.

use aya_ebpf::{
    helpers::generated::{bpf_get_retval, bpf_probe_read_kernel, bpf_probe_read_user},
    macros::{btf_tracepoint, cgroup_sock_addr, map},
    maps::{LruHashMap, PerCpuArray},
    programs::{BtfTracePointContext, SockAddrContext},
};
use coi_common::{
    Address, Connect, FLAG_ADDRESS_AS_PASSED, FLAG_PATH_UNREADABLE, Header, Kind, PROTOCOL_RAW, SOCKADDR,
    TOLD_UNIX_CONNECTS,
};

use crate::{
    call::{COMPLETION, Call, EACCES, EHOSTUNREACH, EINPROGRESS, ENETUNREACH, EPERM, UNKNOWN},
    chokepoint, entry,
    exec::bounded,
    kernel::{self, Structure, argument, current, offset, pointer, read, syscall},
    listen, memory,
    name::Passed,
    path::{self, PATH_MASK, PATH_SPACE, Place},
    ring::{self, Weight},
    scope::{self, Watched},
    stream::{self, AF_INET, AF_INET6, AF_UNIX, SOCK_RAW, SOCK_STREAM},
    task,
};

const TCP_SYN_SENT: i32 = 2;
const TCP_LISTEN: i32 = 10;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_ICMPV6: u32 = 58;
/// Linux's own number for multipath TCP; its subflows report themselves as TCP.
const IPPROTO_MPTCP: u32 = 262;
/// The longest `sun_path`.
const UNIX_PATH: u64 = 108;
/// Bounds its length.
const UNIX_MASK: u64 = 127;
/// The size of a `struct sockaddr_in`.
const SOCKADDR_IN: usize = 16;
/// connect(2) on x86-64.
const SYS_CONNECT: u64 = 42;

#[derive(Clone, Copy)]
#[repr(C)]
struct ConnectRecord {
    header: Header,
    body: Connect,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct UnixRecord {
    header: Header,
    body: Connect,
    path: [u8; PATH_SPACE],
}

/// Room to put a record together.
#[map]
static UNIXES: PerCpuArray<UnixRecord> = PerCpuArray::with_max_entries(1, 0);

/// A TCP connect that has not sent a SYN yet.
#[derive(Clone, Copy)]
#[repr(C)]
struct Pending {
    tid: u32,
    /// [`refused4`] has told of it.
    told: u32,
    address: Address,
}

/// The last one on each CPU. Who was moved or overtaken meanwhile is told with what the caller's memory says.
#[map]
static PENDING: PerCpuArray<Pending> = PerCpuArray::with_max_entries(1, 0);

/// To whom a process has sent datagrams.
#[derive(Clone, Copy)]
#[repr(C)]
struct Correspondent {
    start_time: u64,
    tgid: u32,
    address: Address,
}

/// The destinations of datagrams that were told; what falls out is told again.
#[map]
static TOLD: LruHashMap<Correspondent, u8> = LruHashMap::with_max_entries(65536, 0);

/// A TCP connection begins, or a socket listens, by whatever route: connect(2), int80, io_uring, fast open. The address is the
/// socket's own. It runs in the caller's context, before the call returns. Linux 5.15 on.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let state = ctx.arg::<i32>(2);
    if state != TCP_SYN_SENT && state != TCP_LISTEN {
        return 0;
    }
    let Some(watched) = scope::watched() else { return 0 };
    let sk = kernel::given(&ctx, 0);
    let protocol = u32::from(sk.number::<u16>(offset!(sk_protocol)));
    if state == TCP_LISTEN {
        listen::listens(&watched, sk, protocol);
    } else if protocol != IPPROTO_MPTCP {
        let asked = syscall() == SYS_CONNECT;
        let inode = stream::inode_of_sock(sk);
        tell(
            Kind::Connect,
            &watched,
            Connection {
                inode,
                peer: stream::peer(sk),
                result: UNKNOWN,
                protocol,
                asked,
                flags: 0,
                arriving: 0,
            },
        );
    }
    0
}

/// What a record says of a connection beside who made it.
#[derive(Clone, Copy)]
pub struct Connection {
    /// The socket's inode number, where it is at hand.
    pub inode: u64,
    /// The other end.
    pub peer: Address,
    /// As in [`Connect`].
    pub result: i32,
    /// As in [`Connect`].
    pub protocol: u32,
    /// The acting task is in connect(2): what its memory says the address is can be asked.
    pub asked: bool,
    /// Bits named `FLAG_*`.
    pub flags: u32,
    /// The connection's open file if its descriptor does not lead to it yet, or 0.
    pub arriving: u64,
}

/// Tells of a connection.
#[inline(always)]
pub fn tell(kind: Kind, watched: &Watched, connection: Connection) {
    // Datagrams to ever new destinations are easily made in numbers.
    let weight = if connection.protocol == IPPROTO_UDP { Weight::Bulk } else { Weight::Decisive };
    ring::send_in_place(
        kind,
        weight,
        watched.id,
        #[inline(always)]
        |record: *mut ConnectRecord| {
            // SAFETY: the place is reserved.
            unsafe {
                task::header(&raw mut (*record).header, kind, watched);
                (*record).header.flags |= connection.flags;
                stream::stdio_with(&raw mut (*record).body.stdio, connection.arriving);
                (*record).body.inode = connection.inode;
                (*record).body.peer = connection.peer;
                (*record).body.result = connection.result;
                (*record).body.protocol = connection.protocol;
                if connection.asked {
                    passed((&raw mut (*record).body.passed).cast());
                }
            }
        },
    );
}

/// Before a connect of an IPv4 socket, by whatever route; the address is the kernel's copy. UDP is told here, TCP at
/// its SYN. Costs others two look-ups. Linux 4.17 on; the helpers it needs 5.15 on.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connecting(&ctx, AF_INET);
    1
}

/// The same for IPv6.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connecting(&ctx, AF_INET6);
    1
}

/// A TCP connect of an IPv4 socket that a program at a cgroup below refuses, if it is none by connect(2), whose end tells
/// more: fast open, io_uring, whose requests may be completed unseen. Runs after [`connect4`], which is attached before it,
/// and after those below. Costs others one question. Linux 6.1 on.
#[cgroup_sock_addr(connect4)]
pub fn refused4(ctx: SockAddrContext) -> i32 {
    refused(&ctx);
    1
}

/// The same for IPv6.
#[cgroup_sock_addr(connect6)]
pub fn refused6(ctx: SockAddrContext) -> i32 {
    refused(&ctx);
    1
}

#[inline(always)]
fn refused(ctx: &SockAddrContext) {
    // SAFETY: no arguments, cannot fail.
    if i64::from(unsafe { bpf_get_retval() }) != EPERM {
        return;
    }
    let Some(watched) = scope::watched() else { return };
    // SAFETY: the context's own field; the verifier checks the access.
    let protocol = unsafe { (*ctx.sock_addr).protocol };
    if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP || syscall() == SYS_CONNECT {
        return;
    }
    let Some(pending) = PENDING.get_ptr_mut(0) else { return };
    // SAFETY: a per-CPU value, and programs do not move between CPUs; it was written for this connect.
    let peer = unsafe {
        (*pending).told = 1;
        (*pending).address
    };
    tell(
        Kind::Connect,
        &watched,
        Connection {
            inode: 0,
            peer,
            result: EPERM as i32,
            protocol: IPPROTO_TCP,
            asked: false,
            flags: 0,
            arriving: 0,
        },
    );
}

/// A datagram to an address of its own, IPv4, by whatever route. Once for each process and destination. As [`connect4`].
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    datagram(&ctx, AF_INET);
    1
}

/// The same for IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    datagram(&ctx, AF_INET6);
    1
}

/// The address that a cgroup hook is about.
#[inline(always)]
fn hooked(ctx: &SockAddrContext, family: u16) -> Address {
    let sock_addr = ctx.sock_addr;
    let mut ip = [0; 4];
    // SAFETY: the context's fields; the verifier checks the access.
    let port = unsafe {
        if family == AF_INET {
            ip[0] = (*sock_addr).user_ip4;
        } else {
            for (i, place) in ip.iter_mut().enumerate() {
                *place = core::ptr::read_volatile(&raw const (*sock_addr).user_ip6[i]);
            }
        }
        (*sock_addr).user_port
    };
    Address { ip: memory::octets(ip), family, port: u16::from_be(port as u16) }
}

#[inline(always)]
fn connecting(ctx: &SockAddrContext, family: u16) {
    let Some(watched) = scope::watched() else { return };
    let address = hooked(ctx, family);
    // SAFETY: as above.
    let protocol = unsafe { (*ctx.sock_addr).protocol };
    if protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP {
        if let Some(pending) = PENDING.get_ptr_mut(0) {
            // SAFETY: a per-CPU value, and programs do not move between CPUs.
            unsafe { *pending = Pending { tid: current().number(offset!(task_pid)), told: 0, address } };
        }
    } else {
        let asked = syscall() == SYS_CONNECT;
        tell(
            Kind::Connect,
            &watched,
            Connection { inode: 0, peer: address, result: UNKNOWN, protocol, asked, flags: 0, arriving: 0 },
        );
    }
}

#[inline(always)]
fn datagram(ctx: &SockAddrContext, family: u16) {
    let Some(watched) = scope::watched() else { return };
    let task = current();
    let Some(leader) = task.follow(offset!(task_group_leader)) else { return };
    let address = hooked(ctx, family);
    let correspondent = Correspondent {
        start_time: leader.number(offset!(task_start_boottime)),
        tgid: task.number(offset!(task_tgid)),
        address,
    };
    // SAFETY: the value is not looked at.
    if unsafe { TOLD.get(correspondent) }.is_some() {
        return;
    }
    let _ = TOLD.insert(correspondent, 1, 0);
    tell(
        Kind::Connect,
        &watched,
        Connection {
            inode: 0,
            peer: address,
            result: UNKNOWN,
            protocol: IPPROTO_UDP,
            asked: false,
            flags: 0,
            arriving: 0,
        },
    );
}

/// After connect(2): AF_UNIX, raw sockets, and TCP that was refused before a SYN. Costs some 100 ns of a call
/// that takes microseconds. Linux 5.15 on.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_connect(_ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(connected);
    0
}

/// What [`exit_connect`] does.
#[inline(always)]
pub fn connected(call: &impl Call) -> Option<()> {
    // What was answered, or timed out, has sent a SYN.
    let result = call
        .result()
        .filter(|result| matches!(*result, 0 | EINPROGRESS | EPERM | EACCES | ENETUNREACH | EHOSTUNREACH))?;
    let watched = scope::watched()?;
    let (socket, sk) = stream::socket(call.file(0)?)?;
    let family: u16 = read(sk + offset!(sk_family))?;
    if family == AF_UNIX {
        if chokepoint::tells(TOLD_UNIX_CONNECTS) {
            return None;
        }
        let address = Passed::by_caller(call.argument(1));
        return unix(&watched, sk, result, address, call.argument(2));
    }
    if family != AF_INET && family != AF_INET6 {
        return None;
    }
    let inode = stream::inode_of_sock(sk);
    let kind: u16 = read(socket + offset!(socket_type))?;
    if kind == SOCK_STREAM {
        // What sent a SYN is told already; left are those that the kernel refused at once.
        if matches!(result, EPERM | EACCES | ENETUNREACH | EHOSTUNREACH) {
            let tid: u32 = current().number(offset!(task_pid));
            // SAFETY: as above.
            let pending = PENDING.get_ptr(0).map(|pending| unsafe { *pending });
            let (peer, flags) = match pending.filter(|pending| pending.tid == tid) {
                Some(pending) if pending.told != 0 && result == EPERM => return None,
                Some(pending) => (pending.address, 0),
                // A worker of io_uring has tried it, and is told of by itself.
                None if call.number() == COMPLETION && result == EPERM => return None,
                None => (Address { family, ..Address::default() }, FLAG_ADDRESS_AS_PASSED),
            };
            let protocol = IPPROTO_TCP;
            let result = result as i32;
            let asked = syscall() == SYS_CONNECT;
            tell(
                Kind::Connect,
                &watched,
                Connection { inode, peer, result, protocol, asked, flags, arriving: 0 },
            );
        }
        return Some(());
    }
    let protocol = match kind {
        SOCK_RAW => PROTOCOL_RAW,
        _ => u32::from(read::<u16>(sk + offset!(sk_protocol)).unwrap_or(0)),
    };
    if result == 0 && !matches!(protocol, IPPROTO_UDP | IPPROTO_ICMP | IPPROTO_ICMPV6) {
        tell(
            Kind::Connect,
            &watched,
            Connection {
                inode,
                peer: stream::peer(sk),
                result: 0,
                protocol,
                asked: false,
                flags: 0,
                arriving: 0,
            },
        );
    }
    Some(())
}

/// Writes what the caller's memory says the address is.
///
/// # Safety
/// `to` has room for a `sockaddr_in6`.
#[inline(always)]
unsafe fn passed(to: *mut u8) {
    let size = if argument(2) >= SOCKADDR as u64 { SOCKADDR } else { SOCKADDR_IN };
    // SAFETY: the caller's promise; the helper checks the other address itself, and writes zeros where it cannot read.
    unsafe { bpf_probe_read_user(to.cast(), size as u32, argument(1) as *const _) };
}

/// Tells of a connection of an AF_UNIX socket to this address of this length. Its name is taken from the socket at the
/// other end: where its file is, or its abstract name.
#[inline(always)]
pub fn unix(watched: &Watched, sk: u64, result: i64, address: Passed, len: u64) -> Option<()> {
    if !matches!(result, 0 | EINPROGRESS | EACCES | EPERM) {
        return None;
    }
    let record = UNIXES.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    // SAFETY: the record is ours.
    unsafe { task::header(&raw mut record.header, Kind::Connect, watched) };
    // SAFETY: the record is ours.
    unsafe { stream::stdio(&raw mut record.body.stdio) };
    record.body.inode = stream::inode_of_sock(sk);
    record.body.peer = Address { family: AF_UNIX, ..Address::default() };
    record.body.passed = [0; SOCKADDR];
    record.body.result = result as i32;
    record.body.protocol = 0;
    record.body.is_abstract = 0;
    record.body.path_len = 0;

    let peer = pointer(sk + offset!(unix_peer)).unwrap_or(0);
    let bound_to = pointer(peer + offset!(unix_addr)).unwrap_or(0);
    let place = Place::at(peer + offset!(unix_path)).filter(|_| result == 0 && bound_to != 0);
    let path_len = if let Some(place) = place {
        // SAFETY: the record has room for a path.
        let (len, flags) = unsafe { path::write(place, record.path.as_mut_ptr()) };
        record.header.flags |= flags;
        bounded(len, PATH_MASK)
    } else if result == 0 && bound_to != 0 {
        record.body.is_abstract = 1;
        let len: u32 = read(bound_to + offset!(unix_address_len)).unwrap_or(0);
        let len = bounded(u64::from(len).saturating_sub(2).min(UNIX_PATH), UNIX_MASK);
        let from = bound_to + offset!(unix_address_name) + 2;
        // SAFETY: the record has room for UNIX_PATH bytes; the helper checks the address itself.
        let read =
            unsafe { bpf_probe_read_kernel(record.path.as_mut_ptr().cast(), len as u32, from as *const _) };
        if read == 0 { len } else { 0 }
    } else {
        record.header.flags |= FLAG_ADDRESS_AS_PASSED;
        let len = bounded(len.saturating_sub(2).min(UNIX_PATH), UNIX_MASK);
        // SAFETY: as above.
        if unsafe { address.read(2, record.path.as_mut_ptr(), len) } { len } else { 0 }
    };
    if path_len == 0 {
        record.header.flags |= FLAG_PATH_UNREADABLE;
    }
    record.body.path_len = path_len as u32;
    let len = size_of::<Header>() + size_of::<Connect>() + bounded(path_len, PATH_MASK) as usize;
    // SAFETY: `len` is at most the record's size, and what is unread of the path is an older record's bytes.
    unsafe {
        ring::send(Kind::Connect, Weight::Decisive, watched.id, (&raw const *record).cast(), len);
    }
    Some(())
}
