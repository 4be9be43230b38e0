//! The settings as a JSON Schema, for editors.

use serde_json::{Map, Value, json};

use super::keys::{DAEMONS, KEYS};
use super::table::{Key, Shape};

/// The schema of a configuration file.
pub fn schema() -> Value {
    let mut root = Map::new();
    for key in KEYS {
        let mut at = &mut root;
        let mut names: Vec<&str> = key.name.split('.').collect();
        let last = names.pop().unwrap_or_default();
        for name in names {
            let table = at.entry(name).or_insert_with(
                || json!({ "type": "object", "properties": {}, "additionalProperties": false }),
            );
            match table.get_mut("properties").and_then(Value::as_object_mut) {
                Some(properties) => at = properties,
                None => return Value::Null,
            }
        }
        at.insert(last.to_owned(), setting(key));
    }
    for name in DAEMONS {
        root.insert(
            (*name).to_owned(),
            json!({ "description": "The daemon's: in /etc/coi/config.toml alone." }),
        );
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "COI's configuration",
        "type": "object",
        "properties": root,
        "additionalProperties": false,
    })
}

fn setting(key: &Key) -> Value {
    let mut setting = match key.shape {
        Shape::Text(what) => json!({ "type": "string", "title": what }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Number { from, to: i64::MAX } => json!({ "type": "integer", "minimum": from }),
        Shape::Number { from, to } => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Shape::Word(words) => json!({ "enum": words }),
        Shape::List(_) | Shape::Set(_) => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::Variables => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Shape::Mounts => json!({ "type": "array", "items": {
            "type": "object",
            "properties": {
                "host": { "type": "string" },
                "container": { "type": "string" },
                "readonly": { "type": "boolean" },
            },
            "required": ["host", "container"],
            "additionalProperties": false,
        }}),
    };
    setting["description"] = key.doc().into();
    if let Some(default) = (key.default)().and_then(|default| serde_json::to_value(default).ok()) {
        setting["default"] = default;
    }
    setting
}
