//! Files are opened.
//!
//! What was opened is read from the open file when the call returns: its path, device and inode. Only where
//! the call was refused is the caller's own text all there is; by then the kernel has read it itself, so it
//! can be read without faulting.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user_str,
    macros::{map, tracepoint},
    maps::PerCpuArray,
    programs::TracePointContext,
};
use coi_common::{
    FLAG_PATH_AS_PASSED, FLAG_PATH_TRUNCATED, FLAG_PATH_UNREADABLE, Header, Kind, Open, PATH_KEPT,
};

use crate::{
    exec::bounded,
    kernel::{argument0, argument1, offset, pointer, read},
    path::{self, PATH_SPACE},
    ring, scope, stream, task,
};

/// `include/linux/fs.h`: this open made the file.
const FMODE_CREATED: u32 = 1 << 20;
const EPERM: i64 = -1;
const EACCES: i64 = -13;

#[derive(Clone, Copy)]
#[repr(C)]
struct OpenRecord {
    header: Header,
    body: Open,
    path: [u8; PATH_SPACE],
}

/// Room to put a record together.
#[map]
static OPENS: PerCpuArray<OpenRecord> = PerCpuArray::with_max_entries(1, 0);

/// What a system call gave back.
#[inline(always)]
pub fn result(ctx: &TracePointContext) -> Option<i64> {
    // SAFETY: syscalls/sys_exit_*: `long ret` at 16; the verifier checks it against the context's size.
    unsafe { ctx.read_at(16) }.ok()
}

/// After openat(2) and openat2(2). Costs, watched: one to two microseconds. Linux 5.15 on.
#[tracepoint]
pub fn exit_openat(ctx: TracePointContext) -> u32 {
    let _ = opened(&ctx, argument1);
    0
}

/// After open(2) and creat(2). As [`exit_openat`].
#[tracepoint]
pub fn exit_open(ctx: TracePointContext) -> u32 {
    let _ = opened(&ctx, argument0);
    0
}

#[inline(always)]
fn opened(ctx: &TracePointContext, path: impl FnOnce() -> u64) -> Option<()> {
    let result = result(ctx)?;
    if result < 0 {
        return failed(ctx, Kind::Open, path);
    }
    let watched = scope::watched()?;
    let file = stream::file(result as u64)?;
    let inode = pointer(file + offset!(file_inode))?;
    if stream::is_directory(inode) {
        return None;
    }
    let record = OPENS.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    record.header = task::header(Kind::Open, &watched);
    let (path_len, flags) = path::write(file, record.path.as_mut_ptr());
    let path_len = bounded(path_len, PATH_SPACE as u64);
    record.header.flags |= flags;
    let mode: u32 = read(file + offset!(file_mode)).unwrap_or(0);
    record.body = Open {
        inode: read(inode + offset!(inode_ino)).unwrap_or(0),
        device: path::device(inode),
        flags: read(file + offset!(file_flags)).unwrap_or(0),
        result: 0,
        created: u32::from(mode & FMODE_CREATED != 0),
        path_len: path_len as u32,
        mode: u32::from(read::<u16>(inode + offset!(inode_mode)).unwrap_or(0)),
    };
    let len = size_of::<Header>() + size_of::<Open>() + path_len as usize;
    // SAFETY: `len` is at most the record's size, and what is unread of the path is an older record's bytes.
    unsafe { ring::send(Kind::Open, watched.id, (&raw const *record).cast(), len) };
    Some(())
}

/// Tells of a call that was refused for want of permission, with the text at `path()`.
#[inline(always)]
pub fn failed(ctx: &TracePointContext, kind: Kind, path: impl FnOnce() -> u64) -> Option<()> {
    let result = result(ctx).filter(|result| matches!(*result, EPERM | EACCES))?;
    let watched = scope::watched()?;
    let record = OPENS.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    record.header = task::header(kind, &watched);
    record.header.flags |= FLAG_PATH_AS_PASSED;
    // SAFETY: the record has room for PATH_KEPT bytes; the helper checks the address itself.
    let read = unsafe {
        bpf_probe_read_user_str(record.path.as_mut_ptr().cast(), PATH_KEPT as u32, path() as *const _)
    };
    if read <= 0 {
        record.header.flags |= FLAG_PATH_UNREADABLE;
    } else if read == PATH_KEPT as i64 {
        record.header.flags |= FLAG_PATH_TRUNCATED;
    }
    let path_len = if read <= 0 { 0 } else { bounded(read as u64, PATH_KEPT as u64) };
    record.body = Open { result: result as i32, path_len: path_len as u32, ..Open::default() };
    let len = size_of::<Header>() + size_of::<Open>() + path_len as usize;
    // SAFETY: as above.
    unsafe { ring::send(kind, watched.id, (&raw const *record).cast(), len) };
    Some(())
}
