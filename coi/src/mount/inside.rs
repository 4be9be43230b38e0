//! The workspace wherever the processes of a cgroup see it: in their own mount namespaces, and under any name there.
//!
//! What they have hidden below another mount, or keep open without a name, is not found.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
};

use nix::libc;

use super::{
    call::{self, Crossing, Identity},
    namespace,
    path::Inner,
    table::{self, Mount},
    tree::{self, Done, Entry, Supply, TreeError},
};

/// Where a workspace is in its file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file system's number, as in the table of mounts.
    pub device: String,
    /// The workspace's path from the file system's root.
    pub root: String,
}

impl Place {
    /// That of the mount at this point.
    pub fn of_mount(mounts: &[Mount], point: &str) -> Option<Self> {
        // The last one is on top.
        let mount = mounts.iter().rfind(|mount| mount.point == point)?;
        Some(Self { device: mount.device.clone(), root: mount.root.clone() })
    }
}

/// What became of a path in one place where it is seen.
#[derive(Debug)]
pub struct Seen {
    /// The path.
    pub entry: Entry,
    /// What became of it.
    pub done: Result<Done, TreeError>,
}

/// A mount namespace, and one of the processes in it.
struct Namespace {
    namespace: File,
    root: File,
    mounts: Vec<Mount>,
}

impl Namespace {
    fn of(pid: u32) -> io::Result<Self> {
        let namespace = namespace::of_process(pid)?;
        let root = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(format!("/proc/{pid}/root"))?;
        let mounts = table::of_process(pid)?;
        Ok(Self { namespace, root, mounts })
    }
}

/// The mount namespaces of these processes; of those that have ended meanwhile there is none.
fn namespaces(pids: &[u32]) -> Vec<Namespace> {
    let mut known = BTreeMap::new();
    for pid in pids {
        if let Ok(found) = fs::metadata(format!("/proc/{pid}/ns/mnt"))
            && !known.contains_key(&found.ino())
            && let Ok(namespace) = Namespace::of(*pid)
        {
            known.insert(found.ino(), namespace);
        }
    }
    known.into_values().collect()
}

/// Does one of these processes see the workspace at this path?
pub fn is_at(pids: &[u32], place: &Place, point: &str) -> bool {
    let shows =
        |mount: &Mount| mount.device == place.device && mount.root == place.root && mount.point == point;
    pids.iter().any(|pid| table::of_process(*pid).is_ok_and(|mounts| mounts.iter().any(shows)))
}

/// Does one of these processes see something else than the workspace at this path?
pub fn is_another_at(pids: &[u32], place: &Place, point: &str) -> bool {
    let shows =
        |mount: &Mount| mount.point == point && (mount.device != place.device || mount.root != place.root);
    pids.iter().any(|pid| table::of_process(*pid).is_ok_and(|mounts| mounts.iter().any(shows)))
}

/// Could one of the entries be written to, as the first of these processes that sees the workspace at this path sees it?
/// Nothing is changed.
pub fn is_exposed(
    pids: &[u32],
    place: &Place,
    point: &str,
    truth: BorrowedFd<'_>,
    entries: &[Entry],
) -> bool {
    let Some(there) =
        pids.iter().find(|pid| is_at(&[**pid], place, point)).and_then(|pid| Namespace::of(*pid).ok())
    else {
        return false;
    };
    let Ok(root) = call::step_in_root(&there.root, point) else { return true };
    let is_held = |entry: &Entry| match tree::look(truth, &entry.path) {
        Ok(Some(wanted)) => tree::is_held(root.as_fd(), entry, wanted),
        Ok(None) => true,
        Err(_) => false,
    };
    !entries.iter().all(is_held)
}

/// Makes sure that the entries are held wherever these processes see them.
///
/// They should stand still: what they change meanwhile may be missed.
pub fn hold(
    pids: &[u32],
    place: &Place,
    truth: BorrowedFd<'_>,
    entries: &[Entry],
    supply: impl Fn() -> Result<Supply, TreeError>,
) -> io::Result<Vec<Seen>> {
    let mut all = Vec::new();
    for there in namespaces(pids) {
        let mut supplies = Vec::new();
        for mount in there.mounts.iter().filter(|mount| mount.device == place.device) {
            if table::below(&mount.root, &place.root).is_some()
                || table::below(&place.root, &mount.root).is_some()
            {
                supplies.push((mount, supply()));
            }
        }
        let seen = namespace::within(&there.namespace, || {
            let mut seen = Vec::new();
            for (mount, supply) in supplies {
                hold_in(&there.root, mount, place, truth, entries, supply, &mut seen);
            }
            Ok::<_, io::Error>(seen)
        })?;
        all.extend(seen);
    }
    Ok(all)
}

fn hold_in(
    root: &File,
    mount: &Mount,
    place: &Place,
    truth: BorrowedFd<'_>,
    entries: &[Entry],
    supply: Result<Supply, TreeError>,
    seen: &mut Vec<Seen>,
) {
    let Ok(opened) = call::step_in_root(root, &mount.point) else { return };
    if !call::mount_id(&opened).is_ok_and(|id| id == mount.id) {
        // Something else is mounted over it.
        return;
    }
    let mut supply = match supply {
        Ok(supply) => supply,
        Err(error) => {
            if let Some(entry) = entries.first() {
                seen.push(Seen { entry: entry.clone(), done: Err(error) });
            }
            return;
        }
    };
    let (above, shown) = match table::below(&mount.root, &place.root) {
        // The workspace, or a part of it.
        Some(part) => (part, opened),
        // Something that has the workspace in it.
        None => match table::below(&place.root, &mount.root).map(|way| walk(&opened, way)) {
            Some(Ok(shown)) => ("", shown),
            _ => return,
        },
    };
    let true_part = match Inner::try_from(above) {
        Ok(part) => match tree::open(truth, &part) {
            Ok(Some(part)) => Some(part),
            // The host has removed or renamed it: what is seen is no part of the workspace any more.
            _ => return,
        },
        Err(_) => None,
    };
    let truth = true_part.as_ref().map_or(truth, OwnedFd::as_fd);
    let is_same = || Ok::<_, io::Error>(Identity::of(&shown)? == Identity::of(truth)?);
    if !is_same().unwrap_or(false) {
        return;
    }
    for entry in entries {
        let Some(rest) = entry.path.below(above) else { continue };
        let done = match Inner::try_from(rest) {
            Ok(path) => {
                let mut supply = supply.for_part(&entry.path, &path);
                tree::hold(shown.as_fd(), truth, &Entry { path, how: entry.how }, &mut supply)
            }
            // The mount is the very file.
            Err(_) if mount.is_read_only => Ok(Done::Already),
            Err(_) => make_read_only(&shown, entry),
        };
        seen.push(Seen { entry: entry.clone(), done });
    }
}

fn make_read_only(mount: &OwnedFd, entry: &Entry) -> Result<Done, TreeError> {
    let failed = |source| TreeError::Failed {
        path: entry.path.to_string(),
        what: "a mount of it cannot be made read-only",
        source,
    };
    call::make_read_only(mount).map_err(failed).map(|()| Done::Held)
}

/// Follows names without going into what is mounted there.
fn walk(from: &OwnedFd, way: &str) -> io::Result<OwnedFd> {
    let mut at = from.try_clone()?;
    for part in way.split('/') {
        at = call::step(&at, part, Crossing::Nothing)?;
    }
    Ok(at)
}
