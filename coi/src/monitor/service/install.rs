//! systemd's units, put where systemd looks for them, and taken away.
//!
//! It promises that only files of its own are ever replaced or removed, each whole, and that what root is to start can
//! be written by nobody but root.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where units of this machine's own are, from its root.
const UNITS: &str = "etc/systemd/system";
/// The program, as the units of the repository name it.
const PROGRAM: &str = "/usr/bin/coi";
/// What a unit begins with that was put there by this module.
const MARK: &str = "# Installed by `coi daemon install`";

/// The units, by name.
const ALL: [(&str, &str); 2] = [
    ("coi.socket", include_str!("../../../../packaging/systemd/coi.socket")),
    ("coi.service", include_str!("../../../../packaging/systemd/coi.service")),
];

/// Why the units are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is no systemd to run the daemon.
    #[error(
        "this machine was not started by systemd, so no unit is of use; run the daemon without: sudo coi daemon --detach"
    )]
    NoSystemd,
    /// Somebody else's unit.
    #[error("{} is not of `coi daemon install`'s making, and is left as it is; remove it yourself if it is not needed", .0.display())]
    NotOurs(PathBuf),
    /// Who can write the program would be root.
    #[error(
        "systemd would start {} as root, and {} can be changed by others than root; \
         put the program where only root writes: sudo install -m 755 {0} /usr/local/bin/coi, then sudo /usr/local/bin/coi daemon install",
        program.display(), place.display()
    )]
    Unsafe {
        /// The program.
        program: PathBuf,
        /// It, or a directory on the way to it.
        place: PathBuf,
    },
    /// Its path means something else in a unit.
    #[error(
        "the path {} has characters that mean something in a unit; put the program elsewhere: sudo install -m 755 coi /usr/local/bin/coi",
        .0.display()
    )]
    Path(PathBuf),
    /// The system would not.
    #[error("{}: {source}", path.display())]
    File {
        /// What.
        path: PathBuf,
        /// Its word for it.
        source: io::Error,
    },
    /// systemctl would not.
    #[error("`{command}` failed: {why}")]
    Systemctl {
        /// The command.
        command: String,
        /// In its words.
        why: String,
    },
}

/// A file that is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Where.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// Where units are put: the running system, or the root of another.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    root: Option<&'a Path>,
}

impl<'a> Target<'a> {
    /// The system below a directory, whose systemd, if it has one, does not run; or this one.
    pub fn new(root: Option<&'a Path>) -> Result<Self, InstallError> {
        if root.is_none() && !sd_notify::booted().unwrap_or(false) {
            return Err(InstallError::NoSystemd);
        }
        Ok(Self { root })
    }

    /// The units that start this program.
    pub fn units(self, program: &Path) -> Result<Vec<Unit>, InstallError> {
        let name = program.to_str().filter(|name| {
            name.starts_with('/') && name.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c))
        });
        let name = name.ok_or_else(|| InstallError::Path(program.to_owned()))?;
        check_owners(program)?;
        let unit =
            |(file, text): (&str, &str)| Unit { path: self.place(file), text: text.replace(PROGRAM, name) };
        Ok(ALL.map(unit).into())
    }

    /// Those of the units that are there.
    pub fn installed(self) -> Result<Vec<PathBuf>, InstallError> {
        let mut there = Vec::new();
        for (file, _) in ALL {
            let path = self.place(file);
            if is_ours(&path)? {
                there.push(path);
            }
        }
        Ok(there)
    }

    /// Puts units there, and has systemd start the daemon now and at each boot.
    pub fn install(self, units: &[Unit]) -> Result<(), InstallError> {
        for unit in units {
            is_ours(&unit.path)?;
        }
        for unit in units {
            write(unit).map_err(failed(&unit.path))?;
        }
        self.systemctl(&["daemon-reload"])?;
        self.systemctl(&["enable", "--now", "coi.socket", "coi.service"])
    }

    /// Has systemd end the daemon, and takes the units away. Gives those that were there.
    pub fn uninstall(self) -> Result<Vec<PathBuf>, InstallError> {
        let there = self.installed()?;
        if there.is_empty() {
            return Ok(there);
        }
        let names: Vec<_> = there.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        self.systemctl(&[&["disable", "--now"], &names[..]].concat())?;
        for path in &there {
            fs::remove_file(path).map_err(failed(path))?;
        }
        self.systemctl(&["daemon-reload"])?;
        Ok(there)
    }

    fn place(self, file: &str) -> PathBuf {
        self.root.unwrap_or(Path::new("/")).join(UNITS).join(file)
    }

    /// Tells systemd, where it runs.
    fn systemctl(self, arguments: &[&str]) -> Result<(), InstallError> {
        if self.root.is_some() {
            return Ok(());
        }
        let mut command = Command::new("systemctl");
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let failed = |why: String| InstallError::Systemctl {
            command: format!("systemctl {}", arguments.join(" ")),
            why,
        };
        let output = output.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File { path, source }
}

/// Whether a unit is there; if so it must be one of these.
fn is_ours(path: &Path) -> Result<bool, InstallError> {
    match fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => Ok(true),
        Ok(_) => Err(InstallError::NotOurs(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Whoever can write the program, or put another in its place, is root from the next start on.
fn check_owners(program: &Path) -> Result<(), InstallError> {
    const WRITABLE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    for place in program.ancestors() {
        let metadata = fs::symlink_metadata(place).map_err(failed(place))?;
        // In a sticky directory what is root's stays root's.
        let is_sticky = metadata.is_dir() && metadata.mode() & STICKY != 0;
        if metadata.uid() != 0 || (metadata.mode() & WRITABLE != 0 && !is_sticky) {
            return Err(InstallError::Unsafe { program: program.to_owned(), place: place.to_owned() });
        }
    }
    Ok(())
}

/// Whoever reads meanwhile finds the old one or the new one.
fn write(unit: &Unit) -> io::Result<()> {
    let directory = unit.path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let new = unit.path.with_extension("coi-new");
    let _ = fs::remove_file(&new);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o644).open(&new)?;
    file.write_all(unit.text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &unit.path)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, os::unix::fs::symlink};

    use super::*;

    fn units(root: &Path) -> Vec<Unit> {
        let text =
            |(file, text): (&str, &str)| Unit { path: root.join(UNITS).join(file), text: text.to_owned() };
        ALL.map(text).into()
    }

    #[test]
    fn units_come_and_go() {
        let root = tempfile::tempdir().unwrap();
        let target = Target::new(Some(root.path())).unwrap();
        assert_eq!(target.uninstall().unwrap(), Vec::<PathBuf>::new());
        for _ in 0..2 {
            target.install(&units(root.path())).unwrap();
        }
        assert_eq!(target.installed().unwrap().len(), ALL.len());
        assert_eq!(target.uninstall().unwrap().len(), ALL.len());
        assert_eq!(fs::read_dir(root.path().join(UNITS)).unwrap().count(), 0);
    }

    #[test]
    fn what_others_have_put_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let target = Target::new(Some(root.path())).unwrap();
        let theirs = root.path().join(UNITS).join("coi.service");
        fs::create_dir_all(theirs.parent().unwrap()).unwrap();
        fs::write(&theirs, "[Service]\n").unwrap();
        for done in [target.install(&units(root.path())).map(drop), target.uninstall().map(drop)] {
            assert!(matches!(done, Err(InstallError::NotOurs(path)) if path == theirs));
        }
        assert_eq!(fs::read_dir(theirs.parent().unwrap()).unwrap().count(), 1);
        // Nor is anything written through a link.
        let elsewhere = root.path().join("elsewhere");
        fs::write(&elsewhere, MARK).unwrap();
        fs::remove_file(&theirs).unwrap();
        symlink(&elsewhere, &theirs).unwrap();
        target.install(&units(root.path())).unwrap();
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), MARK);
    }

    #[test]
    fn a_program_that_others_can_write_is_not_started_as_root() {
        let directory = tempfile::tempdir().unwrap();
        let target = Target::new(Some(directory.path())).unwrap();
        let program = directory.path().join("coi");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o775)).unwrap();
        assert!(matches!(target.units(&program), Err(InstallError::Unsafe { .. })));
        let odd = directory.path().join("co i");
        assert!(matches!(target.units(&odd), Err(InstallError::Path(_))));
    }

    /// systemd passes over what it does not know, with a line in its journal that nobody reads.
    #[test]
    fn the_units_are_what_they_seem() {
        for (file, text) in ALL {
            assert!(text.starts_with(MARK), "{file}");
            let mut section = "";
            for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                    Some(name) => section = name,
                    None => assert!(
                        line.split_once('=').is_some_and(|(key, _)| !key.contains(' ')),
                        "{file}: {line}"
                    ),
                }
                assert!(["Unit", "Service", "Socket", "Install"].contains(&section), "{file}: {line}");
            }
        }
        assert!(ALL[1].1.contains(&format!("\nExecStart={PROGRAM} daemon\n")));
        assert!(ALL[0].1.contains(&format!("\nListenStream={}\n", super::super::api::DEFAULT_SOCKET)));
    }
}
