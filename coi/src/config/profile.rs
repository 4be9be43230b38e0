//! Profiles: configurations with a name, in a directory each.
//!
//! `~/.coi/profiles/NAME/` is the user's, `.coi/profiles/NAME/` the workspace's, which is as little trusted as its other
//! settings; `default` and `hardened` are built in. In the directory, `config.toml` has the settings, and `CONTEXT.md`
//! what tools are to be told, and `build.sh` what `coi build` runs as root in the image that it makes. A profile may build on another with `inherits`: what it sets replaces what that one sets,
//! lists included; variables are replaced one by one, and an empty one is taken away.

use super::ConfigError;
use super::file::{Author, Contents, parse};
use super::layer::{Leaf, Who};
use super::table::Shape;
use crate::monitor::rules::{Place as Spot, RuleError, RuleErrorKind, Source, nearest};
use crate::places::Place;

/// The settings of a profile.
pub const FILE: &str = "config.toml";

/// What a profile has tools told.
pub const CONTEXT: &str = "CONTEXT.md";

/// What builds a profile's image.
pub const SCRIPT: &str = "build.sh";

/// How large each may be.
pub(super) const MOST: usize = 64 << 10;

/// How many profiles may build on each other.
const DEEPEST: usize = 10;

/// The profiles that are built in.
const BUILTIN: [(&str, &str); 2] = [("default", ""), ("hardened", include_str!("profiles/hardened.toml"))];

/// Whose a profile is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// COI's.
    Builtin,
    /// The user's.
    User,
    /// The workspace's.
    Workspace,
}

impl Whose {
    /// The name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::User => "user",
            Self::Workspace => "workspace",
        }
    }
}

/// A profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub whose: Whose,
    /// Its settings' file, for people.
    pub path: String,
    /// What tools are to be told.
    pub context: Option<String>,
    /// What builds its image.
    pub script: Option<String>,
    text: String,
    untrusted: bool,
}

impl Profile {
    fn contents(&self) -> Result<Contents, Vec<RuleError>> {
        let source = Source { name: self.path.clone(), text: self.text.clone() };
        parse(&source, Author { who: Who::Profile, untrusted: self.untrusted })
    }

    /// The name of the profile that it builds on.
    pub fn parent(&self) -> Result<Option<String>, ConfigError> {
        Ok(self.contents()?.inherits.map(|(name, _)| name))
    }
}

/// Where profiles are found.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    pub(super) places: Vec<Shelf>,
}

/// A directory of profiles.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) whose: Whose,
    pub(super) place: Place,
    pub(super) owners: Vec<u32>,
    pub(super) untrusted: bool,
}

impl Shelf {
    fn profile(&self, name: &str) -> Result<Option<Profile>, ConfigError> {
        let Some(directory) = self.place.below(name)? else { return Ok(None) };
        let Some(text) = directory.read(FILE.as_bytes(), &self.owners, MOST)? else {
            return Err(ConfigError::NoProfileFile { path: directory.path });
        };
        let context = directory.read(CONTEXT.as_bytes(), &self.owners, MOST)?;
        let script = directory.read(SCRIPT.as_bytes(), &self.owners, MOST)?;
        Ok(Some(Profile {
            name: name.to_owned(),
            whose: self.whose,
            path: directory.path_of(FILE),
            context,
            script,
            text,
            untrusted: self.untrusted,
        }))
    }
}

/// A profile with those that it builds on.
#[derive(Debug, Default)]
pub struct Chain {
    /// What they set together.
    pub(super) leaves: Vec<Leaf>,
    /// Their names, the one that was asked for first.
    pub names: Vec<String>,
    /// What tools are to be told: by the first that says anything. With the file it is from, if that is untrusted.
    pub(super) context: Option<(String, Option<String>)>,
    /// What builds their image: of the first that has a script. With the settings' file beside it, if that is untrusted.
    pub(super) script: Option<(String, Option<String>)>,
}

impl Profiles {
    /// All of them, by name.
    pub(super) fn all(&self) -> Result<Vec<Profile>, ConfigError> {
        self.names()?.iter().filter_map(|name| self.find(name).transpose()).collect()
    }

    fn names(&self) -> Result<Vec<String>, ConfigError> {
        let mut names: Vec<String> = BUILTIN.iter().map(|(name, _)| (*name).to_owned()).collect();
        for shelf in &self.places {
            let found = shelf.place.names(|name| std::str::from_utf8(name).is_ok_and(is_name))?;
            names.extend(found.iter().map(|name| String::from_utf8_lossy(name).into_owned()));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The profile of this name.
    pub(super) fn find(&self, name: &str) -> Result<Option<Profile>, ConfigError> {
        if !is_name(name) {
            return Ok(None);
        }
        let builtin = BUILTIN.iter().find(|(builtin, _)| *builtin == name).map(|(name, text)| Profile {
            name: (*name).to_owned(),
            whose: Whose::Builtin,
            path: format!("built in: {name}"),
            context: None,
            script: None,
            text: (*text).to_owned(),
            untrusted: false,
        });
        let mut found: Vec<Profile> = builtin.into_iter().collect();
        for shelf in &self.places {
            found.extend(shelf.profile(name)?);
        }
        if let [first, second, ..] = &found[..] {
            return Err(ConfigError::TwoProfiles {
                name: name.to_owned(),
                first: first.path.clone(),
                second: second.path.clone(),
            });
        }
        Ok(found.pop())
    }

    /// The profile of this name with all that it builds on. `from` is where it is asked for.
    pub(super) fn chain(&self, name: &str, from: Option<Spot>) -> Result<Chain, ConfigError> {
        let mut chain = Chain::default();
        let (mut next, mut from) = (Some(name.to_owned()), from);
        while let Some(name) = next.take() {
            let wrong = |kind| match &from {
                Some(place) => place.error(kind),
                None => RuleError::nowhere(kind),
            };
            if chain.names.contains(&name) || chain.names.len() == DEEPEST {
                let round = chain.names.iter().chain([&name]).map(String::as_str).collect::<Vec<_>>();
                let message = format!("profiles build on each other without end: {}", round.join(", "));
                let help = format!("take one `inherits` out; there may be {DEEPEST} in a row");
                let kind = RuleErrorKind::Setting { message, help, label: "this one" };
                return Err(vec![wrong(kind)].into());
            }
            let Some(profile) = self.find(&name)? else {
                return Err(vec![wrong(self.unknown(&name)?)].into());
            };
            let Contents { leaves, inherits } = profile.contents()?;
            // Those that are there already are of profiles that build on this one.
            let below = leaves.into_iter().filter(|leaf| {
                leaf.key.shape == Shape::Variables
                    || !chain.leaves.iter().any(|above| above.key.name == leaf.key.name)
            });
            let below: Vec<Leaf> = below.collect();
            drop(chain.leaves.splice(..0, below));
            if chain.context.is_none()
                && let Some(context) = profile.context
            {
                chain.context = Some((context, profile.untrusted.then(|| profile.path.clone())));
            }
            if chain.script.is_none()
                && let Some(script) = profile.script
            {
                chain.script = Some((script, profile.untrusted.then(|| profile.path.clone())));
            }
            chain.names.push(name);
            if let Some((parent, place)) = inherits {
                (next, from) = (Some(parent), Some(place));
            }
        }
        Ok(chain)
    }

    fn unknown(&self, name: &str) -> Result<RuleErrorKind, ConfigError> {
        let names = self.names()?;
        let help = match nearest(name, names.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("there are {}", names.join(", ")),
        };
        Ok(RuleErrorKind::Setting {
            message: format!("there is no profile `{name}`"),
            help,
            label: "unknown",
        })
    }
}

/// Whether it can be the name of a profile: it is the name of a directory as well.
pub fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
}
