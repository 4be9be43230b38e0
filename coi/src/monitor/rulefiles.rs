//! The rules of this machine: those built in, those of its administrator, and what he changes about them.
//!
//! Later ones add to earlier ones: the built-in rules, `/etc/coi/rules.d/*.toml`, then a directory named on the
//! command line. `[rules.ID]` tables there and in `/etc/coi/config.toml` turn rules on and off and move their
//! thresholds. What users and workspaces bring comes on top, see [`inforce`](super::inforce). One wrong file is an error for all of them: a set with a hole in it would look like a set without alerts.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Zoned;

use super::rules::{Overrides, RuleError, RuleSet, Source, builtin_sources};

const SYSTEM_RULES: &str = "/etc/coi/rules.d";

/// Why there is no set of rules.
#[derive(Debug, thiserror::Error)]
pub enum RuleFilesError {
    /// A file or directory cannot be read.
    #[error("cannot read the rules in {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Rules, or the configuration, are wrong.
    #[error("the rules or the configuration are wrong:\n{}", drawn(.0))]
    Wrong(Vec<RuleError>),
}

/// Errors, each drawn in its place.
pub fn drawn(errors: &[RuleError]) -> String {
    errors.iter().map(RuleError::drawn).collect::<String>().trim_end().to_owned()
}

/// The rules in force on this machine, with those of the directory `extra` added and changed by `overrides`.
pub fn load(extra: Option<&Path>, overrides: &Overrides) -> Result<RuleSet, RuleFilesError> {
    load_with(extra, overrides, None)
}

/// The same, with one more source that is in no file.
pub fn load_with(
    extra: Option<&Path>,
    overrides: &Overrides,
    more: Option<Source>,
) -> Result<RuleSet, RuleFilesError> {
    let mut sources = Vec::new();
    let system = Path::new(SYSTEM_RULES);
    if system.exists() {
        sources.extend(directory(system)?);
    }
    if let Some(extra) = extra {
        sources.extend(directory(extra)?);
    }
    sources.extend(more);
    let builtin = RuleSet::compile(&builtin_sources(), Zoned::now().date());
    let rules = builtin.and_then(|rules| rules.with_system(&sources)).and_then(|rules| rules.with(overrides));
    rules.map_err(RuleFilesError::Wrong)
}

/// The rule files of a directory, by name; or the one that is named.
pub fn directory(directory: &Path) -> Result<Vec<Source>, RuleFilesError> {
    if directory.is_file() {
        return Ok(vec![read_source(directory)?]);
    }
    let failed = |source| RuleFilesError::Read { path: directory.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read_source(path)).collect()
}

/// The recording of this name beside a rule file, which may be a stranger's.
pub fn fixture(rule_file: &str, name: &str) -> Result<Vec<u8>, String> {
    let path = Path::new(rule_file).parent().unwrap_or(Path::new("")).join(name);
    let read = || {
        // Nobody may ever write to a named pipe.
        let mut file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map(|_| text)
    };
    read().map_err(|error| format!("cannot read the fixture {}: {error}", path.display()))
}

pub(super) fn read_source(path: &Path) -> Result<Source, RuleFilesError> {
    let text =
        fs::read_to_string(path).map_err(|source| RuleFilesError::Read { path: path.to_owned(), source })?;
    Ok(Source { name: path.display().to_string(), text })
}
