//! The configuration of `coi run` and `coi shell`: layers of settings, and what is in force of them.
//!
//! Later layers win: what is built in, `/etc/coi/config.toml`, `~/.coi/config.toml`, the workspace's `.coi/config.toml`,
//! the file that `COI_CONFIG` names, a profile, the environment (`COI_*`), flags.
//!
//! This module promises:
//! - a setting means what it says or is refused, with its place and the reason: unknown names and wrong types are errors
//!   in every layer;
//! - what whoever writes to the workspace can write makes nothing milder: it tightens, or the user has allowed just that
//!   with `coi trust`, or nothing is started. That goes for the user's own files, too, where they lie in the workspace;
//! - of every value it is known where it comes from.
//!
//! To add a setting, add a row to the table in [`keys`]; there is no other place. It knows nothing of what settings do:
//! whoever honours one reads it from [`Config`].
//!
//! figment and config, the usual crates for this, lose where in a file a value stands, and merge by one rule only; what
//! is left for them to do is in `layer.rs`.

#[cfg(test)]
mod docs;
mod file;
mod keys;
mod layer;
mod profile;
mod schema;
mod table;
mod trust;
mod values;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

pub use file::{shown, shown_name};
pub use keys::*;
pub use layer::{Item, Leaf, Merged, Origin, Who};
pub use profile::{CONTEXT, Chain, FILE, Profile, SCRIPT, Whose, is_name};
pub use schema::schema;
pub use table::{Flag, Key, Sets, Shape, Workspace};
pub use trust::{Request, Trust, Trusted};
pub use values::*;

use crate::monitor::rules::{RuleError, RuleErrorKind, Source, safe};
use crate::places::{Owner, Place, PlaceError};
use file::{Author, parse};
use layer::Excess;
use profile::{MOST, Profiles, Shelf};

/// The machine's configuration, which the daemon reads as well.
pub const SYSTEM: &str = "/etc/coi/config.toml";

/// The directory of a user or a workspace.
const DIRECTORY: &str = ".coi";

/// The variable that names one more file.
const NAMED: &str = "COI_CONFIG";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Something in it is wrong.
    #[error("the configuration is wrong:\n{}", .0.iter().map(RuleError::drawn).collect::<String>().trim_end())]
    Wrong(Vec<RuleError>),
    /// A file of a user's or a workspace's is not read.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A file cannot be read.
    #[error("the configuration {} cannot be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A profile's directory has no settings in it.
    #[error("the profile {path} has no {FILE}. Write one, or remove the directory")]
    NoProfileFile {
        /// The directory.
        path: String,
    },
    /// Two profiles have the same name.
    #[error("there are two profiles `{name}`: {first} and {second}. Rename one of them")]
    TwoProfiles {
        /// The name.
        name: String,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// What is trusted cannot be told.
    #[error(
        "{path} is not what COI has written: {why}. Remove it, and say again what you trust with `coi trust`"
    )]
    Trust {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// There is nowhere to keep something of the user's.
    #[error("{0}")]
    NoHome(&'static str),
}

impl From<Vec<RuleError>> for ConfigError {
    fn from(errors: Vec<RuleError>) -> Self {
        Self::Wrong(errors)
    }
}

/// Who wants a configuration, and for what.
#[derive(Clone, Debug)]
pub struct Loader {
    /// The user's id.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// The user's home, if there is one. One that belongs to somebody else is none.
    pub home: Option<PathBuf>,
    /// The workspace.
    pub workspace: Option<PathBuf>,
    /// The machine's file, [`SYSTEM`].
    pub system: PathBuf,
    /// The environment.
    pub variables: Vec<(OsString, OsString)>,
    /// What flags set.
    pub flags: Vec<(&'static Key, toml::Value)>,
}

/// A configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// The same, with where it comes from.
    pub merged: Merged,
    /// The profiles that are in force, the one that was asked for first.
    pub profiles: Vec<String>,
    /// What a profile has tools told.
    pub context: Option<String>,
    /// What builds the profile's image.
    pub script: Option<BuildScript>,
}

/// What builds a profile's image.
#[derive(Clone, Debug)]
pub struct BuildScript {
    /// The script.
    pub text: String,
    /// The profile that it lies beside, if that is a workspace's and has not been trusted: it is not run then.
    pub refused: Option<String>,
}

/// Where the user's and the workspace's files are.
struct Places {
    /// `~/.coi`.
    home: Option<Place>,
    /// It lies in the workspace.
    exposed: bool,
    workspace: Option<Place>,
    /// `.coi` of the workspace.
    theirs: Option<Place>,
}

/// The layers, before it is known whether what they ask for may be had.
struct Layers {
    merged: Merged,
    requests: Vec<Request>,
    errors: Vec<RuleError>,
    profiles: Vec<String>,
    context: Option<String>,
    script: Option<(String, Option<String>)>,
}

impl Loader {
    /// Reads all layers. What an untrusted one asks for and may not have is an error.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let places = self.places()?;
        let trust = self.trust(&places)?;
        let Layers { merged, requests, mut errors, profiles, context, script } =
            self.layers(&places, None)?;
        for request in requests.iter().filter(|request| !trust.allows(request)) {
            let changed = trust.knows(request);
            errors.extend(request.asked.iter().map(|leaf| refused(leaf, changed, places.exposed)));
            if request.context.is_some() && request.asked.is_empty() {
                let message = format!(
                    "a workspace may not have {CONTEXT} told to the agent by itself: it lies beside {}",
                    request.source
                );
                errors.push(RuleError::nowhere(kind(message, TRUST.to_owned())));
            }
        }
        if !errors.is_empty() {
            return Err(errors.into());
        }
        let read =
            Config::read(|name| KEYS.iter().find(|key| key.name == name).and_then(|key| merged.value(key)));
        let config = read.map_err(|(name, why)| {
            vec![RuleError::nowhere(kind(format!("`{name}` cannot be what it is set to"), why))]
        })?;
        let is_trusted = |source: &String| {
            requests.iter().filter(|request| request.source == *source).all(|request| trust.allows(request))
        };
        let script = script.map(|(text, untrusted)| BuildScript {
            text,
            refused: untrusted.filter(|source| !is_trusted(source)),
        });
        Ok(Loaded { config, merged, profiles, context, script })
    }

    /// What the workspace's files ask for beyond tightening: its configuration, and each of its profiles.
    pub fn requests(&self) -> Result<Vec<Request>, ConfigError> {
        let places = self.places()?;
        let mut all: Vec<Request> = Vec::new();
        let mut errors = Vec::new();
        let shelves = self.profiles(&places)?;
        let mut profiles: Vec<Option<String>> = vec![None];
        let untrusted = |profile: &Profile| profile.whose == Whose::Workspace || places.exposed;
        profiles.extend(shelves.all()?.into_iter().filter(untrusted).map(|profile| Some(profile.name)));
        for profile in profiles {
            let layers = self.layers(&places, profile.as_deref())?;
            if errors.is_empty() {
                errors = layers.errors;
            }
            for request in layers.requests {
                if !all.iter().any(|known| known.source == request.source) {
                    all.push(request);
                }
            }
        }
        if errors.is_empty() { Ok(all) } else { Err(errors.into()) }
    }

    /// What the user trusts.
    pub fn trusted(&self) -> Result<Trust, ConfigError> {
        self.trust(&self.places()?)
    }

    /// Keeps what the user trusts from now on.
    pub fn keep(&self, trust: &Trust) -> Result<(), ConfigError> {
        let places = self.places()?;
        if places.exposed {
            return Err(ConfigError::NoHome(EXPOSED));
        }
        trust.write(&self.own_directory()?, Owner { uid: self.uid, gid: self.gid })
    }

    /// All profiles that there are.
    pub fn all_profiles(&self) -> Result<Vec<Profile>, ConfigError> {
        self.profiles(&self.places()?)?.all()
    }

    /// The profile of this name, with all that it builds on and what they come to.
    pub fn profile(&self, name: &str) -> Result<(Chain, Merged), ConfigError> {
        let chain = self.profiles(&self.places()?)?.chain(name, None)?;
        let mut merged = Merged::default();
        chain.leaves.iter().for_each(|leaf| merged.put(leaf));
        Ok((chain, merged))
    }

    /// Makes a profile of the user's, or of the workspace's; answers its file.
    pub fn create_profile(&self, name: &str, whose: Whose, text: &str) -> Result<PathBuf, ConfigError> {
        let places = self.places()?;
        let (directory, owner) = match (whose, &places.workspace) {
            (Whose::Workspace, Some(workspace)) => {
                let owner = Owner { uid: workspace.owner(), gid: workspace.group() };
                (workspace.make(DIRECTORY, owner)?, owner)
            }
            _ => (self.own_directory()?, Owner { uid: self.uid, gid: self.gid }),
        };
        let directory = directory.make("profiles", owner)?.make(name, owner)?;
        directory.write(FILE, text, owner)?;
        Ok(directory.path_of(FILE).into())
    }

    /// Checks a profile's file that lies anywhere.
    pub fn check_profile(path: &Path) -> Result<(), ConfigError> {
        let source = Source { name: safe(&path.to_string_lossy()), text: read_file(path)? };
        parse(&source, Author { who: Who::Profile, untrusted: false })?;
        Ok(())
    }

    fn own_directory(&self) -> Result<Place, ConfigError> {
        let home = self.own_home().ok_or(ConfigError::NoHome("you have no home directory to keep it in"))?;
        Ok(Place::open(home)?.make(DIRECTORY, Owner { uid: self.uid, gid: self.gid })?)
    }

    fn own_home(&self) -> Option<&Path> {
        let is_theirs =
            |home: &&Path| fs::metadata(home).is_ok_and(|home| home.is_dir() && home.uid() == self.uid);
        self.home.as_deref().filter(is_theirs)
    }

    fn places(&self) -> Result<Places, ConfigError> {
        let workspace = self.workspace.as_deref().map(Place::open).transpose()?;
        let below = |place: &Place| place.below(DIRECTORY);
        let mut theirs = workspace.as_ref().map(below).transpose()?.flatten();
        let home = match self.own_home() {
            Some(home) => Place::open(home)?.below(DIRECTORY)?,
            None => None,
        };
        // What can be written from inside the container is the workspace's, whoever calls it theirs.
        let exposed = match (&home, &workspace) {
            (Some(home), Some(workspace)) => home.is_in(workspace)?,
            _ => false,
        };
        if let (Some(home), Some(same)) = (&home, &theirs)
            && home.is(same)
        {
            theirs = None;
        }
        Ok(Places { home, exposed, workspace, theirs })
    }

    fn trust(&self, places: &Places) -> Result<Trust, ConfigError> {
        match &places.home {
            Some(home) if !places.exposed => Trust::read(home, self.uid),
            _ => Ok(Trust::default()),
        }
    }

    /// Whose files in the workspace are read.
    fn owners(&self, places: &Places) -> Vec<u32> {
        let mut owners: Vec<u32> = places.workspace.iter().map(Place::owner).collect();
        owners.push(self.uid);
        owners.dedup();
        owners
    }

    fn profiles(&self, places: &Places) -> Result<Profiles, ConfigError> {
        let mut profiles = Profiles::default();
        let mut shelf = |coi: &Option<Place>, whose, owners, untrusted| -> Result<(), ConfigError> {
            if let Some(place) = coi.as_ref().map(|coi| coi.below("profiles")).transpose()?.flatten() {
                profiles.places.push(Shelf { whose, place, owners, untrusted });
            }
            Ok(())
        };
        shelf(&places.home, Whose::User, vec![self.uid], places.exposed)?;
        shelf(&places.theirs, Whose::Workspace, self.owners(places), true)?;
        Ok(profiles)
    }

    /// Reads the layers; with this profile, if one is given, in place of the one that they name.
    fn layers(&self, places: &Places, profile: Option<&str>) -> Result<Layers, ConfigError> {
        let mut files: Vec<(Source, Author)> = Vec::new();
        match fs::symlink_metadata(&self.system) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => {
                let source =
                    Source { name: self.system.display().to_string(), text: read_file(&self.system)? };
                files.push((source, Author { who: Who::System, untrusted: false }));
            }
        }
        let mut own = |place: &Option<Place>, owners: &[u32], author| -> Result<(), ConfigError> {
            let Some(place) = place else { return Ok(()) };
            if let Some(text) = place.read(FILE.as_bytes(), owners, MOST)? {
                files.push((Source { name: place.path_of(FILE), text }, author));
            }
            Ok(())
        };
        own(&places.home, &[self.uid], Author { who: Who::User, untrusted: places.exposed })?;
        own(&places.theirs, &self.owners(places), Author { who: Who::Workspace, untrusted: true })?;
        if let Some(path) = self.variable(NAMED) {
            let failed = |source| ConfigError::Read { path: path.into(), source };
            // What is trusted goes by the name of the file.
            let path = std::path::absolute(path).map_err(failed)?;
            let untrusted = is_inside(&path, places.workspace.as_ref())?;
            let source = Source { name: safe(&path.to_string_lossy()), text: read_file(&path)? };
            files.push((source, Author { who: Who::File, untrusted }));
        }
        let (mut errors, mut lower) = (Vec::new(), Vec::new());
        for (source, author) in files {
            match parse(&source, author) {
                Ok(contents) => lower.extend(contents.leaves),
                Err(wrong) => errors.extend(wrong),
            }
        }
        let (upper, wrong) = self.variables();
        errors.extend(wrong);
        if !errors.is_empty() {
            return Err(errors.into());
        }
        let chosen = [&lower, &upper].into_iter().flatten().rfind(|leaf| leaf.key.name == "defaults.profile");
        let chain = match (profile, chosen) {
            (Some(name), _) => self.profiles(places)?.chain(name, None)?,
            (None, Some(leaf)) => {
                let name = leaf.value.as_str().unwrap_or_default();
                self.profiles(places)?.chain(name, leaf.origin.place.clone())?
            }
            (None, None) => Chain::default(),
        };
        let mut layers = Layers {
            merged: Merged::default(),
            requests: Vec::new(),
            errors: Vec::new(),
            profiles: chain.names,
            context: None,
            script: None,
        };
        for leaf in lower.iter().chain(&chain.leaves).chain(&upper) {
            layers.add(leaf);
        }
        if let Some((text, untrusted)) = chain.context {
            if let Some(source) = untrusted {
                layers.request(&source).context = Some(trust::digest(&text));
            }
            layers.context = Some(text);
        }
        if let Some((text, untrusted)) = chain.script {
            if let Some(source) = &untrusted {
                layers.request(source).script = Some(trust::digest(&text));
            }
            layers.script = Some((text, untrusted));
        }
        Ok(layers)
    }

    fn variable(&self, name: &str) -> Option<&OsString> {
        let found = self.variables.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value).filter(|value| !value.is_empty())
    }

    /// What the environment and the flags set, in this order.
    fn variables(&self) -> (Vec<Leaf>, Vec<RuleError>) {
        let (mut leaves, mut errors) = (Vec::new(), Vec::new());
        for (name, value) in &self.variables {
            let Some(name) = name.to_str().filter(|name| is_ours(name)) else { continue };
            let key = KEYS.iter().find(|key| key.variable().as_deref() == Some(name));
            let value = match value.to_str() {
                Some("") => continue,
                Some(value) => Ok(value),
                None => Err("it is not UTF-8".to_owned()),
            };
            let wrong =
                |what: &str, help| RuleError::nowhere(kind(format!("the variable {name} {what}"), help));
            match (key, value) {
                (None, _) => errors.push(wrong("sets nothing", meant(name))),
                (Some(key), value) => match value.and_then(|value| key.parse(value)) {
                    Ok(value) => leaves.push(leaf(key, value, Who::Environment, name)),
                    Err(why) => errors.push(wrong("cannot be what it is", why)),
                },
            }
        }
        for (key, value) in &self.flags {
            let flag = key.flag.map_or_else(String::new, |flag| format!("--{}", flag.name));
            leaves.push(leaf(key, value.clone(), Who::Flag, &flag));
        }
        (leaves, errors)
    }
}

impl Layers {
    fn add(&mut self, leaf: &Leaf) {
        if leaf.origin.untrusted {
            match self.merged.excess(leaf) {
                None => {}
                Some(Excess::Asks) => {
                    let leaf = leaf.clone();
                    self.request(&leaf.origin.source.clone()).asked.push(leaf);
                }
                Some(Excess::Never(why)) => {
                    let message = format!("a workspace may not set `{}`", leaf.key.name);
                    self.errors.push(at(leaf, kind(message, why.to_owned())));
                }
            }
        }
        self.merged.put(leaf);
    }

    fn request(&mut self, source: &str) -> &mut Request {
        let at = match self.requests.iter().position(|request| request.source == source) {
            Some(at) => at,
            None => {
                self.requests.push(Request {
                    source: source.to_owned(),
                    asked: Vec::new(),
                    context: None,
                    script: None,
                });
                self.requests.len() - 1
            }
        };
        &mut self.requests[at]
    }
}

const TRUST: &str = "`coi trust` shows what it asks for, and allows it; or take it out";
const CHANGED: &str =
    "it has changed since it was trusted: `coi trust` shows it, and allows it; or take it out";
const EXPOSED: &str = "your ~/.coi lies in the workspace, where whatever runs in the container can write to it: \
                       nothing there is trusted. Choose a workspace below your home";

fn refused(leaf: &Leaf, changed: bool, exposed: bool) -> RuleError {
    let message = format!("a workspace may not have `{} = {}` by itself", leaf.key.name, shown(&leaf.value));
    let help = match (exposed, changed) {
        (true, _) => EXPOSED,
        (false, true) => CHANGED,
        (false, false) => TRUST,
    };
    at(leaf, kind(message, help.to_owned()))
}

fn at(leaf: &Leaf, kind: RuleErrorKind) -> RuleError {
    match &leaf.origin.place {
        Some(place) => place.error(kind),
        None => RuleError::nowhere(kind),
    }
}

fn kind(message: String, help: String) -> RuleErrorKind {
    RuleErrorKind::Setting { message, help, label: "this" }
}

fn leaf(key: &'static Key, value: toml::Value, who: Who, source: &str) -> Leaf {
    Leaf { key, value, origin: Origin { who, source: source.into(), untrusted: false, place: None } }
}

/// Whether a variable is one that sets something here: it begins as a section's does.
fn is_ours(variable: &str) -> bool {
    let sections = KEYS.iter().filter_map(|key| key.name.split('.').next());
    let rest = variable.strip_prefix("COI_");
    rest.is_some_and(|rest| {
        let mut sections = sections.map(|section| format!("{}_", section.to_uppercase()));
        sections.any(|section| rest.starts_with(&section))
    })
}

/// The variable that was probably meant.
fn meant(variable: &str) -> String {
    let known: Vec<String> = KEYS.iter().filter_map(Key::variable).collect();
    match crate::monitor::rules::nearest(variable, known.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean {meant}? Else unset it"),
        None => "unset it; docs/config.md has those there are".to_owned(),
    }
}

/// Whether a file lies in the workspace.
fn is_inside(path: &Path, workspace: Option<&Place>) -> Result<bool, ConfigError> {
    let Some(workspace) = workspace else { return Ok(false) };
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    // By either name: a link in the workspace can be led elsewhere, and one outside leads in.
    let real = path.canonicalize().map_err(failed)?;
    let named = std::path::absolute(path).map_err(failed)?;
    for path in [&real, &named] {
        let directory = path.parent().unwrap_or(Path::new("/"));
        if Place::open(directory)?.is_in(workspace)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads a regular file that may be read by whoever names it.
fn read_file(path: &Path) -> Result<String, ConfigError> {
    let read = || {
        let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut text = String::new();
        file.take(MOST as u64 + 1).read_to_string(&mut text)?;
        match text.len() > MOST {
            true => Err(io::Error::other(format!("it is larger than {} KiB", MOST >> 10))),
            false => Ok(text),
        }
    };
    read().map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;

#[cfg(fuzzing)]
/// Any text as the configuration of a workspace.
pub fn fuzz(text: &str) {
    let source = Source { name: "config.toml".into(), text: text.to_owned() };
    let Ok(contents) = parse(&source, Author { who: Who::Workspace, untrusted: true }) else { return };
    let mut merged = Merged::default();
    for leaf in &contents.leaves {
        let _ = merged.excess(leaf);
        merged.put(leaf);
    }
    let read =
        Config::read(|name| KEYS.iter().find(|key| key.name == name).and_then(|key| merged.value(key)));
    assert!(read.is_ok(), "{read:?}");
}
