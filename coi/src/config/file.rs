//! From the text of a configuration file to settings.

use std::sync::Arc;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::keys::{DAEMONS, KEYS, REASONS};
use super::layer::{Leaf, Origin, Who};
use super::profile::CONTEXT;
use super::table::Key;
use crate::monitor::rules::{Place, Reader, RuleError, RuleErrorKind, Source, nearest, read};

/// What a configuration file says.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Its settings, in their order.
    pub(super) leaves: Vec<Leaf>,
    /// The profile that it builds on, if it is a profile's.
    pub(super) inherits: Option<(String, Place)>,
}

/// Whose file it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Author {
    /// Whose.
    pub(super) who: Who,
    /// Whoever writes to the workspace can write it.
    pub(super) untrusted: bool,
}

/// Reads a file; all that is wrong with it is an error.
pub(super) fn parse(source: &Source, author: Author) -> Result<Contents, Vec<RuleError>> {
    let name: Arc<str> = source.name.as_str().into();
    read(source, |reader, table| {
        let mut walk = Walk { reader, author, source: name, contents: Contents::default() };
        walk.table(table, "");
        walk.contents
    })
}

struct Walk<'a, 'b> {
    reader: &'a mut Reader<'b>,
    author: Author,
    source: Arc<str>,
    contents: Contents,
}

impl Walk<'_, '_> {
    fn table(&mut self, table: &DeTable<'_>, prefix: &str) {
        for (name, value) in table {
            let path = match prefix {
                "" => name.get_ref().to_string(),
                prefix => format!("{prefix}.{}", name.get_ref()),
            };
            let is_daemons = prefix.is_empty() && DAEMONS.contains(&path.as_str());
            if is_daemons && matches!(self.author.who, Who::System) {
                continue;
            }
            if prefix.is_empty() && path == "inherits" && matches!(self.author.who, Who::Profile) {
                match value.get_ref() {
                    DeValue::String(text) => {
                        self.contents.inherits = Some((text.to_string(), self.reader.place(value.span())));
                    }
                    _ => self.reader.wrong_type("inherits", "a text", value),
                }
                continue;
            }
            if prefix.is_empty() && path == "context" && matches!(self.author.who, Who::Profile) {
                // It is told without being named; who names it is used to that.
                if !matches!(value.get_ref(), DeValue::String(text) if text == CONTEXT) {
                    let message = format!("what a profile has agents told is the file {CONTEXT} beside it");
                    let help = format!("call the file {CONTEXT}");
                    let kind = RuleErrorKind::Setting { message, help, label: "this" };
                    self.reader.error(value.span(), kind);
                }
                continue;
            }
            let key = KEYS.iter().find(|key| key.name == path || key.also.contains(&path.as_str()));
            if let Some(key) = key {
                self.leaf(key, &path, value);
                continue;
            }
            match value.get_ref() {
                DeValue::Table(inner) if is_section(&path) => self.table(inner, &path),
                _ if is_section(&path) => {
                    self.reader.wrong_type(&path, "a table", value);
                }
                _ => {
                    let kind = unknown(&path, is_daemons, self.author.who);
                    self.reader.error(name.span(), kind);
                }
            }
        }
    }

    fn leaf(&mut self, key: &'static Key, path: &str, value: &toml::Spanned<DeValue<'_>>) {
        let place = self.reader.place(value.span());
        let plain = plain(value.get_ref());
        let Some(plain) = plain.filter(|value| key.shape.fits(value)) else {
            self.reader.wrong_type(path, key.shape.toml(), value);
            return;
        };
        // An empty text sets nothing.
        if plain.as_str() != Some("")
            && let Err(why) = (key.check)(&plain)
        {
            let refused = key.name == "network.mode" && plain.is_str();
            let help = match refused {
                true => {
                    "what of the network a container reaches cannot be limited yet; leave it out".to_owned()
                }
                false => why,
            };
            let message = format!("`{path}` cannot be {}", shown(&plain));
            self.reader.error(value.span(), RuleErrorKind::Setting { message, help, label: "this" });
            return;
        }
        if let Some(earlier) = self.contents.leaves.iter().find(|leaf| leaf.key.name == key.name) {
            let message = format!("`{}` is set twice", key.name);
            let help = format!("it is set at {} already; take one of them out", earlier.origin);
            self.reader.error(value.span(), RuleErrorKind::Setting { message, help, label: "again here" });
            return;
        }
        let origin = Origin {
            who: self.author.who,
            source: Arc::clone(&self.source),
            untrusted: self.author.untrusted,
            place: Some(place),
        };
        self.contents.leaves.push(Leaf { key, value: plain, origin });
    }
}

/// Whether settings stand in a table of this name.
fn is_section(path: &str) -> bool {
    let below = |name: &str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    KEYS.iter().any(|key| below(key.name) || key.also.iter().any(|name| below(name)))
}

/// What is wrong with a key that no setting has.
fn unknown(path: &str, is_daemons: bool, who: Who) -> RuleErrorKind {
    let message = format!("there is no setting `{path}`");
    let reason = REASONS
        .iter()
        .find(|(name, _)| path == *name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')));
    let help = match reason {
        Some((_, reason)) => (*reason).to_owned(),
        None if is_daemons => "it is the daemon's, which reads /etc/coi/config.toml alone".to_owned(),
        None => suggestion(path, who),
    };
    RuleErrorKind::Setting { message, help, label: "unknown" }
}

/// The setting or table that was probably meant, or what there is.
fn suggestion(path: &str, who: Who) -> String {
    let (parent, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut beside: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| match parent {
            "" => key.name.split('.').next(),
            parent => key.name.strip_prefix(parent)?.strip_prefix('.')?.split('.').next(),
        })
        .collect();
    if parent.is_empty() && who == Who::System {
        beside.extend(DAEMONS);
    }
    beside.dedup();
    if let Some(meant) = nearest(last, beside.iter().copied()) {
        return format!("did you mean `{meant}`?");
    }
    let elsewhere = KEYS.iter().find(|key| key.name.rsplit('.').next() == Some(last));
    match elsewhere {
        Some(key) => format!("did you mean `{}`?", key.name),
        None => format!("there are {}", beside.join(", ")),
    }
}

/// A value without its places; `None` for what no setting is: a date, or a number that is none.
fn plain(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()?)
        }
        DeValue::Boolean(is) => Value::Boolean(*is),
        DeValue::Array(list) => {
            Value::Array(list.iter().map(|value| plain(value.get_ref())).collect::<Option<_>>()?)
        }
        DeValue::Table(table) => {
            let each =
                table.iter().map(|(name, value)| Some((name.get_ref().to_string(), plain(value.get_ref())?)));
            Value::Table(each.collect::<Option<_>>()?)
        }
        DeValue::Float(_) | DeValue::Datetime(_) => return None,
    })
}

/// A value as it stands in a file, on one line.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Table(table) if table.is_empty() => "{}".to_owned(),
        Value::Table(table) => {
            let each = table.iter().map(|(name, value)| format!("{} = {}", shown_name(name), shown(value)));
            format!("{{ {} }}", each.collect::<Vec<_>>().join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(", ")),
        // TOML's own way may take several lines; JSON's quotes are TOML's as well.
        Value::String(text) => serde_json::Value::from(text.as_str()).to_string(),
        other => other.to_string(),
    }
}

/// A name as it stands in a file.
pub fn shown_name(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if bare { name.to_owned() } else { serde_json::Value::from(name).to_string() }
}
