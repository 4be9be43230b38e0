//! The process that writes a session down: `coi session save`, which the daemon starts as the session's owner.
//!
//! It has that user's rights and no others: under root it gives up every capability first. It reads a [`Plan`] as one
//! line of JSON and then the files ([`super::frame`]) from standard input, and answers one line of JSON.

use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::libc;

use super::frame::{self, End, Head, Next};
use super::{HOME, METADATA, MOST_BYTES, MOST_DEPTH, MOST_FILES, Metadata, Plan, Saved};

/// The longest line that a plan may be.
const LONGEST_PLAN: u64 = 64 << 10;
/// Put before a session's name while it is written.
const UNFINISHED: &str = ".new-";

/// Why a session was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The plan is wrong.
    #[error("{0}")]
    Plan(String),
    /// What is to be written is not what a session may hold.
    #[error("what came out of the container is no session: {0}")]
    Hostile(String),
    /// The disk, or the directory's permissions.
    #[error("{}: {source}", path.display())]
    System {
        /// What could not be written or made.
        path: PathBuf,
        /// The system's word for it.
        source: io::Error,
    },
    /// The files did not come to an end.
    #[error("the files broke off: {0}")]
    Cut(#[source] io::Error),
}

/// Saves what comes on this stream.
pub fn save(from: &mut impl BufRead) -> Result<Saved, SaveError> {
    give_up_capabilities().map_err(|source| SaveError::System { path: "/proc/self".into(), source })?;
    let mut line = Vec::new();
    from.take(LONGEST_PLAN).read_until(b'\n', &mut line).map_err(SaveError::Cut)?;
    let plan: Plan = serde_json::from_slice(&line).map_err(|e| SaveError::Plan(e.to_string()))?;
    plan.check().map_err(SaveError::Plan)?;
    write(&plan, from)
}

fn write(plan: &Plan, from: &mut impl Read) -> Result<Saved, SaveError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| SaveError::System { path, source }
    };
    let directory = &plan.directory;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
    let id = &plan.metadata.session_id;
    let unfinished = directory.join(format!("{UNFINISHED}{id}"));
    // What an earlier attempt has left is of no use. This follows no links.
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&unfinished)(error)),
        _ => {}
    }
    private_directory(&unfinished).map_err(at(&unfinished))?;
    let written = fill(&unfinished, from).and_then(|(files, bytes, end)| {
        let now = jiff::Timestamp::now();
        // As text they sort as they follow each other.
        let saved_at = format!("{}.{:03}Z", now.strftime("%Y-%m-%dT%H:%M:%S"), now.subsec_millisecond());
        let metadata = Metadata { saved_at, ..plan.metadata.clone() };
        let text = serde_json::to_string_pretty(&metadata).map_err(|e| SaveError::Plan(e.to_string()))?;
        let path = unfinished.join(METADATA);
        let mut file = private_file(&path).map_err(at(&path))?;
        file.write_all((text + "\n").as_bytes()).and_then(|()| file.sync_all()).map_err(at(&path))?;
        Ok((files, bytes, end))
    });
    let put = written.and_then(|written| {
        let place = directory.join(id);
        put_in_place(&unfinished, &place).map_err(at(&place))?;
        Ok((written, place))
    });
    // Whether it was put in place, and this is the one before, or not: nobody needs it.
    let _ = fs::remove_dir_all(&unfinished);
    let ((files, bytes, end), place) = put?;
    Ok(Saved {
        session_id: id.clone(),
        tool: plan.metadata.tool.clone(),
        directory: place,
        files,
        bytes,
        left_out: end.left_out,
    })
}

/// Writes all that comes below `home/`.
fn fill(root: &Path, from: &mut impl Read) -> Result<(u64, u64, End), SaveError> {
    let home = root.join(HOME);
    let system = |path: &Path, source| SaveError::System { path: path.to_owned(), source };
    private_directory(&home).map_err(|e| system(&home, e))?;
    let (mut items, mut files, mut bytes) = (0, 0, 0);
    loop {
        let Head { path, file } = match frame::next(from).map_err(SaveError::Cut)? {
            Next::Item(head) => head,
            Next::End(end) => return Ok((files, bytes, end)),
        };
        items += 1;
        let path = home.join(relative(&path)?);
        if items > MOST_FILES {
            return Err(SaveError::Hostile(format!("more than {MOST_FILES} files")));
        }
        // Everything in here was made by this process, so there is no link to be followed.
        let parent = path.parent().unwrap_or(&home);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|e| system(parent, e))?;
        let Some((size, modified)) = file else {
            match private_directory(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(system(&path, error));
                }
                _ => continue,
            }
        };
        bytes += size;
        if bytes > MOST_BYTES {
            return Err(SaveError::Hostile(format!("more than {MOST_BYTES} bytes")));
        }
        let mut to = private_file(&path).map_err(|e| system(&path, e))?;
        let copied = io::copy(&mut from.by_ref().take(size), &mut to).map_err(|e| system(&path, e))?;
        if copied != size {
            return Err(SaveError::Cut(io::ErrorKind::UnexpectedEof.into()));
        }
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(modified.into());
        to.set_modified(time).map_err(|e| system(&path, e))?;
        files += 1;
    }
}

/// A path that stays below where it is put.
fn relative(path: &[u8]) -> Result<PathBuf, SaveError> {
    let parts: Vec<_> = path.split(|&byte| byte == b'/').collect();
    let is_name = |part: &&[u8]| {
        !part.is_empty() && *part != b"." && *part != b".." && !part.contains(&0) && part.len() < 256
    };
    if parts.len() > MOST_DEPTH || !parts.iter().all(is_name) {
        return Err(SaveError::Hostile(format!("the name {:?}", String::from_utf8_lossy(path))));
    }
    Ok(parts.into_iter().map(std::ffi::OsStr::from_bytes).collect())
}

/// Puts a new session where the old one was; whoever looks meanwhile finds one of them whole.
fn put_in_place(new: &Path, place: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, new, AT_FDCWD, place, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::ENOENT) => fs::rename(new, place),
        // A file system that cannot exchange: for a moment there is none.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => {
            fs::remove_dir_all(place)?;
            fs::rename(new, place)
        }
        Err(error) => Err(error.into()),
    }
}

fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn private_file(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// As root, gives up all that root may do beyond its own files. Another user has nothing to give up.
fn give_up_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`, of two sets of 32.
    const VERSION_3: u32 = 0x2008_0522;
    nix::sys::prctl::set_no_new_privs()?;
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [[0_u32; 3]; 2];
    // SAFETY: capset(2) reads a header and, for this version, two sets of three words, all of which outlive the call;
    // giving up what one has is always allowed.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::session::example;

    fn file(path: &str, content: &[u8]) -> Vec<u8> {
        let head = Head { path: path.as_bytes().to_vec(), file: Some((content.len() as u64, 1_700_000_000)) };
        [&head.to_bytes()[..], content].concat()
    }

    fn end() -> Vec<u8> {
        End { left_out: 0 }.to_bytes()
    }

    fn plan(directory: &Path) -> Plan {
        Plan { directory: directory.join("sessions"), ..example() }
    }

    #[test]
    fn what_comes_is_written_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let place = plan.directory.join(&plan.metadata.session_id);
        let said = place.join("home/.claude/projects/-workspace/a.jsonl");
        let first = [file(".claude/projects/-workspace/a.jsonl", b"one"), file("b", b""), end()].concat();
        let saved = write(&plan, &mut &first[..]).unwrap();
        assert_eq!((saved.files, saved.bytes, &saved.directory), (2, 3, &place));
        assert_eq!(fs::read(&said).unwrap(), b"one");
        let metadata = fs::metadata(&said).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.mtime()), (0o600, 1_700_000_000));

        let second = [file(".claude/projects/-workspace/a.jsonl", b"two"), end()].concat();
        write(&plan, &mut &second[..]).unwrap();
        assert_eq!(fs::read(&said).unwrap(), b"two");
        assert!(!place.join("home/b").exists());
        let read: Metadata = serde_json::from_slice(&fs::read(place.join(METADATA)).unwrap()).unwrap();
        assert_eq!((read.tool.as_str(), read.saved_at.is_empty()), ("claude", false));
        // One that breaks off changes nothing, and nothing is left of it.
        let cut = file(".claude/projects/-workspace/a.jsonl", b"three");
        assert!(matches!(write(&plan, &mut &cut[..]), Err(SaveError::Cut(_))));
        assert_eq!(fs::read(&said).unwrap(), b"two");
        assert_eq!(fs::read_dir(&plan.directory).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_written_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let deep = vec!["d"; MOST_DEPTH + 1].join("/");
        let long = "n".repeat(256);
        for name in ["../x", "/etc/x", "a/../../x", "a//b", "", ".", "a/.", "a\0b", &deep, &long] {
            let stream = [file(name, b"x"), end()].concat();
            assert!(matches!(write(&plan, &mut &stream[..]), Err(SaveError::Hostile(_))), "{name:?}");
        }
        // The same name twice, and a file where a directory is to be.
        for second in ["a", "a/b"] {
            let stream = [file("a", b"x"), file(second, b"y"), end()].concat();
            assert!(matches!(write(&plan, &mut &stream[..]), Err(SaveError::System { .. })), "{second}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&plan.directory).unwrap().count(), 0);
    }

    #[test]
    fn what_was_left_there_is_no_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("mine"), "mine").unwrap();
        fs::create_dir(&plan.directory).unwrap();
        let unfinished = plan.directory.join(format!("{UNFINISHED}{}", plan.metadata.session_id));
        fs::create_dir(&unfinished).unwrap();
        symlink(&outside, unfinished.join("home")).unwrap();
        let stream = [file("mine", b"theirs"), end()].concat();
        write(&plan, &mut &stream[..]).unwrap();
        assert_eq!(fs::read_to_string(outside.join("mine")).unwrap(), "mine");
    }

    #[test]
    fn there_is_an_end_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let many: Vec<u8> = (0..=MOST_FILES).flat_map(|n| file(&format!("{n}"), b"")).chain(end()).collect();
        assert!(matches!(write(&plan, &mut &many[..]), Err(SaveError::Hostile(_))));
        let large = Head { path: b"a".to_vec(), file: Some((MOST_BYTES + 1, 0)) }.to_bytes();
        assert!(matches!(write(&plan, &mut &large[..]), Err(SaveError::Cut(_))));
    }
}
