//! The project directory that a container gets to see.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Error, GUEST_WORKSPACE, Result};

/// A directory that exists, by its one true name, and who owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its absolute path without symbolic links.
    pub path: PathBuf,
    /// Its owner: whoever runs in the container runs as them, so that files keep their owner both ways.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Where the container sees it.
    pub inside: String,
}

impl Workspace {
    /// Looks at the directory.
    pub fn open(path: &Path) -> Result<Self> {
        let unusable = |why: String| Error::UnusableWorkspace { path: path.to_owned(), why };
        let canonical = path.canonicalize().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::NoWorkspace { path: path.to_owned() },
            _ => unusable(e.to_string()),
        })?;
        let metadata = fs::metadata(&canonical).map_err(|e| unusable(e.to_string()))?;
        if !metadata.is_dir() {
            return Err(Error::NotADirectory { path: path.to_owned() });
        }
        if canonical == Path::new("/") {
            return Err(unusable("it is the whole machine".to_owned()));
        }
        if canonical.to_str().is_none() {
            return Err(unusable("Incus takes no path that is not UTF-8".to_owned()));
        }
        Ok(Self {
            path: canonical,
            uid: metadata.uid(),
            gid: metadata.gid(),
            inside: GUEST_WORKSPACE.to_owned(),
        })
    }

    /// Its path as text, which [`Self::open`] made sure it is.
    pub fn text(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_true_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let direct = Workspace::open(&real).unwrap();
        assert_eq!(Workspace::open(&dir.path().join("link/../link/.")).unwrap(), direct);
        assert_eq!(direct.uid, nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn what_is_no_workspace() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Workspace::open(&file), Err(Error::NotADirectory { .. })));
        assert!(matches!(Workspace::open(&dir.path().join("none")), Err(Error::NoWorkspace { .. })));
        assert!(matches!(Workspace::open(Path::new("/")), Err(Error::UnusableWorkspace { .. })));
    }
}
