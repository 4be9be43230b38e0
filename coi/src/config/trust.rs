//! What a workspace may ask for since its user has allowed it.
//!
//! What is allowed is what was shown: the settings of one file that go beyond tightening, by their digest. Another
//! setting, or another value, asks again. It is kept in the user's own `~/.coi/trust.json`. Where that lies in the
//! workspace, nothing is trusted: whatever runs in the container could allow itself anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ConfigError;
use super::file::shown;
use super::layer::Leaf;
use crate::monitor::rules::safe;
use crate::places::{Owner, Place};

/// Its name in `~/.coi`.
const FILE: &str = "trust.json";

/// How large it may be.
const MOST: usize = 1 << 20;

/// What is trusted, by the path of the file that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// By the path of the file that asks.
    #[serde(default)]
    trusted: BTreeMap<String, Trusted>,
}

/// What one file may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trusted {
    /// The digest of the settings.
    pub sha256: String,
    /// The settings, for people.
    pub asked: Vec<String>,
}

/// What one file asks for beyond tightening.
#[derive(Clone, Debug)]
pub struct Request {
    /// The file.
    pub source: String,
    /// What it asks for, setting by setting.
    pub asked: Vec<Leaf>,
    /// A text that it has tools read, as its digest.
    pub context: Option<String>,
    /// A script that it has run in the image that is built, as its digest.
    pub script: Option<String>,
}

impl Request {
    /// What it asks for, one line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.asked.iter().map(|leaf| format!("{} = {}", leaf.key.name, shown(&leaf.value))).collect();
        lines.extend(self.context.as_ref().map(|digest| format!("CONTEXT.md, sha256 {digest}")));
        lines.extend(self.script.as_ref().map(|digest| format!("build.sh, sha256 {digest}")));
        lines.sort();
        lines
    }

    fn trusted(&self) -> Trusted {
        let asked = self.lines();
        Trusted { sha256: digest(&asked.join("\n")), asked }
    }
}

/// The digest of a text, in hexadecimal.
pub(super) fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

impl Trust {
    /// Reads what the user has allowed, from their `~/.coi`.
    pub(super) fn read(coi: &Place, uid: u32) -> Result<Self, ConfigError> {
        let Some(text) = coi.read(FILE.as_bytes(), &[uid], MOST)? else { return Ok(Self::default()) };
        serde_json::from_str(&text)
            .map_err(|error| ConfigError::Trust { path: coi.path_of(FILE), why: error.to_string() })
    }

    /// Writes it there.
    pub(super) fn write(&self, coi: &Place, owner: Owner) -> Result<(), ConfigError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        Ok(coi.write(FILE, &(text + "\n"), owner)?)
    }

    /// Whether just this is allowed.
    pub fn allows(&self, request: &Request) -> bool {
        self.trusted.get(&request.source).is_some_and(|trusted| trusted.sha256 == request.trusted().sha256)
    }

    /// Whether something is allowed that this file does not ask for any more.
    pub fn knows(&self, request: &Request) -> bool {
        self.trusted.contains_key(&request.source)
    }

    /// Allows it.
    pub fn allow(&mut self, request: &Request) {
        self.trusted.insert(request.source.clone(), request.trusted());
    }

    /// Forgets what is allowed to files below a directory; answers which those were.
    pub fn forget(&mut self, directory: &str) -> Vec<String> {
        let prefix = format!("{}/", safe(directory).trim_end_matches('/'));
        let gone: Vec<String> =
            self.trusted.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
        gone.iter().for_each(|path| drop(self.trusted.remove(path)));
        gone
    }

    /// All that is allowed, by file.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Trusted)> {
        self.trusted.iter()
    }
}
