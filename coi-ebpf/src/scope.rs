//! Which tasks are watched.
//!
//! A task is watched when one of its ancestor cgroups is in [`SCOPES`]; nested cgroups and containers are
//! below the same ancestor. A container's cgroup is put there by the kernel program itself at the moment it
//! is made, if user space has said before that it expects one of that full path: so its first process is
//! seen, also after a restart. What a container's root makes below its own cgroup has another full path.

use aya_ebpf::{
    helpers::{bpf_probe_read_kernel_str_bytes, generated::bpf_get_current_ancestor_cgroup_id},
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap, PerCpuArray},
    programs::BtfTracePointContext,
};
use coi_common::{CGROUP_PATH, Cgroup, FLAG_SETUP, Header, Kind, Scope};

use crate::{
    kernel::{self, Structure, offset},
    ring::{self, Weight},
    task,
};

/// The deepest level at which a cgroup may be watched.
const MAX_LEVEL: u32 = 8;

/// The watched cgroups by id.
#[map]
static SCOPES: HashMap<u64, Scope> = HashMap::with_max_entries(4096, 0);
/// One number: bit N is set while a cgroup at level N may be watched.
#[map]
static LEVELS: Array<u32> = Array::with_max_entries(1, 0);
/// The full paths of cgroups that shall be watched as soon as they are made.
#[map]
static EXPECTED: HashMap<[u8; CGROUP_PATH], Scope> = HashMap::with_max_entries(16384, 0);

/// A watched cgroup.
#[derive(Clone, Copy)]
pub struct Watched {
    /// Its id.
    pub id: u64,
    /// Its entry in [`SCOPES`].
    pub scope: *mut Scope,
}

impl Watched {
    /// The flags that every record from here carries.
    #[inline(always)]
    pub fn flags(&self) -> u32 {
        // SAFETY: a pointer to a map's value stays valid while the program runs.
        let scope = unsafe { &*self.scope };
        // What outlives its init for a moment is the guest's still.
        let guest = scope.started != 0
            || scope.init_namespace != 0
                && task::innermost(kernel::current())
                    .is_some_and(|innermost| innermost.namespace == scope.init_namespace);
        if guest { 0 } else { FLAG_SETUP }
    }
}

/// The watched ancestor of the acting task's cgroup, the highest one if there are several.
#[inline(always)]
pub fn watched() -> Option<Watched> {
    let levels = *LEVELS.get(0)?;
    if levels == 0 {
        return None;
    }
    for level in 1..=MAX_LEVEL {
        if levels & (1 << level) == 0 {
            continue;
        }
        // SAFETY: the helper takes any number and gives 0 where there is no such ancestor.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if let Some(scope) = SCOPES.get_ptr_mut(id) {
            return Some(Watched { id, scope });
        }
    }
    None
}

/// Room to put a path together.
#[map]
static PATHS: PerCpuArray<CgroupRecord> = PerCpuArray::with_max_entries(1, 0);

#[derive(Clone, Copy)]
#[repr(C)]
struct CgroupRecord {
    header: Header,
    body: Cgroup,
    path: [u8; CGROUP_PATH],
}

/// What the tracepoints of cgroups are given: a `struct cgroup` and its path.
struct Told {
    hierarchy: u32,
    level: u32,
    id: u64,
    path: *const u8,
}

#[inline(always)]
fn told(ctx: &BtfTracePointContext) -> Option<Told> {
    let cgroup = kernel::given(ctx, 0);
    Some(Told {
        hierarchy: cgroup.follow(offset!(cgroup_root))?.number(offset!(cgroup_root_hierarchy_id)),
        level: cgroup.number(offset!(cgroup_level)),
        id: cgroup.follow(offset!(cgroup_kn))?.number(offset!(kernfs_node_id)),
        path: ctx.arg(1),
    })
}

/// Puts an expected cgroup in scope. Costs: runs only when a cgroup is made. Linux 5.15 on.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    let _ = made(&ctx);
    0
}

#[inline(always)]
fn made(ctx: &BtfTracePointContext) -> Option<()> {
    let told = told(ctx)?;
    // Hierarchies of version 1 have other numbers than 0.
    if told.hierarchy != 0 || told.level == 0 || told.level > MAX_LEVEL {
        return None;
    }
    let record = PATHS.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    record.path = [0; CGROUP_PATH];
    // SAFETY: the helper checks the address itself.
    let read = unsafe { bpf_probe_read_kernel_str_bytes(told.path, &mut record.path) }.ok()?;
    let path_len = read.len() as u32 + 1;

    // SAFETY: a pointer to a map's value stays valid while the program runs.
    let mut scope = unsafe { *EXPECTED.get_ptr(record.path)? };
    scope.level = told.level;
    ring::begin(told.id, scope.everything);
    SCOPES.insert(told.id, scope, 0).ok()?;
    if let Some(levels) = LEVELS.get_ptr_mut(0) {
        // SAFETY: as above; two cgroups made at once at two levels could lose one bit; user space sets the
        // bits of all levels at which it expects a cgroup beforehand.
        unsafe { *levels |= 1 << (told.level & 15) };
    }
    announce(record, Kind::CgroupMade, told.id, told.level, path_len, told.path);
    Some(())
}

/// Takes a cgroup out of scope. Costs: runs only when a cgroup is removed. Linux 5.15 on.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: BtfTracePointContext) -> i32 {
    let _ = removed(&ctx);
    0
}

#[inline(always)]
fn removed(ctx: &BtfTracePointContext) -> Option<()> {
    let told = told(ctx)?;
    if told.hierarchy != 0 {
        return None;
    }
    SCOPES.get_ptr(told.id)?;
    let _ = SCOPES.remove(told.id);
    let record = PATHS.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    let record = unsafe { &mut *record };
    announce(record, Kind::CgroupGone, told.id, told.level, 0, told.path);
    ring::end(told.id);
    Some(())
}

#[inline(always)]
fn announce(record: &mut CgroupRecord, kind: Kind, id: u64, level: u32, path_len: u32, path: *const u8) {
    record.path = [0; CGROUP_PATH];
    // SAFETY: the helper checks the address itself.
    let read = unsafe { bpf_probe_read_kernel_str_bytes(path, &mut record.path) };
    let path_len = read.map_or(path_len, |bytes| bytes.len() as u32 + 1);
    // SAFETY: the record is ours.
    unsafe { task::header_of(&raw mut record.header, kernel::current(), kind as u32, 0, id) };
    record.body = Cgroup { id, level, path_len };
    // SAFETY: the whole record is initialised.
    unsafe { ring::send(kind, Weight::Decisive, id, (&raw const *record).cast(), size_of::<CgroupRecord>()) };
}
