//! Where rules come from: those built in, those of this machine, and what its administrator changes about them.
//!
//! Later ones add to earlier ones: the built-in rules, `/etc/coi/rules.d/*.toml`, then a directory named on the
//! command line. `[rules.ID]` tables in `/etc/coi/config.toml` turn rules on and off and move their thresholds.
//! One wrong file is an error for all of them: a set with a hole in it would look like a set without alerts.

use std::{
    fmt, fs, io,
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
    #[error("{}", Summary(.0))]
    Wrong(Vec<RuleError>),
}

struct Summary<'a>(&'a [RuleError]);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
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
    let mut sources = builtin_sources();
    let system = Path::new(SYSTEM_RULES);
    if system.exists() {
        sources.extend(directory(system)?);
    }
    if let Some(extra) = extra {
        sources.extend(directory(extra)?);
    }
    sources.extend(more);
    let rules = RuleSet::compile(&sources, Zoned::now().date()).map_err(RuleFilesError::Wrong)?;
    rules.with(overrides).map_err(RuleFilesError::Wrong)
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

/// The recording of this name beside a rule file.
pub fn fixture(rule_file: &str, name: &str) -> Result<Vec<u8>, String> {
    let path = Path::new(rule_file).parent().unwrap_or(Path::new("")).join(name);
    fs::read(&path).map_err(|error| format!("cannot read the fixture {}: {error}", path.display()))
}

pub(super) fn read_source(path: &Path) -> Result<Source, RuleFilesError> {
    let text =
        fs::read_to_string(path).map_err(|source| RuleFilesError::Read { path: path.to_owned(), source })?;
    Ok(Source { name: path.display().to_string(), text })
}
