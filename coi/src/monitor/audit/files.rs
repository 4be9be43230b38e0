//! Where the files of a log are, how they are called, and who may read them.
//!
//! ```text
//! /var/log/coi/UID/NAME.ID.jsonl                the newest records
//! /var/log/coi/UID/NAME.ID.jsonl.000000000001   older ones; the number is that of the first record in it
//! /var/log/coi/UID/NAME.ID.jsonl.000000000001.torn   a record that was never finished, where nothing was before it
//! /var/lib/coi/audit/heads/UID/NAME.ID.json     the daemon's own note of the last record
//! /var/lib/coi/audit/checkpoint.{key,pub}       what checkpoints are signed with
//! ```
//!
//! UID is the container's owner, ID its uuid, or a cgroup's id: names recur. All of it is root's. The owner may read by an
//! entry in the access control list, the group incus-admin by its mode, and nobody else.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{fs::XattrFlags, io::Errno};

use super::{chain::Hash, head::Head};

/// Where the logs are unless `COI_LOG_DIR` names another place.
const LOGS: &str = "/var/log/coi";
/// Where the daemon keeps what it must not forget, unless `COI_STATE_DIR` names another place.
const STATE: &str = "/var/lib/coi";
/// A file's name has at most 255 bytes; a cgroup's path has more.
const LONGEST_NAME: usize = 120;

/// The directory of all audit logs.
pub fn directory() -> PathBuf {
    env::var_os("COI_LOG_DIR").map_or_else(|| LOGS.into(), PathBuf::from)
}

/// The directory of what the daemon must not forget.
pub fn daemon_directory() -> PathBuf {
    env::var_os("COI_STATE_DIR").map_or_else(|| STATE.into(), PathBuf::from)
}

/// The directory of the daemon's own notes about them.
pub fn state_directory() -> PathBuf {
    daemon_directory().join("audit")
}

/// How the files of a container or cgroup are called, less the ending.
pub fn stem(name: &str, id: &str) -> String {
    format!("{}.{}", file_name(name), file_name(id))
}

/// Incus's names have neither dots nor slashes; a cgroup's path can have both, and be long.
pub fn file_name(name: &str) -> String {
    let mut plain = name.replace(|c: char| matches!(c, '/' | '.') || c.is_control(), "_");
    if plain.len() > LONGEST_NAME {
        plain.truncate(plain.floor_char_boundary(LONGEST_NAME - 17));
        plain.push('-');
        plain.push_str(&Hash::of(name.as_bytes()).to_string()[..16]);
    }
    plain
}

/// One log's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory its files are in.
    pub directory: PathBuf,
    /// The directory of the daemon's notes.
    pub state: PathBuf,
    /// Whose container it is about.
    pub owner: u32,
    /// The name of its files, less the ending.
    pub stem: String,
}

/// One of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The number of its first record; the newest file's is not in its name.
    pub first: Option<u64>,
    /// There is nothing in it but what a crash left of the record of that number.
    pub is_torn: bool,
    /// Where it is.
    pub path: PathBuf,
}

impl Place {
    /// Of a container or cgroup.
    pub fn new(logs: &Path, state: &Path, owner: u32, stem: impl Into<String>) -> Self {
        Self { directory: logs.join(owner.to_string()), state: state.to_owned(), owner, stem: stem.into() }
    }

    /// The place of a file that may have come from anywhere: what is beside it belongs to it.
    pub fn of_file(path: &Path, state: &Path) -> Option<Self> {
        let directory = path.parent()?;
        let name = path.file_name()?.to_str()?;
        let stem = &name[..name.rfind(".jsonl")?];
        // A copy may lie elsewhere; its first records know better.
        let owner = directory.file_name().and_then(OsStr::to_str).and_then(|name| name.parse().ok());
        Some(Self {
            directory: directory.to_owned(),
            state: state.to_owned(),
            owner: owner.unwrap_or(0),
            stem: stem.to_owned(),
        })
    }

    /// The uuid or cgroup id.
    pub fn id(&self) -> &str {
        self.stem.rsplit_once('.').map_or(&self.stem, |(_, id)| id)
    }

    /// The file of the newest records.
    pub fn active(&self) -> PathBuf {
        self.directory.join(format!("{}.jsonl", self.stem))
    }

    /// A file of older records.
    pub fn rotated(&self, first: u64) -> PathBuf {
        self.directory.join(format!("{}.jsonl.{first:012}", self.stem))
    }

    /// The daemon's note of the last record.
    pub fn head(&self) -> PathBuf {
        self.state.join("heads").join(self.owner.to_string()).join(format!("{}.json", self.stem))
    }

    /// All its files, oldest first.
    pub fn pieces(&self) -> io::Result<Vec<Piece>> {
        let active = format!("{}.jsonl", self.stem);
        let mut pieces = Vec::new();
        let mut newest = None;
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pieces),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&active)) else { continue };
            let path = entry.path();
            if rest.is_empty() {
                newest = Some(Piece { first: None, is_torn: false, path });
                continue;
            }
            let Some(rest) = rest.strip_prefix('.') else { continue };
            let (number, is_torn) = match rest.split_once('.') {
                Some((number, rest)) if rest.split('.').all(|part| part == "torn") => (number, true),
                Some(_) => continue,
                None => (rest, false),
            };
            if let Ok(first) = number.parse() {
                pieces.push(Piece { first: Some(first), is_torn, path });
            }
        }
        // What was torn was there before what was then written under its number.
        pieces.sort_by(|a, b| (a.first, !a.is_torn, &a.path).cmp(&(b.first, !b.is_torn, &b.path)));
        pieces.extend(newest);
        Ok(pieces)
    }

    /// All its files, oldest first, opened at one moment: what is rotated or removed afterwards is still read.
    pub fn open(&self) -> io::Result<Vec<(Piece, File)>> {
        let mut pieces = self.pieces()?;
        loop {
            let open = |piece: Piece| File::open(&piece.path).map(|file| (piece, file));
            let opened: io::Result<Vec<_>> = pieces.clone().into_iter().map(open).collect();
            let now = self.pieces()?;
            match opened {
                Ok(opened) if now == pieces => return Ok(opened),
                // It was rotated meanwhile.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => pieces = now,
            }
        }
    }

    /// How long ago something was last written: by the daemon's note, who may read it.
    fn age(&self) -> Duration {
        if let Ok(Some(note)) = Head::read(&self.head()) {
            return note.written.age();
        }
        let modified = fs::metadata(self.active()).and_then(|active| active.modified());
        modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default()
    }
}

/// All logs that the caller may see, also those of which only the daemon's note is left.
pub fn places(logs: &Path, state: &Path) -> Vec<Place> {
    let mut places = Vec::new();
    for (directory, ending) in [(logs.to_owned(), ".jsonl"), (state.join("heads"), ".json")] {
        for owner in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Some(uid) = owner.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            for file in fs::read_dir(owner.path()).into_iter().flatten().flatten() {
                let name = file.file_name();
                let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(ending)) else { continue };
                places.push(Place::new(logs, state, uid, stem));
            }
        }
    }
    places.sort_by(|a, b| (a.owner, &a.stem).cmp(&(b.owner, &b.stem)));
    places.dedup();
    places
}

/// The newest log of the containers and cgroups that had this name, or this id.
pub fn newest(logs: &Path, state: &Path, name: &str) -> Option<Place> {
    let wanted = file_name(name);
    let is_it =
        |place: &Place| place.stem.rsplit_once('.').is_some_and(|(name, id)| name == wanted || id == wanted);
    places(logs, state).into_iter().filter(is_it).min_by_key(Place::age)
}

/// The log that a container has already, whatever it was called and whoever asks: its uuid is for good.
pub fn existing(logs: &Path, state: &Path, name: &str, id: &str) -> Option<Place> {
    let stem = stem(name, id);
    // A cgroup's id is not for good, it returns after a boot.
    let is_uuid = id.contains('-');
    let is_it = |place: &Place| place.stem == stem || (is_uuid && place.id() == id);
    places(logs, state).into_iter().filter(is_it).min_by_key(Place::age)
}

/// Makes a directory that only its owner's user and administrators may look into.
pub fn make_directory(path: &Path, owner: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        // Others may look for a file whose name they know.
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match fs::DirBuilder::new().mode(0o750).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let directory = File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)?;
    grant(&directory, owner)
}

/// Lets administrators and the owner read a file or directory, and nobody else.
pub fn grant(file: &File, owner: u32) -> io::Result<()> {
    let metadata = file.metadata()?;
    let (mode, execute) = if metadata.is_dir() { (0o750, 0o1) } else { (0o640, 0) };
    if metadata.permissions().mode() & 0o777 != mode {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    // The daemon is root; a test may not be.
    if let Some(group) = super::super::service::admin_group()
        && metadata.gid() != group.as_raw()
        && nix::unistd::geteuid().is_root()
    {
        fchown(file, None, Some(group.as_raw()))?;
    }
    if owner != 0 {
        match set_reader(file, owner, execute) {
            Err(Errno::NOTSUP) => {
                tracing::warn!(
                    owner,
                    "the file system of the audit log has no access control lists; its owner cannot read it"
                );
            }
            done => done?,
        }
    }
    Ok(())
}

/// An access control list with one reader beside owner and group; `include/uapi/linux/posix_acl_xattr.h`.
fn set_reader(file: impl AsFd, uid: u32, execute: u16) -> Result<(), Errno> {
    const NOBODY: u32 = u32::MAX;
    let read = 0o4 | execute;
    let entries = [
        (0x01, read | 0o2, NOBODY), // the file's owner
        (0x02, read, uid),
        (0x04, read, NOBODY), // its group
        (0x10, read, NOBODY), // at most, for those two
        (0x20, 0, NOBODY),    // others
    ];
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(u16::to_le_bytes(tag));
        list.extend(u16::to_le_bytes(permissions));
        list.extend(u32::to_le_bytes(id));
    }
    rustix::fs::fsetxattr(file, "system.posix_acl_access", &list, XattrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names() {
        assert_eq!(stem("coi-1a2b3c4d-1", "u-1"), "coi-1a2b3c4d-1.u-1");
        assert_eq!(stem("a/b.c\n", "7"), "a_b_c_.7");
        let long = "\u{e4}/".repeat(3000);
        assert!(stem(&long, "7").len() < 200);
        assert_ne!(stem(&long, "7"), stem(&format!("{long}x"), "7"));
    }

    #[test]
    fn the_pieces_are_in_order() {
        let logs = tempfile::tempdir().unwrap();
        let place = Place::new(logs.path(), logs.path(), 1000, "c1.u1");
        assert_eq!(place.pieces().unwrap(), []);
        fs::create_dir(&place.directory).unwrap();
        for name in [
            "c1.u1.jsonl",
            "c1.u1.jsonl.000000000101",
            "c1.u1.jsonl.000000000001",
            "c1.u1.jsonl.gz",
            "c1.u11.jsonl",
            "c1.u1.jsonlx",
            "c1.u1.jsonl.000000000101.torn",
        ] {
            fs::write(place.directory.join(name), "").unwrap();
        }
        let firsts: Vec<_> = place.pieces().unwrap().iter().map(|piece| piece.first).collect();
        assert_eq!(firsts, [Some(1), Some(101), Some(101), None]);
        assert!(place.pieces().unwrap()[1].is_torn);
        assert_eq!(place.pieces().unwrap()[0].path, place.rotated(1));
        assert_eq!(Place::of_file(&place.active(), logs.path()), Some(place.clone()));
        assert_eq!(Place::of_file(&place.rotated(1), logs.path()), Some(place));
    }

    #[test]
    fn a_log_is_found_by_name_and_by_id() {
        let logs = tempfile::tempdir().unwrap();
        let (log, state) = (logs.path().join("log"), logs.path().join("state"));
        for (owner, stem) in [(0, "c1.u-old"), (1000, "c1-2.u-other"), (1000, "c1.u-new")] {
            let place = Place::new(&log, &state, owner, stem);
            fs::create_dir_all(&place.directory).unwrap();
            fs::write(place.active(), "").unwrap();
        }
        let later = std::time::SystemTime::now() + Duration::from_secs(60);
        let newer = Place::new(&log, &state, 1000, "c1.u-new");
        File::open(newer.active()).unwrap().set_modified(later).unwrap();
        assert_eq!(newest(&log, &state, "c1"), Some(newer.clone()));
        assert_eq!(newest(&log, &state, "u-new"), Some(newer.clone()));
        assert_eq!(newest(&log, &state, "c"), None);
        // A name changes, and another may ask; the container's log is the container's.
        assert_eq!(existing(&log, &state, "renamed", "u-new"), Some(newer));
        assert_eq!(existing(&log, &state, "c1", "7"), None);
    }
}
