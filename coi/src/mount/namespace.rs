//! Being in another mount namespace for a moment.
//!
//! What is done there is done by a thread that is nobody else's and ends with it: namespaces are a thread's own. It keeps
//! only the capabilities that mounts and look-ups take.

use std::{fs::File, io, thread};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// What the thread may: SYS_ADMIN and SYS_CHROOT to enter and to mount, DAC_READ_SEARCH to look names up as root does,
/// SETUID and SETGID to open as a user what the user has named.
const MAY: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// The mount namespace of a process.
pub fn of_process(pid: u32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/ns/mnt"))
}

/// Does something in a mount namespace. Paths are those that are seen there. Blocks.
pub fn within<T: Send, E: Send + From<io::Error>>(
    namespace: &File,
    act: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    thread::scope(|scope| {
        let inside = move || {
            // A thread that shares its working directory with others may not go.
            unshare(CloneFlags::CLONE_FS).map_err(io::Error::from)?;
            setns(namespace, CloneFlags::CLONE_NEWNS).map_err(io::Error::from)?;
            let had = rustix::thread::capabilities(None).map_err(io::Error::from)?;
            let sets = CapabilitySets {
                effective: had.effective & MAY,
                permitted: had.permitted & MAY,
                inheritable: CapabilitySet::empty(),
            };
            set_capabilities(None, sets).map_err(io::Error::from)?;
            act()
        };
        let thread = thread::Builder::new().name("coi-mounts".into()).spawn_scoped(scope, inside)?;
        match thread.join() {
            Ok(done) => done,
            Err(_) => Err(io::Error::other("the thread that makes mounts has panicked").into()),
        }
    })
}
