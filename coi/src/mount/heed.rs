//! Being told when something that is held changes on the host, or comes into being, and who did it.
//!
//! The kernel tells it of directories, by whatever path and in whatever namespace they are used. It names the process, dead
//! or alive; see [`Happening::alive`]. A file system that cannot say in which directory something was has none of this.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use nix::{
    libc,
    sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags},
};

use super::{
    path::Inner,
    tree::{self, Entry, How, TreeError},
};

/// Since Linux 5.9; the library does not have it yet.
const REPORT_DFID_NAME: InitFlags = InitFlags::from_bits_retain(libc::FAN_REPORT_DFID_NAME);
/// Names that come, go and change.
const NAMES: MaskFlags = MaskFlags::FAN_CREATE
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_MOVED_FROM)
    .union(MaskFlags::FAN_MOVED_TO)
    .union(MaskFlags::FAN_ONDIR);
/// Files in a directory that are written to, or get other owners or modes.
const CONTENT: MaskFlags =
    MaskFlags::FAN_MODIFY.union(MaskFlags::FAN_ATTRIB).union(MaskFlags::FAN_EVENT_ON_CHILD);
/// How much is read at once.
const BUFFER: usize = 16 << 10;
/// How many directories are heeded at most.
const MOST: usize = 4096;

/// The kinds of what is told beside the event itself.
const INFO_DFID_NAME: u8 = libc::FAN_EVENT_INFO_TYPE_DFID_NAME;
const INFO_PIDFD: u8 = libc::FAN_EVENT_INFO_TYPE_PIDFD;

/// Something that happened.
#[derive(Debug)]
pub enum Happening {
    /// This was done by somebody.
    Done {
        /// In which directory of the workspace, empty for the workspace itself. `None` if it is not known any more.
        directory: Option<String>,
        /// To which name in it.
        name: String,
        /// What a file says, not only which file has the name.
        is_content: bool,
        /// The process.
        pid: u32,
        /// As long as this is open and the process has not ended, the number is its own. `None` if it has ended already.
        alive: Option<OwnedFd>,
    },
    /// More than could be told.
    Missed,
}

impl Happening {
    /// Does it concern this path: was it, or a directory above it, made, removed, replaced or written to?
    pub fn concerns(&self, path: &Inner) -> bool {
        let Self::Done { directory, name, is_content, .. } = self else { return true };
        let Some(directory) = directory else { return true };
        let Some(rest) = path.below(directory) else {
            // Or is it something in it?
            return table_below(directory, path.as_str());
        };
        match rest.split_once('/') {
            _ if rest.is_empty() => true,
            Some((first, _)) => first == name && !is_content,
            None => rest == name,
        }
    }
}

fn table_below(path: &str, above: &str) -> bool {
    super::table::below(path, above).is_some()
}

/// Heeds the directories of one workspace.
#[derive(Debug)]
pub struct Heed {
    group: Fanotify,
    /// By what the kernel calls them.
    directories: HashMap<Vec<u8>, String>,
}

impl AsRawFd for Heed {
    fn as_raw_fd(&self) -> RawFd {
        self.group.as_raw_fd()
    }
}

impl Heed {
    /// Heeds nothing yet.
    pub fn new() -> io::Result<Self> {
        let flags = InitFlags::FAN_CLASS_NOTIF
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_REPORT_PIDFD
            | REPORT_DFID_NAME;
        let group = Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC)?;
        Ok(Self { group, directories: HashMap::new() })
    }

    /// Heeds all directories from which something could come of these entries, as they are now. Those before stay heeded.
    pub fn mark(&mut self, truth: BorrowedFd<'_>, entries: &[Entry]) -> Result<(), TreeError> {
        // A path by one of its parts after the other, and what is heeded there.
        let mut wanted: Vec<(String, MaskFlags)> = Vec::new();
        let mut want = |path: &str, mask: MaskFlags| match wanted.iter_mut().find(|(known, _)| known == path)
        {
            Some((_, known)) => *known |= mask,
            None => wanted.push((path.to_owned(), mask)),
        };
        for entry in entries {
            let mut above = String::new();
            want("", NAMES);
            let (directories, _) = entry.path.split();
            for part in directories.into_iter().flat_map(|path| path.split('/')) {
                if !above.is_empty() {
                    above.push('/');
                }
                above.push_str(part);
                want(&above, NAMES);
            }
            if entry.how == How::ReadOnly {
                match tree::look(truth, &entry.path)? {
                    Some(found) if found.is_directory() => want(entry.path.as_str(), NAMES | CONTENT),
                    Some(_) => want(&above, CONTENT),
                    // Its making is told of anyhow.
                    None => {}
                }
            }
        }
        wanted.truncate(MOST);
        for (path, mask) in wanted {
            self.mark_one(truth, path, mask)?;
        }
        Ok(())
    }

    fn mark_one(&mut self, truth: BorrowedFd<'_>, path: String, mask: MaskFlags) -> Result<(), TreeError> {
        let opened = match Inner::try_from(path.as_str()) {
            Ok(inner) => match tree::open(truth, &inner)? {
                Some(opened) => Some(opened),
                None => return Ok(()),
            },
            // The workspace itself.
            Err(_) => None,
        };
        let directory = opened.as_ref().map_or(truth, OwnedFd::as_fd);
        let failed = |source| TreeError::Failed {
            path: if path.is_empty() { "the workspace".to_owned() } else { path.clone() },
            what: "changes of it cannot be noticed",
            source,
        };
        // A place cannot be marked; its name in /proc leads to it.
        let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_ONLYDIR;
        match self.group.mark(flags, mask, nix::fcntl::AT_FDCWD, Some(name.as_str())) {
            Ok(()) => {}
            // A file has taken its place, or it has gone, just now: whoever is above it is told.
            Err(nix::Error::ENOTDIR | nix::Error::ENOENT) => return Ok(()),
            Err(error) => return Err(failed(error.into())),
        }
        let handle = handle(directory).map_err(failed)?;
        self.directories.insert(handle, path);
        Ok(())
    }

    /// What has happened since it was asked last; empty if nothing has.
    pub fn read(&self) -> io::Result<Vec<Happening>> {
        let mut buffer = vec![0; BUFFER];
        match nix::unistd::read(&self.group, &mut buffer) {
            Ok(length) => Ok(parse(&buffer[..length], &self.directories, |fd| {
                // SAFETY: the kernel has made the descriptor for this reader, and tells of it once.
                unsafe { OwnedFd::from_raw_fd(fd) }
            })),
            Err(nix::Error::EAGAIN) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the kernel calls a directory, as it stands in an event.
fn handle(directory: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; libc::MAX_HANDLE_SZ as usize],
    }
    let mut handle =
        Handle { bytes: libc::MAX_HANDLE_SZ as u32, kind: 0, data: [0; libc::MAX_HANDLE_SZ as usize] };
    let mut mount = 0;
    // SAFETY: `handle` has the layout of `struct file_handle` with as much room as it says, and the path is a string with
    // its end.
    let done = unsafe {
        libc::name_to_handle_at(
            directory.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let length = handle.data.len().min(handle.bytes as usize);
    Ok([&handle.kind.to_ne_bytes()[..], &handle.data[..length]].concat())
}

/// Reads events. What is cut or of another form is something that was missed.
fn parse(
    mut bytes: &[u8],
    directories: &HashMap<Vec<u8>, String>,
    own: impl Fn(RawFd) -> OwnedFd,
) -> Vec<Happening> {
    /// `struct fanotify_event_metadata`
    const HEAD: usize = 24;
    let mut all = Vec::new();
    while bytes.len() >= HEAD {
        let length = u32_at(bytes, 0).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let Some(event) = bytes.get(..length).filter(|event| event.len() >= HEAD) else {
            all.push(Happening::Missed);
            break;
        };
        bytes = &bytes[length..];
        all.push(one(event, directories, &own));
    }
    all
}

fn one(event: &[u8], directories: &HashMap<Vec<u8>, String>, own: &impl Fn(RawFd) -> OwnedFd) -> Happening {
    let head = usize::from(u16_at(event, 6).unwrap_or(0));
    let mask = event.get(8..16).and_then(|mask| mask.try_into().ok()).map_or(0, u64::from_ne_bytes);
    let pid = u32_at(event, 20).unwrap_or(0);
    let mut found = None;
    let mut alive = None;
    let mut rest = event.get(head..).unwrap_or_default();
    while rest.len() >= 4 {
        let length = usize::from(u16_at(rest, 2).unwrap_or(0));
        let Some(info) = rest.get(..length).filter(|info| info.len() >= 4) else { break };
        match info[0] {
            INFO_DFID_NAME => found = directory_and_name(info),
            INFO_PIDFD => {
                let fd = u32_at(info, 4).map_or(-1, u32::cast_signed);
                alive = (fd >= 0).then(|| own(fd));
            }
            _ => {}
        }
        rest = &rest[length..];
    }
    let mask = MaskFlags::from_bits_retain(mask);
    match found {
        Some((handle, name)) if !mask.contains(MaskFlags::FAN_Q_OVERFLOW) => Happening::Done {
            directory: directories.get(&handle).cloned(),
            name,
            is_content: !mask.intersects(NAMES - MaskFlags::FAN_ONDIR),
            pid,
            alive,
        },
        _ => Happening::Missed,
    }
}

/// `struct fanotify_event_info_fid` with a name behind it.
fn directory_and_name(info: &[u8]) -> Option<(Vec<u8>, String)> {
    const HANDLE: usize = 4 + 8;
    let length = usize::try_from(u32_at(info, HANDLE)?).ok()?;
    // The handle's kind, and the handle.
    let end = (HANDLE + 8).checked_add(length)?;
    let handle = info.get(HANDLE + 4..end)?.to_vec();
    let name = info.get(end..)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some((handle, String::from_utf8_lossy(name).into_owned()))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::File};

    use proptest::prelude::*;

    use super::*;

    fn done(directory: &str, name: &str, is_content: bool) -> Happening {
        Happening::Done {
            directory: Some(directory.to_owned()),
            name: name.to_owned(),
            is_content,
            pid: 1,
            alive: None,
        }
    }

    #[test]
    fn what_concerns_what() {
        let path = |text: &str| Inner::try_from(text).unwrap();
        let hooks = path(".git/hooks");
        assert!(done("", ".git", false).concerns(&hooks), "the directory above");
        assert!(done(".git", "hooks", false).concerns(&hooks));
        assert!(done(".git/hooks", "pre-commit", true).concerns(&hooks), "something in it");
        assert!(done(".git", "config", true).concerns(&path(".git/config")));
        assert!(!done("", ".git", true).concerns(&hooks), "its mode");
        assert!(!done(".git", "index", false).concerns(&hooks));
        assert!(!done("", "hooks", false).concerns(&hooks));
        assert!(!done(".git/info", "hooks", false).concerns(&hooks));
        assert!(Happening::Missed.concerns(&hooks));
    }

    #[test]
    fn the_kernel_tells_who_did_what() {
        let workspace = tempfile::tempdir().unwrap();
        fs::create_dir_all(workspace.path().join(".git/hooks")).unwrap();
        fs::write(workspace.path().join(".git/config"), "[core]").unwrap();
        let truth = File::open(workspace.path()).unwrap();
        let entries = [".git/hooks", ".git/config", ".claude/settings.json"]
            .map(|path| Entry { path: Inner::try_from(path).unwrap(), how: How::ReadOnly });
        let mut heed = match Heed::new() {
            Ok(heed) => heed,
            // Who is not root is not told.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            Err(error) => panic!("{error}"),
        };
        heed.mark(truth.as_fd(), &entries).unwrap();
        fs::write(workspace.path().join(".git/config"), "[core]\n").unwrap();
        fs::write(workspace.path().join(".git/hooks/pre-commit"), "").unwrap();
        fs::create_dir(workspace.path().join(".claude")).unwrap();
        fs::write(workspace.path().join("other"), "").unwrap();
        let told: Vec<_> = heed
            .read()
            .unwrap()
            .into_iter()
            .map(|happening| match happening {
                Happening::Done { directory, name, is_content, pid, alive } => {
                    assert_eq!((pid, alive.is_some()), (std::process::id(), true));
                    (directory.unwrap(), name, is_content)
                }
                Happening::Missed => panic!("missed"),
            })
            .collect();
        let told = |directory: &str, name: &str, is_content| {
            told.contains(&(directory.to_owned(), name.to_owned(), is_content))
        };
        assert!(told(".git", "config", true));
        assert!(told(".git/hooks", "pre-commit", false));
        assert!(told("", ".claude", false));
        assert!(told("", "other", false));
    }

    proptest! {
        #[test]
        fn any_bytes_are_events(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // A descriptor in them is nobody's.
            parse(&bytes, &HashMap::new(), |_| File::open("/dev/null").unwrap().into());
        }
    }
}
