//! Layers of settings, and what becomes of them together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use toml::Value;

use super::table::{Key, Shape, Workspace};
use crate::monitor::rules::Place;

/// Who set something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Nobody.
    Builtin,
    /// The administrator, in /etc/coi/config.toml.
    System,
    /// The user, in ~/.coi/config.toml.
    User,
    /// Whoever writes to the workspace.
    Workspace,
    /// A file that `COI_CONFIG` names.
    File,
    /// A profile.
    Profile,
    /// The environment.
    Environment,
    /// A flag.
    Flag,
}

impl Who {
    /// The name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Builtin => "built in",
            Self::System => "system",
            Self::User => "user",
            Self::Workspace => "workspace",
            Self::File => "COI_CONFIG",
            Self::Profile => "profile",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Who set it.
    pub who: Who,
    /// The file it stands in, the variable or the flag.
    pub source: Arc<str>,
    /// Whoever writes to the workspace can write this.
    pub untrusted: bool,
    /// Where in its file.
    pub(super) place: Option<Place>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => place.fmt(f),
            None => f.write_str(&self.source),
        }
    }
}

/// One setting of a layer.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Which.
    pub key: &'static Key,
    /// What it is set to.
    pub value: Value,
    /// By whom.
    pub origin: Origin,
}

/// A value with where it comes from.
#[derive(Clone, Debug)]
pub struct Item {
    /// The name of a variable, of which there are several in one setting.
    pub name: Option<String>,
    /// The value.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// What layers come to together.
#[derive(Clone, Debug, Default)]
pub struct Merged(BTreeMap<&'static str, Vec<Item>>);

impl Merged {
    /// The value of a setting, if somebody has set it.
    pub fn value(&self, key: &'static Key) -> Option<Value> {
        let items = self.0.get(key.name)?;
        let values = || items.iter().map(|item| item.value.clone());
        Some(match key.shape {
            Shape::List(_) | Shape::Set(_) | Shape::Mounts => Value::Array(values().collect()),
            Shape::Variables => {
                let each = items.iter().filter_map(|item| Some((item.name.clone()?, item.value.clone())));
                Value::Table(each.collect())
            }
            _ => items.last()?.value.clone(),
        })
    }

    /// The values of a setting, each with where it comes from.
    pub fn items(&self, key: &'static Key) -> &[Item] {
        self.0.get(key.name).map_or(&[], Vec::as_slice)
    }

    /// Adds a setting of a later layer.
    pub fn put(&mut self, leaf: &Leaf) {
        let Leaf { key, value, origin } = leaf;
        let item = |value: &Value| Item { name: None, value: value.clone(), origin: origin.clone() };
        let items = self.0.entry(key.name).or_default();
        match (key.shape, value) {
            (Shape::Set(_), Value::Array(values)) => {
                for value in values {
                    if !items.iter().any(|item| item.value == *value) {
                        items.push(item(value));
                    }
                }
            }
            (Shape::Mounts, Value::Array(values)) => items.extend(values.iter().map(item)),
            (Shape::List(_), Value::Array(values)) => *items = values.iter().map(item).collect(),
            (Shape::Variables, Value::Table(table)) => {
                for (name, value) in table {
                    items.retain(|item| item.name.as_ref() != Some(name));
                    if !is_empty(value) {
                        items.push(Item { name: Some(name.clone()), ..item(value) });
                    }
                }
            }
            // An empty text sets nothing.
            (_, value) if is_empty(value) => {}
            (_, value) => *items = vec![item(value)],
        }
        if items.is_empty() && !matches!(key.shape, Shape::List(_)) {
            self.0.remove(key.name);
        }
    }

    /// What an untrusted setting would do to this that a workspace may not do by itself.
    pub(super) fn excess(&self, leaf: &Leaf) -> Option<Excess> {
        let Leaf { key, value, .. } = leaf;
        let below = self.value(key).or_else(key.default);
        if below.as_ref() == Some(value) || is_empty(value) {
            return None;
        }
        let amount = |value: &Value| (key.amount)(value);
        let fine = match key.workspace {
            Workspace::Sets => true,
            Workspace::Never(why) => return Some(Excess::Never(why)),
            Workspace::Asks => match (value, &below) {
                (Value::Array(asked), Some(Value::Array(below))) if matches!(key.shape, Shape::Set(_)) => {
                    asked.iter().all(|value| below.contains(value))
                }
                _ => false,
            },
            Workspace::Tightens(strict) => strict.contains(&words(value).as_str()),
            Workspace::Lowers => match (amount(value), &below) {
                (Some(_), None) => true,
                (Some(asked), Some(below)) => amount(below)
                    .is_some_and(|below| asked.unit == below.unit && asked.number <= below.number),
                (None, _) => false,
            },
        };
        (!fine).then_some(Excess::Asks)
    }
}

/// How a workspace's setting is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// It needs trust.
    Asks,
    /// No trust makes it good; why.
    Never(&'static str),
}

/// A value as a person would write it without quotes.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_str().is_some_and(str::is_empty)
}
