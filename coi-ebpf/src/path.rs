//! The path of an open file, from the kernel's own tables.
//!
//! It is what the file is called in the acting task's view of the file system: symbolic links, relative
//! names, `..` and descriptors are resolved already, whatever the caller passed. The parts are written last
//! first, each ended by a NUL; user space turns them around. A rename during the walk can mix the old name
//! and the new one; nothing worse. `bpf_d_path` is not available to these programs.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use coi_common::{FLAG_PATH_TRUNCATED, FLAG_PATH_UNREADABLE, NAME_SPACE, PATH_DEPTH, PATH_KEPT, Scope};

use crate::kernel::{current, offset, pointer, read};

/// Room for a path: the last part may begin just below the limit.
pub const PATH_SPACE: usize = PATH_KEPT + NAME_SPACE;

/// A place in the tree of mounts and directories.
#[derive(Clone, Copy, PartialEq)]
struct Place {
    mnt: u64,
    dentry: u64,
}

impl Place {
    #[inline(always)]
    fn at(path: u64) -> Option<Self> {
        Some(Self { mnt: pointer(path + offset!(path_mnt))?, dentry: pointer(path + offset!(path_dentry))? })
    }

    /// From the root of a mount to the directory it is mounted on; `None` at the root of everything.
    #[inline(always)]
    fn below_mount(self) -> Option<Self> {
        let mount = self.mnt - offset!(mount_mnt);
        let parent = pointer(mount + offset!(mount_parent)).filter(|parent| *parent != mount)?;
        Some(Self { mnt: parent + offset!(mount_mnt), dentry: pointer(mount + offset!(mount_mountpoint))? })
    }

    #[inline(always)]
    fn is_mount_root(self) -> bool {
        read(self.mnt + offset!(vfsmount_root)) == Some(self.dentry)
    }
}

/// Writes a file's path; gives its length, at most [`PATH_SPACE`], and `FLAG_PATH_*`.
#[inline(always)]
pub fn write(file: u64, to: *mut u8) -> (u32, u32) {
    let mut len: u64 = 0;
    let Some(mut place) = Place::at(file + offset!(file_path)) else { return (0, FLAG_PATH_UNREADABLE) };
    let root = pointer(current() + offset!(task_fs)).and_then(|fs| Place::at(fs + offset!(fs_root)));
    for _ in 0..PATH_DEPTH {
        if Some(place) == root {
            return (len as u32, 0);
        }
        if place.is_mount_root() {
            match place.below_mount() {
                Some(below) => place = below,
                None => return (len as u32, 0),
            }
            continue;
        }
        if len > PATH_KEPT as u64 {
            return (len as u32, FLAG_PATH_TRUNCATED);
        }
        let name = pointer(place.dentry + offset!(dentry_name)).unwrap_or(0);
        // SAFETY: `to` has room for PATH_SPACE bytes and `len` is at most PATH_KEPT here; the helper checks
        // the address of the name itself.
        let written = unsafe {
            bpf_probe_read_kernel_str(to.add(len as usize).cast(), NAME_SPACE as u32, name as *const _)
        };
        if written <= 0 {
            return (len as u32, FLAG_PATH_UNREADABLE);
        }
        len += written as u64;
        match pointer(place.dentry + offset!(dentry_parent)) {
            Some(parent) if parent != place.dentry => place.dentry = parent,
            // A file without a directory: a memfd, a pipe.
            _ => return (len as u32, 0),
        }
    }
    (len as u32, FLAG_PATH_TRUNCATED)
}

/// Is the file below the workspace's directory, through whatever mount?
#[inline(always)]
pub fn in_workspace(file: u64, scope: &Scope) -> bool {
    let Some(mut place) = Place::at(file + offset!(file_path)) else { return false };
    for _ in 0..PATH_DEPTH {
        let inode = pointer(place.dentry + offset!(dentry_inode)).unwrap_or(0);
        if read(inode + offset!(inode_ino)) == Some(scope.workspace_inode) && device(inode) == scope.workspace_device
        {
            return true;
        }
        if place.is_mount_root() {
            match place.below_mount() {
                Some(below) => place = below,
                None => return false,
            }
            continue;
        }
        match pointer(place.dentry + offset!(dentry_parent)) {
            Some(parent) if parent != place.dentry => place.dentry = parent,
            _ => return false,
        }
    }
    false
}

/// The device number of an inode's file system.
#[inline(always)]
pub fn device(inode: u64) -> u32 {
    pointer(inode + offset!(inode_sb)).and_then(|sb| read(sb + offset!(sb_dev))).unwrap_or(0)
}
