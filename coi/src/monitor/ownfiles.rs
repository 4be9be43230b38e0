//! The rule files that a user and a workspace bring: `~/.coi/rules/*.toml` and `.coi/rules/*.toml` in the workspace.
//!
//! They are read by the client, which may be root on a user's behalf, and a workspace's may be by whoever wrote the
//! repository. So nothing is followed and nothing is waited for: no directory on the way and no file may be a symbolic
//! link, only regular files are read, and only those of the user or of the workspace's owner; what cannot be read so is
//! an error and not passed over, for a rule that is missing would look like quiet. Files whose names begin with a dot
//! are not looked at: editors make them.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
};

use super::rules::{MOST_BYTES, MOST_FILES, OwnRules, RuleText, TooMuch, safe};

/// How many entries such a directory may have, whatever they are.
const MOST_ENTRIES: usize = 1024;

/// Why the rule files that somebody brings are not used.
#[derive(Debug, thiserror::Error)]
pub enum OwnFilesError {
    /// It cannot be read.
    #[error("the rules in {path} cannot be read: {source}")]
    Read {
        /// What.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It is something else than it should be.
    #[error("{path} is {what}: rules are read from {wanted} only. Put one in its place, or remove it")]
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
        "{path} belongs to uid {owner}, and rules are read from files of uid {} only. Give it another owner, or \
         remove it",
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
    #[error("{path} is not UTF-8, as rule files are")]
    NotText {
        /// What.
        path: String,
    },
    /// There is too much.
    #[error("the rules in {path} are too much: {why}")]
    TooMuch {
        /// Where.
        path: String,
        /// Of what.
        #[source]
        why: TooMuch,
    },
    /// There are too many files of any kind.
    #[error("{path} has more than {MOST_ENTRIES} entries; keep nothing but rule files in it")]
    Entries {
        /// Where.
        path: String,
    },
}

type Result<T> = std::result::Result<T, OwnFilesError>;

/// For whom rule files are read.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The user's id.
    pub uid: u32,
    /// The user's home, if there is one. One that belongs to somebody else is none: who keeps HOME while becoming
    /// another has no rules there.
    pub home: Option<&'a Path>,
}

impl Reader<'_> {
    /// What the user brings, and the workspace, if there is one.
    pub fn read(self, workspace: Option<&Path>) -> Result<OwnRules> {
        let mut own = OwnRules::default();
        let place = workspace.map(Place::open).transpose()?;
        let theirs = place.as_ref().map(Place::rules).transpose()?.flatten();
        let is_theirs =
            |home: &&Path| fs::metadata(home).is_ok_and(|home| home.is_dir() && home.uid() == self.uid);
        if let Some(home) = self.home.filter(is_theirs)
            && let Some(rules) = Place::open(home)?.rules()?
        {
            let inside = match &place {
                Some(place) => rules.is_in(place)?,
                None => false,
            };
            let same = theirs.as_ref().is_some_and(|theirs| theirs.is(&rules.stat));
            // What can be written from inside the container is the workspace's, whoever calls it theirs.
            match (inside, same) {
                (false, _) => rules.files(&[self.uid], &mut own, |own| &mut own.user)?,
                (true, true) => {}
                (true, false) => rules.files(&[self.uid], &mut own, |own| &mut own.workspace)?,
            }
        }
        if let (Some(place), Some(rules)) = (place, theirs) {
            let mut owners = vec![place.stat.st_uid, self.uid];
            owners.dedup();
            rules.files(&owners, &mut own, |own| &mut own.workspace)?;
        }
        Ok(own)
    }
}

/// A directory that is held open: whatever is put under its name meanwhile, it stays this one.
struct Place {
    path: String,
    directory: OwnedFd,
    stat: FileStat,
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);

impl Place {
    /// A directory that the user has named: it may be a link.
    fn open(path: &Path) -> Result<Self> {
        let shown = safe(&path.to_string_lossy());
        let directory = nix::fcntl::open(path, DIRECTORY, Mode::empty());
        Self::of(shown.clone(), directory.map_err(|errno| failed(&shown, errno))?)
    }

    fn of(path: String, directory: OwnedFd) -> Result<Self> {
        let stat = fstat(&directory).map_err(|errno| failed(&path, errno))?;
        Ok(Self { path, directory, stat })
    }

    /// The directory `.coi/rules` in it. `None` if it is not there.
    fn rules(&self) -> Result<Option<Self>> {
        let Some(coi) = self.below(".coi")? else { return Ok(None) };
        coi.below("rules")
    }

    /// The directory of this name in it, which is no link. `None` if it is not there.
    fn below(&self, name: &str) -> Result<Option<Self>> {
        let path = format!("{}/{name}", self.path.trim_end_matches('/'));
        match openat(&self.directory, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(directory) => Self::of(path, directory).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                let stat = fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
                let what = stat.map_or("no directory", |stat| kind(&stat));
                Err(OwnFilesError::Kind { path, what, wanted: "directories" })
            }
            Err(errno) => Err(failed(&path, errno)),
        }
    }

    fn is(&self, other: &FileStat) -> bool {
        (self.stat.st_dev, self.stat.st_ino) == (other.st_dev, other.st_ino)
    }

    /// Whether it is the other, or lies in it.
    fn is_in(&self, other: &Self) -> Result<bool> {
        let mut at = self.stat;
        let mut directory = None::<OwnedFd>;
        loop {
            if other.is(&at) {
                return Ok(true);
            }
            let from = directory.as_ref().map_or(self.directory.as_fd(), AsFd::as_fd);
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

    /// Reads its rule files, by name, to where they belong.
    fn files(
        &self,
        owners: &[u32],
        own: &mut OwnRules,
        to: impl Fn(&mut OwnRules) -> &mut Vec<RuleText>,
    ) -> Result<()> {
        for name in self.names()? {
            let path = format!("{}/{}", self.path, safe(&String::from_utf8_lossy(&name)));
            let file = open_file(self.directory.as_fd(), &name, &path, owners)?;
            let used: usize = own.files().map(|file| file.name.len() + file.text.len()).sum();
            let room = MOST_BYTES.saturating_sub(used);
            let mut text = Vec::new();
            let read = file.take(room as u64 + 1).read_to_end(&mut text);
            read.map_err(|source| OwnFilesError::Read { path: path.clone(), source })?;
            let too_much = |why| OwnFilesError::TooMuch { path: self.path.clone(), why };
            if text.len() > room {
                return Err(too_much(TooMuch));
            }
            let text = String::from_utf8(text).map_err(|_| OwnFilesError::NotText { path: path.clone() })?;
            to(own).push(RuleText { name: path, text });
            own.check().map_err(too_much)?;
        }
        Ok(())
    }

    /// The names of its rule files, in order.
    fn names(&self) -> Result<Vec<Vec<u8>>> {
        // An own description of the directory: reading moves it on.
        let again = openat(&self.directory, ".", DIRECTORY, Mode::empty());
        let mut directory = again.and_then(Dir::from_fd).map_err(|errno| failed(&self.path, errno))?;
        let mut names = Vec::new();
        for (count, entry) in directory.iter().enumerate() {
            if count > MOST_ENTRIES {
                return Err(OwnFilesError::Entries { path: self.path.clone() });
            }
            let entry = entry.map_err(|errno| failed(&self.path, errno))?;
            let name = entry.file_name().to_bytes();
            if name.ends_with(b".toml") && !name.starts_with(b".") {
                names.push(name.to_owned());
            }
        }
        if names.len() > MOST_FILES {
            return Err(OwnFilesError::TooMuch { path: self.path.clone(), why: TooMuch });
        }
        names.sort();
        Ok(names)
    }
}

/// Opens a regular file that one of the owners has.
fn open_file(directory: BorrowedFd<'_>, name: &[u8], path: &str, owners: &[u32]) -> Result<File> {
    let check = |stat: &FileStat| match stat {
        stat if !is(stat, SFlag::S_IFREG) => {
            Err(OwnFilesError::Kind { path: path.to_owned(), what: kind(stat), wanted: "regular files" })
        }
        stat if !owners.contains(&stat.st_uid) => {
            Err(OwnFilesError::Owner { path: path.to_owned(), owner: stat.st_uid, allowed: owners.to_vec() })
        }
        _ => Ok(()),
    };
    let failed = |errno| failed(path, errno);
    // Opening alone can do something to a device; and what was looked at may have been replaced before it is opened.
    check(&fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty()).map_err(failed)?;
    check(&fstat(&file).map_err(failed)?)?;
    Ok(File::from(file))
}

fn failed(path: &str, errno: Errno) -> OwnFilesError {
    OwnFilesError::Read { path: path.to_owned(), source: errno.into() }
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
    use std::{os::unix::fs::symlink, path::PathBuf};

    use nix::unistd::{geteuid, mkfifo};

    use super::*;

    /// A home with a workspace in it, both with an empty directory of rules.
    struct Places {
        _all: tempfile::TempDir,
        home: PathBuf,
        workspace: PathBuf,
    }

    impl Places {
        fn new() -> Self {
            let all = tempfile::tempdir().unwrap();
            let home = all.path().canonicalize().unwrap().join("home");
            let workspace = home.join("app");
            for place in [&home, &workspace] {
                fs::create_dir_all(place.join(".coi/rules")).unwrap();
            }
            Self { _all: all, home, workspace }
        }

        fn rules(&self) -> PathBuf {
            self.workspace.join(".coi/rules")
        }

        fn read(&self) -> Result<OwnRules> {
            self.read_for(&self.workspace)
        }

        fn read_for(&self, workspace: &Path) -> Result<OwnRules> {
            Reader { uid: geteuid().as_raw(), home: Some(&self.home) }.read(Some(workspace))
        }

        /// What is said about the workspace's rules, with its path cut short.
        #[track_caller]
        fn refused(&self) -> String {
            let error = self.read().unwrap_err().to_string();
            error.replace(self.home.to_str().unwrap(), "/home/ann")
        }
    }

    fn names(files: &[RuleText]) -> Vec<&str> {
        files.iter().map(|file| file.name.rsplit('/').next().unwrap()).collect()
    }

    #[test]
    fn files_are_read_by_name() {
        let places = Places::new();
        for name in ["b.toml", "a.toml", ".#a.toml", "README.md", "toml"] {
            fs::write(places.rules().join(name), name).unwrap();
        }
        fs::write(places.home.join(".coi/rules/mine.toml"), "mine").unwrap();
        let own = places.read().unwrap();
        assert_eq!((names(&own.workspace), names(&own.user)), (vec!["a.toml", "b.toml"], vec!["mine.toml"]));
        assert_eq!(own.workspace[0].name, format!("{}/a.toml", places.rules().display()));
        assert_eq!(own.user[0].text, "mine");
    }

    #[test]
    fn there_need_not_be_any() {
        let places = Places::new();
        fs::remove_dir_all(places.workspace.join(".coi")).unwrap();
        fs::remove_dir(places.home.join(".coi/rules")).unwrap();
        assert!(places.read().unwrap().is_empty());
        let nobody = Reader { uid: 4711, home: Some(Path::new("/nonexistent")) };
        assert!(nobody.read(None).unwrap().is_empty());
        assert!(matches!(nobody.read(Some(Path::new("/nonexistent"))), Err(OwnFilesError::Read { .. })));
        let places = Places::new();
        symlink("/etc/shadow", places.home.join(".coi/rules/mine.toml")).unwrap();
        let another = Reader { uid: geteuid().as_raw() + 1, home: Some(&places.home) };
        assert!(another.read(None).unwrap().is_empty());
    }

    /// What runs in the container writes there, whoever's rules they are otherwise.
    #[test]
    fn what_lies_in_the_workspace_is_the_workspaces() {
        let places = Places::new();
        fs::write(places.home.join(".coi/rules/mine.toml"), "mine").unwrap();
        for workspace in [places.home.clone(), places.home.parent().unwrap().to_owned()] {
            let own = places.read_for(&workspace).unwrap();
            assert_eq!((names(&own.workspace), names(&own.user)), (vec!["mine.toml"], vec![]));
        }
    }

    #[test]
    fn nothing_is_followed_and_nothing_waited_for() {
        let mut said = Vec::new();
        let mut refused = |put: &dyn Fn(&Places)| {
            let places = Places::new();
            put(&places);
            said.push(places.refused());
        };
        refused(&|places| symlink("/etc/shadow", places.rules().join("a.toml")).unwrap());
        refused(&|places| mkfifo(&places.rules().join("a.toml"), Mode::from_bits_truncate(0o600)).unwrap());
        refused(&|places| fs::create_dir(places.rules().join("a.toml")).unwrap());
        refused(&|places| {
            drop(std::os::unix::net::UnixListener::bind(places.rules().join("a.toml")).unwrap());
        });
        refused(&|places| {
            fs::remove_dir(places.rules()).unwrap();
            symlink(places.home.join(".coi/rules"), places.rules()).unwrap();
        });
        refused(&|places| {
            fs::remove_dir_all(places.workspace.join(".coi")).unwrap();
            symlink(places.home.join(".coi"), places.workspace.join(".coi")).unwrap();
        });
        refused(&|places| {
            fs::remove_dir_all(places.workspace.join(".coi")).unwrap();
            mkfifo(&places.workspace.join(".coi"), Mode::from_bits_truncate(0o600)).unwrap();
        });
        insta::assert_snapshot!(said.join("\n"));
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut said = Vec::new();
        let mut refused = |put: &dyn Fn(&Path)| {
            let places = Places::new();
            put(&places.rules());
            said.push(places.refused());
        };
        refused(&|rules| fs::write(rules.join("a.toml"), "x".repeat(MOST_BYTES)).unwrap());
        refused(&|rules| File::create(rules.join("a.toml")).unwrap().set_len(1 << 40).unwrap());
        refused(&|rules| {
            (0..=MOST_FILES).for_each(|n| fs::write(rules.join(format!("{n}.toml")), "").unwrap());
        });
        refused(&|rules| (0..=MOST_ENTRIES).for_each(|n| fs::write(rules.join(format!("{n}")), "").unwrap()));
        refused(&|rules| fs::write(rules.join("a.toml"), b"\xff").unwrap());
        insta::assert_snapshot!(said.join("\n"));
    }

    /// A hard link to another's file is no link to whoever opens it.
    #[test]
    fn anothers_files_are_not_read() {
        let places = Places::new();
        let file = places.rules().join("a\u{1b}.toml");
        fs::write(&file, "secret").unwrap();
        let owner = fs::metadata(&file).unwrap().uid();
        let error = open_file(
            File::open(places.rules()).unwrap().as_fd(),
            "a\u{1b}.toml".as_bytes(),
            "a.toml",
            &[owner + 1, owner + 2],
        );
        let (one, two) = (owner + 1, owner + 2);
        assert_eq!(
            error.unwrap_err().to_string(),
            format!(
                "a.toml belongs to uid {owner}, and rules are read from files of uid {one} and {two} only. Give it \
                 another owner, or remove it"
            )
        );
        assert!(places.read().unwrap().workspace[0].name.ends_with("/a\\u{1b}.toml"));
    }
}
