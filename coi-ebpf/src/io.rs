//! How much is read and sent.
//!
//! A read or a send is never an event. Each thread's bytes are summed here, and a sum becomes a record when it
//! passes a step ([`READ_STEP`], [`FILES_STEP`], [`SEND_STEP`]) and when the thread ends: nothing is lost, and what a running
//! thread has not told yet is less than one step. Only regular files of the workspace are counted as read,
//! and only what goes to other addresses than loopback as sent.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap, PerCpuArray},
    programs::BtfTracePointContext,
};
use coi_common::{FILES_STEP, Header, Kind, READ_STEP, SEND_STEP, Sum};

use crate::{
    call::Call,
    file::File,
    inode::{Inode, S_IFREG},
    kernel::{self, Structure, current, offset},
    memory, path,
    ring::{self, Weight},
    scope::{self, Watched},
    stream::{self, AF_INET, AF_INET6},
    task, wanted,
};

/// sendfile(2) on x86-64.
const SYS_SENDFILE: u32 = 40;

/// What a thread has read and not told yet.
#[map]
static READ: HashMap<u32, Sum> = HashMap::with_max_entries(32768, 0);
/// What a thread has sent and not told yet.
#[map]
static WRITTEN: HashMap<u32, Sum> = HashMap::with_max_entries(32768, 0);

/// A file, as one watch sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct FileKey {
    scope: u64,
    inode: u64,
    /// By its address, which is its own as long as it is mounted.
    file_system: u64,
    /// Tells a file from the next one that gets its inode number.
    generation: u64,
}

/// What is remembered of a file.
#[derive(Clone, Copy)]
#[repr(C)]
struct Remembered {
    key: FileKey,
    /// Whether it is in the workspace: 0 if it is not, else the [`EPOCH`] in which its being read was counted, or
    /// [`UNCOUNTED`].
    state: u32,
    reserved: u32,
}

/// How many files each CPU remembers.
const SLOTS: u32 = 8192;

/// The files that were seen last, each in the one slot that is its own: two files that share it push each other out,
/// and what is out is found out again. A map with a list of the last used would cost each read three times as much.
#[map]
static FILES: PerCpuArray<Remembered> = PerCpuArray::with_max_entries(SLOTS, 0);

/// In [`FILES`]: the file is in the workspace and has not been read yet.
const UNCOUNTED: u32 = 1;

/// One number that user space changes every ten seconds: reading a file counts once in each such time. A clock would
/// cost each read more.
#[map]
static EPOCH: Array<u32> = Array::with_max_entries(1, 0);

/// Is this file of the workspace? And where that is remembered.
#[inline(always)]
pub fn in_workspace(watched: &Watched, file: File, inode: Inode) -> (bool, Option<*mut u32>) {
    // SAFETY: a pointer to a map's value stays valid while the program runs.
    let scope = unsafe { &*watched.scope };
    if scope.workspace_inode == 0 {
        return (false, None);
    }
    let key = FileKey {
        scope: watched.id,
        inode: inode.number(),
        file_system: inode.file_system(),
        generation: inode.generation().into(),
    };
    // Fibonacci hashing: the upper bits of the product are well mixed.
    let mixed = (key.inode ^ key.generation << 20 ^ key.scope << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let Some(slot) = FILES.get_ptr_mut((mixed >> 40) as u32 % SLOTS) else { return (false, None) };
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let slot = unsafe { &mut *slot };
    if slot.key != key {
        slot.state = if path::in_workspace(file.place(), scope) { UNCOUNTED } else { 0 };
        slot.key = key;
    }
    (slot.state != 0, Some(&raw mut slot.state))
}

#[derive(Clone, Copy)]
#[repr(C)]
struct SumRecord {
    header: Header,
    body: Sum,
}

/// Something was read from a file, or sent on from it: what read(2) and its kin do, and splice(2), copy_file_range(2) and
/// sendfile(2). Costs 100 to 200 ns.
#[inline(always)]
pub fn was_read(call: &impl Call, watched: &Watched) -> Option<()> {
    let bytes = call.result().filter(|bytes| *bytes > 0)? as u64;
    if !wanted::kind(Kind::Read, watched) {
        return None;
    }
    // Of sendfile(2) the source is the second argument.
    let file = call.file(u32::from(call.number() == SYS_SENDFILE))?;
    let file = File::at(file)?;
    let inode = file.inode().filter(|inode| inode.kind() == S_IFREG)?;
    if let (true, counted) = in_workspace(watched, file, inode) {
        let mut files = 0;
        if let Some(counted) = counted {
            let now = EPOCH.get(0).copied().unwrap_or(0);
            // SAFETY: a pointer to a map's value stays valid while the program runs; two threads that read the file
            // at once may both count it.
            unsafe {
                if *counted != now {
                    *counted = now;
                    files = 1;
                }
            }
        }
        add(&READ, watched, Kind::Read, Sum { bytes, files }, READ_STEP);
    }
    Some(())
}

/// After a socket sent something, by whatever route. Costs, watched: some 50 ns. Linux 6.3 on.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send(ctx: BtfTracePointContext) -> i32 {
    let bytes = ctx.arg::<i32>(1);
    if bytes <= 0 {
        return 0;
    }
    let Some(watched) = scope::watched() else { return 0 };
    if !wanted::kind(Kind::Send, &watched) {
        return 0;
    }
    let peer = stream::peer(kernel::given(&ctx, 0));
    let loopback = match peer.family {
        AF_INET => peer.ip[0] == 127,
        AF_INET6 => {
            let mapped = peer.ip[..10] == [0; 10] && peer.ip[10] == 0xff && peer.ip[11] == 0xff;
            (mapped && peer.ip[12] == 127) || (peer.ip[..15] == [0; 15] && peer.ip[15] == 1)
        }
        _ => return 0,
    };
    if !loopback {
        add(&WRITTEN, &watched, Kind::Send, Sum { bytes: bytes as u64, files: 0 }, SEND_STEP);
    }
    0
}

/// Tells what an ending thread has not told yet.
#[inline(always)]
pub fn flush(watched: &Watched) {
    let tid: u32 = current().number(offset!(task_pid));
    flush_one(&READ, watched, Kind::Read, tid);
    flush_one(&WRITTEN, watched, Kind::Send, tid);
}

#[inline(always)]
fn flush_one(sums: &HashMap<u32, Sum>, watched: &Watched, kind: Kind, tid: u32) {
    if let Some(sum) = sums.get_ptr(tid) {
        // SAFETY: only this thread's own calls change its sum.
        let sum = unsafe { *sum };
        let _ = sums.remove(tid);
        if sum.bytes > 0 {
            tell(watched, kind, sum);
        }
    }
}

#[inline(always)]
fn add(sums: &HashMap<u32, Sum>, watched: &Watched, kind: Kind, more: Sum, step: u64) {
    let tid: u32 = current().number(offset!(task_pid));
    let Some(sum) = sums.get_ptr_mut(tid) else {
        // No room for another thread's sum: tell at once rather than lose it.
        if more.bytes >= step || sums.insert(tid, more, 0).is_err() {
            tell(watched, kind, more);
        }
        return;
    };
    // SAFETY: only this thread's own calls change its sum.
    let sum = unsafe { &mut *sum };
    sum.bytes += more.bytes;
    sum.files += more.files;
    if sum.bytes >= step || sum.files >= FILES_STEP {
        let told = *sum;
        // SAFETY: numbers, as above.
        unsafe { memory::zero(sum) };
        tell(watched, kind, told);
    }
}

#[inline(always)]
fn tell(watched: &Watched, kind: Kind, sum: Sum) {
    ring::send_in_place(
        kind,
        Weight::of(kind),
        watched.id,
        #[inline(always)]
        |record: *mut SumRecord| {
            // SAFETY: the place is reserved.
            unsafe {
                task::header(&raw mut (*record).header, kind, watched);
                (*record).body = sum;
            }
        },
    );
}
