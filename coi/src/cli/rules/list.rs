//! `coi rules list` and `coi rules fields`

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde_json::{Value, json};

use super::{Code, Format, Here, Result, out};
use crate::monitor::event::{EventKind, Field, FieldDef, Source};
use crate::monitor::rules::{Rule, fields_table};
use crate::ui::plain;

/// List the rules, whose they are, and whether they are applied.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi rules list\n  coi rules list --rules ./rules --format json")]
pub(super) struct List {
    #[command(flatten)]
    here: Here,
    /// How to print them.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl List {
    pub(super) fn execute(self) -> Result {
        let set = self.here.load()?;
        let text = match self.format {
            Format::Text => set.rules().iter().map(|rule| line(rule)).collect(),
            Format::Json => format!("{:#}\n", set.rules().iter().map(|rule| object(rule)).collect::<Value>()),
        };
        out(&text).map(|()| Code::OK)
    }
}

fn line(rule: &Rule) -> String {
    let off = if rule.enabled { "" } else { " (off)" };
    let (id, title) = (plain(&rule.id), plain(&rule.title));
    format!("{id:<32} {:<8} {:<6} {:<9} {title}{off}\n", rule.severity, rule.action(), rule.origin)
}

fn object(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "title": rule.title,
        "severity": rule.severity,
        "action": rule.action(),
        "enabled": rule.enabled,
        "events": rule.kinds.iter().map(EventKind::name).collect::<Vec<_>>(),
        "attack": rule.attack,
        "thresholds": rule.thresholds().collect::<BTreeMap<_, _>>(),
        "tests": rule.tests(),
        "origin": rule.origin,
        "file": rule.file(),
    })
}

/// List the fields that rules can test: type, source, the events that carry it, meaning.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi rules fields\n  coi rules fields --format json | jq '.[].name'")]
pub(super) struct Fields {
    /// How to print them.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Fields {
    pub(super) fn execute(self) -> Result {
        let text = match self.format {
            Format::Text => fields_table(),
            Format::Json => format!("{:#}\n", Field::TABLE.iter().map(field).collect::<Value>()),
        };
        out(&text).map(|()| Code::OK)
    }
}

fn field(def: &FieldDef) -> Value {
    let source = def.field.source();
    let programs: BTreeSet<_> = match source {
        Source::Kernel => def.kinds.iter().flat_map(|kind| kind.programs()).collect(),
        Source::Lineage | Source::Watch | Source::Derived => BTreeSet::new(),
    };
    json!({
        "name": def.name,
        "type": def.ty.name(),
        "events": def.kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        "source": source.name(),
        "programs": programs,
        "meaning": def.doc,
    })
}
