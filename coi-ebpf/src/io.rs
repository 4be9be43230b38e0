//! How much is read and sent.
//!
//! A read or a send is never an event. Each thread's bytes are summed here, and a sum becomes a record when it
//! passes a step ([`READ_STEP`], [`SEND_STEP`]) and when the thread ends: nothing is lost, and what a running
//! thread has not told yet is less than one step. Only regular files of the workspace are counted as read,
//! and only what goes to other addresses than loopback as sent.

use aya_ebpf::{
    macros::{map, raw_tracepoint, tracepoint},
    maps::{HashMap, LruHashMap},
    programs::{RawTracePointContext, TracePointContext},
};
use coi_common::{Header, Kind, READ_STEP, SEND_STEP, Sum};

use crate::{
    kernel::{argument0, argument1, current, offset, pointer, read},
    open::result,
    path, ring,
    scope::{self, Watched},
    stream::{self, AF_INET, AF_INET6},
    task,
};

/// Bytes read and not told yet, by thread.
#[map]
static READ: HashMap<u32, u64> = HashMap::with_max_entries(32768, 0);
/// Bytes sent and not told yet, by thread.
#[map]
static SENT: HashMap<u32, u64> = HashMap::with_max_entries(32768, 0);

/// A file, as one watch sees it.
#[derive(Clone, Copy)]
#[repr(C)]
struct FileKey {
    scope: u64,
    inode: u64,
    device: u32,
    /// Tells a file from the next one that gets its inode number.
    generation: u32,
}

/// Is the file in the workspace? Found out once per file; what falls out is found out again.
#[map]
static FILES: LruHashMap<FileKey, u32> = LruHashMap::with_max_entries(65536, 0);

#[derive(Clone, Copy)]
#[repr(C)]
struct SumRecord {
    header: Header,
    body: Sum,
}

/// After read(2) and its kin, and after splice(2) and copy_file_range(2): the file is the first argument.
/// Costs, watched: 100 to 200 ns; else the scope's look-up. Linux 5.15 on.
#[tracepoint]
pub fn exit_read(ctx: TracePointContext) -> u32 {
    let _ = was_read(&ctx, argument0);
    0
}

/// After sendfile(2), whose source is the second argument. As [`exit_read`].
#[tracepoint]
pub fn exit_sendfile(ctx: TracePointContext) -> u32 {
    let _ = was_read(&ctx, argument1);
    0
}

#[inline(always)]
fn was_read(ctx: &TracePointContext, fd: impl FnOnce() -> u64) -> Option<()> {
    let watched = scope::watched()?;
    let bytes = result(ctx).filter(|bytes| *bytes > 0)? as u64;
    // SAFETY: a pointer to a map's value stays valid while the program runs.
    let scope = unsafe { *watched.scope };
    if scope.workspace_inode == 0 {
        return None;
    }
    let file = stream::file(fd())?;
    let inode = pointer(file + offset!(file_inode))?;
    if !stream::is_regular(inode) {
        return None;
    }
    let key = FileKey {
        scope: watched.id,
        inode: read(inode + offset!(inode_ino))?,
        device: path::device(inode),
        generation: read(inode + offset!(inode_generation)).unwrap_or(0),
    };
    // SAFETY: the value is a number; a torn read of it is not possible.
    let known = unsafe { FILES.get(key) }.copied();
    let in_workspace = match known {
        Some(known) => known != 0,
        None => {
            let found = path::in_workspace(file, &scope);
            let _ = FILES.insert(key, u32::from(found), 0);
            found
        }
    };
    if in_workspace {
        add(&READ, &watched, Kind::Read, bytes, READ_STEP);
    }
    Some(())
}

/// After a socket sent something, by whatever route. Costs, watched: some 50 ns. Linux 6.3 on.
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn sock_send(ctx: RawTracePointContext) -> i32 {
    let bytes = ctx.arg::<i32>(1);
    if bytes <= 0 {
        return 0;
    }
    let Some(watched) = scope::watched() else { return 0 };
    let sk = ctx.arg::<*const u8>(0) as u64;
    let peer = stream::peer(sk);
    let loopback = match peer.family {
        AF_INET => peer.ip[0] == 127,
        AF_INET6 => {
            let mapped = peer.ip[..10] == [0; 10] && peer.ip[10] == 0xff && peer.ip[11] == 0xff;
            (mapped && peer.ip[12] == 127) || (peer.ip[..15] == [0; 15] && peer.ip[15] == 1)
        }
        _ => return 0,
    };
    if !loopback {
        add(&SENT, &watched, Kind::Send, bytes as u64, SEND_STEP);
    }
    0
}

/// Tells what an ending thread has not told yet.
#[inline(always)]
pub fn flush(watched: &Watched) {
    let tid: u32 = read(current() + offset!(task_pid)).unwrap_or(0);
    flush_one(&READ, watched, Kind::Read, tid);
    flush_one(&SENT, watched, Kind::Send, tid);
}

#[inline(always)]
fn flush_one(sums: &HashMap<u32, u64>, watched: &Watched, kind: Kind, tid: u32) {
    if let Some(sum) = sums.get_ptr(tid) {
        // SAFETY: only this thread's own calls change its sum.
        let bytes = unsafe { *sum };
        let _ = sums.remove(tid);
        if bytes > 0 {
            tell(watched, kind, bytes);
        }
    }
}

#[inline(always)]
fn add(sums: &HashMap<u32, u64>, watched: &Watched, kind: Kind, bytes: u64, step: u64) {
    let tid: u32 = read(current() + offset!(task_pid)).unwrap_or(0);
    let told = match sums.get_ptr_mut(tid) {
        Some(sum) => {
            // SAFETY: only this thread's own calls change its sum.
            let total = unsafe { *sum } + bytes;
            let told = if total >= step { total } else { 0 };
            // SAFETY: as above.
            unsafe { *sum = total - told };
            told
        }
        // No room for another thread's sum: tell at once rather than lose it.
        None if bytes >= step || sums.insert(tid, bytes, 0).is_err() => bytes,
        None => 0,
    };
    if told > 0 {
        tell(watched, kind, told);
    }
}

#[inline(always)]
fn tell(watched: &Watched, kind: Kind, bytes: u64) {
    ring::send_in_place(kind, watched.id, |record: *mut SumRecord| {
        // SAFETY: the place is reserved.
        unsafe {
            (*record).header = task::header(kind, watched);
            (*record).body.bytes = bytes;
        }
    });
}
