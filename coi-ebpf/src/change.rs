//! Names and their attributes change: rename, link, unlink, chmod and the like.
//!
//! A tracepoint does not see what the kernel resolved. A record has the caller's text, read when the call returns,
//! and the directory it is relative to, which is the kernel's own. Where a call is about an open file, its path is
//! the kernel's.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use coi_common::{Change, FLAG_PATH_AS_PASSED, Header, Kind};

use crate::{
    call::{Call, EACCES, EPERM, EROFS, UNKNOWN},
    entry::{self, Returned},
    exec::bounded,
    name::{self, AT_FDCWD, NAME_MASK, NAME_ROOM, NOWHERE, Name, Passed},
    ring::{self, Weight},
    scope::{self, Watched},
    task, wanted,
};

/// System calls, as numbered on x86-64; those that are not here have one name, relative to the working directory.
const SYS_FTRUNCATE: u32 = 77;
const SYS_RENAME: u32 = 82;
const SYS_LINK: u32 = 86;
const SYS_SYMLINK: u32 = 88;
const SYS_FCHMOD: u32 = 91;
const SYS_FCHOWN: u32 = 93;
pub const SYS_MKDIRAT: u32 = 258;
const SYS_FCHOWNAT: u32 = 260;
pub const SYS_UNLINKAT: u32 = 263;
const SYS_RENAMEAT: u32 = 264;
pub const SYS_LINKAT: u32 = 265;
pub const SYS_SYMLINKAT: u32 = 266;
const SYS_FCHMODAT: u32 = 268;
pub const SYS_RENAMEAT2: u32 = 316;
const SYS_FCHMODAT2: u32 = 452;

#[derive(Clone, Copy)]
#[repr(C)]
struct ChangeRecord {
    header: Header,
    body: Change,
    names: [u8; 2 * NAME_ROOM],
}

/// What is done to names.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Act {
    /// The system call that does it, as numbered on x86-64.
    pub syscall: u32,
    /// Its third argument, where it says more.
    pub argument2: u64,
    /// The affected name; the new one where there are two.
    pub affected: Name,
    /// The old name, or what a symbolic link is to say, if there is one.
    pub other: Name,
}

/// What was found out of a call. Read back from here it is unknown to the verifier, which then follows all calls as one.
#[map]
static ACTS: PerCpuArray<Act> = PerCpuArray::with_max_entries(1, 0);

/// Room to put a record together.
#[map]
static CHANGES: PerCpuArray<ChangeRecord> = PerCpuArray::with_max_entries(1, 0);

/// After a system call that changes names, modes, owners or lengths: rename, link, symlink, unlink, rmdir, mkdir, chmod,
/// chown, truncate and their kin. Costs, watched and wanted, a microsecond; else a look-up. Linux 5.15 on.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_change(_ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(changed);
    0
}

#[inline(always)]
fn changed(call: &Returned) -> Option<()> {
    let watched = scope::watched()?;
    let result = call.result().filter(|result| matches!(*result, 0 | EPERM | EACCES | EROFS))?;
    if !wanted::kind(Kind::Change, &watched) {
        return None;
    }
    let name = |directory: i32, text: u64| Name { directory, text: Passed::by_caller(text) };
    // The affected name; and the old one, or what a symbolic link is to say.
    let (affected, other) = match call.number() {
        SYS_RENAME | SYS_LINK => (name(AT_FDCWD, call.argument(1)), name(AT_FDCWD, call.argument(0))),
        SYS_RENAMEAT | SYS_RENAMEAT2 | SYS_LINKAT => {
            (name(call.argument(2) as i32, call.argument(3)), name(call.argument(0) as i32, call.argument(1)))
        }
        SYS_SYMLINK => (name(AT_FDCWD, call.argument(1)), name(NOWHERE, call.argument(0))),
        SYS_SYMLINKAT => (name(call.argument(1) as i32, call.argument(2)), name(NOWHERE, call.argument(0))),
        SYS_UNLINKAT | SYS_MKDIRAT | SYS_FCHMODAT | SYS_FCHMODAT2 | SYS_FCHOWNAT => {
            (name(call.argument(0) as i32, call.argument(1)), Name::NONE)
        }
        SYS_FCHMOD | SYS_FCHOWN | SYS_FTRUNCATE => (name(call.argument(0) as i32, 0), Name::NONE),
        _ => (name(AT_FDCWD, call.argument(0)), Name::NONE),
    };
    let act = Act { syscall: call.number(), argument2: call.argument(2), affected, other };
    tell(&watched, act, result as i32)
}

/// Tells that names are to be changed: of a request that has not been carried out yet.
#[inline(always)]
pub fn asked(watched: &Watched, act: Act) -> Option<()> {
    if !wanted::kind(Kind::Change, watched) {
        return None;
    }
    tell(watched, act, UNKNOWN)
}

#[inline(always)]
fn tell(watched: &Watched, act: Act, result: i32) -> Option<()> {
    let place = ACTS.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let Act { syscall, argument2, affected: name, other } = unsafe {
        core::ptr::write_volatile(place, act);
        core::ptr::read_volatile(place)
    };
    let record = CHANGES.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    // SAFETY: the record is ours.
    unsafe { task::header(&raw mut record.header, Kind::Change, watched) };
    record.body = Change { syscall, result, argument2, ..Change::default() };
    if !name.text.is_nothing() {
        record.header.flags |= FLAG_PATH_AS_PASSED;
    }
    let to = record.names.as_mut_ptr();
    let written = name::write(name, to);
    record.header.flags |= written.flags;
    record.body.place_len = written.place as u32;
    record.body.text_len = written.text as u32;
    let mut len = bounded(written.place + written.text, NAME_MASK);
    if !other.text.is_nothing() {
        // SAFETY: `len` is at most NAME_ROOM, and there is room for two.
        let written = name::write(other, unsafe { to.add(bounded(len, NAME_MASK) as usize) });
        record.header.flags |= written.flags;
        record.body.other_place_len = written.place as u32;
        record.body.other_text_len = written.text as u32;
        len += bounded(written.place + written.text, NAME_MASK);
    }
    let len = size_of::<Header>() + size_of::<Change>() + bounded(len, 2 * NAME_MASK + 1) as usize;
    // SAFETY: `len` is at most the record's size, and what is unread of the names is older records' bytes.
    unsafe { ring::send(Kind::Change, Weight::Bulk, watched.id, (&raw const *record).cast(), len) };
    Some(())
}
