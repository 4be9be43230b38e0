//! `coi config`

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::settings::Settings;
use super::{Code, Failure, Format, Result};
use crate::config::{self, Item, KEYS, Key, Loaded, Shape, shown, shown_name};
use crate::launch::{self, Workspace};
use crate::ui;

/// The configuration of `coi run` and `coi shell`.
#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(Show),
    Schema(Schema),
}

impl Config {
    pub(super) fn execute(self) -> Result {
        match self.command {
            Command::Show(command) => command.execute(),
            Command::Schema(command) => command.execute(),
        }
    }
}

/// Show the settings that are in force here, all layers together.
///
/// It takes the flags of `coi run` and `coi shell`, and shows what they come to.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi config show\n  coi config show --origin --profile hardened\n  \
                        coi config show --format json | jq '.[\"container.image\"].value'")]
struct Show {
    /// Say where each value comes from.
    #[arg(long)]
    origin: bool,
    /// The workspace whose configuration is added.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    settings: Settings,
}

impl Show {
    fn execute(self) -> Result {
        let workspace = Workspace::open(&self.workspace)?;
        let loaded = launch::loader(Some(&workspace.path), self.settings.0)?.load()?;
        let text = match self.format {
            Format::Text => text(&loaded, self.origin),
            Format::Json => format!("{:#}\n", json(&loaded)),
        };
        ui::out(&text).map_err(Failure::system("standard output"))?;
        Ok(Code::OK)
    }
}

/// As in a file, one line for each setting; with their origins, one for each entry of lists and tables.
fn text(loaded: &Loaded, origin: bool) -> String {
    let mut text = String::new();
    for key in KEYS {
        let items = loaded.merged.items(key);
        let Some(value) = loaded.merged.value(key).or_else(key.default) else { continue };
        let name = key.name;
        // Writing to a string cannot fail.
        let _ = match (origin, items) {
            (false, _) => writeln!(text, "{name} = {}", ui::plain(&shown(&value))),
            (true, []) => writeln!(text, "{name} = {}  # built in", shown(&value)),
            (true, [item]) if !is_many(key) => {
                writeln!(text, "{name} = {}  # {}", ui::plain(&shown(&value)), said(item))
            }
            (true, items) => {
                let (open, close) = if key.shape == Shape::Variables { ('{', '}') } else { ('[', ']') };
                let _ = writeln!(text, "{name} = {open}");
                for item in items {
                    let name = item.name.as_ref().map(|name| format!("{} = ", shown_name(name)));
                    let entry = format!("{}{}", name.unwrap_or_default(), shown(&item.value));
                    let _ = writeln!(text, "  {},  # {}", ui::plain(&entry), said(item));
                }
                writeln!(text, "{close}")
            }
        };
    }
    text
}

fn is_many(key: &Key) -> bool {
    matches!(key.shape, Shape::List(_) | Shape::Set(_) | Shape::Variables | Shape::Mounts)
}

/// Where it comes from, for people.
fn said(item: &Item) -> String {
    let origin = item.origin.to_string();
    let source = ui::plain(&origin);
    format!("{}: {source}", item.origin.who.name())
}

fn json(loaded: &Loaded) -> Value {
    let each = KEYS.iter().map(|key| {
        let value = loaded.merged.value(key).or_else(key.default);
        let origins: Vec<Value> = loaded
            .merged
            .items(key)
            .iter()
            .map(|item| {
                let mut origin =
                    json!({ "layer": item.origin.who.name(), "source": item.origin.to_string() });
                if is_many(key) {
                    origin["entry"] = match &item.name {
                        Some(name) => name.as_str().into(),
                        None => serde_json::to_value(&item.value).unwrap_or_default(),
                    };
                }
                origin
            })
            .collect();
        (key.name.to_owned(), json!({ "value": value, "origins": origins }))
    });
    Value::Object(each.collect())
}

/// Print a JSON Schema of configuration files, for editors.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coi config schema >coi.schema.json")]
struct Schema {}

impl Schema {
    fn execute(self) -> Result {
        let text = format!("{:#}\n", config::schema());
        ui::out(&text).map_err(Failure::system("standard output"))?;
        Ok(Code::OK)
    }
}
