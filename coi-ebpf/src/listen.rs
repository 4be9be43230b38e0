//! Sockets get an address, listen, and accept.

use aya_ebpf::{
    macros::{btf_tracepoint, cgroup_sock, map},
    maps::PerCpuArray,
    programs::{BtfTracePointContext, SockContext},
};
use coi_common::{Address, Header, Kind, Local};

use crate::{
    call::Call,
    connect::{self, Connection},
    entry::{self, Returned},
    kernel::{Structure, current, offset, read, syscall},
    memory,
    ring::{self, Weight},
    scope,
    scope::Watched,
    stream::{self, AF_INET, AF_INET6},
    task, wanted,
};

/// listen(2) on x86-64, and at the 32-bit entry, where socketcall(2) may be one, too.
const SYS_LISTEN: u64 = 50;
const I386_LISTEN: u64 = 363;
const I386_SOCKETCALL: u64 = 102;

#[derive(Clone, Copy)]
#[repr(C)]
struct LocalRecord {
    header: Header,
    body: Local,
}

/// Tells of a socket's own address.
#[inline(always)]
pub fn tell(kind: Kind, watched: &Watched, address: Address, protocol: u32) {
    if !wanted::kind(kind, watched) {
        return;
    }
    ring::send_in_place(
        kind,
        Weight::of(kind),
        watched.id,
        #[inline(always)]
        |record: *mut LocalRecord| {
            // SAFETY: the place is reserved.
            unsafe {
                task::header(&raw mut (*record).header, kind, watched);
                (*record).body = Local { address, protocol };
            }
        },
    );
}

/// After a bind of an IPv4 socket, by whatever route. Costs others two look-ups. Linux 4.17 on; the helpers it needs
/// 5.15 on.
#[cgroup_sock(post_bind4)]
pub fn bind4(ctx: SockContext) -> i32 {
    bound(&ctx, AF_INET);
    1
}

/// The same for IPv6.
#[cgroup_sock(post_bind6)]
pub fn bind6(ctx: SockContext) -> i32 {
    bound(&ctx, AF_INET6);
    1
}

#[inline(always)]
fn bound(ctx: &SockContext, family: u16) {
    let Some(watched) = scope::watched() else { return };
    let sock = ctx.sock;
    let mut ip = [0; 4];
    // SAFETY: the context's fields; the verifier checks the access.
    let (port, protocol) = unsafe {
        if family == AF_INET {
            ip[0] = (*sock).src_ip4;
        } else {
            for (i, place) in ip.iter_mut().enumerate() {
                *place = core::ptr::read_volatile(&raw const (*sock).src_ip6[i]);
            }
        }
        ((*sock).src_port, (*sock).protocol)
    };
    let ip = memory::octets(ip);
    tell(Kind::Bind, &watched, Address { ip, family, port: port as u16 }, protocol);
}

/// The thread on each CPU whose socket has begun to listen and gets its port only after that.
#[map]
static UNBOUND: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// A TCP socket begins to listen, by whatever route.
#[inline(always)]
pub fn listens(watched: &Watched, sk: impl Structure, protocol: u32) {
    let address = stream::own(sk);
    if address.port == 0
        && matches!(syscall(), SYS_LISTEN | I386_LISTEN | I386_SOCKETCALL)
        && let Some(unbound) = UNBOUND.get_ptr_mut(0)
    {
        // SAFETY: a per-CPU value, and programs do not move between CPUs.
        unsafe { *unbound = current().number(offset!(task_pid)) };
        return;
    }
    tell(Kind::Listen, watched, address, protocol);
}

/// After listen(2) on a socket that had no port before. Linux 5.15 on.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_listen(_ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(listened);
    0
}

#[inline(always)]
fn listened(call: &Returned) -> Option<()> {
    let watched = scope::watched()?;
    let unbound = UNBOUND.get_ptr_mut(0)?;
    // SAFETY: as above.
    let waits = unsafe { core::ptr::replace(unbound, 0) };
    if waits != current().number::<u32>(offset!(task_pid)) {
        return None;
    }
    let (_, sk) = stream::socket(call.file(0)?)?;
    let protocol = u32::from(read::<u16>(sk + offset!(sk_protocol)).unwrap_or(0));
    tell(Kind::Listen, &watched, stream::own(sk), protocol);
    Some(())
}

/// After accept(2) and accept4(2). Linux 5.15 on.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_accept(_ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(accepted);
    0
}

/// What [`exit_accept`] does.
#[inline(always)]
pub fn accepted(call: &impl Call) -> Option<()> {
    let watched = scope::watched()?;
    let fd = call.result().filter(|fd| *fd >= 0)?;
    let (_, sk) = stream::socket(stream::file(fd as u64)?)?;
    was_accepted(&watched, sk, 0)
}

/// This socket is one that was accepted; if its descriptor does not lead to it yet, this is its open file.
#[inline(always)]
pub fn was_accepted(watched: &Watched, sk: impl Structure, arriving: u64) -> Option<()> {
    let peer = stream::peer(sk);
    if peer.family != AF_INET && peer.family != AF_INET6 {
        return None;
    }
    let protocol = u32::from(sk.number::<u16>(offset!(sk_protocol)));
    let inode = stream::inode_of_sock(sk);
    let connection = Connection { inode, peer, result: 0, protocol, asked: false, flags: 0, arriving };
    connect::tell(Kind::Accept, watched, connection);
    Some(())
}
