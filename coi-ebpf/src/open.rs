//! Files are opened and mapped.
//!
//! What was opened is read from the open file when the call returns: its path, device and inode. The caller's own
//! text follows, so that user space can see where the two differ. Only where the call was refused is that text, and
//! the directory it is relative to, all there is; by then the kernel has read it itself, so it can be read without
//! faulting.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use coi_common::{FLAG_PATH_AS_PASSED, Header, Kind, OPEN_CREATE, OPEN_WRITE, Open};

use crate::{
    call::{Call, EACCES, EPERM, UNKNOWN},
    entry::{self, Returned},
    exec::bounded,
    file::{FMODE_CREATED, FMODE_WRITE, File},
    inode::{Inode, S_IFDIR, S_IFIFO, S_IFREG},
    io,
    name::{self, AT_FDCWD, NAME_MASK, NAME_ROOM, Name, Passed},
    path::{self, PATH_MASK},
    ring::{self, Weight},
    scope::{self, Watched},
    stream, task, wanted,
};

/// System calls, as numbered on x86-64.
const SYS_OPEN: u32 = 2;
const SYS_CREAT: u32 = 85;
const SYS_OPEN_BY_HANDLE_AT: u32 = 304;
/// `include/uapi/asm-generic/fcntl.h`: directories are not told.
const O_DIRECTORY: u32 = 0o200_000;
/// `include/uapi/linux/mman.h`: a mapping without a file.
const MAP_ANONYMOUS: u64 = 0x20;

#[derive(Clone, Copy)]
#[repr(C)]
struct OpenRecord {
    header: Header,
    body: Open,
    names: [u8; NAME_ROOM],
}

/// Room to put a record together.
#[map]
static OPENS: PerCpuArray<OpenRecord> = PerCpuArray::with_max_entries(1, 0);

/// After open(2), creat(2), openat(2), openat2(2) and open_by_handle_at(2). Costs, watched: some 150 ns to find that
/// nobody wants it, one to two microseconds if somebody does. Linux 5.15 on.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_open(_ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(opened);
    0
}

/// What the caller calls the file.
#[inline(always)]
fn name(call: &Returned) -> Name {
    match call.number() {
        SYS_OPEN | SYS_CREAT => Name { directory: AT_FDCWD, text: Passed::by_caller(call.argument(0)) },
        // Its caller passes no name.
        SYS_OPEN_BY_HANDLE_AT => Name { directory: AT_FDCWD, text: Passed::NOTHING },
        _ => Name { directory: call.argument(0) as i32, text: Passed::by_caller(call.argument(1)) },
    }
}

/// After mmap(2): a file of the workspace can be read from now on without a call. As [`exit_open`].
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_mmap(_ctx: BtfTracePointContext) -> i32 {
    let _ = entry::call().and_then(mapped);
    0
}

#[inline(always)]
fn opened(call: &Returned) -> Option<()> {
    let watched = scope::watched()?;
    let result = call.result()?;
    if result < 0 {
        return refused(&watched, Kind::Open, result, name(call));
    }
    was_opened(&watched, stream::file(result as u64)?, name(call).text)
}

/// This file was opened under this name.
#[inline(always)]
pub fn was_opened(watched: &Watched, file: u64, text: Passed) -> Option<()> {
    let file = File::at(file)?;
    let inode = file.inode().filter(|inode| inode.kind() != S_IFDIR)?;
    let mode = file.mode();
    let write = if mode & FMODE_WRITE != 0 { OPEN_WRITE } else { 0 };
    let create = if mode & FMODE_CREATED != 0 { OPEN_CREATE } else { 0 };
    // Where a named pipe leads is for user space to follow, whatever rules say.
    if inode.kind() != S_IFIFO
        && !wanted::open(watched, file.place(), write | create, || io::in_workspace(watched, file, inode).0)
    {
        return None;
    }
    tell(watched, Kind::Open, file, inode, text)
}

#[inline(always)]
fn mapped(call: &Returned) -> Option<()> {
    let watched = scope::watched()?;
    let result = call.result()?;
    if result < 0 && result > -4096 || call.argument(3) & MAP_ANONYMOUS != 0 {
        return None;
    }
    if !wanted::kind(Kind::Map, &watched) {
        return None;
    }
    let file = File::at(stream::file(call.argument(4))?)?;
    let inode = file.inode().filter(|inode| inode.kind() == S_IFREG)?;
    if !io::in_workspace(&watched, file, inode).0 {
        return None;
    }
    tell(&watched, Kind::Map, file, inode, Passed::NOTHING)
}

#[inline(always)]
fn tell(watched: &Watched, kind: Kind, file: File, inode: Inode, text: Passed) -> Option<()> {
    let record = OPENS.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    // SAFETY: the record is ours.
    unsafe { task::header(&raw mut record.header, kind, watched) };
    let to = record.names.as_mut_ptr();
    // SAFETY: the record has room for twice as much.
    let (path_len, flags) = unsafe { path::write(file.place(), to) };
    let path_len = bounded(path_len, PATH_MASK);
    record.header.flags |= flags;
    // SAFETY: behind `path_len` there is room for PATH_KEPT bytes. Its flags are about the path, not about this.
    let (passed_len, _) = name::write_text(text, unsafe { to.add(bounded(path_len, PATH_MASK) as usize) });
    record.body = Open {
        inode: inode.number(),
        device: inode.device(),
        flags: file.flags(),
        result: 0,
        created: u32::from(file.mode() & FMODE_CREATED != 0),
        path_len: path_len as u32,
        mode: inode.mode().into(),
        passed_len: passed_len as u32,
        reserved: 0,
    };
    let names = bounded(path_len + passed_len, NAME_MASK) as usize;
    let len = size_of::<Header>() + size_of::<Open>() + names;
    // SAFETY: `len` is at most the record's size, and what is unread of the names is older records' bytes.
    unsafe { ring::send(kind, Weight::Bulk, watched.id, (&raw const *record).cast(), len) };
    Some(())
}

/// Tells of a call that was refused for want of permission, with what the caller passed.
#[inline(always)]
pub fn refused(watched: &Watched, kind: Kind, result: i64, name: Name) -> Option<()> {
    if !matches!(result, EPERM | EACCES) || !wanted::kind(kind, watched) {
        return None;
    }
    name_only(watched, kind, result as i32, 0, name)
}

/// Tells that a file is to be opened, with what the caller passed: of a request that has not been carried out yet.
#[inline(always)]
pub fn asked(watched: &Watched, flags: u32, name: Name) -> Option<()> {
    if flags & O_DIRECTORY != 0 || !wanted::kind(Kind::Open, watched) {
        return None;
    }
    name_only(watched, Kind::Open, UNKNOWN, flags, name)
}

#[inline(always)]
fn name_only(watched: &Watched, kind: Kind, result: i32, flags: u32, name: Name) -> Option<()> {
    let record = OPENS.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    // SAFETY: the record is ours.
    unsafe { task::header(&raw mut record.header, kind, watched) };
    let written = name::write(name, record.names.as_mut_ptr());
    record.header.flags |= FLAG_PATH_AS_PASSED | written.flags;
    record.body = Open {
        flags,
        result,
        path_len: written.place as u32,
        passed_len: written.text as u32,
        ..Open::default()
    };
    let names = bounded(written.place + written.text, NAME_MASK) as usize;
    let len = size_of::<Header>() + size_of::<Open>() + names;
    // SAFETY: as above.
    unsafe { ring::send(kind, Weight::of(kind), watched.id, (&raw const *record).cast(), len) };
    Some(())
}
