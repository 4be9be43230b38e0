//! Opening what a user names, with that user's rights.
//!
//! It promises that no path leads anywhere that the user could not go: what is on it may be the user's own symbolic links,
//! and is looked up by the kernel as for the user, in a thread that is nobody else's and ends with it.

use std::{fs::File, io, os::unix::fs::OpenOptionsExt as _, path::PathBuf, thread};

use nix::{
    libc,
    unistd::{Gid, Uid, setfsgid, setfsuid},
};

use super::admission::Caller;

/// Opens a directory that this caller may read. Blocks.
pub(super) fn open_directory(path: PathBuf, caller: &Caller) -> io::Result<File> {
    open_as(path, libc::O_DIRECTORY, caller)
}

/// Opens a directory or a file that this caller may read. Blocks.
pub(super) fn open_mountable(path: PathBuf, caller: &Caller) -> io::Result<File> {
    let opened = open_as(path, libc::O_NOCTTY, caller)?;
    let kind = opened.metadata()?.file_type();
    if kind.is_dir() || kind.is_file() {
        Ok(opened)
    } else {
        Err(io::Error::other("it is neither a directory nor a regular file"))
    }
}

fn open_as(path: PathBuf, flags: i32, caller: &Caller) -> io::Result<File> {
    let open = move || File::options().read(true).custom_flags(flags | libc::O_NONBLOCK).open(path);
    if caller.is_root() {
        return open();
    }
    let caller = caller.clone();
    let thread = thread::Builder::new().name("coi-as-user".into()).spawn(move || {
        become_user(caller.uid, caller.gid, &caller.groups)?;
        open()
    })?;
    thread.join().map_err(|_| io::Error::other("the thread that opens it has panicked"))?
}

/// Gives this thread a user's identity as far as files go; the kernel takes root's rights over files away with it.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // The library's own setgroups would change all threads.
    // SAFETY: the system call reads as many group ids as it is told there are, and keeps nothing.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setfsgid(gid);
    setfsuid(uid);
    // They do not say whether they worked, only what was before.
    if setfsgid(gid) != gid || setfsuid(uid) != uid {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    Ok(())
}
