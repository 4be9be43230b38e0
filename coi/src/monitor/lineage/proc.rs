//! What /proc says of a process: for those that are older than the watch, and for standard streams that changed
//! behind our back.
//!
//! It promises nothing: a process may end while it is read, and what is read is of now, not of the event's
//! time. Everything is `None` then.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc};

use coi_common::{Stream, StreamKind};

use crate::monitor::audit::ProcessSeen;

/// What /proc knows of a process.
pub(super) struct Snapshot {
    /// When it was started, in clock ticks since boot.
    pub(super) start_ticks: u64,
    pub(super) parent_pid: u32,
    pub(super) executable: String,
    pub(super) args: Vec<Arc<str>>,
}

/// A process's place among others.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its parent's id.
    pub parent: u32,
    /// When it was started, in clock ticks since boot.
    pub start_ticks: u64,
}

/// Where a process is; `None` if it is gone.
pub fn place(pid: u32) -> Option<Place> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows the last one does not.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    Some(Place { parent, start_ticks: fields.nth(17)?.parse().ok()? })
}

/// Clock ticks to nanoseconds: USER_HZ is 100 on every architecture that matters here.
pub const TICK: u64 = 10_000_000;

/// Reads one process.
pub(super) fn snapshot(pid: u32) -> Option<Snapshot> {
    let root = PathBuf::from(format!("/proc/{pid}"));
    let Place { parent: parent_pid, start_ticks } = place(pid)?;
    let executable = fs::read_link(root.join("exe")).ok()?.to_string_lossy().into_owned();
    let executable = executable.strip_suffix(" (deleted)").unwrap_or(&executable).to_owned();
    let line = fs::read(root.join("cmdline")).ok()?;
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    let args = line.split(|byte| *byte == 0).map(|arg| Arc::from(String::from_utf8_lossy(arg))).collect();
    Some(Snapshot { start_ticks, parent_pid, executable, args })
}

/// The processes in a cgroup and those below it.
pub fn members(cgroup: &std::path::Path) -> Vec<u32> {
    let mut pids: Vec<u32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        pids.extend(members(&entry.path()));
    }
    pids
}

/// So many processes are told of.
const MOST_TOLD: usize = 200;

/// What runs in a cgroup and below it, and how many more there are than are told of.
pub fn running(cgroup: &std::path::Path) -> (Vec<ProcessSeen>, u64) {
    let mut pids = members(cgroup);
    pids.sort_unstable();
    let more = pids.len().saturating_sub(MOST_TOLD) as u64;
    pids.truncate(MOST_TOLD);
    let seen = |pid| {
        let Snapshot { parent_pid, executable, args, .. } = snapshot(pid)?;
        Some(ProcessSeen::new(pid, parent_pid, &executable, &args.join(" ")))
    };
    (pids.into_iter().filter_map(seen).collect(), more)
}

/// A process's standard streams as they are now. Peers of sockets are not found out.
pub(super) fn stdio(pid: u32) -> Option<[Stream; 3]> {
    Some([stream(pid, 0)?, stream(pid, 1)?, stream(pid, 2)?])
}

fn stream(pid: u32, fd: u32) -> Option<Stream> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let Ok(target) = fs::read_link(&path) else {
        // Closed, or the process is gone.
        return fs::exists(format!("/proc/{pid}/fd")).ok()?.then(Stream::default);
    };
    let target = target.to_string_lossy();
    let metadata = fs::metadata(&path).ok();
    let kind = if target.starts_with("pipe:") {
        StreamKind::Pipe
    } else if target.starts_with("socket:") {
        // Which family is not said here; the caller keeps what the kernel said of the same inode.
        StreamKind::Other
    } else if target.starts_with("/dev/pts/") {
        StreamKind::Pty
    } else {
        match metadata.as_ref().map(|metadata| metadata.mode() & nix::libc::S_IFMT) {
            Some(nix::libc::S_IFIFO) => StreamKind::Fifo,
            Some(nix::libc::S_IFCHR) => StreamKind::Device,
            _ => StreamKind::File,
        }
    };
    let flags = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let access = match i32::from_str_radix(flags.trim(), 8).ok()? & nix::libc::O_ACCMODE {
        nix::libc::O_RDONLY => 1,
        nix::libc::O_WRONLY => 2,
        _ => 3,
    };
    let inode = match target.rsplit_once('[').and_then(|(_, number)| number.strip_suffix(']')?.parse().ok()) {
        Some(inode) => inode,
        None => metadata.map_or(0, |metadata| metadata.ino()),
    };
    Some(Stream { inode, kind: kind as u8, access, ..Stream::default() })
}

/// The user ids of a process's user namespace: first inside, first outside, how many.
pub fn uid_map(pid: u32) -> Option<Vec<[u32; 3]>> {
    fs::read_to_string(format!("/proc/{pid}/uid_map"))
        .ok()?
        .lines()
        .map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
            Some([numbers.next()??, numbers.next()??, numbers.next()??])
        })
        .collect()
}

/// The user ids of the user namespace of a cgroup's oldest process: a container's init, as far as process ids
/// have not come round.
pub fn uid_map_of_cgroup(cgroup: &std::path::Path) -> Option<Vec<[u32; 3]>> {
    let mut pids = members(cgroup);
    pids.sort_unstable();
    pids.into_iter().find_map(uid_map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let me = snapshot(std::process::id()).unwrap();
        assert_eq!(me.parent_pid, std::os::unix::process::parent_id());
        assert!(me.executable.contains("coi"));
        assert!(me.start_ticks > 0);
        let cgroup = fs::read_to_string("/proc/self/uid_map").unwrap();
        assert_eq!(uid_map(std::process::id()).unwrap().len(), cgroup.lines().count());
        assert!(snapshot(u32::MAX).is_none());
    }

    #[test]
    fn a_pipe_is_known_by_its_inode_and_direction() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let [input, output, _] = stdio(child.id()).unwrap();
        assert_eq!((StreamKind::from_u8(input.kind), input.access), (StreamKind::Pipe, 1));
        assert_eq!((StreamKind::from_u8(output.kind), output.access), (StreamKind::Device, 2));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
