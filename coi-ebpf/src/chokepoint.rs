//! Functions of the kernel that every route passes, whichever entry it came by: system calls of both widths, io_uring,
//! its workers.
//!
//! Each is called through a pointer or from another of the kernel's source files, so that no compiler has put it into
//! its caller, where it would not be passed. What happened is known when it returns, and what the caller passed is the
//! kernel's copy, which nobody can change. Where a kernel takes these programs, user space attaches them in place of
//! those at the system calls; where it does not, nothing is lost but the routes that pass no tracepoint. What a
//! seccomp filter refuses does not come this far.

use aya_ebpf::{
    macros::{fexit, map},
    maps::Array,
    programs::FExitContext,
};
use coi_common::Kind;

use crate::{
    call::{EACCES, EPERM},
    connect,
    kernel::{Structure, given, offset, read},
    listen,
    name::{Name, Passed},
    open, scope, sendto,
    stream::{AF_INET, AF_INET6, AF_UNIX},
};

/// `include/linux/fs.h`, among the flags of an open: it is for an exec.
const FMODE_EXEC: u32 = 0x20;
/// `include/linux/err.h`: from here on a pointer is an error.
const ERRORS: u64 = -4095_i64 as u64;

/// One number: bits named `TOLD_*`, of what is told here and nowhere else.
#[map]
static CHOKEPOINTS: Array<u32> = Array::with_max_entries(1, 0);

/// Is this told here?
#[inline(always)]
pub fn tells(what: u32) -> bool {
    CHOKEPOINTS.get(0).is_some_and(|told| told & what != 0)
}

/// A file was opened or could not be. Costs others the scope's look-up; as the calls that open otherwise. Linux 5.15 on.
#[fexit(function = "do_filp_open")]
pub fn exit_filp_open(ctx: FExitContext) -> i32 {
    let _ = opened(&ctx);
    0
}

#[inline(always)]
fn opened(ctx: &FExitContext) -> Option<()> {
    let watched = scope::watched()?;
    let (name, flags) = (given(ctx, 1), given(ctx, 2));
    // What the kernel opens for itself has no name in a caller's memory, and what is executed is told as that.
    if name.number::<u64>(offset!(filename_uptr)) == 0
        || flags.number::<u32>(offset!(open_flags_open_flag)) & FMODE_EXEC != 0
    {
        return None;
    }
    let text = Passed::copied(name.number(offset!(filename_name)));
    let file = given(ctx, 3).address();
    if file >= ERRORS {
        return open::refused(&watched, Kind::Open, file as i64, Name { directory: ctx.arg(0), text });
    }
    open::was_opened(&watched, file, text)
}

/// An AF_UNIX stream was connected or could not be. Costs others the scope's look-up. Linux 5.15 on.
#[fexit(function = "unix_stream_connect")]
pub fn exit_unix_stream_connect(ctx: FExitContext) -> i32 {
    let _ = connected(&ctx, ctx.arg::<i32>(4));
    0
}

/// The same of datagrams.
#[fexit(function = "unix_dgram_connect")]
pub fn exit_unix_dgram_connect(ctx: FExitContext) -> i32 {
    let _ = connected(&ctx, ctx.arg::<i32>(4));
    0
}

/// A security module lets a socket connect or does not: what is refused here comes to no function of AF_UNIX.
#[fexit(function = "security_socket_connect")]
pub fn exit_may_connect(ctx: FExitContext) -> i32 {
    let result = ctx.arg::<i32>(3);
    if matches!(i64::from(result), EACCES | EPERM) {
        let _ = connected(&ctx, result);
    }
    0
}

/// The socket, the address and its length are the first arguments of all three.
#[inline(always)]
fn connected(ctx: &FExitContext, result: i32) -> Option<()> {
    let watched = scope::watched()?;
    let sk = given(ctx, 0).follow(offset!(socket_sk))?;
    if sk.number::<u16>(offset!(sk_family)) != AF_UNIX {
        return None;
    }
    let address = Passed::copied(given(ctx, 1).address());
    connect::unix(&watched, sk.address(), result.into(), address, ctx.arg::<i32>(2) as u64)
}

/// A datagram was sent over AF_UNIX or could not be; of several in one call each comes here. Costs others the scope's
/// look-up. Linux 5.15 on.
#[fexit(function = "unix_dgram_sendmsg")]
pub fn exit_unix_dgram_sendmsg(ctx: FExitContext) -> i32 {
    let _ = sent(&ctx);
    0
}

#[inline(always)]
fn sent(ctx: &FExitContext) -> Option<()> {
    let watched = scope::watched()?;
    let sk = given(ctx, 0).follow(offset!(socket_sk))?;
    let message = given(ctx, 1);
    let name = Passed::copied(message.number(offset!(msghdr_name)));
    let len = message.number::<i32>(offset!(msghdr_namelen)) as u64;
    sendto::unix_datagram(watched, sk.address(), ctx.arg::<i32>(3).into(), name, len)
}

/// A socket that was accepted becomes an open file's. The one function that all protocols pass here. The file has no
/// descriptor yet. Costs others the look at the socket's family. Linux 5.15 on.
#[fexit(function = "security_sock_graft")]
pub fn exit_sock_graft(ctx: FExitContext) -> i32 {
    let _ = accepted(&ctx);
    0
}

#[inline(always)]
fn accepted(ctx: &FExitContext) -> Option<()> {
    let sk = given(ctx, 0);
    if !matches!(sk.number::<u16>(offset!(sk_family)), AF_INET | AF_INET6) {
        return None;
    }
    let watched = scope::watched()?;
    // By its address: a file whose type the verifier knows is no number, as what looks at it is given one.
    let file = read(given(ctx, 1).address() + offset!(socket_file)).unwrap_or(0);
    listen::was_accepted(&watched, sk, file)
}
