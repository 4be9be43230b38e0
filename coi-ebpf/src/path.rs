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
    /// The walk is at this entry, whose parent this is.
    Entry { dentry: u64, parent: u64 },
    /// The walk has left a mount's root for the directory it is mounted on.
    Mount,
    /// There is nothing above.
    End,
}

impl Walk {
    /// Begins at a `struct path`.
    #[inline(always)]
    fn begin(path: u64) -> Option<*mut Self> {
        let walk = WALKS.get_ptr_mut(0)?;
        let fs = current().follow(offset!(task_fs))?;
        // SAFETY: a per-CPU value, and programs do not move between CPUs.
        unsafe {
            *walk = Self {
                mnt: pointer(path + offset!(path_mnt))?,
                dentry: pointer(path + offset!(path_dentry))?,
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
        let Self { mnt, dentry, root_mnt, root_dentry, .. } = unsafe { core::ptr::read_volatile(walk) };
        if dentry == root_dentry && mnt == root_mnt {
            return Step::End;
        }
        if read::<u64>(mnt + offset!(vfsmount_root)).unwrap_or(0) == dentry {
            let mount = mnt - offset!(mount_mnt);
            let parent = read::<u64>(mount + offset!(mount_parent)).unwrap_or(mount);
            if parent == mount {
                return Step::End;
            }
            let mountpoint = read(mount + offset!(mount_mountpoint)).unwrap_or(0);
            // SAFETY: as above.
            unsafe {
                core::ptr::write_volatile(&raw mut (*walk).mnt, parent + offset!(mount_mnt));
                core::ptr::write_volatile(&raw mut (*walk).dentry, mountpoint);
            }
            return Step::Mount;
        }
        let parent = read(dentry + offset!(dentry_parent)).unwrap_or(dentry);
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*walk).dentry, parent) };
        Step::Entry { dentry, parent }
    }
}

/// Where an open file's `struct path` is.
#[inline(always)]
pub fn of_file(file: u64) -> u64 {
    file + offset!(file_path)
}

/// Where the `struct path` of the acting task's working directory is.
#[inline(always)]
pub fn working_directory() -> Option<u64> {
    Some(current().follow(offset!(task_fs))?.address() + offset!(fs_pwd))
}

/// Writes what a `struct path` is called; gives the length, at most [`PATH_SPACE`], and `FLAG_PATH_*`.
#[inline(always)]
pub fn write(path: u64, to: *mut u8) -> (u64, u32) {
    let Some(walk) = Walk::begin(path) else { return (0, FLAG_PATH_UNREADABLE) };
    for _ in 0..PATH_DEPTH {
        // SAFETY: the walk has begun.
        let (dentry, parent) = match unsafe { Walk::step(walk) } {
            Step::Entry { dentry, parent } => (dentry, parent),
            Step::Mount => continue,
            Step::End => {
                Walk::end(walk, 0);
                break;
            }
        };
        let at = Walk::len(walk);
        if at >= PATH_KEPT as u64 {
            break;
        }
        let name = read::<u64>(dentry + offset!(dentry_name)).unwrap_or(0);
        let place = bounded(at, PATH_KEPT as u64 - 1) as usize;
        // SAFETY: `to` has room for PATH_SPACE bytes and `at` is below PATH_KEPT; the helper checks the
        // address of the name itself.
        let written =
            unsafe { bpf_probe_read_kernel_str(to.add(place).cast(), NAME_SPACE as u32, name as *const _) };
        if written <= 0 {
            Walk::end(walk, FLAG_PATH_UNREADABLE);
            break;
        }
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*walk).len, at + written as u64) };
        if parent == dentry {
            // A file without a directory: a memfd, a pipe.
            Walk::end(walk, FLAG_PATH_NOWHERE);
            break;
        }
    }
    (Walk::len(walk), Walk::flags(walk))
}

/// Is the file below the workspace's directory, through whatever mount?
#[inline(always)]
pub fn in_workspace(file: u64, scope: &Scope) -> bool {
    let Some(walk) = Walk::begin(of_file(file)) else { return false };
    for _ in 0..PATH_DEPTH {
        // SAFETY: the walk has begun.
        let (dentry, parent) = match unsafe { Walk::step(walk) } {
            Step::Entry { dentry, parent } => (dentry, parent),
            Step::Mount => continue,
            Step::End => return false,
        };
        if parent == dentry {
            return false;
        }
        // The parent's turn to be looked at comes before it can turn out to be a mount's root.
        let inode = pointer(parent + offset!(dentry_inode)).unwrap_or(0);
        if read::<u64>(inode + offset!(inode_ino)).unwrap_or(0) == scope.workspace_inode
            && device(inode) == scope.workspace_device
        {
            return true;
        }
    }
    false
}

/// Is a part above the last one passed by `is_it`?
#[inline(always)]
pub fn any_directory(file: u64, is_it: impl Fn(u64) -> bool) -> bool {
    let Some(walk) = Walk::begin(of_file(file)) else { return true };
    let mut last = true;
    for _ in 0..PATH_DEPTH {
        // SAFETY: the walk has begun.
        let (dentry, parent) = match unsafe { Walk::step(walk) } {
            Step::Entry { dentry, parent } => (dentry, parent),
            Step::Mount => continue,
            Step::End => return false,
        };
        if !last && is_it(dentry) {
            return true;
        }
        last = false;
        if parent == dentry {
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
