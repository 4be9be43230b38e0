//! Names and their attributes change: rename, link, unlink, chmod and the like.
//!
//! A tracepoint does not see what the kernel resolved. A record has the caller's text, read when the call returns,
//! and the directory it is relative to, which is the kernel's own. Where a call is about an open file, its path is
//! the kernel's.

use aya_ebpf::{
    macros::{map, tracepoint},
    maps::PerCpuArray,
    programs::TracePointContext,
};
use coi_common::{Change, FLAG_PATH_AS_PASSED, Header, Kind};

use crate::{
    exec::bounded,
    kernel::{argument0, argument1, argument2, argument3},
    name::{self, AT_FDCWD, NAME_ROOM, NOWHERE, Name},
    open::result,
    ring::{self, Weight},
    scope::{self, Watched},
    task, wanted,
};

const EPERM: i64 = -1;
const EACCES: i64 = -13;
const EROFS: i64 = -30;

#[derive(Clone, Copy)]
#[repr(C)]
struct ChangeRecord {
    header: Header,
    body: Change,
    names: [u8; 2 * NAME_ROOM],
}

/// Room to put a record together.
#[map]
static CHANGES: PerCpuArray<ChangeRecord> = PerCpuArray::with_max_entries(1, 0);

/// After unlink, rmdir, mkdir, chmod, chown, lchown, truncate: a name, relative to the working directory. Costs,
/// watched and wanted, a microsecond; else a look-up. Linux 5.15 on.
#[tracepoint]
pub fn exit_change(ctx: TracePointContext) -> u32 {
    let _ = changed(&ctx, || Name { directory: AT_FDCWD, text: argument0() }, None::<fn() -> Name>);
    0
}

/// After unlinkat, mkdirat, fchmodat, fchownat: a name relative to a directory. As [`exit_change`].
#[tracepoint]
pub fn exit_change_at(ctx: TracePointContext) -> u32 {
    let _ = changed(&ctx, || Name { directory: argument0() as i32, text: argument1() }, None::<fn() -> Name>);
    0
}

/// After rename, link: the second name is the new one. As [`exit_change`].
#[tracepoint]
pub fn exit_change_two(ctx: TracePointContext) -> u32 {
    let _ = changed(
        &ctx,
        || Name { directory: AT_FDCWD, text: argument1() },
        Some(|| Name { directory: AT_FDCWD, text: argument0() }),
    );
    0
}

/// After renameat, renameat2, linkat. As [`exit_change`].
#[tracepoint]
pub fn exit_change_two_at(ctx: TracePointContext) -> u32 {
    let new = || Name { directory: argument2() as i32, text: argument3() };
    let _ = changed(&ctx, new, Some(|| Name { directory: argument0() as i32, text: argument1() }));
    0
}

/// After symlink: the first argument is a text that is no name yet. As [`exit_change`].
#[tracepoint]
pub fn exit_symlink(ctx: TracePointContext) -> u32 {
    let _ = changed(
        &ctx,
        || Name { directory: AT_FDCWD, text: argument1() },
        Some(|| Name { directory: NOWHERE, text: argument0() }),
    );
    0
}

/// After symlinkat. As [`exit_change`].
#[tracepoint]
pub fn exit_symlinkat(ctx: TracePointContext) -> u32 {
    let _ = changed(
        &ctx,
        || Name { directory: argument1() as i32, text: argument2() },
        Some(|| Name { directory: NOWHERE, text: argument0() }),
    );
    0
}

/// After fchmod, fchown, ftruncate: an open file. As [`exit_change`].
#[tracepoint]
pub fn exit_change_file(ctx: TracePointContext) -> u32 {
    let _ = changed(&ctx, || Name { directory: argument0() as i32, text: 0 }, None::<fn() -> Name>);
    0
}

#[inline(always)]
fn changed(
    ctx: &TracePointContext,
    name: impl FnOnce() -> Name,
    other: Option<impl FnOnce() -> Name>,
) -> Option<()> {
    let watched = scope::watched()?;
    let result = result(ctx).filter(|result| matches!(*result, 0 | EPERM | EACCES | EROFS))?;
    if !wanted::kind(Kind::Change, &watched) {
        return None;
    }
    tell(ctx, &watched, result, name(), other.map(|other| other()))
}

#[inline(always)]
fn tell(
    ctx: &TracePointContext,
    watched: &Watched,
    result: i64,
    name: Name,
    other: Option<Name>,
) -> Option<()> {
    let record = CHANGES.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    // SAFETY: the record is ours.
    unsafe { task::header(&raw mut record.header, Kind::Change, watched) };
    record.body = Change {
        // SAFETY: syscalls/sys_exit_*: `int __syscall_nr` at 8; the verifier checks it against the context's size.
        syscall: unsafe { ctx.read_at(8) }.ok()?,
        result: result as i32,
        ..Change::default()
    };
    if name.text != 0 {
        record.header.flags |= FLAG_PATH_AS_PASSED;
    }
    let to = record.names.as_mut_ptr();
    let written = name::write(name, to);
    record.header.flags |= written.flags;
    record.body.place_len = written.place as u32;
    record.body.text_len = written.text as u32;
    let mut len = bounded(written.place + written.text, NAME_ROOM as u64);
    if let Some(other) = other {
        // SAFETY: `len` is at most NAME_ROOM, and there is room for two.
        let written = name::write(other, unsafe { to.add(len as usize) });
        record.header.flags |= written.flags;
        record.body.other_place_len = written.place as u32;
        record.body.other_text_len = written.text as u32;
        len += bounded(written.place + written.text, NAME_ROOM as u64);
    }
    let len = size_of::<Header>() + size_of::<Change>() + bounded(len, 2 * NAME_ROOM as u64) as usize;
    // SAFETY: `len` is at most the record's size, and what is unread of the names is older records' bytes.
    unsafe { ring::send(Kind::Change, Weight::Bulk, watched.id, (&raw const *record).cast(), len) };
    Some(())
}
