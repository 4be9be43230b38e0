//! `~/.coi/audit/NAME.jsonl`, which leads to a container's audit log.
//!
//! It promises that it is made with the rights of the user whose home that is, and with no others: what a user has put
//! into their own home may lead anywhere, and root must not follow. Under sudo that is who called sudo. A file that is
//! there in the link's place is left alone.

use std::{
    env, fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::{Uid, User, geteuid};

use super::files;

/// Who called sudo, if somebody did and this is root.
pub fn sudo_user() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let uid = env::var("SUDO_UID").ok()?.parse().ok().filter(|uid| *uid != 0)?;
    User::from_uid(Uid::from_raw(uid)).ok().flatten()
}

/// Makes the link as the user that this process works for.
pub fn make(name: &str, log: &Path) -> io::Result<()> {
    let Some(user) = sudo_user() else { return make_here(name, log).map(drop) };
    let mut command = Command::new(env::current_exe()?);
    command.args(["audit", "link", "--to"]).arg(log).args(["--", name]);
    // The standard library gives up root's other groups with its identity.
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).env_clear().env("HOME", &user.dir).current_dir("/");
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.trim().trim_start_matches("coi: ").to_owned()))
}

/// Makes the link as who this process is, in `$HOME`. Answers where it is.
pub fn make_here(name: &str, log: &Path) -> io::Result<PathBuf> {
    let home = env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "HOME is not set"))?;
    make_in(Path::new(&home), name, log)
}

fn make_in(home: &Path, name: &str, log: &Path) -> io::Result<PathBuf> {
    let directory = home.join(".coi/audit");
    let link = directory.join(format!("{}.jsonl", files::file_name(name)));
    if fs::read_link(&link).is_ok_and(|target| target == log) {
        return Ok(link);
    }
    let at =
        |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|error| at(&directory, error))?;
    if fs::symlink_metadata(&link).is_ok_and(|there| !there.is_symlink()) {
        return Err(at(&link, io::Error::new(io::ErrorKind::AlreadyExists, "something else is there")));
    }
    // Whoever looks meanwhile finds the old one or the new one.
    let new = directory.join(format!(".new-{}", std::process::id()));
    let _ = fs::remove_file(&new);
    symlink(log, &new).and_then(|()| fs::rename(&new, &link)).map_err(|error| at(&link, error))?;
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_name_and_spares_files() {
        let home = tempfile::tempdir().unwrap();
        for target in ["/var/log/coi/1/c.1.jsonl", "/var/log/coi/1/c.2.jsonl", "/var/log/coi/1/c.2.jsonl"] {
            let link = make_in(home.path(), "c/../x", Path::new(target)).unwrap();
            assert_eq!(link, home.path().join(".coi/audit/c____x.jsonl"));
            assert_eq!(fs::read_link(link).unwrap(), Path::new(target));
        }
        assert_eq!(fs::read_dir(home.path().join(".coi/audit")).unwrap().count(), 1);
        let file = home.path().join(".coi/audit/mine.jsonl");
        fs::write(&file, "mine").unwrap();
        assert!(make_in(home.path(), "mine", Path::new("/x")).is_err());
        assert_eq!(fs::read_to_string(file).unwrap(), "mine");
    }
}
