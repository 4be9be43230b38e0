//! Directories and files that a user or a workspace brings, read by whoever may be root on a user's behalf.
//!
//! A workspace's may be by whoever wrote the repository, or by what runs in its container. So nothing is followed and
//! nothing is waited for: no directory on the way and no file may be a symbolic link, only regular files are read, only
//! those of the user or of the workspace's owner, and only so much of them. What cannot be read so is an error and not
//! passed over: what is missing without a word would look as if it were not there.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, renameat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat},
    unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat},
};

use crate::monitor::rules::safe;

/// How many entries such a directory may have, whatever they are.
pub(crate) const MOST_ENTRIES: usize = 1024;

/// Why something that somebody brings is not used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It cannot be read, or written.
    #[error("{path} cannot be used: {source}")]
    Read {
        /// What.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It is something else than it should be.
    #[error("{path} is {what}: COI reads {wanted} only. Put one in its place, or remove it")]
    Kind {
        /// What.
        path: String,
        /// What it is.
        what: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// It is somebody else's.
    #[error(
        "{path} belongs to uid {owner}, and COI reads files of uid {} only. Give it another owner, or remove it",
        allowed.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ")
    )]
    Owner {
        /// What.
        path: String,
        /// Whose it is.
        owner: u32,
        /// Whose it might be.
        allowed: Vec<u32>,
    },
    /// It has bytes in it that are no text.
    #[error("{path} is not UTF-8, as what COI reads is")]
    NotText {
        /// What.
        path: String,
    },
    /// It is too large.
    #[error("{path} is larger than the {} KiB that COI reads of it. Make it shorter", most >> 10)]
    TooLarge {
        /// What.
        path: String,
        /// How large it may be.
        most: usize,
    },
    /// There are too many files of any kind.
    #[error("{path} has more than {MOST_ENTRIES} entries; keep nothing in it but what COI reads")]
    Entries {
        /// Where.
        path: String,
    },
}

type Result<T> = std::result::Result<T, PlaceError>;

/// Whom something that is made is to belong to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    /// The user.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
}

/// A directory that is held open: whatever is put under its name meanwhile, it stays this one.
#[derive(Debug)]
pub(crate) struct Place {
    /// Its path, for people.
    pub(crate) path: String,
    directory: OwnedFd,
    stat: FileStat,
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);

impl Place {
    /// A directory that the user has named: it may be a link.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let shown = safe(&path.to_string_lossy());
        let directory = nix::fcntl::open(path, DIRECTORY, Mode::empty());
        Self::of(shown.clone(), directory.map_err(|errno| failed(&shown, errno))?)
    }

    fn of(path: String, directory: OwnedFd) -> Result<Self> {
        let stat = fstat(&directory).map_err(|errno| failed(&path, errno))?;
        Ok(Self { path, directory, stat })
    }

    /// Whose it is.
    pub(crate) fn owner(&self) -> u32 {
        self.stat.st_uid
    }

    /// Its group.
    pub(crate) fn group(&self) -> u32 {
        self.stat.st_gid
    }

    /// The path of something in it, for people.
    pub(crate) fn path_of(&self, name: &str) -> String {
        format!("{}/{}", self.path.trim_end_matches('/'), safe(name))
    }

    /// The directory of this name in it, which is no link. `None` if it is not there.
    pub(crate) fn below(&self, name: &str) -> Result<Option<Self>> {
        let path = self.path_of(name);
        match openat(&self.directory, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(directory) => Self::of(path, directory).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                let stat = fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
                let what = stat.map_or("no directory", |stat| kind(&stat));
                Err(PlaceError::Kind { path, what, wanted: "directories" })
            }
            Err(errno) => Err(failed(&path, errno)),
        }
    }

    /// Whether both are the same directory.
    pub(crate) fn is(&self, other: &Self) -> bool {
        other.is_stat(&self.stat)
    }

    fn is_stat(&self, other: &FileStat) -> bool {
        (self.stat.st_dev, self.stat.st_ino) == (other.st_dev, other.st_ino)
    }

    /// Whether it is the other, or lies in it.
    pub(crate) fn is_in(&self, other: &Self) -> Result<bool> {
        let mut at = self.stat;
        let mut directory = None::<OwnedFd>;
        loop {
            if other.is_stat(&at) {
                return Ok(true);
            }
            let from = directory.as_ref().map_or(self.directory.as_fd(), std::os::fd::AsFd::as_fd);
            let parent = openat(from, "..", DIRECTORY | OFlag::O_PATH, Mode::empty());
            let parent = parent.map_err(|errno| failed(&self.path, errno))?;
            let stat = fstat(&parent).map_err(|errno| failed(&self.path, errno))?;
            // The root is its own parent.
            if (stat.st_dev, stat.st_ino) == (at.st_dev, at.st_ino) {
                return Ok(false);
            }
            (at, directory) = (stat, Some(parent));
        }
    }

    /// What is in a regular file that one of the owners has, if it is no larger than that. `None` if it is not there.
    pub(crate) fn read(&self, name: &[u8], owners: &[u32], most: usize) -> Result<Option<String>> {
        let path = self.path_of(&String::from_utf8_lossy(name));
        let Some(file) = self.open_file(name, &path, owners)? else { return Ok(None) };
        let mut text = Vec::new();
        let read = file.take(most as u64 + 1).read_to_end(&mut text);
        read.map_err(|source| PlaceError::Read { path: path.clone(), source })?;
        if text.len() > most {
            return Err(PlaceError::TooLarge { path, most });
        }
        String::from_utf8(text).map(Some).map_err(|_| PlaceError::NotText { path })
    }

    /// The directory of this name in it, which is made for this owner if it is not there.
    pub(crate) fn make(&self, name: &str, owner: Owner) -> Result<Self> {
        let path = self.path_of(name);
        let made = mkdirat(&self.directory, name, Mode::from_bits_truncate(0o755));
        match made {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed(&path, errno)),
        }
        let below = self.below(name)?.ok_or_else(|| failed(&path, Errno::ENOENT))?;
        if made.is_ok() && below.owner() != owner.uid {
            fchown(&below.directory, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
                .map_err(|errno| failed(&path, errno))?;
        }
        Ok(below)
    }

    /// Writes a file for this owner, whole or not at all, in place of one that may be there.
    pub(crate) fn write(&self, name: &str, text: &str, owner: Owner) -> Result<()> {
        let path = self.path_of(name);
        let unfinished = format!(".{name}.{}", std::process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o644);
        let failed = |errno| failed(&path, errno);
        let mut file = File::from(openat(&self.directory, unfinished.as_str(), flags, mode).map_err(failed)?);
        let mut write = || -> io::Result<()> {
            file.write_all(text.as_bytes())?;
            if file.metadata()?.uid() != owner.uid {
                fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
            }
            file.sync_all()?;
            renameat(&self.directory, unfinished.as_str(), &self.directory, name)?;
            Ok(())
        };
        write().map_err(|source| {
            let _ = unlinkat(&self.directory, unfinished.as_str(), UnlinkatFlags::NoRemoveDir);
            PlaceError::Read { path: path.clone(), source }
        })
    }

    /// Makes a new file for this owner, which nobody else reads, in place of one that may be there.
    pub(crate) fn create(&self, name: &str, owner: Owner) -> Result<File> {
        let failed = |errno| failed(&self.path_of(name), errno);
        match unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o600);
        let file = File::from(openat(&self.directory, name, flags, mode).map_err(failed)?);
        if fstat(&file).map_err(failed)?.st_uid != owner.uid {
            fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid))).map_err(failed)?;
        }
        Ok(file)
    }

    fn open_file(&self, name: &[u8], path: &str, owners: &[u32]) -> Result<Option<File>> {
        let check = |stat: &FileStat| match stat {
            stat if !is(stat, SFlag::S_IFREG) => {
                Err(PlaceError::Kind { path: path.to_owned(), what: kind(stat), wanted: "regular files" })
            }
            stat if !owners.contains(&stat.st_uid) => {
                Err(PlaceError::Owner { path: path.to_owned(), owner: stat.st_uid, allowed: owners.to_vec() })
            }
            _ => Ok(()),
        };
        let failed = |errno| failed(path, errno);
        // Opening alone can do something to a device; and what was looked at may have been replaced before it is opened.
        match fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(None),
            stat => check(&stat.map_err(failed)?)?,
        }
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::empty()).map_err(failed)?;
        check(&fstat(&file).map_err(failed)?)?;
        Ok(Some(File::from(file)))
    }

    /// The names in it that are wanted, in order. Those that begin with a dot are not looked at: editors make them.
    pub(crate) fn names(&self, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
        // An own description of the directory: reading moves it on.
        let again = openat(&self.directory, ".", DIRECTORY, Mode::empty());
        let mut directory = again.and_then(Dir::from_fd).map_err(|errno| failed(&self.path, errno))?;
        let mut names = Vec::new();
        for (count, entry) in directory.iter().enumerate() {
            if count > MOST_ENTRIES {
                return Err(PlaceError::Entries { path: self.path.clone() });
            }
            let entry = entry.map_err(|errno| failed(&self.path, errno))?;
            let name = entry.file_name().to_bytes();
            if !name.starts_with(b".") && wanted(name) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

fn failed(path: &str, errno: Errno) -> PlaceError {
    PlaceError::Read { path: path.to_owned(), source: errno.into() }
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

fn kind(stat: &FileStat) -> &'static str {
    let kinds = [
        (SFlag::S_IFLNK, "a symbolic link"),
        (SFlag::S_IFIFO, "a named pipe"),
        (SFlag::S_IFDIR, "a directory"),
        (SFlag::S_IFREG, "a regular file"),
        (SFlag::S_IFSOCK, "a socket"),
    ];
    kinds.into_iter().find(|(flag, _)| is(stat, *flag)).map_or("a device", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// A hard link to another's file is no link to whoever opens it.
    #[test]
    fn anothers_files_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a\u{1b}.toml");
        fs::write(&file, "secret").unwrap();
        let owner = fs::metadata(&file).unwrap().uid();
        let (one, two) = (owner + 1, owner + 2);
        let place = Place::open(directory.path()).unwrap();
        let error = place.read("a\u{1b}.toml".as_bytes(), &[one, two], 100).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "{}/a\\u{{1b}}.toml belongs to uid {owner}, and COI reads files of uid {one} and {two} only. Give it \
                 another owner, or remove it",
                directory.path().display()
            )
        );
        assert_eq!(place.read("a\u{1b}.toml".as_bytes(), &[owner], 6).unwrap().as_deref(), Some("secret"));
        let error = place.read("a\u{1b}.toml".as_bytes(), &[owner], 5).unwrap_err();
        assert!(matches!(error, PlaceError::TooLarge { .. }), "{error}");
        assert_eq!(place.read(b"b.toml", &[owner], 5).unwrap(), None);
    }
}
