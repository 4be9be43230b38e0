//! A directory that is the daemon's alone, and small files in it.
//!
//! It promises that what is read was written by this user and by nobody else: the directory and its files must belong to
//! whom the daemon runs as, others may not write to them, and no symbolic link is followed. A file is replaced whole or
//! not at all.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::libc::{O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK};

/// Added to the name of a file that is not yet complete.
const UNFINISHED: &str = ".new";

/// The daemon's own files cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("the daemon cannot keep its own files in {path}: {source}")]
pub struct PrivateError {
    /// The directory or file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Must a file outlive the machine's next boot?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// It is on the disk before anybody goes on.
    Synced,
    /// It is there for other processes of this boot: nobody waits for a disk.
    ThisBoot,
}

/// The directory, opened: another one that gets its name later is never taken for it.
#[derive(Debug)]
pub struct Private {
    path: PathBuf,
    directory: File,
}

impl Private {
    /// Opens it; makes it if there is none.
    pub fn open(path: &Path) -> Result<Self, PrivateError> {
        let failed = |source| PrivateError { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed)?,
        }
        let flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
        let directory = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
        check_own(&directory).map_err(failed)?;
        Ok(Self { path: path.to_owned(), directory })
    }

    /// Its path, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, name: &str) -> PathBuf {
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(name)
    }

    /// The names of all complete files.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at("."))? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string()
                && !name.ends_with(UNFINISHED)
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Reads a file that has at most so many bytes.
    pub fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let flags = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
        let file = File::options().read(true).custom_flags(flags).open(self.at(name))?;
        check_own(&file)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::other(format!("it has more than {most} bytes")));
        }
        Ok(bytes)
    }

    /// Replaces a file, or makes it.
    pub fn write(&self, name: &str, bytes: &[u8], lasting: Lasting) -> io::Result<()> {
        let unfinished = self.at(&format!("{name}{UNFINISHED}"));
        // What a crash has left there is of no use.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        if lasting == Lasting::Synced {
            file.sync_all()?;
        }
        fs::rename(&unfinished, self.at(name))?;
        if lasting == Lasting::Synced {
            self.directory.sync_all()?;
        }
        Ok(())
    }

    /// Opens a file to be written in place; makes it if there is none.
    pub fn in_place(&self, name: &str) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC).open(self.at(name))?;
        check_own(&file)?;
        Ok(file)
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str, lasting: Lasting) -> io::Result<()> {
        match fs::remove_file(self.at(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed?,
        }
        if lasting == Lasting::Synced {
            self.directory.sync_all()?;
        }
        Ok(())
    }

    /// Gives a file another name.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }
}

/// Only who runs this may have written it.
fn check_own(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    let me = nix::unistd::geteuid().as_raw();
    if metadata.uid() != me {
        return Err(io::Error::other(format!("it belongs to uid {}, not to {me}", metadata.uid())));
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(io::Error::other(format!("others may write to it (mode {mode:o})")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn private() -> (tempfile::TempDir, Private) {
        let directory = tempfile::tempdir().unwrap();
        let private = Private::open(&directory.path().join("a/own")).unwrap();
        (directory, private)
    }

    #[test]
    fn what_was_written_is_read_whole() {
        let (_directory, private) = private();
        assert_eq!(private.read("x", 9).unwrap_err().kind(), io::ErrorKind::NotFound);
        for lasting in [Lasting::Synced, Lasting::ThisBoot] {
            private.write("x", b"one", lasting).unwrap();
            private.write("x", b"two", lasting).unwrap();
            assert_eq!(private.read("x", 3).unwrap(), b"two");
        }
        assert!(private.read("x", 2).is_err(), "it is longer");
        // As a crash in the middle leaves it.
        fs::write(private.at("y.new"), "half").unwrap();
        assert_eq!(private.names().unwrap(), ["x"]);
        private.write("y", b"whole", Lasting::Synced).unwrap();
        assert_eq!(private.read("y", 9).unwrap(), b"whole");
        private.remove("x", Lasting::Synced).unwrap();
        private.remove("x", Lasting::Synced).unwrap();
        assert_eq!(private.names().unwrap(), ["y"]);
    }

    #[test]
    fn what_others_could_have_put_there_is_refused() {
        let (directory, private) = private();
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "x").unwrap();
        symlink(&elsewhere, private.at("link")).unwrap();
        assert!(private.read("link", 9).is_err() && private.in_place("link").is_err());
        private.write("open", b"x", Lasting::ThisBoot).unwrap();
        fs::set_permissions(private.at("open"), fs::Permissions::from_mode(0o622)).unwrap();
        assert!(private.read("open", 9).is_err());
        nix::unistd::mkfifo(&private.at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(private.read("fifo", 9).is_err(), "nothing is waited for");

        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let error = Private::open(&open).unwrap_err();
        assert!(error.to_string().contains("others may write to it (mode 777)"), "{error}");
        symlink(private.path(), directory.path().join("aside")).unwrap();
        assert!(Private::open(&directory.path().join("aside")).is_err());
    }
}
