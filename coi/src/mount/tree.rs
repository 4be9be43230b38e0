//! Holding what is protected, below a directory that is open.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use nix::libc;
use serde::{Deserialize, Serialize};

use super::{
    call::{self, Crossing, Identity},
    path::Inner,
};

/// How often it is begun again when the files have changed meanwhile.
const TRIES: usize = 5;

/// How a path is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It can be read, and not changed.
    ReadOnly,
    /// Something empty is in its place.
    Masked,
}

/// A path that is to be held.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// Where.
    pub path: Inner,
    /// How.
    pub how: How,
}

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// There is nothing of that name.
    Missing,
    /// It was held already.
    Already,
    /// It was not, and is now.
    Held,
}

/// Why a path cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A symbolic link could lead anywhere, also later.
    #[error(
        "{path} is a symbolic link, and what it leads to cannot be protected. Put a file or directory in its place, or \
         take the path out of the protected ones (security.writable_paths)"
    )]
    Link {
        /// Which part of the path.
        path: String,
    },
    /// Something is mounted there on the host.
    #[error("{path} is a mount of its own, and cannot be protected. Unmount it, or mount it elsewhere")]
    Mounted {
        /// Which part of the path.
        path: String,
    },
    /// Inside, something else is in its place.
    #[error("{path} is not what it is on the host")]
    Covered {
        /// Which part of the path.
        path: String,
    },
    /// The files change faster than they can be held.
    #[error("{path} is being changed all the time")]
    Restless {
        /// Which.
        path: String,
    },
    /// The system does not do it.
    #[error("{path} cannot be protected: {what}: {source}")]
    Failed {
        /// Which part of the path.
        path: String,
        /// What it does not do.
        what: &'static str,
        /// Its word for it.
        source: io::Error,
    },
}

/// Something empty, to be put in the place of what is secret.
#[derive(Debug)]
pub struct Masks {
    file: File,
    directory: File,
    identities: [Identity; 2],
}

impl Masks {
    /// Those in this directory, which are made if they are not there. It should be on a file system that owners can be mapped
    /// on: one in memory cannot everywhere.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        let (file, below) = (directory.join("file"), directory.join("directory"));
        match File::options().write(true).create_new(true).mode(0o444).open(&file) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        match fs::DirBuilder::new().mode(0o555).create(&below) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let open = |path, flags| {
            File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW | flags).open(path)
        };
        let (file, directory) = (open(&file, 0)?, open(&below, libc::O_DIRECTORY)?);
        let identities = [Identity::of(&file)?, Identity::of(&directory)?];
        Ok(Self { file, directory, identities })
    }

    /// Mounts of it for all that is to be masked, made where the files are: mounts can only be copied in the namespace that
    /// they are in.
    pub fn supply(&self, truth: impl AsFd, entries: &[Entry]) -> Result<Supply, TreeError> {
        let mut supply = Supply { identities: self.identities, mounts: Vec::new() };
        for entry in entries.iter().filter(|entry| entry.how == How::Masked) {
            let Some(found) = look(truth.as_fd(), &entry.path)? else { continue };
            let of = if found.is_directory() { &self.directory } else { &self.file };
            let failed = |source| TreeError::Failed { path: entry.path.to_string(), what: "a mask", source };
            let mount = call::copy(of).map_err(failed)?;
            call::make_read_only(&mount).map_err(failed)?;
            supply.mounts.push((entry.path.clone(), mount));
        }
        Ok(supply)
    }
}

/// Mounts to mask with.
#[derive(Debug)]
pub struct Supply {
    identities: [Identity; 2],
    mounts: Vec<(Inner, OwnedFd)>,
}

impl Supply {
    fn take(&mut self, path: &Inner) -> Option<OwnedFd> {
        let at = self.mounts.iter().position(|(of, _)| of == path)?;
        Some(self.mounts.swap_remove(at).1)
    }

    /// What there is for a path, under the name that it has from a directory below the workspace.
    pub(super) fn for_part(&mut self, whole: &Inner, part: &Inner) -> Self {
        let mounts = self.take(whole).map(|mount| (part.clone(), mount)).into_iter().collect();
        Self { identities: self.identities, mounts }
    }
}

/// In which order entries are held, and without those that others hold along: the higher ones first.
pub fn in_order(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(|entry| (entry.path.parts().count(), entry.clone()));
    entries.dedup_by(|one, other| one.path == other.path && one.how == other.how);
    let read_only: Vec<_> =
        entries.iter().filter(|entry| entry.how == How::ReadOnly).map(|entry| entry.path.clone()).collect();
    let masked: Vec<_> =
        entries.iter().filter(|entry| entry.how == How::Masked).map(|entry| entry.path.clone()).collect();
    entries.retain(|entry| {
        let above =
            |others: &[Inner]| others.iter().any(|other| *other != entry.path && entry.path.is_within(other));
        match entry.how {
            // What nobody sees nobody changes.
            How::ReadOnly => !above(&read_only) && !above(&masked) && !masked.contains(&entry.path),
            How::Masked => !above(&masked),
        }
    });
    entries
}

/// What is at a path of the workspace, on the host. `None` if nothing is.
pub fn look(truth: BorrowedFd<'_>, path: &Inner) -> Result<Option<Identity>, TreeError> {
    let Some(opened) = open(truth, path)? else { return Ok(None) };
    Identity::of(opened).map(Some).map_err(failed(path.as_str(), "it cannot be looked at"))
}

/// Opens what is at a path of the workspace, on the host, as a place. `None` if nothing is.
pub fn open(truth: BorrowedFd<'_>, path: &Inner) -> Result<Option<OwnedFd>, TreeError> {
    let mut at = None;
    let mut so_far = String::new();
    for part in path.parts() {
        push(&mut so_far, part);
        let directory = at.as_ref().map_or(truth, OwnedFd::as_fd);
        match call::step(directory, part, Crossing::Nothing) {
            Ok(next) => at = Some(next),
            Err(error) => return absent(error, &so_far).map(|()| None),
        }
    }
    Ok(at)
}

/// Is nothing there? That is no failure.
fn absent(error: io::Error, path: &str) -> Result<(), TreeError> {
    match error.raw_os_error() {
        // What is no directory has nothing in it.
        Some(libc::ENOENT | libc::ENOTDIR) => Ok(()),
        Some(libc::ELOOP) => Err(TreeError::Link { path: path.to_owned() }),
        Some(libc::EXDEV) => Err(TreeError::Mounted { path: path.to_owned() }),
        _ => Err(failed(path, "it cannot be opened")(error)),
    }
}

fn failed(path: &str, what: &'static str) -> impl FnOnce(io::Error) -> TreeError {
    let path = path.to_owned();
    move |source| TreeError::Failed { path, what, source }
}

fn push(path: &mut String, part: &str) {
    if !path.is_empty() {
        path.push('/');
    }
    path.push_str(part);
}

/// Makes sure that a path is held as it is seen from `root`, a place in this thread's namespace that shows the directory
/// `truth` of the host.
pub fn hold(
    root: BorrowedFd<'_>,
    truth: BorrowedFd<'_>,
    entry: &Entry,
    supply: &mut Supply,
) -> Result<Done, TreeError> {
    for _ in 0..TRIES {
        let Some(wanted) = look(truth, &entry.path)? else { return Ok(Done::Missing) };
        let done = match hold_once(root, truth, entry, wanted, supply) {
            Ok(done) => done,
            // The host may have changed it just then, and that is not what inside something else was put in its place.
            Err(TreeError::Covered { .. }) if look(truth, &entry.path)? != Some(wanted) => continue,
            other => return other,
        };
        if done == Done::Missing || look(truth, &entry.path)? == Some(wanted) {
            return Ok(done);
        }
    }
    Err(TreeError::Restless { path: entry.path.to_string() })
}

fn hold_once(
    root: BorrowedFd<'_>,
    truth: BorrowedFd<'_>,
    entry: &Entry,
    wanted: Identity,
    supply: &mut Supply,
) -> Result<Done, TreeError> {
    let (mut at, mut true_at) = (None::<OwnedFd>, None::<OwnedFd>);
    let mut so_far = String::new();
    let last = entry.path.parts().count() - 1;
    for (number, part) in entry.path.parts().enumerate() {
        push(&mut so_far, part);
        let directory = at.as_ref().map_or(root, OwnedFd::as_fd);
        let next = match call::step(directory, part, Crossing::Mounts) {
            Ok(next) => next,
            Err(error) => {
                absent(error, &so_far)?;
                // It is there on the host.
                return Err(TreeError::Covered { path: so_far });
            }
        };
        let here = Identity::of(&next).map_err(failed(&so_far, "it cannot be looked at"))?;
        if number == last {
            return hold_last(&next, here, &so_far, entry, wanted, supply);
        }
        let true_directory = true_at.as_ref().map_or(truth, OwnedFd::as_fd);
        let true_next = match call::step(true_directory, part, Crossing::Nothing) {
            Ok(next) => next,
            Err(error) => return absent(error, &so_far).map(|()| Done::Missing),
        };
        let there = Identity::of(&true_next).map_err(failed(&so_far, "it cannot be looked at"))?;
        if here != there {
            return Err(TreeError::Covered { path: so_far });
        }
        let is_fixed = call::is_mounted(&next)
            .and_then(|mounted| Ok(mounted || call::is_read_only(directory)?))
            .map_err(failed(&so_far, "it cannot be looked at"))?;
        at = Some(if is_fixed {
            next
        } else {
            let mount = call::copy(&next).map_err(failed(&so_far, "no mount can be made of it"))?;
            call::attach(&mount, &next).map_err(failed(&so_far, "nothing can be mounted on it"))?;
            mount
        });
        true_at = Some(true_next);
    }
    Ok(Done::Missing)
}

fn hold_last(
    place: &OwnedFd,
    here: Identity,
    path: &str,
    entry: &Entry,
    wanted: Identity,
    supply: &mut Supply,
) -> Result<Done, TreeError> {
    let mount = match entry.how {
        How::Masked if supply.identities.contains(&here) => return Ok(Done::Already),
        _ if here != wanted => return Err(TreeError::Covered { path: path.to_owned() }),
        How::Masked => {
            supply.take(&entry.path).ok_or_else(|| TreeError::Restless { path: path.to_owned() })?
        }
        How::ReadOnly => {
            if call::is_read_only(place).map_err(failed(path, "it cannot be looked at"))? {
                return Ok(Done::Already);
            }
            let mount = call::copy(place).map_err(failed(path, "no mount can be made of it"))?;
            call::make_read_only(&mount).map_err(failed(path, "it cannot be made read-only"))?;
            mount
        }
    };
    call::attach(&mount, place).map_err(failed(path, "nothing can be mounted on it"))?;
    Ok(Done::Held)
}

/// Is a path held as it is seen from `root`? The file there should be this one.
pub(super) fn is_held(root: BorrowedFd<'_>, entry: &Entry, wanted: Identity) -> bool {
    let mut at = None::<OwnedFd>;
    for part in entry.path.parts() {
        let directory = at.as_ref().map_or(root, OwnedFd::as_fd);
        match call::step(directory, part, Crossing::Mounts) {
            Ok(next) => at = Some(next),
            Err(_) => return false,
        }
    }
    let Some(found) = at else { return false };
    let is_same = Identity::of(&found).is_ok_and(|here| here == wanted);
    match entry.how {
        How::ReadOnly => is_same && call::is_read_only(&found).unwrap_or(false),
        How::Masked => !is_same,
    }
}

/// The names in a directory that is open as a place.
pub fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<(String, fs::FileType)>> {
    let entries = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    let named = entries.map(|entry| {
        let entry = entry?;
        // A name that is not UTF-8 is none that anybody protects.
        Ok(entry.file_name().into_string().ok().zip(entry.file_type().ok()))
    });
    named.filter_map(Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn entry(path: &str, how: How) -> Entry {
        Entry { path: Inner::try_from(path).unwrap(), how }
    }

    #[test]
    fn higher_ones_first_and_none_twice() {
        use How::{Masked, ReadOnly};
        let all = [
            (".git/info/attributes", ReadOnly),
            (".coi/config.toml", ReadOnly),
            (".coi", ReadOnly),
            (".git/hooks", ReadOnly),
            (".coi/secret", Masked),
            (".git/hooks", ReadOnly),
            (".env", ReadOnly),
            (".env", Masked),
            ("keys/a", Masked),
            ("keys", Masked),
        ];
        let ordered = in_order(all.map(|(path, how)| entry(path, how)).to_vec());
        let ordered: Vec<_> = ordered.iter().map(|entry| (entry.path.as_str(), entry.how)).collect();
        let wanted = [
            (".coi", ReadOnly),
            (".env", Masked),
            ("keys", Masked),
            (".coi/secret", Masked),
            (".git/hooks", ReadOnly),
            (".git/info/attributes", ReadOnly),
        ];
        assert_eq!(ordered, wanted);
    }

    #[test]
    fn symbolic_links_are_refused_wherever_they_are() {
        let workspace = tempfile::tempdir().unwrap();
        let at = |path: &str| workspace.path().join(path);
        fs::create_dir_all(at("real/hooks")).unwrap();
        symlink("real", at(".git")).unwrap();
        symlink("../real/hooks", at("real/link")).unwrap();
        fs::write(at("file"), "").unwrap();
        let truth = File::open(workspace.path()).unwrap();
        let refused =
            |path: &str| look(truth.as_fd(), &Inner::try_from(path).unwrap()).unwrap_err().to_string();
        insta::assert_snapshot!([refused(".git/hooks"), refused(".git"), refused("real/link")].join("\n"));
        let found = |path: &str| look(truth.as_fd(), &Inner::try_from(path).unwrap()).unwrap();
        assert!(found("real/hooks").unwrap().is_directory());
        assert_eq!([found("none"), found("file/below"), found("none/below")], [None; 3]);
    }

    #[test]
    fn masks_are_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let first = Masks::open(&directory.path().join("masks")).unwrap().identities;
        assert_eq!(Masks::open(&directory.path().join("masks")).unwrap().identities, first);
    }
}
