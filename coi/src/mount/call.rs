//! The system calls that mounts are made of, by open descriptors.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::libc;
use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxAttributes, StatxFlags},
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags},
};

/// A file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The device's numbers.
    device: (u32, u32),
    inode: u64,
    is_directory: bool,
}

impl Identity {
    /// Of an open file.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let found = stat(file.as_fd())?;
        Ok(Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            is_directory: kind(&found) == libc::S_IFDIR,
        })
    }

    /// Is it the file with these numbers, as stat(2) gives them?
    pub fn is(self, device: u64, inode: u64) -> bool {
        let numbers = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        (u64::from(self.device.0), u64::from(self.device.1)) == numbers && self.inode == inode
    }

    /// Is it a directory?
    pub const fn is_directory(self) -> bool {
        self.is_directory
    }
}

fn stat(file: BorrowedFd<'_>) -> io::Result<rustix::fs::Statx> {
    Ok(rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?)
}

/// The user whom an open file belongs to.
pub fn owner(file: impl AsFd) -> io::Result<u32> {
    Ok(stat(file.as_fd())?.stx_uid)
}

/// The id that mountinfo gives the mount which an open file is on.
pub fn mount_id(file: impl AsFd) -> io::Result<u64> {
    Ok(stat(file.as_fd())?.stx_mnt_id)
}

/// Is an open file the root of a mount?
pub fn is_mounted(file: impl AsFd) -> io::Result<bool> {
    Ok(stat(file.as_fd())?.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Is the mount that an open file is on read-only?
pub fn is_read_only(file: impl AsFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatvfs(file)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// What a look-up below an open directory may do beside following names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// It goes into what is mounted there.
    Mounts,
    /// Nothing.
    Nothing,
}

/// Opens one name in a directory, as a place and not to be read. No symbolic link is opened or followed.
pub fn step(directory: impl AsFd, name: &str, crossing: Crossing) -> io::Result<OwnedFd> {
    let mut how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if crossing == Crossing::Nothing {
        how |= ResolveFlags::NO_XDEV;
    }
    open_place(directory, name, how)
}

/// Opens a path as a process sees it whose root directory is given, as a place. No symbolic link is followed.
pub fn step_in_root(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open_place(root, path, how)
}

fn open_place(directory: impl AsFd, path: &str, how: ResolveFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(directory, path, flags, Mode::empty(), how)?;
    // A link at the end is not followed, and is opened itself.
    if kind(&stat(opened.as_fd())?) == libc::S_IFLNK {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    Ok(opened)
}

fn kind(found: &rustix::fs::Statx) -> libc::mode_t {
    libc::mode_t::from(found.stx_mode) & libc::S_IFMT
}

/// A mount of its own of what is open, attached nowhere yet. What is mounted below it is not part of it.
pub fn copy(of: impl AsFd) -> io::Result<OwnedFd> {
    let empty = OpenTreeFlags::from_bits_retain(libc::AT_EMPTY_PATH as u32);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | empty;
    Ok(rustix::mount::open_tree(of, c"", flags)?)
}

/// Attaches a mount on what is open.
pub fn attach(mount: impl AsFd, on: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", on, c"", flags)?)
}

/// Makes a mount read-only.
pub fn make_read_only(mount: impl AsFd) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the descriptor is open for as long as it is borrowed, the path is a string with its end, and the kernel reads
    // as many bytes of `attributes` as it is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes away what is mounted at a path, with all that is mounted below it. Was there anything?
pub fn detach(path: &str) -> io::Result<bool> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        // Nothing is mounted there, or there is no such path.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
