//! The rule files that a user and a workspace bring: `~/.coi/rules/*.toml` and `.coi/rules/*.toml` in the workspace.
//!
//! They are read by the client as [`places`](crate::places) reads: nothing is followed, and what cannot be read is an
//! error, for a rule that is missing would look like quiet.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::rules::{MOST_BYTES, MOST_FILES, OwnRules, RuleText, TooMuch};
use crate::places::{Place, PlaceError};

/// Why the rule files that somebody brings are not used.
#[derive(Debug, thiserror::Error)]
pub enum OwnFilesError {
    /// One of them is not read.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// There is too much.
    #[error("the rules in {path} are too much: {why}")]
    TooMuch {
        /// Where.
        path: String,
        /// Of what.
        #[source]
        why: TooMuch,
    },
}

type Result<T> = std::result::Result<T, OwnFilesError>;

/// For whom rule files are read.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The user's id.
    pub uid: u32,
    /// The user's home, if there is one. One that belongs to somebody else is none: who keeps HOME while becoming
    /// another has no rules there.
    pub home: Option<&'a Path>,
}

impl Reader<'_> {
    /// What the user brings, and the workspace, if there is one.
    pub fn read(self, workspace: Option<&Path>) -> Result<OwnRules> {
        let mut own = OwnRules::default();
        let place = workspace.map(Place::open).transpose()?;
        let theirs = place.as_ref().map(rules).transpose()?.flatten();
        let is_theirs =
            |home: &&Path| fs::metadata(home).is_ok_and(|home| home.is_dir() && home.uid() == self.uid);
        if let Some(home) = self.home.filter(is_theirs)
            && let Some(rules) = rules(&Place::open(home)?)?
        {
            let inside = match &place {
                Some(place) => rules.is_in(place)?,
                None => false,
            };
            let same = theirs.as_ref().is_some_and(|theirs| theirs.is(&rules));
            // What can be written from inside the container is the workspace's, whoever calls it theirs.
            match (inside, same) {
                (false, _) => files(&rules, &[self.uid], &mut own, |own| &mut own.user)?,
                (true, true) => {}
                (true, false) => files(&rules, &[self.uid], &mut own, |own| &mut own.workspace)?,
            }
        }
        if let (Some(place), Some(rules)) = (place, theirs) {
            let mut owners = vec![place.owner(), self.uid];
            owners.dedup();
            files(&rules, &owners, &mut own, |own| &mut own.workspace)?;
        }
        Ok(own)
    }
}

/// The directory `.coi/rules` in it. `None` if it is not there.
fn rules(place: &Place) -> Result<Option<Place>> {
    let Some(coi) = place.below(".coi")? else { return Ok(None) };
    Ok(coi.below("rules")?)
}

/// Reads a directory's rule files, by name, to where they belong.
fn files(
    rules: &Place,
    owners: &[u32],
    own: &mut OwnRules,
    to: impl Fn(&mut OwnRules) -> &mut Vec<RuleText>,
) -> Result<()> {
    let too_much = |why| OwnFilesError::TooMuch { path: rules.path.clone(), why };
    let names = rules.names(|name| name.ends_with(b".toml"))?;
    if names.len() > MOST_FILES {
        return Err(too_much(TooMuch));
    }
    for name in names {
        let used: usize = own.files().map(|file| file.name.len() + file.text.len()).sum();
        let room = MOST_BYTES.saturating_sub(used);
        let text = match rules.read(&name, owners, room) {
            // It went since its name was read.
            Ok(None) => continue,
            Ok(Some(text)) => text,
            Err(PlaceError::TooLarge { .. }) => return Err(too_much(TooMuch)),
            Err(error) => return Err(error.into()),
        };
        let name = rules.path_of(&String::from_utf8_lossy(&name));
        to(own).push(RuleText { name, text });
        own.check().map_err(too_much)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::{os::unix::fs::symlink, path::PathBuf};

    use nix::sys::stat::Mode;
    use nix::unistd::{geteuid, mkfifo};

    use super::*;
    use crate::places::MOST_ENTRIES;

    /// A home with a workspace in it, both with an empty directory of rules.
    struct Places {
        _all: tempfile::TempDir,
        home: PathBuf,
        workspace: PathBuf,
    }

    impl Places {
        fn new() -> Self {
            let all = tempfile::tempdir().unwrap();
            let home = all.path().canonicalize().unwrap().join("home");
            let workspace = home.join("app");
            for place in [&home, &workspace] {
                fs::create_dir_all(place.join(".coi/rules")).unwrap();
            }
            Self { _all: all, home, workspace }
        }

        fn rules(&self) -> PathBuf {
            self.workspace.join(".coi/rules")
        }

        fn read(&self) -> Result<OwnRules> {
            self.read_for(&self.workspace)
        }

        fn read_for(&self, workspace: &Path) -> Result<OwnRules> {
            Reader { uid: geteuid().as_raw(), home: Some(&self.home) }.read(Some(workspace))
        }

        /// What is said about the workspace's rules, with its path cut short.
        #[track_caller]
        fn refused(&self) -> String {
            let error = self.read().unwrap_err().to_string();
            error.replace(self.home.to_str().unwrap(), "/home/ann")
        }
    }

    fn names(files: &[RuleText]) -> Vec<&str> {
        files.iter().map(|file| file.name.rsplit('/').next().unwrap()).collect()
    }

    #[test]
    fn files_are_read_by_name() {
        let places = Places::new();
        for name in ["b.toml", "a.toml", ".#a.toml", "README.md", "toml"] {
            fs::write(places.rules().join(name), name).unwrap();
        }
        fs::write(places.home.join(".coi/rules/mine.toml"), "mine").unwrap();
        let own = places.read().unwrap();
        assert_eq!((names(&own.workspace), names(&own.user)), (vec!["a.toml", "b.toml"], vec!["mine.toml"]));
        assert_eq!(own.workspace[0].name, format!("{}/a.toml", places.rules().display()));
        assert_eq!(own.user[0].text, "mine");
    }

    #[test]
    fn there_need_not_be_any() {
        let places = Places::new();
        fs::remove_dir_all(places.workspace.join(".coi")).unwrap();
        fs::remove_dir(places.home.join(".coi/rules")).unwrap();
        assert!(places.read().unwrap().is_empty());
        let nobody = Reader { uid: 4711, home: Some(Path::new("/nonexistent")) };
        assert!(nobody.read(None).unwrap().is_empty());
        assert!(matches!(
            nobody.read(Some(Path::new("/nonexistent"))),
            Err(OwnFilesError::Place(PlaceError::Read { .. }))
        ));
        let places = Places::new();
        symlink("/etc/shadow", places.home.join(".coi/rules/mine.toml")).unwrap();
        let another = Reader { uid: geteuid().as_raw() + 1, home: Some(&places.home) };
        assert!(another.read(None).unwrap().is_empty());
    }

    /// What runs in the container writes there, whoever's rules they are otherwise.
    #[test]
    fn what_lies_in_the_workspace_is_the_workspaces() {
        let places = Places::new();
        fs::write(places.home.join(".coi/rules/mine.toml"), "mine").unwrap();
        for workspace in [places.home.clone(), places.home.parent().unwrap().to_owned()] {
            let own = places.read_for(&workspace).unwrap();
            assert_eq!((names(&own.workspace), names(&own.user)), (vec!["mine.toml"], vec![]));
        }
    }

    #[test]
    fn nothing_is_followed_and_nothing_waited_for() {
        let mut said = Vec::new();
        let mut refused = |put: &dyn Fn(&Places)| {
            let places = Places::new();
            put(&places);
            said.push(places.refused());
        };
        refused(&|places| symlink("/etc/shadow", places.rules().join("a.toml")).unwrap());
        refused(&|places| mkfifo(&places.rules().join("a.toml"), Mode::from_bits_truncate(0o600)).unwrap());
        refused(&|places| fs::create_dir(places.rules().join("a.toml")).unwrap());
        refused(&|places| {
            drop(std::os::unix::net::UnixListener::bind(places.rules().join("a.toml")).unwrap());
        });
        refused(&|places| {
            fs::remove_dir(places.rules()).unwrap();
            symlink(places.home.join(".coi/rules"), places.rules()).unwrap();
        });
        refused(&|places| {
            fs::remove_dir_all(places.workspace.join(".coi")).unwrap();
            symlink(places.home.join(".coi"), places.workspace.join(".coi")).unwrap();
        });
        refused(&|places| {
            fs::remove_dir_all(places.workspace.join(".coi")).unwrap();
            mkfifo(&places.workspace.join(".coi"), Mode::from_bits_truncate(0o600)).unwrap();
        });
        insta::assert_snapshot!(said.join("\n"));
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut said = Vec::new();
        let mut refused = |put: &dyn Fn(&Path)| {
            let places = Places::new();
            put(&places.rules());
            said.push(places.refused());
        };
        refused(&|rules| fs::write(rules.join("a.toml"), "x".repeat(MOST_BYTES)).unwrap());
        refused(&|rules| File::create(rules.join("a.toml")).unwrap().set_len(1 << 40).unwrap());
        refused(&|rules| {
            (0..=MOST_FILES).for_each(|n| fs::write(rules.join(format!("{n}.toml")), "").unwrap());
        });
        refused(&|rules| (0..=MOST_ENTRIES).for_each(|n| fs::write(rules.join(format!("{n}")), "").unwrap()));
        refused(&|rules| fs::write(rules.join("a.toml"), b"\xff").unwrap());
        insta::assert_snapshot!(said.join("\n"));
    }
}
