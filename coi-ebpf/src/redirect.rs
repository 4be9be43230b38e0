//! Standard input, output and error are put onto a socket.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use coi_common::{Header, Kind, Redirect};

use crate::{
    call::Call,
    ring::{self, Weight},
    scope, stream, task,
};

const F_DUPFD: u64 = 0;
const F_DUPFD_CLOEXEC: u64 = 1030;

#[derive(Clone, Copy)]
#[repr(C)]
struct RedirectRecord {
    header: Header,
    body: Redirect,
}

/// After dup(2), dup2(2) and dup3(2). Costs, watched: some 50 ns unless a socket went to 0, 1 or 2.
/// Linux 5.15 on.
#[tracepoint]
pub fn exit_dup(ctx: TracePointContext) -> u32 {
    let _ = duplicated(&ctx);
    0
}

/// After fcntl(2) with F_DUPFD. As [`exit_dup`].
#[tracepoint]
pub fn exit_fcntl(ctx: TracePointContext) -> u32 {
    let _ = duplicated_by_fcntl(&ctx);
    0
}

/// What [`exit_fcntl`] does.
#[inline(always)]
pub fn duplicated_by_fcntl(call: &impl Call) -> Option<()> {
    if !matches!(call.result()?, 0..=2) || !matches!(call.argument(1), F_DUPFD | F_DUPFD_CLOEXEC) {
        return None;
    }
    duplicated(call)
}

/// What [`exit_dup`] does.
#[inline(always)]
pub fn duplicated(call: &impl Call) -> Option<()> {
    let fd = call.result().filter(|fd| (0..=2).contains(fd))?;
    let watched = scope::watched()?;
    stream::socket(stream::file(fd as u64)?)?;
    ring::send_in_place(
        Kind::Redirect,
        Weight::of(Kind::Redirect),
        watched.id,
        |record: *mut RedirectRecord| {
            // SAFETY: the place is reserved.
            unsafe {
                task::header(&raw mut (*record).header, Kind::Redirect, &watched);
                stream::stdio(&raw mut (*record).body.stdio);
                (*record).body.fd = fd as u32;
            }
        },
    );
    Some(())
}
