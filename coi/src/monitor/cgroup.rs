//! Cgroups of the unified hierarchy: where they are, what they are called, and how they are stopped.
//!
//! Where there is a hierarchy of version 1 with the freezer beside it, container managers may use that: a cgroup that has
//! the same path there is frozen and thawed in both, so that who looks at either sees the same. Version 1 comes second: a
//! process that its freezer catches first never comes to stand still for the unified hierarchy.
//!
//! It promises that a cgroup once opened stays the same one: its files are opened below its directory's
//! descriptor, so that another one that gets its name later is never touched in its place.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{Interest, unix::AsyncFd};

/// Why a cgroup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no unified hierarchy.
    #[error("no cgroup2 file system is mounted; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")]
    NotMounted,
    /// It is not there, or not to be opened.
    #[error("cannot open the cgroup {path}: {source}")]
    Open {
        /// Its path from the hierarchy's root.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A write was refused.
    #[error("cannot write {value} to {file} of the cgroup {path}: {source}")]
    Write {
        /// The cgroup's path from the hierarchy's root.
        path: String,
        /// Which of its files.
        file: &'static str,
        /// What should be written.
        value: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It did not come to the state asked for in time.
    #[error("the cgroup {path} did not reach \"{state}\" within {within:?}")]
    Deadline {
        /// Its path from the hierarchy's root.
        path: String,
        /// The line of cgroup.events that was waited for.
        state: &'static str,
        /// How long.
        within: Duration,
    },
}

/// Twice the least time between two notices of a change in a cgroup's file, at 250 ticks a second.
const NOTIFY_INTERVAL: Duration = Duration::from_millis(24);

/// How LXC calls the cgroup with all that runs in a container; the container's name follows.
pub const PAYLOAD: &str = "lxc.payload.";

/// How much of a cgroup's file is read.
const LONGEST: u64 = 4096;

/// Where the unified hierarchy is mounted.
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|_| CgroupError::NotMounted)?;
    find_mount(&mounts).ok_or(CgroupError::NotMounted)
}

/// The unified hierarchy's mount point in a mountinfo: the one that shows the hierarchy's own root.
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        (right.split(' ').next() == Some("cgroup2") && root == "/").then(|| PathBuf::from(point))
    })
}

/// The mount point of version 1's freezer in a mountinfo.
fn find_freezer(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let is_freezer =
            right.next() == Some("cgroup") && right.nth(1)?.split(',').any(|part| part == "freezer");
        (is_freezer && root == "/").then(|| PathBuf::from(point))
    })
}

/// The path of a process's cgroup from the unified hierarchy's root.
pub fn of_process(pid: u32) -> Option<String> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    cgroups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// How deep below the root a path is; the root itself is at 0.
pub fn level(path: &str) -> u32 {
    path.split('/').filter(|part| !part.is_empty()).count() as u32
}

/// Where hierarchies are mounted.
#[derive(Clone, Debug)]
pub struct Mounts {
    /// The unified one.
    pub unified: PathBuf,
    /// Version 1's of the freezer, where there is one.
    pub freezer: Option<PathBuf>,
}

impl Mounts {
    /// Those of this process.
    pub fn find() -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|_| CgroupError::NotMounted)?;
        let unified = find_mount(&mounts).ok_or(CgroupError::NotMounted)?;
        Ok(Self { unified, freezer: find_freezer(&mounts) })
    }
}

/// A cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    directory: File,
    id: u64,
    /// What stops it, open beforehand: to find it again would be a good part of what a freeze takes, and there may be no
    /// descriptor left by then. The hierarchy's root has none, and who only looks may not have it.
    freeze: Option<File>,
    /// Its directory in version 1's hierarchy of the freezer, where it has one.
    freezer: Option<File>,
}

impl Cgroup {
    /// Opens the cgroup of this path from the hierarchy's root.
    pub fn open(path: &str) -> Result<Self, CgroupError> {
        let Mounts { unified, freezer } = Mounts::find()?;
        Self::open_below(path, &unified, freezer.as_deref())
    }

    /// The same, with the hierarchies mounted here.
    pub fn open_below(path: &str, unified: &Path, freezer: Option<&Path>) -> Result<Self, CgroupError> {
        let below = path.trim_start_matches('/');
        let open = |root: &Path| {
            fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECTORY).open(root.join(below))
        };
        let opened = open(unified).and_then(|directory| Ok((directory.metadata()?.ino(), directory)));
        let (id, directory) = opened.map_err(|source| CgroupError::Open { path: path.to_owned(), source })?;
        let freezer = freezer.and_then(|root| open(root).ok());
        Ok(Self { path: path.to_owned(), freeze: open_freeze(&directory), directory, id, freezer })
    }

    /// The cgroup whose directory was opened by somebody else, under this path.
    pub fn of_directory(path: &str, directory: File) -> io::Result<Self> {
        let id = directory.metadata()?.ino();
        let freezer = Mounts::find().ok().and_then(|mounts| mounts.freezer);
        let freezer = freezer.and_then(|root| File::open(root.join(path.trim_start_matches('/'))).ok());
        Ok(Self { path: path.to_owned(), freeze: open_freeze(&directory), directory, id, freezer })
    }

    /// Its path from the hierarchy's root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Is it one with all of a container in it? When the container's init has ended, nobody comes into it any more.
    pub fn is_payload(&self) -> bool {
        self.path.strip_prefix('/').is_some_and(|name| name.starts_with(PAYLOAD) && !name.contains('/'))
    }

    /// Its id, as the kernel's helpers give it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its directory, through the open descriptor.
    pub fn directory(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string())
    }

    /// Its directory, for another process.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Is it to stand still, by whoever's doing? One that has been removed is not.
    pub fn is_held(&self) -> bool {
        self.read("cgroup.freeze").is_ok_and(|held| held.trim() == "1")
    }

    /// Does anything run in it?
    pub fn is_populated(&self) -> bool {
        self.read("cgroup.events").is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }

    /// Readable with [`tokio::io::Interest::PRIORITY`] as soon as something begins or ends to run in it, or to stand still:
    /// the kernel tells who has read the file that it is another by now. To be asked within a tokio runtime.
    pub fn notices(&self) -> io::Result<AsyncFd<File>> {
        let mut events = self.events()?;
        (&mut events).take(LONGEST).read_to_end(&mut Vec::new())?;
        // SAFETY: a file's descriptor is its own, and is open for as long as that is there.
        Ok(unsafe { AsyncFd::register_with_interest(events, Interest::PRIORITY) }?)
    }

    fn events(&self) -> io::Result<File> {
        File::open(self.directory().join("cgroup.events"))
    }

    /// What is read here is short: something else in its place may have no end.
    fn read(&self, file: &str) -> io::Result<String> {
        let mut text = String::new();
        File::open(self.directory().join(file))?.take(LONGEST).read_to_string(&mut text)?;
        Ok(text)
    }

    fn write(&self, file: &'static str, value: &'static str) -> Result<(), CgroupError> {
        self.write_below(&self.directory, file, value)
    }

    /// In version 1's hierarchy, where it has a part in that.
    fn write_freezer(&self, value: &'static str) -> Result<(), CgroupError> {
        self.freezer.as_ref().map_or(Ok(()), |freezer| self.write_below(freezer, "freezer.state", value))
    }

    fn write_below(
        &self,
        directory: &File,
        file: &'static str,
        value: &'static str,
    ) -> Result<(), CgroupError> {
        let opened = open_below(directory, file);
        let written = opened.and_then(|mut opened| opened.write_all(value.as_bytes()));
        written.map_err(|source| CgroupError::Write { path: self.path.clone(), file, value, source })
    }

    fn write_freeze(&self, value: &'static str) -> Result<(), CgroupError> {
        const FILE: &str = "cgroup.freeze";
        let Some(freeze) = &self.freeze else { return self.write(FILE, value) };
        let written = freeze.write_all_at(value.as_bytes(), 0);
        written.map_err(|source| CgroupError::Write { path: self.path.clone(), file: FILE, value, source })
    }

    /// Whether it is still there.
    pub fn exists(&self) -> bool {
        self.directory().join("cgroup.events").exists()
    }

    /// Begins to stop all its processes. Microseconds; [`Self::wait_frozen`] says when they have, and has version 1 know.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.write_freeze("1")
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.write_freeze("0")?;
        self.write_freezer("THAWED")
    }

    /// Lets those end that have been told to: what version 1 has frozen hears nothing. The others still stand still.
    pub fn let_end(&self) -> Result<(), CgroupError> {
        self.write_freezer("THAWED")
    }

    /// Ends all its processes, frozen or not.
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.write("cgroup.kill", "1")?;
        self.let_end()
    }

    /// Waits until none of its processes runs any more.
    pub fn wait_frozen(&self, within: Duration) -> Result<(), CgroupError> {
        self.wait_for("frozen 1", within)?;
        if let Err(error) = self.write_freezer("FROZEN") {
            // They stand still; that version 1 does not know is second.
            tracing::debug!(%error, "not frozen in version 1's hierarchy");
        }
        Ok(())
    }

    /// Has version 1 a part in it?
    pub fn has_freezer(&self) -> bool {
        self.freezer.is_some()
    }

    /// Waits until there is no process in it. One that has been removed has none.
    pub fn wait_empty(&self, within: Duration) -> Result<(), CgroupError> {
        self.wait_for("populated 0", within)
    }

    fn wait_for(&self, state: &'static str, within: Duration) -> Result<(), CgroupError> {
        let begun = Instant::now();
        let deadline = begun + within;
        let gone =
            |error: &io::Error| matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENODEV));
        let failed = |source| CgroupError::Open { path: self.path.clone(), source };
        let mut events = match self.events() {
            Ok(events) => events,
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        loop {
            let mut text = String::new();
            match events.rewind().and_then(|()| (&events).take(LONGEST).read_to_string(&mut text)) {
                Ok(_) if text.lines().any(|line| line == state) => return Ok(()),
                Ok(_) => {}
                Err(error) if gone(&error) => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CgroupError::Deadline { path: self.path.clone(), state, within });
            }
            // The kernel tells of one change in 12 ms at most (CGROUP_FILE_NOTIFY_MIN_INTV); until the next
            // word of it could come, looking is quicker.
            let look = if begun.elapsed() < NOTIFY_INTERVAL { Duration::from_millis(1) } else { left };
            let timeout = PollTimeout::try_from(look.min(left)).unwrap_or(PollTimeout::MAX);
            // An interrupted wait is looked at again; the deadline holds.
            let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout);
        }
    }

    /// Is this process in it, or below it?
    pub fn holds(&self, pid: u32) -> bool {
        let own = self.path.trim_end_matches('/');
        of_process(pid)
            .and_then(|path| path.strip_prefix(own).map(str::to_owned))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Opens a file of a cgroup to write to it.
fn open_below(directory: &File, file: &str) -> io::Result<File> {
    File::options()
        .write(true)
        .open(Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(file))
}

fn open_freeze(directory: &File) -> Option<File> {
    open_below(directory, "cgroup.freeze").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By then another one may have its name, and the daemon no descriptor left.
    #[test]
    fn it_is_frozen_by_what_was_opened() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cgroup.freeze");
        fs::write(&file, "0").unwrap();
        let cgroup = Cgroup::of_directory("/a", File::open(directory.path()).unwrap()).unwrap();
        let opened = File::open(&file).unwrap();
        fs::rename(&file, directory.path().join("old")).unwrap();
        fs::write(&file, "0").unwrap();
        cgroup.freeze().unwrap();
        assert_eq!(
            (io::read_to_string(opened).unwrap(), fs::read_to_string(file).unwrap()),
            ("1".into(), "0".into())
        );
    }

    #[test]
    fn a_file_without_an_end_is_not_read_to_it() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["cgroup.freeze", "cgroup.events"] {
            std::os::unix::fs::symlink("/dev/zero", directory.path().join(name)).unwrap();
        }
        let cgroup = Cgroup::of_directory("/a", File::open(directory.path()).unwrap()).unwrap();
        assert!(!cgroup.is_held() && !cgroup.is_populated());
    }

    #[test]
    fn all_of_a_container_is_in_one_cgroup() {
        let directory = tempfile::tempdir().unwrap();
        let is_payload =
            |path| Cgroup::of_directory(path, File::open(directory.path()).unwrap()).unwrap().is_payload();
        assert!(is_payload("/lxc.payload.coi-1") && is_payload("/lxc.payload.coi-1-1"));
        assert!(!is_payload("/lxc.monitor.coi-1") && !is_payload("/lxc.payload.coi-1/system.slice"));
    }

    #[test]
    fn the_mount_that_shows_the_root_is_taken() {
        let mountinfo = "\
            30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            31 30 0:27 /docker/x /mnt/part rw,nosuid - cgroup2 cgroup2 rw\n\
            32 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(mountinfo), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_mount(""), None);
    }

    #[test]
    fn the_freezer_of_version_1_is_found() {
        let mountinfo = "\
            31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            32 30 0:28 /docker/x /mnt/part rw - cgroup cgroup rw,freezer\n\
            33 30 0:28 / /sys/fs/cgroup/freezer rw,nosuid shared:9 - cgroup cgroup rw,seclabel,freezer\n";
        assert_eq!(find_freezer(mountinfo), Some("/sys/fs/cgroup/freezer".into()));
        assert_eq!(find_freezer("32 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,freezer\n"), None);
    }

    #[test]
    fn both_hierarchies_are_told() {
        let (unified, freezer) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = |root: &tempfile::TempDir, name: &str| root.path().join("a/b").join(name);
        for (root, name) in
            [(&unified, "cgroup.freeze"), (&unified, "cgroup.kill"), (&freezer, "freezer.state")]
        {
            fs::create_dir_all(root.path().join("a/b")).unwrap();
            fs::write(file(root, name), "").unwrap();
        }
        fs::write(file(&unified, "cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        let freeze =
            |cgroup: &Cgroup| cgroup.freeze().and_then(|()| cgroup.wait_frozen(Duration::from_secs(1)));
        let said = || {
            let read = |root, name| fs::read_to_string(file(root, name)).unwrap();
            (read(&unified, "cgroup.freeze"), read(&freezer, "freezer.state"))
        };
        let both = Cgroup::open_below("/a/b", unified.path(), Some(freezer.path())).unwrap();
        // A real file begins anew with each write; these do not, and none is shorter than the one before.
        both.freeze().unwrap();
        assert_eq!(said(), ("1".into(), String::new()), "not before they stand still");
        freeze(&both).unwrap();
        assert_eq!(said(), ("1".into(), "FROZEN".into()));
        both.thaw().unwrap();
        assert_eq!(said(), ("0".into(), "THAWED".into()));
        freeze(&both).unwrap();
        both.kill().unwrap();
        assert_eq!(said(), ("1".into(), "THAWED".into()));
        // Where it has no part in version 1, and where that takes nothing.
        let one =
            Cgroup::open_below("/a/b", unified.path(), Some(unified.path().join("none").as_path())).unwrap();
        one.thaw().unwrap();
        assert_eq!(said(), ("0".into(), "THAWED".into()));
        fs::remove_file(file(&freezer, "freezer.state")).unwrap();
        freeze(&both).unwrap();
        assert!(both.thaw().is_err());
    }

    #[test]
    fn levels() {
        assert_eq!((level("/"), level("/a"), level("/a/b/"), level("")), (0, 1, 2, 0));
    }
}
