//! Standard input, output and error are put onto a socket.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use coi_common::{Header, Kind, Redirect};

use crate::{
    call::Call,
    entry::{self, Returned},
    ring::{self, Weight},
    scope, stream, task,
};

/// fcntl(2) on x86-64.
const SYS_FCNTL: u32 = 72;
const F_DUPFD: u64 = 0;
const F_DUPFD_CLOEXEC: u64 = 1030;

#[derive(Clone, Copy)]
#[repr(C)]
struct RedirectRecord {
    header: Header,
    body: Redirect,
}

/// After dup(2), dup2(2) and dup3(2), and fcntl(2), of which only F_DUPFD is looked at. Costs, watched: some 50 ns unless a socket went to 0, 1 or 2.
/// Linux 5.15 on.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_dup(_ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(duplicated);
    0
}

#[inline(always)]
fn duplicated(call: &Returned) -> Option<()> {
    let fd = call.result().filter(|fd| (0..=2).contains(fd))?;
    if call.number() == SYS_FCNTL && !matches!(call.argument(1), F_DUPFD | F_DUPFD_CLOEXEC) {
        return None;
    }
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
