//! The files of evidence beside a log: one for each alert for which a container was killed.
//!
//! ```text
//! /var/log/coi/UID/evidence/NAME.ID.CLOCK.json   CLOCK is coi.clock of the alert
//! ```
//!
//! Root's, readable by the container's owner, as the log is. A file is whole or not there. Of each container only the
//! newest are kept.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    chain::Hash,
    files::{self, Place},
};

/// A file that was written, as the audit record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Where it is.
    pub file: String,
    /// What its bytes hash to: the log's chain vouches for them.
    pub sha256: Hash,
    /// How many bytes.
    pub bytes: u64,
}

/// A file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// `coi.clock` of its alert: what it is asked for by.
    pub id: String,
    /// Where it is.
    pub path: PathBuf,
    /// When it was written, or a moment after the one before.
    pub modified: SystemTime,
}

fn directory(place: &Place) -> PathBuf {
    place.directory.join("evidence")
}

/// Writes one, and removes the oldest of those that are more than `most`.
pub fn keep(place: &Place, clock: u64, text: &str, most: usize) -> io::Result<Kept> {
    let directory = directory(place);
    files::make_directory(&directory, place.owner)?;
    let path = directory.join(format!("{}.{clock}.json", place.stem));
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    files::grant(&file, place.owner)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // They are in the order of their times, whatever has become of the machine's clock.
    if let Some(newest) = list(place).last()
        && file.metadata()?.modified()? <= newest.modified
    {
        file.set_modified(newest.modified + Duration::from_millis(1))?;
    }
    fs::rename(&new, &path)?;
    File::open(&directory)?.sync_all()?;
    let pieces = list(place);
    for piece in &pieces[..pieces.len().saturating_sub(most)] {
        fs::remove_file(&piece.path)?;
    }
    let (sha256, bytes) = (Hash::of(text.as_bytes()), text.len() as u64);
    Ok(Kept { file: path.display().to_string(), sha256, bytes })
}

/// Those of a container, oldest first.
pub fn list(place: &Place) -> Vec<Piece> {
    let prefix = format!("{}.", place.stem);
    let entries = fs::read_dir(directory(place)).into_iter().flatten().flatten();
    let mut pieces: Vec<Piece> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let id = name.to_str()?.strip_prefix(&prefix)?.strip_suffix(".json")?;
            let is_clock = id.bytes().all(|byte| byte.is_ascii_digit());
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok()?;
            is_clock.then(|| Piece { id: id.to_owned(), path: entry.path(), modified })
        })
        .collect();
    // The clock begins anew with each boot.
    pieces.sort_by(|a, b| (a.modified, &a.id).cmp(&(b.modified, &b.id)));
    pieces
}

/// What one says.
pub fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let logs = tempfile::tempdir().unwrap();
        let own = nix::unistd::getuid().as_raw();
        let place = Place::new(logs.path(), logs.path(), own, "c1.u-1");
        let other = Place::new(logs.path(), logs.path(), own, "c1.u-11");
        assert!(list(&place).is_empty());
        for clock in [30, 10, 20] {
            let kept = keep(&place, clock, &format!("{{\"clock\":{clock}}}"), 2).unwrap();
            assert_eq!((kept.bytes, fs::read(&kept.file).unwrap().len()), (12, 12));
            assert_eq!(fs::metadata(&kept.file).unwrap().permissions().mode() & 0o007, 0);
        }
        // The machine's clock was set back.
        let late = SystemTime::now() + Duration::from_secs(3600);
        File::open(&list(&place)[1].path).unwrap().set_modified(late).unwrap();
        keep(&place, 15, "{\"clock\":15}", 2).unwrap();
        keep(&other, 5, "{}", 2).unwrap();
        let ids = |place: &Place| list(place).into_iter().map(|piece| piece.id).collect::<Vec<_>>();
        assert_eq!(
            (ids(&place), ids(&other)),
            (vec!["20".to_owned(), "15".to_owned()], vec!["5".to_owned()])
        );
        assert_eq!(read(&list(&place)[1].path).unwrap(), "{\"clock\":15}");
    }
}
