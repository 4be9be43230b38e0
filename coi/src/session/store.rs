//! The sessions that a user has: found, told and read back.
//!
//! It runs as whoever's home it is ([`crate::launch`] sees to that under sudo). What lies there came out of containers;
//! links are passed over, and so is what says nothing sensible of itself.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{HOME, METADATA, MOST_DEPTH, MOST_FILES, Metadata, is_id};

/// The longest `metadata.json`.
const LONGEST: u64 = 64 << 10;

/// A saved session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// What it says of itself.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// Where it is.
    pub directory: PathBuf,
}

/// A file of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where it lies, from the home on.
    pub path: PathBuf,
    /// `None` for a directory; else its content, and when it was last changed.
    pub file: Option<(Vec<u8>, u32)>,
}

/// All sessions in this home, the newest first.
pub fn all(home: &Path) -> Vec<Session> {
    let mut all = Vec::new();
    for tool in entries(&home.join(".coi")).filter(|name| name.starts_with("sessions-")) {
        let tool = home.join(".coi").join(tool);
        all.extend(entries(&tool).filter_map(|id| read(&tool.join(&id), &id)));
    }
    // Equal times leave the order to chance otherwise.
    all.sort_by(|a, b| {
        let key =
            |session: &Session| (session.metadata.saved_at.clone(), session.metadata.session_id.clone());
        key(b).cmp(&key(a))
    });
    all
}

/// What an attempt to save has left unfinished.
pub fn unfinished(home: &Path) -> Vec<PathBuf> {
    let tools = entries(&home.join(".coi")).filter(|name| name.starts_with("sessions-"));
    let tools = tools.map(|tool| home.join(".coi").join(tool));
    tools
        .flat_map(|tool| {
            entries(&tool)
                .filter(|name| name.starts_with(".new-"))
                .map(move |n| tool.join(n))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The files of a session.
pub fn files(session: &Session) -> io::Result<Vec<Kept>> {
    let home = session.directory.join(HOME);
    let mut kept = Vec::new();
    walk(&home, &home, 0, &mut kept)?;
    Ok(kept)
}

fn walk(home: &Path, directory: &Path, depth: usize, kept: &mut Vec<Kept>) -> io::Result<()> {
    if depth > MOST_DEPTH {
        return Ok(());
    }
    let mut names: Vec<_> = fs::read_dir(directory)?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    for path in names {
        if kept.len() == MOST_FILES {
            break;
        }
        let metadata = fs::symlink_metadata(&path)?;
        let place = path.strip_prefix(home).unwrap_or(&path).to_owned();
        if metadata.is_dir() {
            kept.push(Kept { path: place, file: None });
            walk(home, &path, depth + 1, kept)?;
        } else if metadata.is_file() {
            let modified = u32::try_from(metadata.mtime()).unwrap_or(0);
            kept.push(Kept { path: place, file: Some((plain(&path, super::MOST_BYTES)?, modified)) });
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn read(directory: &Path, id: &str) -> Option<Session> {
    if !is_id(id) {
        return None;
    }
    let metadata: Metadata = serde_json::from_slice(&plain(&directory.join(METADATA), LONGEST).ok()?).ok()?;
    (metadata.session_id == id).then(|| Session { metadata, directory: directory.to_owned() })
}

/// The content of a plain file.
fn plain(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::session::{directory, example};

    fn put(home: &Path, id: &str, saved_at: &str) -> PathBuf {
        let metadata = Metadata { session_id: id.into(), saved_at: saved_at.into(), ..example().metadata };
        let place = directory(home, &metadata.tool).join(id);
        fs::create_dir_all(place.join("home/.claude")).unwrap();
        fs::write(place.join(METADATA), serde_json::to_string(&metadata).unwrap()).unwrap();
        place
    }

    #[test]
    fn the_newest_first_and_nothing_that_is_none() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(all(home.path()), []);
        let id = |n: u8| format!("0d5b5e0e-0000-4000-8000-00000000000{n}");
        put(home.path(), &id(1), "2026-11-21T10:00:00Z");
        put(home.path(), &id(2), "2026-11-21T11:00:00Z");
        let torn = put(home.path(), &id(3), "2026-11-21T12:00:00Z");
        fs::write(torn.join(METADATA), "{").unwrap();
        let moved = put(home.path(), &id(4), "2026-11-21T12:00:00Z");
        fs::rename(&moved, moved.with_file_name(id(5))).unwrap();
        let link = put(home.path(), &id(6), "2026-11-21T12:00:00Z");
        fs::rename(link.join(METADATA), home.path().join("elsewhere")).unwrap();
        symlink(home.path().join("elsewhere"), link.join(METADATA)).unwrap();
        let ids: Vec<_> = all(home.path()).into_iter().map(|session| session.metadata.session_id).collect();
        assert_eq!(ids, [id(2), id(1)]);
    }

    #[test]
    fn files_are_read_back_without_links() {
        let home = tempfile::tempdir().unwrap();
        let place = put(home.path(), "0d5b5e0e-0000-4000-8000-000000000001", "");
        fs::write(place.join("home/.claude/a.jsonl"), "said").unwrap();
        symlink("/etc/passwd", place.join("home/.claude/b")).unwrap();
        let session = all(home.path()).remove(0);
        let kept = files(&session).unwrap();
        let paths: Vec<_> = kept.iter().map(|kept| kept.path.to_str().unwrap()).collect();
        assert_eq!(paths, [".claude", ".claude/a.jsonl"]);
        assert_eq!(kept[1].file.as_ref().unwrap().0, b"said");
    }
}
