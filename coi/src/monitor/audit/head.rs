//! The daemon's own note of a log's last record.
//!
//! A chain shows that nothing in it was changed, not that nothing behind it was cut off: for that somebody else has to
//! know where it ended. The note is written after the records it tells of are on the disk, in one write of fixed length in
//! place, so that a crash leaves the old one or the new one. It lies apart from the logs, which may be on a disk that is
//! full.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    chain::{Hash, Link},
    files,
    stamp::Stamp,
};

/// Less than a page, so that it is written whole.
const LENGTH: usize = 1024;

/// What is noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The number of the last record.
    pub sequence: u64,
    /// The hash of its line.
    pub hash: Hash,
    /// When it was written.
    pub written: Stamp,
    /// The log was ended in order.
    pub ended: bool,
    /// The last record that was removed with its file, by the limits of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<Link>,
}

impl Head {
    /// The last record.
    pub const fn link(&self) -> Link {
        Link { sequence: self.sequence, hash: self.hash }
    }

    /// Reads one; `None` if there is none.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let damaged = |error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {error}", path.display()))
        };
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }
}

/// Its file, open for writing.
#[derive(Debug)]
pub struct HeadFile(File);

impl HeadFile {
    /// Opens or makes it, readable by the owner of the log.
    pub fn open(path: &Path, owner: u32) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            files::make_directory(directory, owner)?;
        }
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)?;
        files::grant(&file, owner)?;
        Ok(Self(file))
    }

    /// Writes it anew.
    pub fn write(&self, head: &Head) -> io::Result<()> {
        let mut text = serde_json::to_vec(head)?;
        text.resize(LENGTH - 1, b' ');
        text.push(b'\n');
        self.0.write_all_at(&text, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0/h.json");
        assert_eq!(Head::read(&path).unwrap(), None);
        let file = HeadFile::open(&path, 0).unwrap();
        assert!(Head::read(&path).is_err(), "an empty one is damaged");
        let link = Link { sequence: u64::MAX, hash: Hash::of(b"x") };
        let mut head = Head {
            sequence: u64::MAX,
            hash: link.hash,
            written: Stamp::now(),
            ended: false,
            pruned: Some(link),
        };
        for ended in [false, true] {
            head.ended = ended;
            file.write(&head).unwrap();
            assert_eq!(Head::read(&path).unwrap(), Some(head.clone()));
            assert_eq!(fs::metadata(&path).unwrap().len(), LENGTH as u64);
        }
    }
}
