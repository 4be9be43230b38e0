//! The path of an open file, from the kernel's own tables.
//!
//! It is what the file is called in the acting task's view of the file system: symbolic links, relative
//! names, `..` and descriptors are resolved already, whatever the caller passed. The parts are written last
//! first, each ended by a NUL; user space turns them around. A rename during the walk can mix the old name
//! and the new one; nothing worse. `bpf_d_path` is not available to these programs.
//!
//! A walk keeps its state in a map. What is read from there is unknown to the verifier, so all ways through
//! one step look the same to it at the next one, and it checks some forty steps instead of 2^40 ways.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, macros::map, maps::PerCpuArray};
use coi_common::{
    FLAG_PATH_NOWHERE, FLAG_PATH_TRUNCATED, FLAG_PATH_UNREADABLE, NAME_SPACE, PATH_DEPTH, PATH_KEPT, Scope,
};

use crate::{
    dentry::{Dentry, Name},
    exec::bounded,
    kernel::{Structure, current, offset, pointer, read},
};

/// Room for a path: the last part may begin just below [`PATH_KEPT`]. A power of two, so that a mask bounds a length.
pub const PATH_SPACE: usize = 2048;
/// Bounds the length of what is in [`PATH_SPACE`].
pub const PATH_MASK: u64 = PATH_SPACE as u64 - 1;
const _: () = assert!(PATH_KEPT + NAME_SPACE < PATH_SPACE);

/// Where a walk from a file to the root is.
#[derive(Clone, Copy)]
#[repr(C)]
struct Walk {
    mnt: u64,
    /// The mount's own root.
    mnt_root: u64,
    dentry: u64,
    /// Where it ends: the root that the task sees.
    root_mnt: u64,
    root_dentry: u64,
    /// How many bytes are written.
    len: u64,
    /// How it ended: `FLAG_PATH_*`.
    flags: u64,
}

#[map]
static WALKS: PerCpuArray<Walk> = PerCpuArray::with_max_entries(1, 0);

/// What a step of a walk leads to.
enum Step {
    /// The walk is at this entry.
    Entry(Dentry),
    /// The walk has left this mount's root for the directory it is mounted on.
    Mount(u64),
    /// There is nothing above.
    End,
    /// What is there cannot be read.
    Lost,
}

impl Walk {
    /// Begins at a place.
    #[inline(always)]
    fn begin(Place { mnt, dentry }: Place) -> Option<*mut Self> {
        let walk = WALKS.get_ptr_mut(0)?;
        let fs = current().follow(offset!(task_fs))?;
        // SAFETY: a per-CPU value, and programs do not move between CPUs.
        unsafe {
            *walk = Self {
                mnt,
                mnt_root: root_of(mnt),
                dentry,
                root_mnt: fs.number(offset!(fs_root) + offset!(path_mnt)),
                root_dentry: fs.number(offset!(fs_root) + offset!(path_dentry)),
                len: 0,
                flags: FLAG_PATH_TRUNCATED.into(),
            };
        }
        Some(walk)
    }

    #[inline(always)]
    fn len(walk: *mut Self) -> u64 {
        // SAFETY: a per-CPU value; volatile so that the verifier forgets what it knows.
        unsafe { core::ptr::read_volatile(&raw const (*walk).len) }
    }

    #[inline(always)]
    fn end(walk: *mut Self, flags: u32) {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*walk).flags, flags.into()) };
    }

    #[inline(always)]
    fn flags(walk: *mut Self) -> u32 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*walk).flags) as u32 }
    }

    /// Takes one step; the caller goes on to the parent itself.
    ///
    /// # Safety
    /// `walk` is from [`Self::begin`].
    #[inline(always)]
    unsafe fn step(walk: *mut Self) -> Step {
        // SAFETY: the caller's promise; volatile so that the compiler keeps nothing in registers.
        let Self { mnt, mnt_root, dentry, root_mnt, root_dentry, .. } =
            unsafe { core::ptr::read_volatile(walk) };
        if dentry == root_dentry && mnt == root_mnt {
            return Step::End;
        }
        if mnt_root == dentry {
            let mount = mnt - offset!(mount_mnt);
            let parent = read::<u64>(mount + offset!(mount_parent)).unwrap_or(mount);
            if parent == mount {
                return Step::End;
            }
            let mountpoint = read(mount + offset!(mount_mountpoint)).unwrap_or(0);
            let mnt = parent + offset!(mount_mnt);
            // SAFETY: as above.
            unsafe {
                core::ptr::write_volatile(&raw mut (*walk).mnt, mnt);
                core::ptr::write_volatile(&raw mut (*walk).mnt_root, root_of(mnt));
                core::ptr::write_volatile(&raw mut (*walk).dentry, mountpoint);
            }
            return Step::Mount(dentry);
        }
        let Some(entry) = Dentry::at(dentry) else { return Step::Lost };
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*walk).dentry, entry.parent()) };
        Step::Entry(entry)
    }
}

/// The root of a mount, a `struct vfsmount`.
#[inline(always)]
fn root_of(mnt: u64) -> u64 {
    read(mnt + offset!(vfsmount_root)).unwrap_or(0)
}

/// A place in the file system: a `struct path`.
#[derive(Clone, Copy)]
pub struct Place {
    pub mnt: u64,
    pub dentry: u64,
}

impl Place {
    /// What lies at this address, unless nothing does.
    #[inline(always)]
    pub fn at(path: u64) -> Option<Self> {
        Some(Self { mnt: pointer(path + offset!(path_mnt))?, dentry: pointer(path + offset!(path_dentry))? })
    }

    /// An open file's.
    #[inline(always)]
    pub fn of_file(file: u64) -> Option<Self> {
        Self::at(file + offset!(file_path))
    }

    /// The acting task's working directory.
    #[inline(always)]
    pub fn working_directory() -> Option<Self> {
        Self::at(current().follow(offset!(task_fs))?.address() + offset!(fs_pwd))
    }
}

/// Writes what a place is called; gives the length, at most [`PATH_SPACE`], and `FLAG_PATH_*`.
///
/// # Safety
/// `to` has room for [`PATH_SPACE`] bytes.
#[inline(always)]
pub unsafe fn write(place: Place, to: *mut u8) -> (u64, u32) {
    // SAFETY: the caller's promise.
    let written = unsafe { write_path(place.mnt, place.dentry, to.cast()) };
    (written >> 32, written as u32)
}

/// What [`write`] does, checked once (see [`crate`]); gives the length in the upper half and the flags in the lower.
///
/// # Safety
/// As [`write`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn write_path(mnt: u64, dentry: u64, to: *mut [u8; PATH_SPACE]) -> u64 {
    let Some(walk) = Walk::begin(Place { mnt, dentry }).filter(|_| !to.is_null()) else {
        return FLAG_PATH_UNREADABLE.into();
    };
    for _ in 0..PATH_DEPTH {
        // SAFETY: the walk has begun.
        let entry = match unsafe { Walk::step(walk) } {
            Step::Entry(entry) => entry,
            Step::Mount(_) => continue,
            Step::End => {
                Walk::end(walk, 0);
                break;
            }
            Step::Lost => {
                Walk::end(walk, FLAG_PATH_UNREADABLE);
                break;
            }
        };
        let at = Walk::len(walk);
        if at >= PATH_KEPT as u64 {
            break;
        }
        let name = entry.name().at;
        let place = bounded(at, PATH_KEPT as u64 - 1) as usize;
        // SAFETY: `to` has room for PATH_SPACE bytes and `at` is below PATH_KEPT; the helper checks the
        // address of the name itself.
        let written = unsafe {
            bpf_probe_read_kernel_str(to.byte_add(place).cast(), NAME_SPACE as u32, name as *const _)
        };
        if written <= 0 {
            Walk::end(walk, FLAG_PATH_UNREADABLE);
            break;
        }
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*walk).len, at + written as u64) };
        if entry.is_root() {
            // A file without a directory: a memfd, a pipe.
            Walk::end(walk, FLAG_PATH_NOWHERE);
            break;
        }
    }
    Walk::len(walk) << 32 | u64::from(Walk::flags(walk))
}

/// Is the file at this place below the workspace's directory, through whatever mount?
#[inline(always)]
pub fn in_workspace(place: Place, scope: &Scope) -> bool {
    let Some(walk) = Walk::begin(place) else { return false };
    let mut first = true;
    for _ in 0..PATH_DEPTH {
        // SAFETY: the walk has begun.
        let inode = match unsafe { Walk::step(walk) } {
            Step::Entry(entry) if entry.is_root() => return false,
            Step::Entry(entry) => entry.inode(),
            // What is mounted there may be the workspace itself.
            Step::Mount(root) => pointer(root + offset!(dentry_inode)).unwrap_or(0),
            Step::End | Step::Lost => return false,
        };
        if !first
            && read::<u64>(inode + offset!(inode_ino)).unwrap_or(0) == scope.workspace_inode
            && device(inode) == scope.workspace_device
        {
            return true;
        }
        first = false;
    }
    false
}

/// Is one of the directories that this place is in passed by `is_it`? True where it cannot be told.
#[inline(always)]
pub fn any_directory(place: Place, is_it: impl Fn(Name) -> bool) -> bool {
    let Some(walk) = Walk::begin(place) else { return true };
    let mut last = true;
    for _ in 0..PATH_DEPTH {
        // SAFETY: the walk has begun.
        let entry = match unsafe { Walk::step(walk) } {
            Step::Entry(entry) => entry,
            Step::Mount(_) => continue,
            Step::End => return false,
            Step::Lost => return true,
        };
        if !last && is_it(entry.name()) {
            return true;
        }
        last = false;
        if entry.is_root() {
            return false;
        }
    }
    // What is too deep to be looked through is not to be missed.
    true
}

/// The device number of an inode's file system.
#[inline(always)]
pub fn device(inode: u64) -> u32 {
    pointer(inode + offset!(inode_sb)).and_then(|sb| read(sb + offset!(sb_dev))).unwrap_or(0)
}
