//! Datagrams of sockets that have no hook for addresses: AF_UNIX, raw and packet sockets, whose every message may go
//! somewhere else. Once for each process and destination.
//!
//! The address is what lies in the caller's memory when the call returns, or, of AF_UNIX at a function of the kernel that
//! every route passes ([`crate::chokepoint`]), in the kernel's; the record says that it is as passed. A message through a
//! socket that is connected has no address of its own; [`crate::connect`] has told where it leads.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::{LruHashMap, PerCpuArray},
    programs::BtfTracePointContext,
};
use coi_common::{
    Address, Connect, FLAG_ADDRESS_AS_PASSED, FLAG_PATH_UNREADABLE, Header, Kind, PROTOCOL_RAW, SEND,
    SOCKADDR, TOLD_UNIX_DATAGRAMS,
};

use crate::{
    call::{Call, EACCES, EPERM},
    chokepoint,
    entry::{self, Returned},
    exec::bounded,
    kernel::{Structure, current, offset, read},
    name::Passed,
    ring::{self, Weight},
    scope::{self, Watched},
    stream::{self, AF_INET, AF_INET6, AF_PACKET, AF_UNIX, SOCK_RAW, SOCK_STREAM},
    task,
};

/// The longest `sun_path`, and a `struct sockaddr_in6` and a `struct sockaddr_ll` as well.
const NAME: usize = 108;
/// Bounds its length.
const NAME_MASK: u64 = 127;
/// sendto(2) on x86-64.
const SYS_SENDTO: u32 = 44;

/// To whom a process has sent.
#[derive(Clone, Copy)]
#[repr(C)]
struct Correspondent {
    start_time: u64,
    tgid: u32,
    family: u16,
    len: u16,
    /// Behind the family: what `len` says of it, zeros after that.
    name: [u8; NAME + 4],
}

/// Room to put one together.
#[map]
static CORRESPONDENTS: PerCpuArray<Correspondent> = PerCpuArray::with_max_entries(1, 0);

/// The destinations that were told; what falls out is told again.
#[map]
static ADDRESSED: LruHashMap<Correspondent, u8> = LruHashMap::with_max_entries(4096, 0);

#[derive(Clone, Copy)]
#[repr(C)]
struct DatagramRecord {
    header: Header,
    body: Connect,
    name: [u8; NAME_MASK as usize + 1],
}

/// Room to put a record together.
#[map]
static DATAGRAMS: PerCpuArray<DatagramRecord> = PerCpuArray::with_max_entries(1, 0);

/// After sendto(2), sendmsg(2) and sendmmsg(2), of which the first message is looked at. Costs, watched: some 50 ns unless
/// the socket is one of these. Linux 5.15 on.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_send(_ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(sent);
    0
}

/// After sendmmsg(2), if it sent more than one message: that there were more, to where is not known. A program of its
/// own: of both in one the compiler makes something that the verifier refuses. As [`exit_send`].
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_sendmmsg(ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(sent_more);
    entry::go_on(&ctx, SEND);
    0
}

#[inline(always)]
fn sent(call: &Returned) -> Option<()> {
    let sender = sender(call)?;
    let (name, len) = if call.number() == SYS_SENDTO {
        (call.argument(4), call.argument(5))
    } else {
        // In an array of messages the first comes first.
        call.message(call.argument(1))?
    };
    // Without an address it went to where the socket is connected.
    if name == 0 || len < 2 {
        return None;
    }
    address(&sender, Passed::by_caller(name), len)
}

/// A datagram over AF_UNIX was sent to this address of this length, or may not be.
#[inline(always)]
pub fn unix_datagram(watched: Watched, sk: u64, result: i64, name: Passed, len: u64) -> Option<()> {
    if name.is_nothing() || len < 2 || result < 0 && !matches!(result, EPERM | EACCES) {
        return None;
    }
    address(&Sender { watched, sk, family: AF_UNIX, result }, name, len)
}

/// A datagram is to be sent through this open file to this address of this length: by a request that has not been carried
/// out yet.
#[inline(always)]
pub fn asked(watched: &Watched, file: u64, name: Passed, len: u64) -> Option<()> {
    if name.is_nothing() || len < 2 {
        return None;
    }
    address(&through(*watched, file, 0)?, name, len)
}

#[inline(always)]
fn sent_more(call: &Returned) -> Option<()> {
    let sender = sender(call).filter(|sender| sender.result > 1)?;
    address(&sender, Passed::NOTHING, 2)
}

/// Who sends through what.
struct Sender {
    watched: Watched,
    sk: u64,
    family: u16,
    result: i64,
}

/// The acting task, if it has sent something through one of these sockets, or was not allowed to.
#[inline(always)]
fn sender(call: &Returned) -> Option<Sender> {
    let watched = scope::watched()?;
    let result = call.result().filter(|result| *result >= 0 || matches!(*result, EPERM | EACCES))?;
    through(watched, call.file(0)?, result)
}

/// Somebody who sends something through this open file, if it is one of these sockets.
#[inline(always)]
fn through(watched: Watched, file: u64, result: i64) -> Option<Sender> {
    let (socket, sk) = stream::socket(file)?;
    let family: u16 = read(sk + offset!(sk_family))?;
    let kind: u16 = read(socket + offset!(socket_type))?;
    let told = match family {
        // What a security module refuses does not come to the function where the rest is told. Of what is refused
        // later, the second to tell finds it told.
        AF_UNIX => kind != SOCK_STREAM && (result < 0 || !chokepoint::tells(TOLD_UNIX_DATAGRAMS)),
        AF_INET | AF_INET6 => kind == SOCK_RAW,
        AF_PACKET => true,
        _ => false,
    };
    told.then_some(Sender { watched, sk, family, result })
}

/// Tells of this address of this length, a family and what is behind it, or of one that is not known if there is none.
#[inline(always)]
fn address(sender: &Sender, passed: Passed, len: u64) -> Option<()> {
    let correspondent = CORRESPONDENTS.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let correspondent = unsafe { &mut *correspondent };
    let task = current();
    correspondent.start_time = task.follow(offset!(task_group_leader))?.number(offset!(task_start_boottime));
    correspondent.tgid = task.number(offset!(task_tgid));
    correspondent.family = sender.family;
    correspondent.name = [0; NAME + 4];
    let len = bounded((len - 2).min(NAME as u64), NAME_MASK);
    correspondent.len = len as u16;
    // SAFETY: there is room for NAME bytes.
    if unsafe { !passed.read(2, correspondent.name.as_mut_ptr(), bounded(len, NAME_MASK).min(NAME as u64)) } {
        correspondent.len = 0;
    }
    // By reference: a copy of it would fill the stack.
    let key: &Correspondent = correspondent;
    // SAFETY: the value is not looked at.
    if unsafe { ADDRESSED.get(key) }.is_some() {
        return None;
    }
    let _ = ADDRESSED.insert(key, 1, 0);
    tell(sender)
}

/// Tells of the address that lies in [`CORRESPONDENTS`].
#[inline(always)]
fn tell(sender: &Sender) -> Option<()> {
    let correspondent = CORRESPONDENTS.get_ptr(0)?;
    let record = DATAGRAMS.get_ptr_mut(0)?;
    // SAFETY: per-CPU values, and programs do not move between CPUs.
    let (record, name) = unsafe { (&mut *record, &(*correspondent).name) };
    // SAFETY: the record is ours.
    unsafe {
        task::header(&raw mut record.header, Kind::Connect, &sender.watched);
        stream::stdio(&raw mut record.body.stdio);
    }
    // Only now, and from memory: else the verifier would go through all of the above for each family and length.
    // SAFETY: as above.
    let (family, len) = unsafe {
        let family = core::ptr::read_volatile(&raw const (*correspondent).family);
        (family, u64::from(core::ptr::read_volatile(&raw const (*correspondent).len)))
    };
    record.header.flags |= FLAG_ADDRESS_AS_PASSED;
    if len == 0 {
        record.header.flags |= FLAG_PATH_UNREADABLE;
    }
    record.body.inode = stream::inode_of_sock(sender.sk);
    record.body.peer = Address { family, ..Address::default() };
    record.body.result = sender.result.min(0) as i32;
    record.body.protocol = PROTOCOL_RAW;
    record.body.is_abstract = 0;
    record.body.passed = [0; SOCKADDR];
    record.name[..NAME].copy_from_slice(&name[..NAME]);
    if len != 0 && family != AF_UNIX {
        record.body.passed[..2].copy_from_slice(&family.to_ne_bytes());
        record.body.passed[2..].copy_from_slice(&name[..SOCKADDR - 2]);
    }
    let path_len = if family == AF_UNIX { bounded(len, NAME_MASK) } else { 0 };
    record.body.path_len = path_len as u32;
    let len = size_of::<Header>() + size_of::<Connect>() + bounded(path_len, NAME_MASK) as usize;
    // SAFETY: `len` is at most the record's size, all of which is initialised.
    unsafe { ring::send(Kind::Connect, Weight::Bulk, sender.watched.id, (&raw const *record).cast(), len) };
    Some(())
}
